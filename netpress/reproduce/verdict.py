"""Does a number that was printed agree with a number that was counted? Computed from the two, never typed in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

EXACT, ROUNDED, DIFFERS = "exact", "rounded", "differs"
VERDICTS = (EXACT, ROUNDED, DIFFERS)

_AT_LEAST, _BELOW = ("over ",), ("less than ", "<")
_NEARLY = ("almost ", "factor of ")
_CENT = Decimal("0.01")
_SCALES: Mapping[str, int | Decimal] = {
    "K": 10**3,
    "M": 10**6,
    "million": 10**6,
    "MB": 10**6,
    "Mb": 10**6,
    "%": _CENT,
    "percent": _CENT,
}
_NUMBER = re.compile(r"(\d[\d,]*(?:\.\d+)?) ?(K|million|MB?|Mb|%|percent|x|X|times|bits|)")
_PRODUCTS = re.compile(r"\d+([x/]\d+)*(\+\d+([x/]\d+)*)*")
_WORDS = {"half": Decimal("0.5")}


@dataclass(frozen=True, slots=True)
class Printed:
    """A number as a paper prints it.

    Args:
        value: in the unit of the print, so "62.3M" is 62.3.
        digits: printed after the point.
        scale: of the unit: M is 10^6, MB 10^6 bytes, % a hundredth; 1 where there is none.
        bound: "over", "less than" or "".
        whole: nothing was shortened: the number stands there without unit, or as products and sums.
    """

    value: Decimal
    digits: int
    scale: Decimal
    bound: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the comparison.

    Args:
        verdict: "exact" (equal, nothing shortened), "rounded" (ours, shortened to the printed digits, is what is
            printed; a bound that holds counts as that) or "differs".
        how: "rounded", "truncated", "to tens", "the bound holds", or ours against the
            print: "+22.98 %", "-57,344" where nothing was shortened; "" where exact.
    """

    verdict: str
    how: str = ""


def read(text: str) -> Printed:
    """Take a printed number apart.

    Args:
        text: "3,423,498", "62.3M", "0.38 MB", "94%", "45x", "5x5x1x64+64", "half", "over 80%", "less than 3.0 MB".

    Raises:
        ValueError: nothing of the kind.

    >>> read("62.3M")
    Printed(value=Decimal('62.3'), digits=1, scale=Decimal('1000000'), bound='', whole=False)
    >>> read("16/4x11x11x32").value
    Decimal('15488')
    """
    bound, rest = "", text.strip()
    for words, name in ((_AT_LEAST, "over"), (_BELOW, "less than"), (_NEARLY, "")):
        for word in words:
            if rest.startswith(word):
                bound, rest = name, rest.removeprefix(word)
    one = Decimal(1)
    if rest in _WORDS:
        return Printed(_WORDS[rest], 1, one, bound)
    if match := _NUMBER.fullmatch(rest):
        number, unit = match[1].replace(",", ""), match[2]
        digits = len(number.partition(".")[2])
        return Printed(Decimal(number), digits, Decimal(_SCALES.get(unit, 1)), bound, whole=unit in ("", "bits"))
    if _PRODUCTS.fullmatch(products := rest.removesuffix(" Bytes").replace(" ", "")):
        return Printed(Decimal(sum(map(_product, products.split("+")))), 0, one, bound, whole=True)
    raise ValueError(f"no number is printed in {text!r}")


def _product(text: str) -> int:
    factors = re.findall(r"(^|[x/])(\d+)", text)
    over = math.prod(int(number) for sign, number in factors if sign == "/")
    return math.prod(int(number) for sign, number in factors if sign != "/") // over


def judge(text: str, ours: float | None) -> Verdict:
    """Compare a printed number with ours.

    Args:
        text: as printed, see `read`.
        ours: in base units: parameters, operations, bytes, a plain ratio, a share as a fraction; None: no network
            of ours gives the number.

    Returns:
        The verdict.

    >>> judge("3,423,498", 3_423_498), judge("62.3M", 62_378_344)
    (Verdict(verdict='exact', how=''), Verdict(verdict='rounded', how='truncated'))
    >>> judge("450MB", 553_430_176)
    Verdict(verdict='differs', how='+22.98 %')
    """
    printed = read(text)
    if ours is None:
        return Verdict(DIFFERS, "no count of ours")
    mine = (Decimal(ours) if isinstance(ours, int) else Decimal(repr(float(ours)))) / printed.scale
    if printed.bound:
        holds = mine > printed.value if printed.bound == "over" else mine < printed.value
        return Verdict(ROUNDED, "the bound holds") if holds else Verdict(DIFFERS, "the bound is missed")
    if mine == printed.value:
        return Verdict(EXACT)
    if not printed.whole or isinstance(ours, float):
        for how, shortened in _shortenings(mine, printed):
            if shortened == printed.value:
                return Verdict(ROUNDED, how)
    off = (
        f"{mine - printed.value:+,}"
        if printed.whole and isinstance(ours, int)
        else f"{100 * (mine / printed.value - 1):+.2f} %"
    )
    return Verdict(DIFFERS, off)


def _shortenings(mine: Decimal, printed: Printed) -> Iterator[tuple[str, Decimal]]:
    """How `mine` may have been shortened, the likeliest first."""
    place = Decimal(1).scaleb(-printed.digits)
    yield "rounded", mine.quantize(place, ROUND_HALF_UP)
    yield "truncated", mine.quantize(place, ROUND_DOWN)
    if printed.digits == 0 and printed.value % 10 == 0:
        yield "to tens", (mine / 10).quantize(Decimal(1), ROUND_HALF_UP) * 10
