"""The automatic policy: say what you can afford, get the best network that fits."""

from netpress.search.job import Found, Searching, compress, search

__all__ = ["Found", "Searching", "compress", "search"]
