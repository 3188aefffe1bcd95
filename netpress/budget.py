"""What one can afford: limits on accuracy, size, work and time, absolute or in per cent of the baseline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_AMOUNT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-zµ%]*)\s*")
BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3}
COUNT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
TIME = {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
"""Units of a size, a count and a time (in ms), lower case."""
COSTS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "max_size": (BYTES, "file_bytes"),
    "max_params": (COUNT, "nonzero"),
    "max_macs": (COUNT, "macs"),
    "max_latency": (TIME, "latency_ms"),
    "max_activation_memory": (BYTES, "peak_activation_bytes"),
}
"""Limits on what a network costs: their units, and the name of what is measured."""


def amount(text: str, units: Mapping[str, float], baseline: float | None = None) -> float:
    """A number with a unit, or per cent of a baseline.

    >>> amount("20kB", BYTES)
    20000.0
    >>> amount("50%", COUNT, baseline=300)
    150.0

    Raises:
        ValueError: no number, an unknown unit, or per cent without a baseline.
    """
    found = _AMOUNT.fullmatch(text)
    known = ", ".join(u for u in units if u)
    if not found:
        raise ValueError(f"expected a number with a unit ({known}) or per cent, got {text!r}")
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        if baseline is None:
            raise ValueError(f"{text!r} is a share of the baseline, which is not known here")
        return number / 100 * baseline
    if unit not in units:
        raise ValueError(f"unit {found[2]!r} is unknown; expected {known} or %")
    return number * units[unit]


def _checked(units: Mapping[str, float]) -> AfterValidator:
    def check(text: str) -> str:
        if amount(text, units, baseline=1.0) <= 0:
            raise ValueError(f"expected more than zero, got {text!r}")
        return text

    return AfterValidator(check)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Bytes = Annotated[str, BeforeValidator(_text), _checked(BYTES)]
Count = Annotated[str, BeforeValidator(_text), _checked(COUNT)]
Milliseconds = Annotated[str, BeforeValidator(_text), _checked(TIME)]


class Budget(BaseModel):
    """Limits that the result must keep; those that are None do not count.

    Attributes:
        max_drop: points of top-1 accuracy below the baseline, decided on validation, reported on test.
        min_top1: per cent of top-1 accuracy.
        max_size: of the file: `20kB`, `1.5MB`, `10%`.
        max_params: stored parameters that may differ from zero: `100k`, `50%`.
        max_macs: multiply-adds: `5M`, `50%`.
        max_latency: milliseconds per image at batch 1: `5ms`, `50%`.
        max_activation_memory: most bytes of activations held at the same time, one image, float32: `64kB`, `50%`.

    >>> Budget(max_size="20kB", max_drop=0.5).max_size
    '20kB'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    min_top1: Annotated[float, Field(ge=0, le=100)] | None = None
    max_size: Bytes | None = None
    max_params: Count | None = None
    max_macs: Count | None = None
    max_latency: Milliseconds | None = None
    max_activation_memory: Bytes | None = None

    @property
    def limits(self) -> dict[str, Any]:
        """Those that are set, by name."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit: its name, what was allowed, what was measured, whether it is kept."""

    limit: str
    allowed: float
    measured: float
    met: bool


def judge(budget: Budget, baseline: Mapping[str, Any], final: Mapping[str, Any]) -> list[Verdict]:
    """Hold measured numbers against a budget.

    Args:
        budget: the limits.
        baseline: `file_bytes nonzero macs latency_ms peak_activation_bytes` and `validation: {top1}` of the
            baseline; per cent mean these.
        final: the same of the result.

    Returns:
        One verdict per limit that is set and could be measured.
    """
    verdicts = []
    top1, before = final["validation"]["top1"] * 100, baseline["validation"]["top1"] * 100
    if budget.max_drop is not None:
        drop = round(before - top1, 6)
        verdicts.append(Verdict("max_drop", budget.max_drop, drop, drop <= budget.max_drop))
    if budget.min_top1 is not None:
        verdicts.append(Verdict("min_top1", budget.min_top1, top1, top1 >= budget.min_top1))
    for name, (units, measure) in COSTS.items():
        text: str | None = getattr(budget, name)
        if text is not None and final.get(measure) is not None:
            allowed = amount(text, units, baseline=baseline.get(measure))
            verdicts.append(Verdict(name, allowed, final[measure], final[measure] <= allowed))
    return verdicts


def told(verdicts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Verdicts as lines, from plain data.

    >>> told([{"limit": "max_size", "allowed": 20000.0, "measured": 18938, "met": True}])
    ['budget max_size: allowed 20000, measured 18938: met']
    """
    return [
        f"budget {v['limit']}: allowed {v['allowed']:g}, measured {v['measured']:g}: {'met' if v['met'] else 'MISSED'}"
        for v in verdicts
    ]
