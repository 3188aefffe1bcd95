"""Which known sets lie in a data root; nothing is read, opened or fetched."""

from importlib.util import find_spec
from pathlib import Path

from netpress.data import cifar, idx, tiny_imagenet
from netpress.data.download import find
from netpress.errors import DataError


def present(root: Path) -> dict[str, bool]:
    """Say of each known set whether every file of it is there; whether the files are sound, opening it tells.

    Args:
        root: the data root.

    Returns:
        By name, in the order of `data.names()`.

    >>> present(Path("no such folder"))["mnist"]
    False
    """
    return {
        "digits": find_spec("sklearn") is not None,  # they come with scikit-learn
        "mnist": _all(root, idx._MNIST.checksums, idx._MNIST.folders),
        "fashion_mnist": _all(root, idx._FASHION.checksums, idx._FASHION.folders),
        "cifar10": _cifar(root),
        "tiny_imagenet": _tiny(root),
    }


def _all(root: Path, names: tuple[str, ...] | dict[str, tuple[int, str]], folders: tuple[str, ...]) -> bool:
    return all(find(root, name, folders) is not None for name in names)


def _cifar(root: Path) -> bool:
    archive = cifar._ARCHIVE
    places = (root / archive.path, root / Path(archive.path).name)
    whole = any(place.is_file() and place.stat().st_size == archive.size_bytes for place in places)
    return whole or _all(root, (*cifar._TRAIN, cifar._TEST), cifar._FOLDERS)


def _tiny(root: Path) -> bool:
    try:
        tiny_imagenet._locate(root)
    except DataError:
        return False
    return True
