"""CIFAR-10: the binary batches, plain, packed, or in the original archive."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from netpress.data.download import Remote, fetch, find, read
from netpress.data.types import Data, Split, build
from netpress.errors import DataError

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
_FOLDERS = ("cifar-10", "cifar-10-batches-bin", "cifar10", "cifar-10/cifar-10-batches-bin")
_ARCHIVE_FOLDER = "cifar-10-batches-bin"
_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane by rows
_BATCH = 10_000
_VALIDATION = 5_000
# The file with the MD5 c32a1d4a... that the set's page gives.
_ARCHIVE = Remote(
    path="cifar-10/cifar-10-binary.tar.gz",
    size_bytes=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    mirrors=("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz"),
)


def load(root: Path) -> Data:
    """Load CIFAR-10: 45,000 train, 5,000 validation (the last of the fifth batch), 10,000 test; 32x32 RGB.

    The validation images are the last half of `data_batch_5` in the original order, so not exactly 500 of each class.
    Batches found in `root` are taken when their structure is right: a copy that differs from the original in some
    pixels works and has its own fingerprint.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Args:
        root: the data root; without batches or archive there, the archive is fetched (170 MB).

    Raises:
        DataError: a file cannot be had, is damaged, or holds something else.
    """
    batches = [_parse(where, content) for where, content in _contents(root)]
    images, labels = (np.concatenate(parts) for parts in zip(*batches[:-1], strict=True))
    cut = len(labels) - _VALIDATION
    train = Split(torch.from_numpy(images[:cut]), torch.from_numpy(labels[:cut]))
    validation = Split(torch.from_numpy(images[cut:]), torch.from_numpy(labels[cut:]))
    test = Split(*(torch.from_numpy(part) for part in batches[-1]))
    note = f"CIFAR-10: {cut:,} train; the last {_VALIDATION:,} training images validate; {len(test):,} test"
    return build("cifar10", (train, validation, test), classes=_CLASSES, note=note, statistics=(_MEAN, _STD))


def _contents(root: Path) -> list[tuple[str, bytes]]:
    """Return name and bytes of the five training batches and the test batch."""
    paths = {name: find(root, name, _FOLDERS) for name in (*_TRAIN, _TEST)}
    found = {name: path for name, path in paths.items() if path}
    if len(found) == len(paths):
        with ThreadPoolExecutor() as pool:  # unpacking xz takes seconds and runs outside the interpreter's lock
            return list(zip(map(str, found.values()), pool.map(read, found.values()), strict=True))
    if found:
        missing = next(name for name in paths if name not in found)
        beside = next(iter(found.values())).parent
        raise DataError(f"{beside}: {missing} is missing, {len(found)} of {len(paths)} batches are there; add it")
    archive = root / _ARCHIVE.path
    if not archive.is_file():
        archive = root / archive.name if (root / archive.name).is_file() else fetch(_ARCHIVE, root)
    return _unpack(archive)


def _unpack(archive: Path) -> list[tuple[str, bytes]]:
    contents = {}
    try:
        # All of it before the first member: only then the checksum at the end of the gzip file has been compared.
        with tarfile.open(fileobj=io.BytesIO(read(archive))) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    contents[member.name] = file.read()
    except tarfile.TarError as error:
        raise DataError(f"{archive}: truncated or damaged ({error}); delete it and fetch it again") from error
    names = [f"{_ARCHIVE_FOLDER}/{name}" for name in (*_TRAIN, _TEST)]
    if missing := [name for name in names if name not in contents]:
        raise DataError(f"{archive}: {missing[0]} is missing in the archive")
    return [(f"{archive}/{name}", contents[name]) for name in names]


def _parse(where: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    expected = _BATCH * _RECORD_BYTES
    if len(content) != expected:
        raise DataError(f"{where}: truncated or damaged: expected {expected:,} bytes, got {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(_BATCH, _RECORD_BYTES)
    images = records[:, 1:].reshape(_BATCH, 3, 32, 32).copy()
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(_CLASSES):
        raise DataError(f"{where}: labels out of range: expected 0..{len(_CLASSES) - 1}, got {labels.max()}")
    return images, labels
