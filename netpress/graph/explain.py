"""What a coupling says in words: for every layer what its channels are tied to, or why they stay."""

from __future__ import annotations

from dataclasses import dataclass

from netpress.graph.solve import Coupling, Group


@dataclass(frozen=True, slots=True)
class Row:
    """One layer and one group of channels that it makes.

    Attributes:
        layer: path of the layer.
        kind: "convolution" or "linear"; "parameter" for channels that no layer makes.
        group: name of the group.
        channels: members of the group.
        cost: parameters that go with one member, on average.
        tied: the other layers that make the same channels.
        stays: why the channels cannot go, or "".
        changes: what sees all channels at once, so that the others change when one goes, or "".
    """

    layer: str
    kind: str
    group: str
    channels: int
    cost: float
    tied: tuple[str, ...]
    stays: str
    changes: str


def explain(coupling: Coupling) -> list[Row]:
    """For each layer its groups of channels, what they are tied to, and why, or why they stay.

    >>> import torch; from torch import nn; from netpress.graph import couple
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 3))
    >>> rows = explain(couple(net, torch.zeros(1, 1, 8, 8)))
    >>> for row in rows: print(row.layer, row.channels, row.stays or row.changes)
    0 4 group norm in 1
    2 2 network output
    """
    rows = [_row(coupling, group, layer) for group in coupling.groups for layer in group.makers or (group.name,)]
    place = {path: k for k, path in enumerate(coupling.kinds)}
    return sorted(rows, key=lambda row: place.get(row.layer, len(place)))


def _row(coupling: Coupling, group: Group, layer: str) -> Row:
    return Row(
        layer=layer,
        kind=coupling.kinds.get(layer, "parameter"),
        group=group.name,
        channels=len(group),
        cost=float(group.cost.mean()),
        tied=tuple(path for path in group.makers if path != layer),
        stays=group.pinned,
        changes="" if group.pinned else "; ".join(group.mixes),
    )
