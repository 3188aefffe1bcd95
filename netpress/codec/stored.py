"""One tensor as it is written: its stored form, the chain of codecs, and back, bit for bit.

A tensor has a *support* (`positions`: where it may differ from zero) and *values* inside it: any (`free`), or taken
from a small table (`shared`). A *chain* names how they become bytes:

    raw                      free, everywhere: the values
    CODER                    shared, everywhere: one table index per entry
    mask+CODER               a symbol per entry: 0 outside; inside 1 (free) or 1 + table index (shared)
    relB+CODER[+CODER]       gaps between kept entries in B = 3..8 bits; the second coder is for the table indices
    ...+half                 floats are written in 16 bits, where nothing is lost by it

with CODER one of bits, huffman, rans. Sparse, shared and Huffman-coded weights are those of Deep Compression (Han et
al., 2016, sections 2 to 4). We differ in the fillers of the gaps (`relative_index`), and in that each tensor takes what
comes out smallest.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec import chains
from netpress.codec.chains import NEWER, Chain
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

Codec = Literal["auto", "bits", "huffman", "rans"]
Array = NDArray[np.generic]

MAX_ELEMENTS = 1 << 31
MAX_AXES = 32
MAX_TABLE = 1 << 16
DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
FORMS = ("free", "shared")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One tensor as it is written; plain numpy.

    Args:
        shape: of the restored tensor.
        form: "free" or "shared".
        dtype: of the restored tensor.
        positions: the support: sorted flat row-major positions [n]; None means everywhere.
        codes: shared: the table index of each entry inside the support, row-major [n].
        table: shared: the values, float32 [k].
        values: free: the values inside the support, row-major [n], of type `dtype`.
    """

    shape: tuple[int, ...]
    form: str
    dtype: str
    positions: NDArray[np.int64] | None = None
    codes: NDArray[np.integer] | None = None
    table: NDArray[np.float32] | None = None
    values: Array | None = None


class Packed(NamedTuple):
    """A tensor's bytes; `parts` tells how many of them are "positions", "codes", "table", "values"."""

    chain: str
    data: bytes
    parts: dict[str, int]


def free(array: Array, positions: NDArray[np.int64] | None = None) -> Stored:
    """Store an array as it is, or only its entries at `positions` (the rest becomes +0.0).

    >>> restore(free(np.array([1.0, 2.0, 3.0]), positions=np.array([1])))
    array([0., 2., 0.])

    Args:
        array: any shape.
        positions: sorted flat positions that are kept.
    """
    flat = array.reshape(-1)
    values = flat if positions is None else flat[positions]
    return Stored(array.shape, "free", array.dtype.name, positions=positions, values=values)


def restore(stored: Stored) -> Array:
    """The tensor: its values inside the support, exactly +0.0 outside.

    w[p] = table[codes] or values inside the support, 0 elsewhere

    >>> s = Stored((2, 2), "shared", "float32", np.array([0, 3]), np.array([1, 0]), np.float32([0.5, -1]))
    >>> restore(s)
    array([[-1. ,  0. ],
           [ 0. ,  0.5]], dtype=float32)

    Args:
        stored: a valid stored form.

    Returns:
        An array of the stored shape and dtype.
    """
    values = stored.values if stored.table is None else stored.table[stored.codes]
    assert values is not None
    values = values.astype(stored.dtype, copy=False)
    if stored.positions is None:
        return values.reshape(stored.shape)
    flat = np.zeros(math.prod(stored.shape), stored.dtype)
    flat[stored.positions] = values
    return flat.reshape(stored.shape)


def restored_bytes(shape: tuple[int, ...], *, form: str, dtype: str, chain: str) -> int:
    """Check what a header says of a tensor; the size that it takes when restored.

    >>> restored_bytes((10, 500), form="free", dtype="float32", chain="mask+rans")
    20000

    Returns:
        Bytes of the restored tensor.

    Raises:
        FileError: an unknown form, type or chain, or too many elements.
    """
    if form not in FORMS or dtype not in DTYPES:
        raise FileError(f"form {form!r} of type {dtype!r}: {NEWER}")
    chains.parse(chain, form)
    if len(shape) > MAX_AXES or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise FileError(f"shape {_brief(shape)}: at most {MAX_AXES} axes and {MAX_ELEMENTS} elements allowed")
    return math.prod(shape) * np.dtype(dtype).itemsize


def pack(stored: Stored, codec: Codec = "auto") -> Packed:
    """Write a tensor with the chain that comes out smallest.

    >>> packed = pack(free(np.zeros(1000, np.float32), positions=np.array([3, 997])), codec="huffman")
    >>> packed.parts["values"], len(packed.data) == sum(packed.parts.values())
    (4, True)

    Args:
        stored: the tensor.
        codec: "auto" tries all coders; "bits", "huffman" or "rans" only that one.

    Returns:
        The chain, the bytes, and how many of them belong to each part.

    Raises:
        ValueError: `stored` contradicts itself.
    """
    _validate(stored)
    coders = chains.CODERS if codec == "auto" else (codec,)
    floats = stored.values if stored.table is None else stored.table
    assert floats is not None
    half = _halves(floats)
    raw = _to_bytes(floats, half=half)
    if stored.table is not None:
        raw = write_varint(len(stored.table)) + raw
    if stored.positions is not None:
        return _pack_support(stored, coders, raw, half=half)
    if stored.table is None:
        return Packed(str(Chain("", "raw", "", half)), raw, {"values": len(raw)})
    assert stored.codes is not None
    coder, codes = chains.shortest(stored.codes, len(stored.table), coders)
    parts = {"codes": len(codes), "table": len(raw)}
    return Packed(str(Chain("", coder, "", half)), raw + codes, parts)


def unpack(data: bytes, *, shape: tuple[int, ...], form: str, dtype: str, chain: str) -> Stored:
    """Read a tensor; the inverse of `pack`.

    >>> packed = pack(free(np.arange(3)))
    >>> restore(unpack(packed.data, shape=(3,), form="free", dtype="int64", chain=packed.chain))
    array([0, 1, 2])

    Args:
        data: the payload, nothing behind it.
        shape: of the restored tensor.
        form: "free" or "shared".
        dtype: of the restored tensor.
        chain: how the payload is coded.

    Raises:
        FileError: the payload is damaged or hostile, or from a newer version.
    """
    restored_bytes(shape, form=form, dtype=dtype, chain=chain)
    elements, how = math.prod(shape), chains.parse(chain, form)
    if form == "free":
        positions, at = _read_free_support(data, how, elements)
        count = elements if positions is None else len(positions)
        values = _from_bytes(data[at:], dtype, count, half=how.half)
        return Stored(shape, form, dtype, positions, values=values)
    size, at = read_varint(data, 0)
    width = 2 if how.half else 4
    if size > MAX_TABLE or size * width > len(data) - at:
        raise FileError(f"a table of {size} values does not fit into {len(data)} bytes, or exceeds {MAX_TABLE}")
    table = _from_bytes(data[at : at + size * width], "float32", size, half=how.half).astype(np.float32, copy=False)
    positions, codes = _read_codes(data, at + size * width, how, elements=elements, size=size)
    return Stored(shape, form, dtype, positions, codes, table)


def _brief(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 80 else text[:77] + "..."


def _validate(stored: Stored) -> None:
    elements = math.prod(stored.shape)
    inside = stored.values if stored.form == "free" else stored.codes
    if stored.form not in FORMS or inside is None or (stored.form == "shared") == (stored.table is None):
        raise ValueError(f"form {stored.form!r}: expected values (free), or codes and a table (shared)")
    count = elements if stored.positions is None else len(stored.positions)
    if inside.shape != (count,):
        raise ValueError(f"expected {count} entries for shape {stored.shape}, got {inside.shape}")
    p = stored.positions
    if p is not None and count and (p[0] < 0 or p[-1] >= elements or bool((np.diff(p) <= 0).any())):
        raise ValueError(f"positions must grow and stay within 0..{elements - 1}")
    if stored.table is None:
        if inside.dtype.name != stored.dtype:
            raise ValueError(f"expected values of type {stored.dtype}, got {inside.dtype}")
    elif stored.table.dtype != np.float32 or len(stored.table) > MAX_TABLE:
        raise ValueError(f"expected at most {MAX_TABLE} float32 values, got {stored.table.dtype}, {len(stored.table)}")
    elif count and not 0 <= int(inside.min()) <= int(inside.max()) < len(stored.table):
        raise ValueError(f"codes must lie in 0..{len(stored.table) - 1}, got {inside.min()}..{inside.max()}")
    try:
        restored_bytes(stored.shape, form=stored.form, dtype=stored.dtype, chain="mask+bits")
    except FileError as error:
        raise ValueError(str(error)) from None


def _halves(values: Array) -> bool:
    """True where float32 numbers survive a round trip through 16 bits, to the bit."""
    if values.dtype != np.float32 or not values.size:
        return False
    with np.errstate(over="ignore", under="ignore"):
        back = values.astype(np.float16).astype(np.float32)
    return bool((back.view(np.uint32) == np.ascontiguousarray(values).view(np.uint32)).all())


def _to_bytes(values: Array, *, half: bool) -> bytes:
    dtype = np.dtype(np.float16) if half else values.dtype
    return values.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def _from_bytes(data: bytes, dtype: str, count: int, *, half: bool) -> Array:
    written = np.dtype(np.float16 if half else dtype)
    if half and dtype != "float32":
        raise FileError(f"half is for float32, got {dtype}")
    if len(data) != count * written.itemsize:
        raise FileError(f"expected {count * written.itemsize} bytes for {count} {written} values, got {len(data)}")
    if dtype == "bool" and data.strip(b"\0\1"):
        raise FileError("a truth value is neither 0 nor 1")
    return np.frombuffer(data, written.newbyteorder("<")).astype(dtype)


def _pack_support(stored: Stored, coders: tuple[str, ...], raw: bytes, *, half: bool) -> Packed:
    """Try a symbol per entry and gaps; `raw` is the table with its length, or the free values."""
    assert stored.positions is not None
    elements = math.prod(stored.shape)
    size = 1 if stored.table is None else len(stored.table)
    inside = np.zeros(len(stored.positions), np.int64) if stored.codes is None else stored.codes
    shared = stored.table is not None
    results = []
    for place in chains.places(stored.positions, elements, inside, table_size=size, coders=coders):
        head, tail, second = b"", b"", ""
        if place == "mask":
            symbols = np.zeros(elements, np.int32)
            symbols[stored.positions] = inside + 1
            first, stream = chains.shortest(symbols, size + 1, coders)
            if shared:
                tail = stream
            else:
                head = write_varint(len(stream)) + stream
        else:
            first, head = chains.write_gaps(stored.positions, int(place[3:]), coders)
            if shared:
                second, tail = chains.shortest(inside, size, coders)
        data = raw + head + tail if shared else head + raw
        parts = {"positions": len(head), "codes": len(tail), "table" if shared else "values": len(raw)}
        results.append(Packed(str(Chain(place, first, second, half)), data, parts))
    return min(results, key=lambda packed: len(packed.data))


def _read_free_support(data: bytes, how: Chain, elements: int) -> tuple[NDArray[np.int64] | None, int]:
    """Positions of a free tensor, and where its values start."""
    if not how.place:
        return None, 0
    if how.place != "mask":
        return chains.read_gaps(data, 0, how, elements)
    size, at = read_varint(data, 0)
    if size > len(data) - at:
        raise FileError(f"a mask of {size} bytes does not fit into {len(data)}")
    symbols = chains.decode(data[at : at + size], 2, elements, how.first)
    return np.flatnonzero(symbols), at + size


def _read_codes(
    data: bytes, at: int, how: Chain, *, elements: int, size: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int32]]:
    """Positions and table indices of a shared tensor; `size` is the table's."""
    if not how.place:
        return None, chains.decode(data[at:], size, elements, how.first)
    if how.place == "mask":
        symbols = chains.decode(data[at:], size + 1, elements, how.first)
        positions = np.flatnonzero(symbols)
        return positions, symbols[positions] - 1
    positions, at = chains.read_gaps(data, at, how, elements)
    return positions, chains.decode(data[at:], size, len(positions), how.second)
