"""Compile loops over numbers with numba where it is installed; without it the same bodies run as plain Python.

numba takes a third of a second to import: modules whose functions are `compiled` are imported where they are needed.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., object])


@cache
def compiler() -> Any:
    """What compiles a function, or None where numba is not installed or does not work.

    >>> compiler() is compiler()
    True
    """
    try:
        from numba import njit
    except ImportError:
        return None
    return njit


def compiled(function: _Function) -> _Function:
    """The function as machine code, kept on disk between runs where there is a place; itself without numba.

    >>> compiled.__name__
    'compiled'
    """
    if compiler() is None:
        return function
    try:
        fast: _Function = compiler()(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that can be written to
        fast = compiler()(nogil=True)(function)
    return fast


def inlined(function: _Function) -> _Function:
    """The function as a part of those that call it: a call that hands over arrays costs more than most bodies.

    >>> inlined.__name__
    'inlined'
    """
    if compiler() is None:
        return function
    fast: _Function = compiler()(nogil=True, inline="always")(function)
    return fast


def given(array: NDArray[Any]) -> Any:
    """An array as compiled functions take it: a list where these run as Python, which is faster with lists."""
    return array.tolist() if compiler() is None else array
