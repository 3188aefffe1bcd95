"""Read the files of the Deep Compression artefacts (`.net`): pruned networks with shared values, before Huffman coding.

Little-endian, one layer after the other, in the order of the network:

    all layers: n                uint32 each: how many weights are stored
    each layer: shared values    2^b float32; b = 8 for convolutions, 4 for fully connected layers
                biases           one float32 per output
                codes            n of b bits, the low half of a byte first: which shared value
                gaps             n of 4 bits, the low half first: weights that are skipped before this one

A weight that is not stored takes shared value 0. A gap reaches 15, so a longer one is broken up by *fillers*: stored
weights of code 0. Shapes and names are not in the file: they come from the network.

Source: Han et al. 2016, Deep Compression; the files are those of github.com/songhan/SqueezeNet-Deep-Compression and
github.com/songhan/Deep-Compression-AlexNet.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec.stored import MAX_AXES, MAX_ELEMENTS, Stored, free
from netpress.errors import FileError

_GAP_BITS = 4
_ANOTHER = "it is cut or damaged, or of another network"


class Layer(NamedTuple):
    """One layer, as the network has it.

    >>> Layer("conv1", (96, 3, 7, 7)).bits, Layer("fc6", (4096, 9216)).bits
    (8, 4)

    Args:
        name: of the layer.
        shape: of its weight: outputs first.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Weights, stored or not."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Of a code: 4 for fully connected layers, else 8."""
        return 4 if len(self.shape) == 2 else 8

    def size(self, stored: int) -> int:
        """Bytes of the layer with so many stored weights, without its count."""
        return 4 * ((1 << self.bits) + self.shape[0]) + _packed(stored, self.bits) + _packed(stored, _GAP_BITS)


def _packed(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def read(data: bytes, layers: Sequence[Layer]) -> dict[str, Stored]:
    """Read every layer's weight and bias, with the support and the shared values as they are in the file.

    w[p] = table[code] where a weight is stored, table[0] elsewhere

    Where table[0] is zero, the support is where the code is not 0, and fillers go; else every weight has a code. Tables
    are put in order, without values that no weight takes. What `stored.restore` gives has the bits that the file says.

    Args:
        data: the whole file.
        layers: of the network, in its order.

    Returns:
        `NAME.weight` (form "shared") and `NAME.bias` (form "free") of each layer, in their order.

    Raises:
        FileError: the file is cut, damaged, or of a network with other layers.

    >>> table, codes, gaps = np.float32([0, 0.5, -1] + 13 * [0]), bytes([0x21]), bytes([0x20])
    >>> data = np.uint32(2).tobytes() + table.tobytes() + np.float32([3, 4]).tobytes() + codes + gaps
    >>> found = read(data, [Layer("fc", (2, 3))])
    >>> found["fc.weight"].positions, found["fc.weight"].table
    (array([0, 3]), array([-1. ,  0.5], dtype=float32))

    Source: Han et al. 2016, Deep Compression, sections 2 and 3.
    """
    found: dict[str, Stored] = {}
    for layer, count, start in _places(data, layers):
        table, at = _floats(data, start, 1 << layer.bits, layer)
        bias, at = _floats(data, at, layer.shape[0], layer)
        codes = _unpacked(data, at, count, layer.bits)
        gaps = _unpacked(data, at + _packed(count, layer.bits), count, _GAP_BITS)
        found[f"{layer.name}.weight"] = _weight(layer, table, codes, gaps)
        found[f"{layer.name}.bias"] = free(bias)
    return found


def _places(data: bytes, layers: Sequence[Layer]) -> Iterator[tuple[Layer, int, int]]:
    """Each layer, its count of stored weights, and where it begins; all sizes are checked before the first one."""
    if len(data) < (at := 4 * len(layers)):
        raise FileError(f"a .net file of {len(layers)} layers begins with {at} bytes of counts, got {len(data)} in all")
    counts = [int(count) for count in np.frombuffer(data, "<u4", len(layers))]
    for layer, count in zip(layers, counts, strict=True):
        if not 1 <= len(layer.shape) <= MAX_AXES or not 0 < layer.elements <= MAX_ELEMENTS:
            raise FileError(f"layer {layer.name}: no .net file holds a weight of shape {layer.shape}")
        if count > layer.elements:
            raise FileError(f"layer {layer.name} has {layer.elements} weights, the file announces {count}: {_ANOTHER}")
    ends = at + sum(layer.size(count) for layer, count in zip(layers, counts, strict=True))
    if ends != len(data):
        raise FileError(f"these layers take {ends} bytes by the file's counts, got {len(data)}: {_ANOTHER}")
    for layer, count in zip(layers, counts, strict=True):
        yield layer, count, at
        at += layer.size(count)


def _floats(data: bytes, at: int, count: int, layer: Layer) -> tuple[NDArray[np.float32], int]:
    values = np.frombuffer(data, "<f4", count, at).astype(np.float32)
    if not np.isfinite(values).all():
        raise FileError(f"layer {layer.name} holds NaN or an infinity: the file is damaged, or of another network")
    return values, at + 4 * count


def _unpacked(data: bytes, at: int, count: int, bits: int) -> NDArray[np.uint8]:
    """Numbers of 4 or 8 bits, the low half of a byte first."""
    packed = np.frombuffer(data, np.uint8, _packed(count, bits), at)
    return packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]


def _weight(layer: Layer, table: NDArray[np.float32], codes: NDArray[np.uint8], gaps: NDArray[np.uint8]) -> Stored:
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if len(positions) and positions[-1] >= layer.elements:
        raise FileError(
            f"layer {layer.name} has {layer.elements} weights, the file stores one at {positions[-1]}: {_ANOTHER}"
        )
    support: NDArray[np.int64] | None
    if table[:1].tobytes() == bytes(4):  # +0.0: what a weight outside the support is
        kept = codes != 0
        support, codes = positions[kept], codes[kept]
    else:
        support, everywhere = None, np.zeros(layer.elements, np.uint8)
        everywhere[positions] = codes
        codes = everywhere
    used = np.unique(codes)
    used = used[np.argsort(table[used], kind="stable")]
    place = np.zeros(len(table), np.uint8)
    place[used] = np.arange(len(used))
    return Stored(layer.shape, "shared", "float32", support, place[codes], table[used])
