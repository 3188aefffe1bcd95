"""What `netpress bench` compares: each side opened, as a model that ONNX Runtime takes and a file that has a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress import store
from netpress.candidate import Candidate, Inputs
from netpress.codec import container
from netpress.errors import FileError, ModelError
from netpress.measure.target import open_sized
from netpress.onnx_session import open_session
from netpress.runtime import graph_bytes

Shape = tuple[int | None, ...]
"""Of one image; None where a file leaves a size open."""

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}
_FILES = (".safetensors", ".pt", ".pth", ".th", ".npz", ".caffemodel", ".toml", ".json")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the networks that are compared.

    Attributes:
        name: as given; a second one of the same name has a number.
        kind: what was measured, in words.
        file: what a device would hold; it is opened to see how much memory that takes.
        file_bytes: its size, with the files that it names.
        model: the ONNX file that is timed.
        shape: of one image.
        dtype: of the input.
        batch: images per call, if the file allows one number only.
        note: what the reader must know.
    """

    name: str
    kind: str
    file: Path
    file_bytes: int
    model: Path
    shape: tuple[int, ...]
    dtype: str = "float32"
    batch: int | None = None
    note: str = ""


def open_sides(
    specs: Sequence[str], folder: Path, *, shape: tuple[int, ...] | None, say: Callable[[str], None]
) -> list[Side]:
    """Open all sides, files first: a network that does not know its shape takes that of the first file.

    Args:
        specs: what `netpress bench` takes.
        folder: for models that are written on the way.
        shape: of one image, where a side does not say.
        say: told what is being done.

    Raises:
        FileError: a file is missing, damaged, or none of ours.
        ModelError: a network cannot be built or exported, or the sides do not take the same input.
    """
    if not specs:
        raise ModelError("bench: name at least one network, .press or .onnx file")
    found: dict[int, Side] = {}
    for files_only in (True, False):
        for i, spec in enumerate(specs):
            if (Path(spec).suffix in (".press", ".onnx")) == files_only:
                say(f"opening {spec}")
                known = shape or next((side.shape for side in found.values()), None)
                found[i] = _open(spec, folder / f"{i}.onnx", shape, known)
    sides = [replace(found[i], name=_name(specs, i)) for i in range(len(specs))]
    for side in sides[1:]:
        if (side.shape, side.dtype) != (sides[0].shape, sides[0].dtype):
            kinds = [f"{s.name} takes {_words(s.shape)} {s.dtype}" for s in (sides[0], side)]
            raise ModelError(f"bench: {', '.join(kinds)}: only networks of the same input can be compared")
    return sides


def _name(specs: Sequence[str], i: int) -> str:
    before = specs[:i].count(specs[i])
    return f"{specs[i]} ({before + 1})" if before else specs[i]


def _words(shape: Shape) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


def _open(spec: str, model: Path, shape: tuple[int, ...] | None, known: tuple[int, ...] | None) -> Side:
    """One side; `shape` was asked for, `known` is that or another side's."""
    path = Path(spec)
    if path.suffix in (".press", ".onnx", *_FILES):
        if path.suffix in _FILES:
            raise FileError(f"{spec}: bench takes networks, .press and .onnx files; pack weights first (netpress pack)")
        if not path.is_file():
            raise FileError(f"{spec}: no such file")
        return _press(spec, model, shape) if path.suffix == ".press" else _onnx(spec, shape, known)
    return _network(spec, model, shape, known)


def _press(spec: str, model: Path, shape: tuple[int, ...] | None) -> Side:
    path = Path(spec)
    own = container.read(path).header.input_shape
    _agree(spec, own, shape)
    model.write_bytes(graph_bytes(path))
    return Side(spec, ".press file", path, path.stat().st_size, model, own)


def _onnx(spec: str, shape: tuple[int, ...] | None, known: tuple[int, ...] | None) -> Side:
    path = Path(spec)
    size = _onnx_bytes(path)
    try:
        inputs = open_session(path, threads=1).get_inputs()
    except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{spec}: ONNX Runtime does not open it: {reason}") from error
    if len(inputs) != 1 or inputs[0].type not in _TYPES:
        kinds = ", ".join(f"{entry.name} {entry.type}" for entry in inputs) or "none"
        raise ModelError(f"{spec}: expected one input of {', '.join(_TYPES.values())}, got {kinds}")
    batch, *sizes = [n if isinstance(n, int) and n > 0 else None for n in inputs[0].shape] or [None]
    given = known or ()
    own = tuple(sizes) if sizes else (None,) * len(given)
    _agree(spec, own, shape)
    if None in own and len(own) == len(given):
        own = tuple(mine if mine is not None else other for mine, other in zip(own, given, strict=True))
    whole = tuple(n for n in own if n is not None)
    if len(whole) < len(own) or not own:
        raise ModelError(f"{spec}: its input {_words(own)} is open: say the shape, for instance --input 3x224x224")
    return Side(spec, ".onnx file", path, size, path, whole, _TYPES[inputs[0].type], batch)


def _onnx_bytes(path: Path) -> int:
    """Size of an ONNX file with those that hold its weights."""
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's own exceptions
        raise FileError(f"{path}: not an ONNX model") from error
    if not graph.node:
        raise FileError(f"{path}: not an ONNX model: it has no operation")
    outside = {entry.value for t in graph.initializer for entry in t.external_data if entry.key == "location"}
    files = [path, *(path.parent / name for name in sorted(outside))]
    if missing := [file for file in files if not file.is_file()]:
        raise FileError(f"{path}: its weights are in {missing[0].name}, which is not beside it")
    return sum(file.stat().st_size for file in files)


def _agree(spec: str, own: Shape, shape: tuple[int, ...] | None) -> None:
    if shape is None:
        return
    if len(own) != len(shape) or any(a not in (None, b) for a, b in zip(own, shape, strict=True)):
        raise ModelError(f"{spec}: takes images of {_words(own)}, --input says {_words(shape)}")


def _network(spec: str, model: Path, shape: tuple[int, ...] | None, known: tuple[int, ...] | None) -> Side:
    """A network by name, with fresh weights, as the ONNX model that a `.press` file of it holds."""
    named, taken = open_sized(spec, shape=known if ":" in spec else shape)
    net = named.net.eval()
    _settle(net, taken)
    press = model.with_suffix(".press")
    candidate = Candidate(net, arch=named.arch, inputs=Inputs(taken))
    if note := store.save(candidate, press, codec="bits").note:
        raise ModelError(f"{spec}: {note}")
    model.write_bytes(graph_bytes(press))
    press.unlink()
    said = f"{spec} was built and exported here, its file is float32 ONNX; weights are those that it was built with"
    return Side(spec, "network, as .onnx", model, model.stat().st_size, model, taken, note=said)


def _settle(net: nn.Module, shape: tuple[int, ...]) -> None:
    """Set batch norms to what noise gives.

    With fresh weights and batch norms that change nothing, activations of deep networks shrink to denormal numbers, on
    which some processors are slower than on any that a trained network has.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            net(torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)))
    net.eval()
