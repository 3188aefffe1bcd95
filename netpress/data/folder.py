"""A folder of image files, one subfolder per class."""

from pathlib import Path

import numpy as np
import torch

from netpress.data.decode import decode, stack
from netpress.data.download import read
from netpress.data.split import complete
from netpress.data.types import Data, Split, build
from netpress.errors import DataError

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
_VALIDATION_NAMES = ("val", "valid", "validation")


def load(folder: Path, *, size: int | None = None) -> Data:
    """Load `folder/class/*.png|jpg|...`, or the same below `folder/train`, `folder/val` and `folder/test`.

    Classes are the subfolders' names, sorted; files are taken in sorted order. Grey images give one channel, unless
    there is a colour image anywhere: then all have three. What is missing is cut off, stratified with seed 0:

    - one folder only: 80 % train, 10 % validation, 10 % test;
    - train and test: a tenth of train validates;
    - train and val: val is the test, a tenth of train validates.

    Args:
        folder: the folder.
        size: None when all images have one size; else the middle square of each is scaled to size x size.

    Raises:
        DataError: no folder, no class, an empty class, a damaged file, images of different sizes.
    """
    classes, files = listing(folder)
    images = {path: decode(str(path), read(path), size=size) for part in files for path, _ in part}
    _check_sizes(images)
    channels = 3 if any(image.ndim == 3 for image in images.values()) else 1
    parts = [
        Split(
            torch.from_numpy(stack([images[path] for path, _ in part], channels=channels)),
            torch.tensor([label for _, label in part], dtype=torch.int64),
        )
        for part in files
    ]
    name = folder.resolve().name
    splits, note = complete(parts, where=str(folder))
    return build(name, splits, classes=classes, note=f"{name}: {note}")


def listing(folder: Path) -> tuple[tuple[str, ...], list[list[tuple[Path, int]]]]:
    """Names of the classes, and the image files with their class numbers: one list per split that the folder has.

    Raises:
        DataError: no folder, no class, or an empty class.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with a subfolder of images per class")
    places = _places(folder)
    classes = _class_names(places[0])
    return classes, [_files(place, classes) for place in places]


def _places(folder: Path) -> tuple[Path, ...]:
    """Return one, two or three folders of classes, as `complete` takes them."""
    train, test = folder / "train", folder / "test"
    validation = next((folder / name for name in _VALIDATION_NAMES if (folder / name).is_dir()), None)
    if not train.is_dir():
        return (folder,)
    if test.is_dir():
        return (train, validation, test) if validation else (train, test)
    return (train, validation) if validation else (train,)


def _class_names(place: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise DataError(f"{place}: no subfolders; expected one per class, with its images inside")
    return names


def _files(place: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    files = []
    for name in _class_names(place):
        if name not in classes:
            raise DataError(f"{place / name}: a class that train does not have; expected {', '.join(classes[:10])}")
        inside = (path for path in (place / name).rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
        found = sorted(inside, key=lambda path: path.relative_to(place).as_posix())
        if not found:
            raise DataError(f"{place / name}: empty class: no image file in it ({', '.join(sorted(_SUFFIXES))})")
        files += [(path, classes.index(name)) for path in found]
    return files


def _check_sizes(images: dict[Path, np.ndarray]) -> None:
    first = next(iter(images))
    rows, columns = images[first].shape[:2]
    for path, image in images.items():
        if image.shape[:2] != (rows, columns):
            raise DataError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, but {first} has {columns}x{rows}; all images need "
                f"one size: resize them, or write folder:PATH?size={rows}"
            )
