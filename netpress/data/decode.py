"""Image files to pixels, with Pillow."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from netpress.errors import DataError

_GREY_MODES = ("1", "L", "LA")


def decode(where: str, content: bytes, *, size: int | None = None) -> np.ndarray:
    """Decode an image file.

    Grey stays grey; anything else becomes RGB, and transparency is dropped.

    Args:
        where: the file's name for messages.
        content: the file's bytes.
        size: None, or the new side: the largest square in the middle, scaled to size x size (bilinear, antialiased).

    Returns:
        uint8, (H, W) for grey and (H, W, 3) for colour.

    Raises:
        DataError: not an image, cut off, damaged, absurdly large, or with more than 8 bits a channel.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), "white").save(file, "png")
    >>> decode("white.png", file.getvalue()).shape, decode("white.png", file.getvalue(), size=8).shape
    ((2, 4, 3), (8, 8, 3))
    """
    with _opened(where, io.BytesIO(content)) as file:
        image = file.convert(_mode(where, file))
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def header(where: str, content: bytes | None = None) -> tuple[int, int, bool]:
    """Look at an image file without decoding it.

    Args:
        where: the file's name.
        content: the file's bytes; None: of the file with that name.

    Returns:
        Rows, columns, and whether it is grey.

    Raises:
        DataError: not an image, or with more than 8 bits a channel.
    """
    with _opened(where, where if content is None else io.BytesIO(content)) as file:
        return file.height, file.width, _mode(where, file) == "L"


@contextmanager
def _opened(where: str, source: str | io.BytesIO) -> Iterator[Image.Image]:
    try:
        with Image.open(source) as file:
            yield file
    # SyntaxError is Pillow's word for a damaged PNG.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{where}: cannot be decoded ({reason}); repair or remove it") from error


def _mode(where: str, file: Image.Image) -> str:
    if file.mode.startswith(("I", "F")):
        raise DataError(f"{where}: mode {file.mode}, expected 8 bits per channel; convert it")
    return "L" if file.mode in _GREY_MODES else "RGB"


def stack(images: list[np.ndarray], *, channels: int) -> np.ndarray:
    """Stack decoded images of one size to (N, channels, H, W); with three channels, grey is repeated.

    >>> stack([np.zeros((2, 2), np.uint8), np.ones((2, 2, 3), np.uint8)], channels=3).shape
    (2, 3, 2, 2)
    """
    stacked = np.empty((len(images), channels, *images[0].shape[:2]), np.uint8)
    for target, image in zip(stacked, images, strict=True):
        target[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return stacked
