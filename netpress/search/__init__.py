"""The automatic policy: say what you can afford, get the best network that fits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netpress.search.job import Found, Searching, compress, search

__all__ = ["Found", "Searching", "compress", "search"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: workers of a search need little of the package."""
    if name not in __all__:
        raise AttributeError(f"module 'netpress.search' has no attribute {name!r}")
    return getattr(importlib.import_module("netpress.search.job"), name)
