"""The 1,797 handwritten digits that come with scikit-learn: no download, good for demonstrations and tests."""

import numpy as np
import torch

from netpress.data.split import stratify
from netpress.data.types import Data, Split, build

_COUNTS = (1197, 150, 450)


def load() -> Data:
    """Load the digits as 28x28 grey images: 1,197 train, 150 validation, 450 test, stratified with seed 0.

    The 8x8 images with values 0..16 are enlarged three times, scaled to 0..255, and framed by two black pixels.

    Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI repository, test part.

    >>> data = load()
    >>> data.shape, len(data.train), len(data.validation), len(data.test)
    ((1, 28, 28), 1197, 150, 450)
    """
    from sklearn.datasets import load_digits  # takes a second: only where needed

    bunch = load_digits()
    images = torch.from_numpy(enlarge(bunch.images.astype(np.int64)))[:, None]
    everything = Split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    train, validation, test = (everything.select(part) for part in stratify(everything.labels, _COUNTS, seed=0))
    note = "scikit-learn's digits, 8x8 enlarged to 28x28; stratified with seed 0: 1,197 train, 150 validation, 450 test"
    return build("digits", (train, validation, test), classes=tuple("0123456789"), note=note)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Enlarge 8x8 images with values 0..16 to 28x28 with 0..255, in integers.

    Bilinear between pixel centres (as image libraries do), edges repeated: of three new pixels the middle one is the
    old one, its neighbours are 2/3 of it and 1/3 of the next. In ninths and integers the result is the same everywhere.

    Args:
        images: integers 0..16, (N, 8, 8).

    Returns:
        uint8, (N, 28, 28).

    >>> np.unique(enlarge(np.full((1, 8, 8), 16))[0, 2:26, 2:26])
    array([255], dtype=uint8)
    """
    thirds = np.zeros((24, 8), dtype=np.int64)
    for new in range(24):
        old, offset = divmod(new, 3)
        beside = min(max(old + offset - 1, 0), 7)
        thirds[new, old] += 2
        thirds[new, beside] += 1
    ninths = thirds @ images @ thirds.T
    # Round half up: ninths / (9 * 16) * 255.
    pixels = (2 * 255 * ninths + 144) // 288
    return np.pad(pixels, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
