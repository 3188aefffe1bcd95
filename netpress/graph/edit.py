"""Remove channels: a copy of the network whose tensors are smaller and whose modules say so."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from netpress.graph.copying import Convert, duplicate
from netpress.graph.labels import BoolArray, IntArray
from netpress.graph.run import to_meta
from netpress.graph.solve import Coupling, Kept
from netpress.graph.structure import Edit, differences, set_number, true_counts


def keep(net: nn.Module, coupling: Coupling, kept: Kept) -> nn.Module:
    """The network without the channels that do not stay.

    Tensors are selected on every axis that carries removed channels; numbers that modules hold (channels, features,
    groups, shapes) are made true; shared tensors stay shared. Training or evaluation mode and `requires_grad` are as
    before; gradients and hooks of others stay behind. No tensor is copied before its removed part is left out.

    Args:
        net: left untouched.
        coupling: `couple(net, example)`.
        kept: per group name a boolean per member; groups that are not named stay whole.

    Returns:
        A new network.

    Raises:
        ModelError: an unknown or pinned group, a wrong number of members, or an axis left without channels.

    >>> from netpress.graph.coupling import couple
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    >>> small = keep(net, couple(net, torch.zeros(1, 1, 8, 8)), {"0": [True, False, False, True]})
    >>> small[0].out_channels, small[1].num_features, tuple(small[2].weight.shape)
    (2, 2, (2, 2, 3, 3))
    """
    return shrink(net, coupling, coupling.mask(kept))


def shrink(net: nn.Module, coupling: Coupling, mask: BoolArray) -> nn.Module:
    """`keep`, with the classes that stay instead of members of groups."""
    small = duplicate(net, selector(coupling, mask))
    for name, numbers, kind in numbers_of(coupling, mask):
        set_number(small, name, numbers, kind)
    true_counts(small)
    return small


def selector(coupling: Coupling, mask: BoolArray) -> Convert:
    """What becomes of a tensor: a copy of the part that stays; positions of channels are counted anew."""
    where = positions(coupling, mask)
    values = {name: np.cumsum(mask[classes]) - 1 for name, classes in coupling.selections if not mask[classes].all()}

    def convert(name: str, old: Tensor) -> Tensor:
        new = old.detach()
        for axis, index in where.get(name, {}).items():
            new = _take(new, axis, index)
        if name in values:
            new = torch.from_numpy(values[name]).to(new.device)[new.long()].to(old.dtype)
        if name not in where and name not in values:
            new = new.clone()
        return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new

    return convert


def edits(net: nn.Module, coupling: Coupling, kept: Kept) -> tuple[Edit, ...]:
    """What an `Arch` must say so that a fresh `net` gets the structure of `keep(net, coupling, kept)`.

    The values come from the pruned network's state dictionary, which then loads strictly.

    >>> from netpress.graph.coupling import couple
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    >>> edits(net, couple(net, torch.zeros(1, 1, 8, 8)), {"0": [True, False, False, True]})
    (('conv', '0', 1, 2, 1), ('norm', '1', 2), ('conv', '2', 2, 2, 1))
    """
    mask = coupling.mask(kept)
    small = shrink(to_meta(net), coupling, mask)
    left_out = {name for name, _ in net.named_buffers()} - set(net.state_dict())
    where = positions(coupling, mask)
    taken = {n: {a: i.tolist() for a, i in axes.items()} for n, axes in where.items() if n in left_out}
    held = [(n, v[0] if kind == "int" else v) for n, v, kind in numbers_of(coupling, mask) if not n.endswith(".groups")]
    return tuple(differences(net, small, taken, held))


def _take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    if x.is_meta:
        shape = list(x.shape)
        shape[axis] = len(index)
        return torch.empty(shape, dtype=x.dtype, device="meta")
    return x.index_select(axis, index.to(x.device))


def positions(coupling: Coupling, mask: BoolArray) -> dict[str, dict[int, Tensor]]:
    """Per tensor and axis the positions that stay, where some go."""
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    table = coupling.table
    for name, axis, classes in zip(table.names, table.axes, table.classes, strict=True):
        flags = mask[classes]
        if not flags.all():
            found[name][axis] = torch.from_numpy(np.flatnonzero(flags))
    return found


def numbers_of(coupling: Coupling, mask: BoolArray) -> list[tuple[str, tuple[int, ...], str]]:
    """Numbers that modules hold beside the sizes of their tensors: name, numbers, kind; where they change."""
    found = {}
    for claim in coupling.claims:
        before = tuple(p if isinstance(p, int) else len(p) for p in claim.parts)
        after = tuple(p if isinstance(p, int) else _left(p, mask) for p in claim.parts)
        if after != before:
            name = f"{claim.path}.{claim.attribute}" if claim.path else claim.attribute
            found[name] = (name, after, claim.kind)
    return list(found.values())


def _left(classes: IntArray, mask: BoolArray) -> int:
    return int(mask[classes].sum())
