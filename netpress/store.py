"""Save and load candidates as `.press` files; nothing is written that was not read back and compared bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netpress import atomic
from netpress.adopt import masked
from netpress.arch import build, refuse_fetching
from netpress.candidate import Candidate, Inputs
from netpress.codec import container, onnx_bytes, stored
from netpress.codec.container import Press
from netpress.codec.header import Header
from netpress.codec.stored import Codec
from netpress.errors import FileError, ModelError
from netpress.forms import Affine, Form, Shared, from_stored, symbols
from netpress.onnx_graph import export, without_weights
from netpress.train.bind import parametrized

_EXTRA = "graph."  # large constants of the graph that are no tensor of the network
_UNUSED = "num_batches_tracked"  # a counter that inference never reads


@dataclass(frozen=True, slots=True)
class Saved:
    """What lies on disk.

    Attributes:
        file_bytes: of the whole file, as the file system says.
        overhead_bytes: of everything but the tensors: magic, lengths, header (with what tensors of one kind begin with,
            for it stands there once), graph, checksums.
        parts: by tensor, bytes of its "positions", "codes", "table" (scales and steps too), "values".
        note: why the file holds no graph; empty if it does.
    """

    file_bytes: int
    overhead_bytes: int
    parts: Mapping[str, Mapping[str, int]]
    note: str = ""


def save(candidate: Candidate, path: str | Path, *, codec: Codec = "auto", graph: bool = True) -> Saved:
    """Write a candidate; the same candidate gives the same bytes.

    A network that ONNX cannot express is written without a graph: `load` opens it, the runtime does not, and `note`
    says so.

    Args:
        candidate: its tensors must hold their forms.
        path: of the file; the folder must exist.
        codec: "auto" takes the smallest chain per tensor; "bits", "huffman", "rans", "context", "logistic" only that
            coder.
        graph: False leaves it out, which takes seconds: for files that only `load` opens.

    Returns:
        Sizes by part.

    Raises:
        FileError: the disk is full, or what was written did not read back the same.
        ModelError: a tensor has a parametrization, as inside `bound`, or a mask of `torch.nn.utils.prune`.

    >>> import tempfile
    >>> from netpress import zoo
    >>> from netpress.codec.header import Arch
    >>> small = Candidate(zoo.create("lenet-300-100"), arch=Arch("zoo", "lenet-300-100"), inputs=Inputs((1, 28, 28)))
    >>> with tempfile.TemporaryDirectory() as folder: save(small, Path(folder) / "a.press").overhead_bytes < 500
    True
    """
    path = Path(path)
    if (where := parametrized(candidate.net)) is not None:
        raise ModelError(f"{where} has a parametrization: leave bound(), or remove it, before saving")
    if (where := masked(candidate.net)) is not None:
        raise ModelError(f"{where} has a mask of torch.nn.utils.prune: save what netpress.adopt.adopt(net) gives")
    named, aliases = _named(candidate.net)
    forms = {aliases.get(name, name): form for name, form in candidate.forms.items()}
    values = {name: symbols(forms.get(name, Form()), tensor) for name, tensor in named.items()}
    drawn, extra, note = _graph(candidate, named, aliases) if graph else (b"", [], "left out")
    values |= {f"{_EXTRA}{i}": stored.free(array) for i, array in enumerate(extra)}
    tensors = tuple(container.Tensor.of(name, value, codec) for name, value in values.items())
    header = Header(
        arch=candidate.arch,
        input_shape=candidate.inputs.shape,
        mean=candidate.inputs.mean,
        std=candidate.inputs.std,
        classes=candidate.classes,
        aliases=aliases,
    )
    data = container.dumps(Press(header, tensors, drawn))
    _compare(data, {**named, **{f"{_EXTRA}{i}": torch.from_numpy(np.array(a)) for i, a in enumerate(extra)}})
    atomic.write(path, data)
    size = path.stat().st_size
    return Saved(size, *_parts(data, values), note)


def _parts(data: bytes, names: Iterable[str]) -> tuple[int, dict[str, dict[str, int]]]:
    """Bytes around the tensors; and those of every tensor by part."""
    parts: dict[str, Counter[str]] = {name: Counter() for name in names}
    around = 0
    for place in container.layout(data):
        if place.tensor:
            parts[place.tensor][place.coarse] += place.size
        else:
            around += place.size
    return around, {name: dict(found) for name, found in parts.items()}


def _named(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every stored tensor under its first name, and the other names of tied ones."""
    named: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or name.rpartition(".")[2] == _UNUSED:
            continue
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            named[name] = tensor.detach().cpu()
    return named, aliases


def _graph(
    candidate: Candidate, named: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> tuple[bytes, list[NDArray[Any]], str]:
    place = {name: f"t{i}" for i, name in enumerate(named)}
    sources = {**place, **{other: place[name] for other, name in aliases.items()}}
    try:
        model = export(candidate.net, candidate.inputs.shape)
        graph, extra = without_weights(model, sources, count=len(place), integers=_integers(candidate))
        onnx_bytes.check(graph)
    except (ModelError, FileError) as error:
        return b"", [], str(error)
    return graph, extra, ""


def _integers(candidate: Candidate) -> dict[str, int | None]:
    """Tensors that a graph can take as integers: on a grid with steps along one axis at most -> that axis."""
    found: dict[str, int | None] = {}
    for name, form in candidate.forms.items():
        values = form.values
        grid = values if isinstance(values, Affine) else values.grid if isinstance(values, Shared) else None
        if grid is not None and len(grid.axes) < 2:
            found[name] = grid.axes[0] if grid.axes else None
    return found


def _compare(data: bytes, named: Mapping[str, Tensor]) -> None:
    """The file must give back every tensor bit for bit."""
    for tensor in container.loads(data).tensors:
        back, expected = tensor.restore(), named[tensor.name].contiguous().numpy()
        same = back.shape == expected.shape and back.tobytes() == expected.tobytes()
        if not same:
            raise FileError(f"tensor {tensor.name!r} did not read back bit for bit; nothing was written")


def recode(source: str | Path, path: str | Path, *, codec: Codec) -> int:
    """Write a `.press` file again with another coder; its network, forms and graph stay.

    Args:
        source: a `.press` file.
        path: of the new file.
        codec: "bits", "huffman", "rans", "context", "logistic" or "auto".

    Returns:
        Bytes of the new file.

    Raises:
        FileError: `source` is damaged, the disk is full, or what was written did not read back the same.
    """
    press = container.read(source)
    tensors = tuple(container.Tensor.of(t.name, t.unpack(), codec) for t in press.tensors)
    data = container.dumps(Press(press.header, tensors, press.graph))
    _compare(data, {t.name: torch.from_numpy(np.array(t.restore())) for t in press.tensors})
    atomic.write(path := Path(path), data)
    return path.stat().st_size


def recoded_bytes(press: Path, *, codec: Codec) -> int:
    """Bytes that a file would have if only one coder were allowed; the file stays."""
    path = press.with_name(f".coded-{codec}.tmp")
    try:
        return recode(press, path, codec=codec)
    finally:
        path.unlink(missing_ok=True)


def load(path: str | Path, *, into: nn.Module | None = None) -> Candidate:
    """Read a candidate.

    Args:
        path: of a `.press` file.
        into: a network of your own; it is edited and filled in place. Needed where the file names no zoo, torchvision
            or timm network.

    Returns:
        The candidate, its network in evaluation mode, its forms in place.

    Raises:
        FileError: the file is damaged, hostile, or from a newer version.
        ModelError: the network cannot be built, or its tensors have other names or shapes.
    """
    press = container.read(path)
    header = press.header
    refuse_fetching(header.arch)
    if into is None and header.arch.source == "zoo":
        # On shapes alone first: whatever settings a hostile file has, nothing larger than the file's own is allocated.
        shapes = {t.name: t.shape for t in press.tensors if not t.name.startswith(_EXTRA)}
        shapes |= {other: shapes[name] for other, name in header.aliases.items() if name in shapes}
        with torch.device("meta"):
            _check_shapes(build(header.arch), shapes, path)
    net = build(header.arch, into=into)
    forms, tensors = {}, {}
    for tensor in press.tensors:
        if tensor.name.startswith(_EXTRA):
            continue
        form, values = from_stored(tensor.unpack())
        tensors[tensor.name] = values
        if form.traits:
            forms[tensor.name] = form
    for other, name in header.aliases.items():
        tensors[other] = tensors[name]
    _fill(net, tensors, path)
    inputs = Inputs(header.input_shape, header.mean, header.std)
    return Candidate(net.eval(), forms, header.arch, inputs, header.classes)


def _check_shapes(net: nn.Module, found: Mapping[str, tuple[int, ...]], path: str | Path) -> None:
    expected = {n: tuple(t.shape) for n, t in net.state_dict().items() if n.rpartition(".")[2] != _UNUSED}
    for name in sorted(set(expected) ^ set(found)):
        side = "the file" if name in found else "the network"
        raise ModelError(f"{path}: only {side} has a tensor {name!r}: is this the network that was saved?")
    for name, shape in found.items():
        if expected[name] != shape:
            raise ModelError(f"{path}: {name} has shape {shape} in the file, {expected[name]} in the network")


def _fill(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    _check_shapes(net, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    net.load_state_dict(dict(tensors), strict=False)
