"""The processor: its name, its cores, and whether it multiplies 8-bit integers without intermediate overflow."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

EXACT = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that add products of 8-bit integers in 32 bits; without them x86 adds pairs in 16, which overflow."""
REDUCED = 7
"""Bits of a weight with which a sum of two products with an activation of 8 bits stays below 2^15."""


@cache
def _info() -> str:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    found = re.search(r"^model name\s*:\s*(.+)$", _info(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def integer_instructions(info: str | None = None) -> tuple[str, ...]:
    """Which of `EXACT` this processor has; none where they are not known.

    Args:
        info: text like that of Linux's /proc/cpuinfo; None: of this machine.

    >>> integer_instructions("flags : fpu avx2 avx512_vnni")
    ('avx512_vnni',)
    """
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _info() if info is None else info, re.MULTILINE)
    if flags is None:
        # Apple's and other 64-bit ARM processors that do not list them have had the dot product since 2018
        return ("asimddp",) if info is None and platform.machine() in ("arm64", "aarch64") else ()
    words = set(flags[1].split())
    return tuple(name for name in EXACT if name in words)
