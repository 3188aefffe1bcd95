"""One tensor as it is written: its stored form, the chain of codecs, and back, bit for bit.

A tensor has a *support* (`positions`: where it may differ from zero) and *values* inside it: any (`free`), or a code
per entry: of a small table (`shared`), of a sign (`signs`), of an integer grid (`affine`). A *chain* names how they
become bytes:

    raw                      free, everywhere: the values
    whole+CODER              free integers, everywhere: their distance to the least one (`whole_numbers`)
    steps+CODER              the same: their distance to the one before, within the range that they span
    CODER                    one code per entry, everywhere
    mask+CODER               a symbol per entry: 0 outside; inside 1 (free) or 1 + code
    relB+CODER[+CODER]       gaps between kept entries in B = 3..8 bits; the second coder is for the codes
    ...+half                 floats are written in 16 bits, where nothing is lost by it
    ...+grid                 shared: the table is written as integers and their step

with CODER one of bits, huffman, rans; alone also context or logistic, behind mask context. Sparse, shared and
Huffman-coded weights are those of Deep Compression (Han et al., 2016, sections 2 to 4). We differ in the fillers of the
gaps (`relative_index`), and in that each tensor takes what comes out smallest.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec import chains, context_chain, floats, sides, whole_numbers
from netpress.codec.chains import NEWER, WHOLE, Chain
from netpress.codec.sides import Side
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

Codec = Literal["auto", "bits", "huffman", "rans", "context", "logistic"]
Array = NDArray[np.generic]

MAX_ELEMENTS = 1 << 31
MAX_AXES = 32
MAX_TABLE = 1 << 16
DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
FORMS = ("free", "shared", *sides.FORMS)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One tensor as it is written; plain numpy.

    Args:
        shape: of the restored tensor.
        form: "free", "shared", "signs" or "affine".
        dtype: of the restored tensor; "float32" for signs and affine.
        positions: the support: sorted flat row-major positions [n]; None means everywhere.
        codes: all but free: the table index, sign (0 or 1) or integer of each entry inside the support, row-major [n].
        table: shared: the values, float32 [k].
        values: free: the values inside the support, row-major [n], of type `dtype`.
        side: signs and affine: scales, steps and what belongs to them; shared: the grid of the table, or None.
    """

    shape: tuple[int, ...]
    form: str
    dtype: str
    positions: NDArray[np.int64] | None = None
    codes: NDArray[np.integer] | None = None
    table: NDArray[np.float32] | None = None
    values: Array | None = None
    side: Side | None = None


class Packed(NamedTuple):
    """A tensor's bytes; `parts` tells how many of them are "positions", "codes", "table" (scales too), "values"."""

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

    w[p] = table[codes], sides.values(codes) or values inside the support, 0 elsewhere

    >>> s = Stored((2, 2), "shared", "float32", np.array([0, 3]), np.array([1, 0]), np.float32([0.5, -1]))
    >>> restore(s)
    array([[-1. ,  0. ],
           [ 0. ,  0.5]], dtype=float32)

    Args:
        stored: a valid stored form.

    Returns:
        An array of the stored shape and dtype.
    """
    values = _inside(stored).astype(stored.dtype, copy=False)
    if stored.positions is None:
        return values.reshape(stored.shape)
    flat = np.zeros(math.prod(stored.shape), stored.dtype)
    flat[stored.positions] = values
    return flat.reshape(stored.shape)


def _inside(stored: Stored) -> Array:
    if stored.codes is None:
        assert stored.values is not None
        return stored.values
    if stored.table is not None:
        taken: Array = stored.table[stored.codes]
        return taken
    assert stored.side is not None
    return sides.values(stored.side, stored.codes, stored.shape, stored.positions)


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
    if form in sides.FORMS and dtype != "float32":
        raise FileError(f"form {form!r} is for float32, got {dtype}")
    if chains.parse(chain, form).place in WHOLE and np.dtype(dtype).kind not in "iu":
        raise FileError(f"chain {chain!r} is for integers, got {dtype}")
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
        codec: "auto" tries all coders; "bits", "huffman", "rans", "context" or "logistic" only that one
            (context in place of logistic for a tensor with a support).

    Returns:
        The chain, the bytes, and how many of them belong to each part.

    Raises:
        ValueError: `stored` contradicts itself.
    """
    _validate(stored)
    front, half = _front(stored)
    how = Chain("", "", "", half, stored.form == "shared" and stored.side is not None)
    around = stored.positions is not None or stored.codes is not None
    if codec in context_chain.CODERS and around:
        return _pack_context(stored, (codec,), front, how)
    packed = _pack_static(stored, (codec,) if codec in chains.CODERS else chains.CODERS, front, how)
    elements = math.prod(stored.shape)
    if codec == "auto" and around and context_chain.may_pay(elements):
        rival = _pack_context(stored, context_chain.CODERS, front, how)
        return rival if context_chain.pays(len(rival.data), len(packed.data), elements) else packed
    return packed


def _pack_static(stored: Stored, coders: tuple[str, ...], front: bytes, how: Chain) -> Packed:
    """The shortest of the chains whose chances do not move."""
    if stored.positions is not None:
        return _pack_support(stored, coders, front, how)
    if stored.codes is None:
        assert stored.values is not None
        raw = Packed(str(how._replace(first="raw")), front, {"values": len(front)})
        return min([raw, *_pack_whole(stored.values, coders)], key=lambda packed: len(packed.data))
    coder, codes = chains.shortest(stored.codes, _alphabet(stored), coders)
    return Packed(str(how._replace(first=coder)), front + codes, {"codes": len(codes), "table": len(front)})


def _pack_context(stored: Stored, coders: tuple[str, ...], front: bytes, how: Chain) -> Packed:
    """Codes and support in one stream."""
    support, free = stored.positions is not None, stored.codes is None
    codes = np.zeros(_inside(stored).size, np.int32) if stored.codes is None else stored.codes
    zero = context_chain.zero_of(stored.table, stored.side, support=support)
    coder, stream = context_chain.write(codes, zero, stored.shape, stored.positions, coders)
    chain = str(how._replace(place="mask" if support else "", first=coder))
    if free:
        head = write_varint(len(stream)) + stream
        return Packed(chain, head + front, {"positions": len(head), "values": len(front)})
    return Packed(chain, front + stream, {"codes": len(stream), "table": len(front)})


def _pack_whole(values: Array, coders: tuple[str, ...]) -> list[Packed]:
    """Whole numbers as symbols, in both ways; nothing where they are no integers, or span too much."""
    found = []
    for place in WHOLE:
        written = whole_numbers.write(values, place, coders)
        if written is not None:
            chain = str(Chain(place, written[0], "", half=False))
            found.append(Packed(chain, written[1], {"values": len(written[1])}))
    return found


def _front(stored: Stored) -> tuple[bytes, bool]:
    """What stands before the codes (table, scales), or the free values; and whether its floats take 16 bits."""
    if stored.table is not None and stored.side is not None:
        return write_varint(len(stored.table)) + sides.write_grid(stored.side, stored.table), False
    scale = None if stored.side is None else stored.side.scale.reshape(-1)
    numbers = next(part for part in (stored.values, stored.table, scale) if part is not None)
    half = floats.halves(numbers)
    raw = floats.to_bytes(numbers, half=half)
    if stored.side is not None:
        return sides.write(stored.side, raw), half
    return raw if stored.table is None else write_varint(len(stored.table)) + raw, half


def _alphabet(stored: Stored) -> int:
    """How many codes there are; 1 for free values."""
    if stored.table is not None:
        return len(stored.table)
    return 1 if stored.side is None else stored.side.alphabet


def unpack(data: bytes, *, shape: tuple[int, ...], form: str, dtype: str, chain: str) -> Stored:
    """Read a tensor; the inverse of `pack`.

    >>> packed = pack(free(np.arange(3)))
    >>> restore(unpack(packed.data, shape=(3,), form="free", dtype="int64", chain=packed.chain))
    array([0, 1, 2])

    Args:
        data: the payload, nothing behind it.
        shape: of the restored tensor.
        form: "free", "shared", "signs" or "affine".
        dtype: of the restored tensor.
        chain: how the payload is coded.

    Raises:
        FileError: the payload is damaged or hostile, or from a newer version.
    """
    restored_bytes(shape, form=form, dtype=dtype, chain=chain)
    elements, how = math.prod(shape), chains.parse(chain, form)
    if how.place in WHOLE:
        values = whole_numbers.read(data, how, elements, np.dtype(dtype))
        return Stored(shape, form, dtype, values=values)
    if form == "free":
        positions, at = _read_free_support(data, how, shape)
        count = elements if positions is None else len(positions)
        values = floats.from_bytes(data[at:], dtype, count, half=how.half)
        return Stored(shape, form, dtype, positions, values=values)
    table, side, size, at = _read_front(data, how, form, shape)
    if how.first in context_chain.CODERS:
        zero = context_chain.zero_of(table, side, support=bool(how.place))
        positions, codes = context_chain.read(data[at:], zero, shape, size=size, place=how.place, coder=how.first)
    else:
        positions, codes = _read_codes(data, at, how, elements=elements, size=size)
    return Stored(shape, form, dtype, positions, codes, table, side=side)


def _read_front(
    data: bytes, how: Chain, form: str, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32] | None, Side | None, int, int]:
    """Table or scales, how many codes there are, and where these begin."""
    if form in sides.FORMS:
        side, at = sides.read(data, 0, form, shape, half=how.half)
        return None, side, side.alphabet, at
    size, at = read_varint(data, 0)
    width = 2 if how.half else 4
    least = 0 if how.grid else size * width
    if size > MAX_TABLE or least > len(data) - at:
        raise FileError(f"a table of {size} values does not fit into {len(data)} bytes, or exceeds {MAX_TABLE}")
    if how.grid:
        side, table, at = sides.read_grid(data, at, size)
        return table, side, size, at
    end = at + size * width
    return (
        floats.from_bytes(data[at:end], "float32", size, half=how.half).astype(np.float32, copy=False),
        None,
        size,
        end,
    )


def _brief(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 80 else text[:77] + "..."


def _validate(stored: Stored) -> None:
    elements = math.prod(stored.shape)
    inside = stored.values if stored.form == "free" else stored.codes
    if stored.form not in FORMS or inside is None or (stored.form == "shared") == (stored.table is None):
        raise ValueError(f"form {stored.form!r}: expected values (free), or codes and a table (shared)")
    if stored.side is None if stored.form in sides.FORMS else stored.side is not None and stored.form == "free":
        raise ValueError(f"form {stored.form!r}: expected scales for signs and affine, a grid only for a table")
    count = elements if stored.positions is None else len(stored.positions)
    if inside.shape != (count,):
        raise ValueError(f"expected {count} entries for shape {stored.shape}, got {inside.shape}")
    p = stored.positions
    if p is not None and count and (p[0] < 0 or p[-1] >= elements or bool((np.diff(p) <= 0).any())):
        raise ValueError(f"positions must grow and stay within 0..{elements - 1}")
    _validate_codes(stored, inside)
    try:
        restored_bytes(stored.shape, form=stored.form, dtype=stored.dtype, chain="mask+bits")
    except FileError as error:
        raise ValueError(str(error)) from None


def _validate_codes(stored: Stored, inside: Array) -> None:
    if stored.form == "free":
        if inside.dtype.name != stored.dtype:
            raise ValueError(f"expected values of type {stored.dtype}, got {inside.dtype}")
        return
    if stored.table is not None and (stored.table.dtype != np.float32 or len(stored.table) > MAX_TABLE):
        raise ValueError(f"expected at most {MAX_TABLE} float32 values, got {stored.table.dtype}, {len(stored.table)}")
    if stored.side is not None:
        on_table = stored.table is not None
        wrong = sides.fault(stored.side, "affine" if on_table else stored.form, (1,) if on_table else stored.shape)
        if wrong:
            raise ValueError(wrong)
    most = _alphabet(stored) - 1
    if inside.size and not 0 <= int(inside.min()) <= int(inside.max()) <= most:
        raise ValueError(f"codes must lie in 0..{most}, got {inside.min()}..{inside.max()}")


def _pack_support(stored: Stored, coders: tuple[str, ...], front: bytes, how: Chain) -> Packed:
    """Try a symbol per entry and gaps; `front` is the table or the scales, or the free values."""
    assert stored.positions is not None
    elements, size = math.prod(stored.shape), _alphabet(stored)
    inside = np.zeros(len(stored.positions), np.int64) if stored.codes is None else stored.codes
    coded = stored.codes is not None
    results = []
    for place in chains.places(stored.positions, elements, inside, table_size=size, coders=coders):
        head, tail, second = b"", b"", ""
        if place == "mask":
            symbols = np.zeros(elements, np.int32)
            symbols[stored.positions] = inside.astype(np.int32) + 1  # a code of uint8 may be 255
            first, stream = chains.shortest(symbols, size + 1, coders)
            if coded:
                tail = stream
            else:
                head = write_varint(len(stream)) + stream
        else:
            first, head = chains.write_gaps(stored.positions, int(place[3:]), coders)
            if coded:
                second, tail = chains.shortest(inside, size, coders)
        data = front + head + tail if coded else head + front
        parts = {"positions": len(head), "codes": len(tail), "table" if coded else "values": len(front)}
        results.append(Packed(str(how._replace(place=place, first=first, second=second)), data, parts))
    return min(results, key=lambda packed: len(packed.data))


def _read_free_support(data: bytes, how: Chain, shape: tuple[int, ...]) -> tuple[NDArray[np.int64] | None, int]:
    """Positions of a free tensor, and where its values start."""
    elements = math.prod(shape)
    if not how.place:
        return None, 0
    if how.place != "mask":
        return chains.read_gaps(data, 0, how, elements)
    size, at = read_varint(data, 0)
    if size > len(data) - at:
        raise FileError(f"a mask of {size} bytes does not fit into {len(data)}")
    if how.first in context_chain.CODERS:
        found = context_chain.read(data[at : at + size], 0, shape, size=1, place=how.place, coder=how.first)
        return found[0], at + size
    symbols = chains.decode(data[at : at + size], 2, elements, how.first)
    return np.flatnonzero(symbols), at + size


def _read_codes(
    data: bytes, at: int, how: Chain, *, elements: int, size: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int32]]:
    """Positions and codes, which lie below `size`."""
    if not how.place:
        return None, chains.decode(data[at:], size, elements, how.first)
    if how.place == "mask":
        symbols = chains.decode(data[at:], size + 1, elements, how.first)
        positions = np.flatnonzero(symbols)
        return positions, symbols[positions] - 1
    positions, at = chains.read_gaps(data, at, how, elements)
    return positions, chains.decode(data[at:], size, len(positions), how.second)
