"""Put the channels of a network in an order that codes well: the same function, a smaller file."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress import graph
from netpress.candidate import Candidate, Context, Record
from netpress.forms import select
from netpress.graph import Coupling, Group
from netpress.methods.file_bytes import coded
from netpress.methods.same_function import Change, compare, image_shape, insist_on_numbers

TOLERANCE = 1e-9
CAUSE = "an operation uses the order of its channels in a way that the labels do not show"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SortChannels:
    """Sort the channels of every group by how many of their weights are not zero, most first.

    Channels that go together (`graph`) change places on every axis of every tensor that carries them, so the network
    computes the same, up to the order in which floats are added; that is checked in float64. Coders that look at
    neighbours then find full rows and columns together, and empty ones behind them. Inputs, outputs and channels that
    an index picks keep their places. If the file is no smaller, everything stays.

    Attributes:
        frozen: names or patterns of groups (`netpress show NAME --channels`) whose channels keep their places.

    Source: none known to us; a network's hidden units have no order, so telling one is wasted: log2(n!) bits for n
    units at most.

    >>> sorted(SortChannels().preserves)
    ['affine', 'shared', 'signs', 'support']
    """

    name: ClassVar[str] = "sort_channels"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset({"support", "shared", "affine", "signs"})

    frozen: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    def expand(self) -> list[SortChannels]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Nothing to refuse before the network is labelled."""

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Sort.

        Raises:
            ModelError: a weight is not finite or no plain parameter; the network cannot be labelled; or the sorted one
                computes something else.
        """
        insist_on_numbers(candidate.net, "its channels cannot be sorted")
        image = torch.zeros(1, *image_shape(candidate, context))
        coupling = graph.couple(candidate.net, image)
        orders = {group.name: _order(candidate.net, group) for group in self._movable(coupling)}
        orders = {name: order for name, order in orders.items() if bool((order != np.arange(len(order))).any())}
        note = compare(
            candidate, context, Change(self.name, "sorted", TOLERANCE, CAUSE), lambda net: _moved(net, coupling, orders)
        )
        made = _sorted(candidate, coupling, orders)
        before, after = coded(candidate), coded(made)
        told = f"sorted {len(orders)} of {len(coupling.groups)} groups: {before:,} -> {after:,} bytes of tensors"
        if after >= before:
            made = candidate
            told = f"sorted 0 of {len(coupling.groups)} groups: {before:,} bytes of tensors would become {after:,}"
        record = Record(self.name, asdict(self), (told, note))
        return made.but(history=(*candidate.history, record))

    def _movable(self, coupling: Coupling) -> list[Group]:
        """Groups whose channels may change places: those that no index names, and that are not frozen."""
        places = [found.reshape(-1) for _, found in coupling.selections]
        named = np.unique(np.concatenate([np.array([], np.int64), *places]))
        free = [group for group in coupling.free if len(group) > 1 and not np.isin(group.classes, named).any()]
        return [group for group in free if not any(fnmatch.fnmatchcase(group.name, p) for p in self.frozen)]


METHODS = (SortChannels,)
EXAMPLES = (SortChannels(),)


def _order(net: nn.Module, group: Group) -> np.ndarray:
    """Members of a group, those with the most weights other than zero first; equals stay in their order."""
    held = _tensors(net)
    used = np.zeros(len(group), np.int64)
    for slot in group.slots:
        tensor = held[slot.tensor].detach()
        along = (tensor != 0).movedim(slot.axis, 0).reshape(tensor.shape[slot.axis], -1).sum(1).cpu().numpy()
        used += along[slot.positions].sum(1)
    return np.argsort(-used, kind="stable")


def _indices(
    coupling: Coupling, orders: Mapping[str, np.ndarray], held: Mapping[str, Tensor]
) -> dict[str, dict[int, Tensor]]:
    """By tensor and axis the places that its entries are taken from."""
    found: dict[str, dict[int, Tensor]] = {}
    for name, order in orders.items():
        for slot in coupling.by_name[name].slots:
            axes = found.setdefault(slot.tensor, {})
            index = axes.setdefault(slot.axis, torch.arange(held[slot.tensor].shape[slot.axis]))
            where = torch.from_numpy(slot.positions)
            index[where.flatten()] = where[torch.from_numpy(order)].flatten()
    return found


def _moved(net: nn.Module, coupling: Coupling, orders: Mapping[str, np.ndarray]) -> nn.Module:
    """The network with its channels in another order, in place."""
    held = _tensors(net)
    with torch.no_grad():
        for name, axes in _indices(coupling, orders, held).items():
            tensor = held[name]
            for axis, index in axes.items():
                tensor.copy_(tensor.index_select(axis, index.to(tensor.device)))
    return net


def _sorted(candidate: Candidate, coupling: Coupling, orders: Mapping[str, np.ndarray]) -> Candidate:
    """The candidate and its forms in another order."""
    forms = dict(candidate.forms)
    held = _tensors(candidate.net)
    for name, axes in _indices(coupling, orders, held).items():
        for axis, index in axes.items() if name in forms else ():
            forms[name] = select(forms[name], held[name].shape, axis, index)
    return candidate.but(net=_moved(deepcopy(candidate.net), coupling, orders), forms=forms)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}
