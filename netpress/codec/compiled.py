"""Compile loops over numbers with numba where it is installed; without it the same bodies run as plain Python."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])

_njit: Any = None
with contextlib.suppress(ImportError):
    from numba import njit as _njit  # type: ignore[no-redef]

COMPILED: bool = _njit is not None
"""Whether numba is there."""


def compiled(function: _Function) -> _Function:
    """The function as machine code, kept on disk between runs where there is a place; itself without numba.

    >>> compiled.__name__, isinstance(COMPILED, bool)
    ('compiled', True)
    """
    if not COMPILED:
        return function
    try:
        fast: _Function = _njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that can be written to
        fast = _njit(nogil=True)(function)
    return fast


def inlined(function: _Function) -> _Function:
    """The function as a part of those that call it: a call that hands over arrays costs more than most bodies.

    >>> inlined.__name__
    'inlined'
    """
    if not COMPILED:
        return function
    fast: _Function = _njit(nogil=True, inline="always")(function)
    return fast
