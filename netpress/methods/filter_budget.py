"""What is left of a network when some channels go: multiply-adds, parameters, bytes of the file, milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from netpress import graph, store
from netpress.budget import BYTES, COUNT, TIME
from netpress.candidate import Candidate
from netpress.errors import ModelError
from netpress.forms import Form, select
from netpress.graph import Coupling
from netpress.graph.edit import positions
from netpress.graph.run import to_meta
from netpress.measure.cost import cost
from netpress.measure.latency import latency
from netpress.methods.file_bytes import coded, overhead
from netpress.methods.filter_choice import Flags
from netpress.runtime import graph_bytes

UNITS: Mapping[str, Mapping[str, float]] = {
    "max_macs": COUNT,
    "max_params": COUNT,
    "max_size": BYTES,
    "max_latency": TIME,
}
"""Limits that a pruning can be told to meet, and the units they are given in."""


def pruned(candidate: Candidate, coupling: Coupling, kept: Flags) -> Candidate:
    """The candidate without the channels that go: network, forms, and how to build it again.

    Args:
        candidate: left untouched.
        coupling: of its network.
        kept: per group name a boolean per member.
    """
    net = graph.keep(candidate.net, coupling, kept)
    forms: dict[str, Form] = dict(candidate.forms)
    tensors = dict(candidate.net.named_parameters())
    for name, axes in positions(coupling, coupling.mask(kept)).items():
        if name in forms:
            shape = tensors[name].shape
            for axis, index in axes.items():
                forms[name] = select(forms[name], shape, axis, index)
                shape = torch.Size((*shape[:axis], len(index), *shape[axis + 1 :]))
    edits = (*candidate.arch.edits, *graph.edits(candidate.net, coupling, kept))
    return candidate.but(net=net, forms=forms, arch=replace(candidate.arch, edits=edits))


def meter(limit: str, candidate: Candidate, coupling: Coupling, *, near: Flags) -> Callable[[Flags], float]:
    """A function that says what a pruned network costs, in the unit of a limit.

    Args:
        limit: a name of `UNITS`.
        candidate: its network is left untouched.
        coupling: of its network.
        near: where a size is exact: header and graph of a file are taken to stay as there, tensors are really coded.
    """
    match limit:
        case "max_macs":
            return _macs(candidate, coupling)
        case "max_params":
            return partial(_params, candidate, coupling)
        case "max_size":
            return _file_bytes(candidate, coupling, near)
        case _:
            return partial(_milliseconds, candidate, coupling)


def parameters(coupling: Coupling, sizes: Mapping[str, int], kept: Flags) -> dict[str, int]:
    """Entries of every tensor when these channels have gone."""
    mask, left = coupling.mask(kept), dict(sizes)
    for name, classes in zip(coupling.table.names, coupling.table.classes, strict=True):
        left[name] = left[name] * int(mask[classes].sum()) // len(classes)
    return left


def _params(candidate: Candidate, coupling: Coupling, kept: Flags) -> float:
    sizes = {name: tensor.numel() for name, tensor in _tensors(candidate).items()}
    left = parameters(coupling, sizes, kept)
    return float(sum(left[name] for name, _ in candidate.net.named_parameters()))


def _macs(candidate: Candidate, coupling: Coupling) -> Callable[[Flags], float]:
    """Convolutions and linear layers mostly do as many multiply-adds per weight as before: then one count serves all.

    Not so for products of activations, or where channels are places that a weight is used at; one probe tells.
    """
    whole = cost(to_meta(candidate.net), candidate.inputs.shape)
    sizes = {name: tensor.numel() for name, tensor in _tensors(candidate).items()}
    weights = {f"{layer.path}.weight" if layer.path else "weight": layer.macs for layer in whole.layers if layer.macs}

    def by_weight(kept: Flags) -> float:
        left = parameters(coupling, sizes, kept)
        return float(sum(macs * left[name] // sizes[name] for name, macs in weights.items()))

    def by_pass(kept: Flags) -> float:  # of the small network on shapes
        small = graph.keep(to_meta(candidate.net), coupling, kept)
        return float(cost(small, candidate.inputs.shape).macs)

    if weights.keys() <= sizes.keys():
        probe = graph.choose(coupling, graph.random_scores(coupling, 0), keep=0.5)
        if by_weight(probe) == by_pass(probe):
            return by_weight
    return by_pass


def _tensors(candidate: Candidate) -> dict[str, torch.Tensor]:
    return {**dict(candidate.net.named_parameters()), **dict(candidate.net.named_buffers())}


def _file_bytes(candidate: Candidate, coupling: Coupling, near: Flags) -> Callable[[Flags], float]:
    extra = overhead(pruned(candidate, coupling, near))
    return lambda kept: float(extra + coded(pruned(candidate, coupling, kept)))


def _milliseconds(candidate: Candidate, coupling: Coupling, kept: Flags) -> float:
    """Median time of one image on ONNX Runtime, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        saved = store.save(pruned(candidate, coupling, kept), path := Path(folder) / "small.press", codec="bits")
        if saved.note:
            raise ModelError(f"max_latency: the network cannot be timed: {saved.note}")
        x = np.zeros((1, *candidate.inputs.shape), np.float32)
        return latency({"small": graph_bytes(path)}, x, threads=1, rounds=15)["small"].median_ms
