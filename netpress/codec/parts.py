"""Which bytes of a payload are positions, codes, table, scales or values; told without decoding a stream."""

import math

from netpress.codec import chains, sides
from netpress.codec.press import Tensor, naming
from netpress.codec.varint import read_varint
from netpress.errors import FileError

PARTS = ("positions", "codes", "table", "scales", "values")
"""Scales: of signs, steps of integers, with flags, bits and zero point. Where positions and codes are one stream
(chains that begin with `mask`), all of it counts as codes; a coder's own tables count to what it codes."""


def parts(tensor: Tensor, skipped: int = 0) -> list[tuple[str, int]]:
    """The parts of a payload, in order: (one of `PARTS`, bytes); they add up to it.

    >>> import numpy as np
    >>> from netpress.codec.stored import Stored
    >>> coded = Stored((4,), "shared", "float32", None, np.array([0, 1, 2, 1]), np.float32([0.1, 0.2, 0.3]))
    >>> parts(Tensor.of("w", coded))
    [('table', 13), ('codes', 1)]

    Args:
        tensor: as it was read.
        skipped: first bytes of the payload that its chunk leaves out: they are not counted.

    Raises:
        FileError: the payload is damaged; names the tensor.
    """
    with naming(f"tensor {tensor.name!r} at byte {tensor.offset}"):
        how = chains.parse(tensor.chain, tensor.form)
        found, at = _front(tensor, how) if tensor.form != "free" else ([], 0)
        end = _positions_end(tensor.data, at, how, coded=tensor.form != "free")
        rest = "values" if tensor.form == "free" else "codes"
        found += [("positions", end - at), (rest, len(tensor.data) - end)]
        if any(size < 0 for _, size in found):
            raise FileError(f"parts of {found} bytes do not fit into {len(tensor.data)}")
    counted = []
    for name, size in found:
        hidden = min(skipped, size)
        skipped -= hidden
        if size > hidden:
            counted.append((name, size - hidden))
    return counted


def _front(tensor: Tensor, how: chains.Chain) -> tuple[list[tuple[str, int]], int]:
    """Table or scales, and where they end."""
    data = tensor.data
    if tensor.form in sides.FORMS:
        _, end = sides.read(data, 0, tensor.form, tensor.shape, half=how.half)
        return [("scales", end)], end
    size, at = read_varint(data, 0)
    if not how.grid:
        end = at + size * (2 if how.half else 4)
        return [("table", end)], end
    side, steps = sides.read(data, at, "affine", (1,), half=False)
    end = steps + math.ceil(size * side.bits / 8)
    return [("table", at), ("scales", steps - at), ("table", end - steps)], end


def _positions_end(data: bytes, at: int, how: chains.Chain, *, coded: bool) -> int:
    """The byte behind a stream that holds positions alone."""
    if how.place.startswith("rel"):
        size, at = read_varint(data, read_varint(data, at)[1])
        return at + size
    if how.place == "mask" and not coded:
        size, at = read_varint(data, at)
        return at + size
    return at
