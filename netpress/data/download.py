"""Where known data sets lie, and how a missing file is fetched: several mirrors, resume, SHA-256."""

import gzip
import hashlib
import http.client
import logging
import lzma
import os
import sys
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netpress.errors import DataError

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30
_ATTEMPTS = 4  # per mirror; each goes on where the last one broke off
_PLAIN_SUFFIXES = ("", ".gz", ".xz")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that can be fetched.

    Args:
        path: where it goes below the data root, with `/`.
        size_bytes: its exact length.
        sha256: in hex.
        mirrors: addresses of the folders that hold it, tried in this order.
    """

    path: str
    size_bytes: int
    sha256: str
    mirrors: tuple[str, ...]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of known data sets: the argument, else NETPRESS_DATA, else the user's cache.

    >>> data_root("data")
    PosixPath('data')
    """
    if root is not None:
        return Path(root).expanduser()
    if named := os.environ.get("NETPRESS_DATA"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library/Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "netpress" / "data"


def find(root: Path, name: str, folders: Iterable[str]) -> Path | None:
    """Return the first of root/folder/name and root/name that exists: plain, `.gz` or `.xz`.

    Args:
        root: the data root.
        name: the file's name without `.gz` or `.xz`.
        folders: names of subfolders to look into, first come first served; root itself is the last.
    """
    places = [root / folder / f"{name}{suffix}" for folder in (*folders, ".") for suffix in _PLAIN_SUFFIXES]
    return next((place for place in places if place.is_file()), None)


def read(path: Path) -> bytes:
    """Read a file, unpacking `.gz` and `.xz`.

    Raises:
        DataError: it cannot be read, or what it packs is cut off or damaged.
    """
    try:
        packed = path.read_bytes()
        if path.suffix == ".gz":
            return gzip.decompress(packed)
        if path.suffix == ".xz":
            return lzma.decompress(packed)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged ({error}); delete it and fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return packed


def fetch(remote: Remote, root: Path) -> Path:
    """Fetch a file into the data root and return its path there.

    Bytes go to `<name>.part`, which a later call goes on with; only a file with the right SHA-256 gets its name.
    NETPRESS_MIRROR replaces the mirrors by one folder address (http or https).

    Args:
        remote: what to fetch.
        root: the data root; the file's folder is made.

    Raises:
        DataError: no mirror gave the right bytes; says what each one did, and where to put the file by hand.
    """
    target = root / remote.path
    name = target.name
    named = os.environ.get("NETPRESS_MIRROR")
    failures = []
    for mirror in (named,) if named else remote.mirrors:
        url = f"{mirror.rstrip('/')}/{name}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{name}.part")
            _fill(part, url, remote)
            part.replace(target)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{url}: {str(error).strip('<>')}")
        else:
            return target
    tried = "; ".join(failures)
    raise DataError(
        f"{target} is missing and could not be fetched ({tried}); put the file there, or name a folder that has it "
        f"by --data-root or NETPRESS_DATA"
    )


def _fill(part: Path, url: str, remote: Remote) -> None:
    """Make `part` the complete, checked file, or raise; wrong bytes are deleted, too few are kept for the next time."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("a mirror's address starts with http:// or https://")
    _LOG.info("fetching %s (%d bytes)", url, remote.size_bytes)
    for _ in range(_ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        if have < remote.size_bytes:
            _append(part, url, have, limit=remote.size_bytes + 1)
            have = part.stat().st_size
        if have >= remote.size_bytes:
            break
    else:
        raise OSError(f"broke off after {have:,} of {remote.size_bytes:,} bytes, run again to go on")
    with part.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != remote.sha256:
        part.unlink()
        raise OSError(f"wrong checksum: expected SHA-256 {remote.sha256[:16]}..., got {got[:16]}... ({have:,} bytes)")


def _append(part: Path, url: str, have: int, *, limit: int) -> None:
    """Ask for what comes after the first `have` bytes and add it to `part`; never let it grow beyond `limit`."""
    headers = {"User-Agent": "netpress", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  the scheme was checked
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while have < limit and (chunk := _read_chunk(response, min(_CHUNK_BYTES, limit - have))):
                file.write(chunk)
                have += len(chunk)


def _read_chunk(response: http.client.HTTPResponse, count: int) -> bytes:
    """Read up to `count` bytes; a connection that breaks counts as the end, because the caller asks again."""
    try:
        return response.read(count)
    except http.client.IncompleteRead as error:
        return error.partial
    except (ConnectionError, TimeoutError):
        return b""
