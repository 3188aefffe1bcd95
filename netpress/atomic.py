"""Write a file whole or not at all: a temporary name beside it, then one rename. Logs grow line by line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from netpress.errors import FileError


def write(path: Path, data: bytes | str) -> int:
    """Put `data` under `path`; killing the process at any moment leaves the old file or the new one.

    Args:
        path: of the file; its folder must exist.
        data: bytes, or text that is written as UTF-8.

    Returns:
        Bytes written.

    Raises:
        FileError: the disk is full or the folder cannot be written; the old file is untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder: write(Path(folder) / "a", "four")
    4
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  (one name for tests to break)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FileError(
            f"{path}: cannot write {len(raw)} bytes: {_reason(error)}; what was there before is kept"
        ) from error
    return len(raw)


def append(path: Path, line: str) -> None:
    """Add a line to a text file; the file is made if need be.

    Raises:
        FileError: the disk is full or the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder: append(Path(folder) / "log", "one")
    """
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise FileError(f"{path}: cannot write: {_reason(error)}") from error


def _reason(error: OSError) -> str | None:
    return "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
