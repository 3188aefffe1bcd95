"""Options behind the name of a data set: `SPEC?key=value&key=value`."""

import math
import re
from collections.abc import Mapping

from netpress.errors import DataError

# A path may hold a question mark: only what looks like options from there to the end is taken for options.
_OPTIONS = re.compile(r"\?([a-z]+=[^?&=/]*(?:&[a-z]+=[^?&=/]*)*)$")


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Cut the options off a spec.

    Args:
        spec: as in `netpress.data.open`.

    Returns:
        What stands before the question mark, and the options in their order.

    Raises:
        DataError: an option is given twice.

    >>> parse("folder:a?b/c?size=64&stream=1"), parse("mnist")
    (('folder:a?b/c', {'size': '64', 'stream': '1'}), ('mnist', {}))
    """
    if not (found := _OPTIONS.search(spec)):
        return spec, {}
    pairs = [pair.split("=") for pair in found[1].split("&")]
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise DataError(f"{spec}: {twice[0]} is given twice")
    return spec[: found.start()], dict(pairs)


def check(spec: str, options: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Refuse options that a kind of data set does not have.

    Raises:
        DataError: one is unknown; the message lists those that are known.

    >>> check("folder:x?size=64", {"size": "64"}, ("size", "stream"))
    """
    if unknown := [key for key in options if key not in known]:
        raise DataError(f"{spec}: unknown option {unknown[0]!r}; expected {' or '.join(known)}")


def whole(spec: str, options: Mapping[str, str], key: str, *, least: int, such_as: str) -> int | None:
    """The value of an option that is a whole number, or None where it is not given.

    Args:
        spec: stands in the message.
        options: all that are given.
        key: the option.
        least: the smallest value that is allowed.
        such_as: what to expect, for the message.

    Raises:
        DataError: not a whole number, or below `least`.

    >>> whole("folder:x?size=64", {"size": "64"}, "size", least=1, such_as="a number of pixels")
    64
    """
    value = options.get(key)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and int(value) >= least):
        raise DataError(f"{spec}: {key} is {value!r}, expected {such_as}")
    return int(value)


def factor(spec: str, value: str) -> float:
    """The value of `imbalance`: a finite number from 1.

    Raises:
        DataError: it is not.

    >>> factor("mnist?imbalance=100", "100")
    100.0
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise DataError(f"{spec}: imbalance is {value!r}, expected a number from 1, such as ?imbalance=100")
    return number
