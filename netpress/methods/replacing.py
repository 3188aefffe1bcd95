"""Put other layers in layers' places: at what price, whether the network still runs, what the report is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from netpress.candidate import Candidate, edited
from netpress.errors import ModelError
from netpress.factor import Rebuilt, rebuilt, structure
from netpress.graph.run import to_meta
from netpress.methods.replaceable import Layer, answers
from netpress.train.checkpoint import finite


@dataclass(frozen=True, slots=True)
class Done:
    """What took a layer's place.

    Attributes:
        operation, numbers: as in `factor.structure`.
        macs, params: of what took its place.
        error: ||W - W'|| / ||W||, of the weights; None where it was not computed.
        output_error: the same of the layer's output on calibration images.
    """

    operation: str
    numbers: tuple[int, ...]
    macs: int
    params: int
    error: float | None = None
    output_error: float | None = None


# --- prices ---


def price(layer: nn.Module, operation: str, numbers: Sequence[int], inputs: Sequence[int]) -> tuple[int, int]:
    """Multiply-adds and parameters of a structure in a layer's place; nothing is computed.

    Args:
        layer: left untouched.
        operation, numbers: as in `factor.structure`.
        inputs: shape of what the layer is called with, with the batch axis.

    Raises:
        Refused: the layer cannot take the structure, or the numbers do not fit it.

    >>> price(nn.Conv2d(8, 16, 3, padding=1), "svd", (4,), (1, 8, 10, 10))
    (35200, 368)
    """
    made = structure(to_meta(layer), operation, *numbers)
    macs = 0

    def count(module: nn.Module, _args: Any, out: Tensor) -> None:
        nonlocal macs
        macs += out.numel() * cast("Tensor", module.weight)[0].numel()

    with torch.no_grad():
        for child in made.modules():
            if isinstance(child, nn.Conv2d | nn.Linear):
                child.register_forward_hook(count)
        made(torch.empty(tuple(inputs), device="meta", dtype=next(made.parameters()).dtype))
    return macs, sum(p.numel() for p in made.parameters())


def unspared(before: Layer, macs: int, params: int) -> str | None:
    """Why a replacement is not worth it: neither multiply-adds nor parameters fall; None where one does.

    >>> unspared(Layer("conv", "svd", (1, 8, 9, 9), 100, 10), 120, 10)
    'no saving: multiply-adds 100 -> 120, parameters 10 -> 10'
    """
    if macs < before.macs or params < before.params:
        return None
    return f"no saving: multiply-adds {before.macs:,} -> {macs:,}, parameters {before.params:,} -> {params:,}"


# --- replacing ---


def put(net: nn.Module, path: str, found: Rebuilt) -> nn.Module:
    """Replace a layer of a network in place by what fits it; returns the layer that stood there."""
    layer = net.get_submodule(path)
    net.set_submodule(path, rebuilt(layer, found))
    return layer


@contextmanager
def instead(net: nn.Module, path: str, module: nn.Module) -> Iterator[None]:
    """A network with another module at a path for a while."""
    kept = net.get_submodule(path)
    net.set_submodule(path, module)
    try:
        yield
    finally:
        net.set_submodule(path, kept)


def settle(candidate: Candidate, net: nn.Module, done: Mapping[str, Done], example: Tensor) -> Candidate:
    """The candidate with its replaced network, whose structure it notes, so that its files load again.

    Args:
        candidate: as it was before; left untouched.
        net: its network with the layers replaced.
        done: by path, what took the layers' places.
        example: images that both networks are run on.

    Raises:
        ModelError: weights or outputs are not finite, or the outputs' shapes differ; names the layer.
    """
    if (bad := finite(net)) is not None:
        raise ModelError(f"{bad} is NaN or infinite after replacing: freeze that layer, or choose another kind")
    shapes = [out.shape for out in answers(candidate.net, example)]
    if (why := _broken(net, example, shapes)) is not None:
        where = _culprit(candidate.net, net, done, (example, shapes))
        raise ModelError(f"with {where} replaced {why}: freeze it, or choose another kind")
    arch = candidate.arch
    for path, what in done.items():
        arch = edited(arch, what.operation, path, *what.numbers)
    return candidate.but(net=net, arch=arch)


def _broken(net: nn.Module, example: Tensor, shapes: Sequence[torch.Size]) -> str | None:
    try:
        outputs = answers(net, example)
    except ModelError as error:
        return str(error)
    if [out.shape for out in outputs] != list(shapes):
        return f"the network gives {[tuple(out.shape) for out in outputs]} instead of {[tuple(s) for s in shapes]}"
    if not all(bool(torch.isfinite(out).all()) for out in outputs):
        return "the network's output is not finite"
    return None


def _culprit(
    original: nn.Module, net: nn.Module, done: Mapping[str, Done], images: tuple[Tensor, Sequence[torch.Size]]
) -> str:
    """The first layer which, replaced alone, breaks the network; all of them where none does."""
    for path in done:
        with instead(original, path, net.get_submodule(path)):
            if _broken(original, *images) is not None:
                return path
    return ", ".join(done)


# --- what the report is told ---


def rows(layers: Sequence[Layer], done: Mapping[str, Done], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row of plain data per layer that was asked for.

    Args:
        layers: of `find`.
        done: those that were replaced.
        reasons: why others, that could be, were not.
    """
    return [_row(layer, done.get(layer.path), reasons.get(layer.path, layer.reason)) for layer in layers]


def _row(layer: Layer, done: Done | None, reason: str | None) -> dict[str, Any]:
    after = (layer.macs, layer.params) if done is None else (done.macs, done.params)
    return {
        "path": layer.path,
        "operation": None if done is None else done.operation,
        "numbers": [] if done is None else list(done.numbers),
        "macs": [layer.macs, after[0]],
        "params": [layer.params, after[1]],
        "error": None if done is None else done.error,
        "output_error": None if done is None else done.output_error,
        "reason": reason if done is None else None,
    }


def notes(table: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The rows in words, one line per layer."""
    said = [f"replaced {sum(row['operation'] is not None for row in table)} of {len(table)} layers"]
    for row in table:
        if row["operation"] is None:
            said.append(f"{row['path']} stays: {row['reason']}")
        else:
            numbers = ", ".join(map(str, row["numbers"]))
            said.append(
                f"{row['path']}: {row['operation']} {numbers}, multiply-adds {row['macs'][0]:,} -> {row['macs'][1]:,}"
            )
    return tuple(said)
