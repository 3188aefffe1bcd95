"""MNIST and Fashion-MNIST: idx files, plain or packed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netpress.data.download import Remote, fetch, find, read
from netpress.data.types import Data, Split, build, pixel_statistics
from netpress.errors import DataError

_IMAGE_SHAPE = (28, 28)
_VALIDATION = 5_000
_MEAN_TOLERANCE = 0.03  # the sets share their file names: tells them apart (0.13 and 0.29)
_UINT8 = 0x08  # the idx code of the element type


@dataclass(frozen=True, slots=True)
class _IdxSet:
    name: str
    title: str
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    checksums: dict[str, tuple[int, str]]  # file -> bytes, SHA-256 of the .gz as published
    classes: tuple[str, ...]
    mean: float
    std: float


# The SHA-256 of MNIST are of files with the MD5 of the original page; those of Fashion-MNIST are of files with the MD5
# of its repository's README.
_MNIST = _IdxSet(
    name="mnist",
    title="MNIST",
    folders=("mnist", "MNIST/raw"),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    checksums={
        "train-images-idx3-ubyte": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        "train-labels-idx1-ubyte": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        "t10k-images-idx3-ubyte": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        "t10k-labels-idx1-ubyte": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
    classes=tuple("0123456789"),
    mean=0.1307,
    std=0.3081,
)
_FASHION = _IdxSet(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    checksums={
        "train-images-idx3-ubyte": (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        "train-labels-idx1-ubyte": (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        "t10k-images-idx3-ubyte": (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        "t10k-labels-idx1-ubyte": (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    },
    classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    mean=0.2860,
    std=0.3530,
)


def mnist(root: Path) -> Data:
    """Load MNIST: 55,000 train, 5,000 validation (the last of the training file), 10,000 test; 28x28 grey.

    Source: Y. LeCun, C. Cortes, C. Burges, from NIST data.

    Args:
        root: the data root; a file missing there is fetched.

    Raises:
        DataError: a file cannot be had, is damaged, or holds something else.
    """
    return _load(_MNIST, root)


def fashion_mnist(root: Path) -> Data:
    """Load Fashion-MNIST, in the form and the splits of MNIST.

    Source: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747.

    Args:
        root: the data root; a file missing there is fetched.

    Raises:
        DataError: a file cannot be had, is damaged, or holds something else.
    """
    return _load(_FASHION, root)


def _load(known: _IdxSet, root: Path) -> Data:
    train, test = _read_part(known, root, "train"), _read_part(known, root, "t10k")
    if len(train) <= _VALIDATION:
        raise DataError(f"{known.name}: expected more than {_VALIDATION:,} training images, got {len(train):,}")
    mean = pixel_statistics(train.images)[0][0]
    if abs(mean - known.mean) > _MEAN_TOLERANCE:
        raise DataError(
            f"{root}: not the pixels of {known.title}: their mean is {mean:.3f}, expected {known.mean}; "
            f"put its files into {root / known.name}"
        )
    cut = len(train) - _VALIDATION
    splits = (train.select(slice(cut)), train.select(slice(cut, None)), test)
    note = f"{known.title}: {cut:,} train; the last {_VALIDATION:,} training images validate; {len(test):,} test"
    return build(known.name, splits, classes=known.classes, note=note, statistics=((known.mean,), (known.std,)))


def _read_part(known: _IdxSet, root: Path, part: str) -> Split:
    images_path, labels_path = _locate(known, root, f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, axes=3), read_idx(labels_path, axes=1)
    if tuple(images.shape[1:]) != _IMAGE_SHAPE:
        raise DataError(f"{images_path}: expected images of {_IMAGE_SHAPE}, got {tuple(images.shape[1:])}")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: unequal lengths: {len(labels):,} labels for {len(images):,} images")
    return Split(images[:, None], labels.to(torch.int64))


def _locate(known: _IdxSet, root: Path, *names: str) -> list[Path]:
    paths = []
    for name in names:
        size_bytes, sha256 = known.checksums[name]
        remote = Remote(f"{known.name}/{name}.gz", size_bytes, sha256, known.mirrors)
        paths.append(find(root, name, known.folders) or fetch(remote, root))
    return paths


def read_idx(path: Path, *, axes: int) -> Tensor:
    """Read an idx file of bytes: two zero bytes, type, number of axes, lengths (big-endian uint32), elements.

    Args:
        path: plain, `.gz` or `.xz`.
        axes: how many it must have (3: images, 1: labels).

    Returns:
        uint8.

    Raises:
        DataError: another type or number of axes, or not as many bytes as the lengths say.
    """
    content = read(path)
    if content[:4] != bytes([0, 0, _UINT8, axes]) or len(content) < 4 + 4 * axes:
        expected = bytes([0, 0, _UINT8, axes]).hex(" ")
        raise DataError(f"{path}: not an idx file of {axes} axes: expected {expected}, got {content[:4].hex(' ')!r}")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", axes, offset=4))
    elements = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    expected_bytes = int(np.prod(shape, dtype=object))
    if len(elements) != expected_bytes:
        raise DataError(f"{path}: truncated or damaged: {shape} needs {expected_bytes:,} bytes, got {len(elements):,}")
    return torch.from_numpy(elements.reshape(shape).copy())
