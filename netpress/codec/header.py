"""The header of a `.press` file: what the network is, and one row per tensor; as compact JSON, read with suspicion.

The JSON is a list, trailing empty entries left out (`docs/format.md`, section 3):

    [[source, name, settings, edits], input shape, mean, std, rows, classes, aliases, meta]

and a row is `[name, shape]` for a plain float32 tensor, else `[name, shape, bytes, chain, form, dtype]`, where
trailing defaults ("free", "float32") are left out. Small files (version 2) have `[name, shape]` for all, and two more
entries: the *kinds* of tensors, `[chain, form, prefix, dtype]`, and the kind of each row. Their sizes stand elsewhere.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from netpress.errors import FileError

SOURCES = ("zoo", "torchvision", "timm", "own")
MAX_DEPTH = 32
MAX_VALUES = 1 << 19
MAX_TENSORS = 1 << 16
MAX_TEXT = 1000
MAX_PREFIX_BYTES = 16
_MAX_INT_DIGITS = 18
_ARCH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+:\-]{0,199}")
# Never fails once it has begun, and never goes back: linear in time also where a closing quote is missing.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_PREFIX = re.compile(r"(?:[0-9a-f]{2}){0,%d}" % MAX_PREFIX_BYTES)  # noqa: UP031  (braces)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Json = Any
"""A JSON value; checked while it is read."""


@dataclass(frozen=True, slots=True)
class Arch:
    """How a network is rebuilt: plain data, no code and no path.

    Args:
        source: where the network is defined: "zoo", "torchvision", "timm", or "own" (the user's class).
        name: the network's name within its source.
        settings: keyword arguments of the builder (JSON values).
        edits: structure edits in the order they were made: `(operation, module path, numbers...)`.
    """

    source: str
    name: str
    settings: Mapping[str, Json] = field(default_factory=dict)
    edits: tuple[tuple[Json, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Header:
    """Everything about a stored network that is not a tensor or the graph.

    Args:
        arch: how to rebuild the network.
        input_shape: one image, without the batch axis, e.g. (1, 28, 28).
        mean: per channel, in units of pixel / 255; empty means 0.
        std: per channel, in units of pixel / 255; empty means 1.
        classes: label of each output; empty means the index is the label.
        aliases: tied tensors: the other name -> the name under which the tensor is stored.
        meta: free-form JSON of the writer; readers ignore it.
    """

    arch: Arch
    input_shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor in the header.

    Args:
        name: of the tensor.
        shape: of the restored tensor.
        size_bytes: of its chunk; None where it follows from the shape, or stands elsewhere.
        chain: how it is coded.
        form: what its entries may be.
        dtype: of the restored tensor.
        prefix: first bytes of its payload, which its chunk leaves out.
    """

    name: str
    shape: tuple[int, ...]
    size_bytes: int | None = None
    chain: str = "raw"
    form: str = "free"
    dtype: str = "float32"
    prefix: bytes = b""


def dump(header: Header, rows: tuple[Row, ...]) -> bytes:
    """Write a header as compact JSON.

    >>> dump(Header(Arch("zoo", "lenet5"), (1, 28, 28)), (Row("fc.bias", (10,)),))
    b'[["zoo","lenet5"],[1,28,28],[],[],[["fc.bias",[10]]]]'

    Args:
        header: the header.
        rows: one per tensor, in file order.

    Raises:
        FileError: a value that the reader would refuse (checked by reading the result back).
    """
    raw = _to_json(_fields(header, [_row_list(row) for row in rows]))
    parse(raw)
    return raw


def dump_small(header: Header, rows: tuple[Row, ...]) -> bytes:
    """Write the header of a small file: what repeats from tensor to tensor stands in it once.

    >>> rows = Row("fc.weight", (10, 5), 21, "rans", "affine", prefix=b"\\x01\\x08"), Row("fc.bias", (10,))
    >>> dump_small(Header(Arch("zoo", "lenet5"), (1, 28, 28)), rows).decode().partition("[],[],")[2]
    '[["fc.weight",[10,5]],["fc.bias",[10]]],[],{},{},[["rans","affine","0108"],["raw"]],[0,1]]'

    Args:
        header: the header.
        rows: one per tensor, in file order; their sizes are not written.

    Raises:
        FileError: a value that the reader would refuse (checked by reading the result back).
    """
    kinds = [_kind_list(row) for row in rows]
    places = {json.dumps(kind): kind for kind in kinds}
    order = {key: index for index, key in enumerate(places)}
    value = _fields(header, [[row.name, row.shape] for row in rows])
    raw = _to_json([*value, list(places.values()), [order[json.dumps(kind)] for kind in kinds]])
    parse_small(raw)
    return raw


def _fields(header: Header, rows: list[Json]) -> list[Json]:
    arch: list[Json] = _trim([header.arch.source, header.arch.name, header.arch.settings, header.arch.edits])
    value: list[Json] = [arch, header.input_shape, header.mean, header.std, rows]
    return [*value, header.classes, header.aliases, header.meta]


def _to_json(value: list[Json]) -> bytes:
    try:
        return json.dumps(_trim(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"header: expected JSON values, got something else: {error}") from None


def parse(raw: bytes) -> tuple[Header, tuple[Row, ...]]:
    """Read the JSON of a header; the inverse of `dump`.

    >>> parse(b'[["own","Net"],[3,8,8],[0.5,0.5,0.5]]')[0].mean
    (0.5, 0.5, 0.5)

    Raises:
        FileError: anything but a well-formed header, with the place and the value.
    """
    header, values = _header(_expect(_load(raw), list, "header"))
    rows = tuple(_row(value, index) for index, value in enumerate(values))
    _check_names(header, rows)
    return header, rows


def parse_small(raw: bytes) -> tuple[Header, tuple[Row, ...]]:
    """Read the JSON of a small file's header; the inverse of `dump_small`, but for the sizes.

    >>> parse_small(b'[["own","Net"],[3,8,8],[],[],[["a",[4]]],[],{},{},[["bits","signs","03"]],[0]]')[1][0].prefix
    b'\\x03'

    Raises:
        FileError: anything but a well-formed header, with the place and the value.
    """
    fields = _expect(_load(raw), list, "header")
    if len(fields) not in range(2, 9) and len(fields) != 10:
        raise FileError(f"header: expected 2 to 8 entries, or 10, got {len(fields)}")
    header, values = _header(fields[:8])
    kinds, places = fields[8:] or ([], [])
    kinds = [_kind(value) for value in _expect(kinds, list, "header, kinds")]
    if len(_expect(places, list, "header, kind of each tensor")) != len(values):
        raise FileError(f"header: {len(places)} kinds for {len(values)} tensors")
    rows = tuple(_of_kind(*each, kinds) for each in zip(values, places, strict=True))
    _check_names(header, rows)
    return header, rows


def _header(fields: list[Json]) -> tuple[Header, list[Json]]:
    if not 2 <= len(fields) <= 8:
        raise FileError(f"header: expected 2 to 8 entries, got {len(fields)}")
    fields = fields + [[], [], [], [], {}, {}][len(fields) - 2 :]
    header = Header(
        arch=_arch(_expect(fields[0], list, "header, network")),
        input_shape=_shape(fields[1], "header, input shape"),
        mean=_numbers(fields[2], "header, mean"),
        std=_numbers(fields[3], "header, std"),
        classes=tuple(_text(label, "header, class", empty_ok=True) for label in _expect(fields[5], list, "header")),
        aliases={_text(k, "alias"): _text(v, "alias") for k, v in _expect(fields[6], dict, "header, aliases").items()},
        meta=_expect(fields[7], dict, "header, meta"),
    )
    return header, _expect(fields[4], list, "header, tensors")


def _trim(values: list[Json]) -> list[Json]:
    while values and not values[-1]:
        values = values[:-1]
    return values


def _row_list(row: Row) -> list[Json]:
    if row.size_bytes is None:
        return [row.name, row.shape]
    values = [row.name, row.shape, row.size_bytes, row.chain, row.form, row.dtype]
    for default in ("float32", "free", "raw"):
        if values[-1] != default:
            break
        values.pop()
    return values


def _kind_list(row: Row) -> list[Json]:
    values = [row.chain, row.form, row.prefix.hex(), row.dtype]
    for default in ("float32", "", "free"):
        if values[-1] != default:
            break
        values.pop()
    return values


def _load(raw: bytes) -> Json:
    """JSON with every limit checked before Python objects are made."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"header: expected UTF-8, got {error}") from None
    if _SURROGATE.search(text):
        raise FileError("header: half of a surrogate pair in a string")
    bare = _STRING.sub("", text)
    depth = deepest = 0
    for sign in re.findall(r"[\[{\]}]", bare):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    values = bare.count(",") + bare.count("[") + bare.count("{")
    if deepest > MAX_DEPTH or values > MAX_VALUES:
        raise FileError(
            f"header: nested {deepest} deep with {values} values, at most {MAX_DEPTH} and {MAX_VALUES} allowed"
        )
    try:
        return json.loads(
            text, parse_int=_integer, parse_float=_real, parse_constant=_constant, object_pairs_hook=_object
        )
    except (ValueError, RecursionError) as error:
        raise FileError(f"header: not JSON: {error}") from None


def _integer(text: str) -> int:
    if len(text) > _MAX_INT_DIGITS:
        raise FileError(f"header: integer of {len(text)} digits, at most {_MAX_INT_DIGITS} allowed")
    return int(text)


def _real(text: str) -> float:
    value = float(text) if len(text) <= MAX_TEXT else math.inf
    if not math.isfinite(value):
        raise FileError(f"header: {text[:30]} is no finite number")
    return value


def _constant(text: str) -> NoReturn:
    raise FileError(f"header: {text} is no JSON number")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FileError("header: a key appears twice in one object")
    return result


def _expect(value: Json, kind: type, where: str) -> Json:
    if type(value) is not kind:
        raise FileError(f"{where}: expected {kind.__name__}, got {_brief(value)}")
    return value


def _brief(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Json, where: str, *, empty_ok: bool = False) -> str:
    text: str = _expect(value, str, where)
    if len(text) > MAX_TEXT or not (text or empty_ok) or not text.isprintable():
        raise FileError(f"{where}: expected printable text of at most {MAX_TEXT} characters, got {_brief(text)}")
    return text


def _shape(value: Json, where: str) -> tuple[int, ...]:
    sizes = _expect(value, list, where)
    if len(sizes) > MAX_DEPTH or any(type(size) is not int or size < 0 for size in sizes):
        raise FileError(f"{where}: expected at most {MAX_DEPTH} sizes >= 0, got {_brief(value)}")
    return tuple(sizes)


def _numbers(value: Json, where: str) -> tuple[float, ...]:
    numbers = _expect(value, list, where)
    if any(type(number) not in (int, float) for number in numbers):
        raise FileError(f"{where}: expected numbers, got {_brief(value)}")
    return tuple(float(number) for number in numbers)


def _arch(value: list[Json]) -> Arch:
    if not 2 <= len(value) <= 4:
        raise FileError(f"header, network: expected 2 to 4 entries, got {len(value)}")
    source, name, settings, edits = value + [{}, []][len(value) - 2 :]
    if source not in SOURCES:
        raise FileError(f"header, network: source {_brief(source)} is none of {', '.join(SOURCES)}")
    if not _ARCH_NAME.fullmatch(_text(name, "header, network name")):
        raise FileError(f"header, network name: letters, digits and _ . + : - allowed, got {_brief(name)}")
    _expect(settings, dict, "header, network settings")
    return Arch(source, name, settings, tuple(_edit(edit) for edit in _expect(edits, list, "header, edits")))


def _edit(value: Json) -> tuple[Json, ...]:
    edit = _expect(value, list, "header, edit")
    if len(edit) < 2:
        raise FileError(f"header, edit: expected [operation, module path, numbers...], got {_brief(edit)}")
    _text(edit[0], "header, edit operation")
    _text(edit[1], "header, edit module path", empty_ok=True)
    return tuple(_freeze(part) for part in edit)


def _freeze(value: Json) -> Json:
    return tuple(_freeze(part) for part in value) if isinstance(value, list) else value


def _row(value: Json, index: int) -> Row:
    where = f"header, tensor {index}"
    row = _expect(value, list, where)
    if not 2 <= len(row) <= 6:
        raise FileError(f"{where}: expected 2 to 6 entries, got {len(row)}")
    name = _text(row[0], f"{where}, name")
    where = f"tensor {name!r}"
    size = _expect(row[2], int, f"{where}, bytes") if len(row) > 2 else None
    if size is not None and size < 0:
        raise FileError(f"{where}: expected a size >= 0, got {size} bytes")
    words = [_text(word, f"{where}, form") for word in row[3:]]
    chain, form, dtype = words + ["raw", "free", "float32"][len(words) :]
    return Row(name, _shape(row[1], f"{where}, shape"), size, chain, form, dtype)


def _kind(value: Json) -> Row:
    """A row that has neither name nor shape yet."""
    kind = _expect(value, list, "header, kind")
    if not 1 <= len(kind) <= 4:
        raise FileError(f"header, kind: expected 1 to 4 entries, got {len(kind)}")
    words = [_text(word, "header, kind", empty_ok=True) for word in kind]
    chain, form, prefix, dtype = words + ["free", "", "float32"][len(words) - 1 :]
    if not _PREFIX.fullmatch(prefix):
        raise FileError(f"header, kind: expected at most {MAX_PREFIX_BYTES} bytes in hex, got {_brief(prefix)}")
    return Row("", (), None, chain, form, dtype, prefix=bytes.fromhex(prefix))


def _of_kind(value: Json, place: Json, kinds: list[Row]) -> Row:
    row = _expect(value, list, "header, tensor")
    if len(row) != 2 or not 0 <= _expect(place, int, "header, kind of a tensor") < len(kinds):
        raise FileError(f"header, tensor: expected [name, shape] and one of {len(kinds)} kinds, got {_brief(row)}")
    name = _text(row[0], "header, tensor name")
    return replace(kinds[place], name=name, shape=_shape(row[1], f"tensor {name!r}, shape"))


def _check_names(header: Header, rows: tuple[Row, ...]) -> None:
    if len(rows) > MAX_TENSORS:
        raise FileError(f"header: {len(rows)} tensors, at most {MAX_TENSORS} allowed")
    names = {row.name for row in rows}
    if len(names) != len(rows):
        twice = Counter(row.name for row in rows).most_common(1)[0][0]
        raise FileError(f"header: tensor {twice!r} appears twice")
    for alias, name in header.aliases.items():
        if alias in names or name not in names:
            raise FileError(f"header: alias {alias!r} -> {name!r}: the second, and only it, must be a tensor")
