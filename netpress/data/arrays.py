"""Arrays of the user, and npz files of them."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress.data.split import complete
from netpress.data.types import Data, Split, build
from netpress.errors import DataError

FOUR = ("x_train", "y_train", "x_test", "y_test")
SIX = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")


def from_arrays(name: str, arrays: Mapping[str, Any]) -> Data:
    """Make a data set of arrays.

    Args:
        name: of the set.
        arrays: `x_train y_train x_test y_test`, and optionally `x_val y_val` (else a tenth of train validates,
            stratified with seed 0) and `classes` (names; else numbers). x: uint8 (N, H, W) or (N, H, W, C) with C 1 to
            4; y: whole numbers 0..K-1, (N,) or (N, 1). numpy arrays, tensors, or anything numpy understands.

    Raises:
        DataError: an array is missing, has another type or shape, or the labels do not fit.

    >>> x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    >>> data = from_arrays("toy", {"x_train": x, "y_train": y, "x_test": x, "y_test": y})
    >>> data.shape, len(data.train), len(data.validation), data.classes
    ((1, 8, 8), 18, 2, ('0', '1'))
    """
    expected = SIX if "x_val" in arrays or "y_val" in arrays else FOUR
    if missing := [key for key in expected if key not in arrays]:
        got = ", ".join(map(str, arrays)) or "none"
        raise DataError(f"{name}: array {missing[0]!r} is missing; expected {', '.join(expected)}, got {got}")
    parts = [_part(name, arrays, key.removeprefix("x_")) for key in expected[::2]]
    if "classes" in arrays:
        classes = tuple(str(each) for each in np.asarray(arrays["classes"]).ravel())
    else:
        highest = int(parts[0].labels.max()) if len(parts[0]) else 0
        if not 0 <= highest < len(parts[0]):
            got = f"up to {highest} for {len(parts[0])} images"
            raise DataError(f"{name}: y_train: labels out of range: expected 0..K-1 with each at least once, got {got}")
        classes = tuple(str(number) for number in range(highest + 1))
    splits, note = complete(parts, where=name)
    return build(name, splits, classes=classes, note=f"{name}: {note}")


def load_npz(path: Path) -> Data:
    """Load an npz file with the arrays of `from_arrays`; objects (pickle) in it are refused.

    Raises:
        DataError: no file, no npz, damaged, or its arrays do not fit.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a single array, expected an npz file with {', '.join(FOUR)}")
        with file:
            arrays = {key: file[key] for key in file.files if key in {*SIX, "classes"}}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected an npz file with {', '.join(FOUR)}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not an npz file, damaged, or with objects in it ({error})") from error
    return from_arrays(path.name, arrays)


def _part(name: str, arrays: Mapping[str, Any], part: str) -> Split:
    images = _images(f"{name}: x_{part}", arrays[f"x_{part}"])
    labels = _labels(f"{name}: y_{part}", arrays[f"y_{part}"])
    if len(images) != len(labels):
        raise DataError(f"{name}: unequal lengths: x_{part} has {len(images)}, y_{part} has {len(labels)}")
    return Split(images, labels)


def _array(where: str, value: object) -> np.ndarray:
    try:
        return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: not an array ({error})") from error


def _images(where: str, value: object) -> Tensor:
    array = _array(where, value)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{where}: contains NaN; expected uint8 pixels 0..255")
    if array.dtype != np.uint8:
        raise DataError(f"{where}: expected uint8 pixels 0..255, got {array.dtype}; convert before saving")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not 1 <= array.shape[-1] <= 4:
        hint = ""
        if array.ndim == 4 and 1 <= array.shape[1] <= 4:
            hint = "; channels come last: transpose(0, 2, 3, 1)"
        raise DataError(f"{where}: expected shape (N, H, W) or (N, H, W, C) with C 1 to 4, got {array.shape}{hint}")
    return torch.from_numpy(np.array(array.transpose(0, 3, 1, 2), order="C"))


def _labels(where: str, value: object) -> Tensor:
    array = _array(where, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu" or array.ndim != 1:
        nan = "contains NaN; " if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise DataError(f"{where}: {nan}expected whole numbers of shape (N,), got {array.dtype} {array.shape}")
    return torch.from_numpy(array.astype(np.int64))
