"""From equations between labels to classes of channels that go together, and to groups of classes that look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.graph.call import Claim
from netpress.graph.labels import UNSEEN, BoolArray, Equations, IntArray
from netpress.graph.trace import Tracer

Kept = Mapping[str, Sequence[bool] | BoolArray]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the members of a group live in one tensor.

    Attributes:
        tensor: name of a parameter or buffer.
        axis: axis of that tensor.
        positions: (members, n): the positions along the axis that each member owns.
        role: "filter" where the slice makes the channel (the output axis of a layer's weight), "bias" where it is a
            vector per channel, "input" where a layer reads it.
    """

    tensor: str
    axis: int
    positions: IntArray
    role: str


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The axes of tensors that carry channels, and every (class, axis) pair, sorted by class then axis.

    Attributes:
        names, axes: per row the tensor and its axis.
        sizes: (rows, 2): length of the axis and entries of the tensor.
        classes: per row the class at every position of the axis.
        roles: per row "filter", "bias" or "input".
        pair_class, pair_row, pair_start, pair_count: the pairs; positions are order[start : start + count].
        position: positions along the axes, grouped by pair.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...]
    sizes: IntArray
    classes: tuple[IntArray, ...]
    roles: tuple[str, ...]
    pair_class: IntArray
    pair_row: IntArray
    pair_start: IntArray
    pair_count: IntArray
    position: IntArray


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that live on the same axes of the same tensors: the unit that a pruner scores.

    Attributes:
        name: the first layer that makes these channels, with "#2", ... where it makes several groups.
        classes: (members,): the class of each member, in the order of their positions.
        cost: (members,): parameters that go when this member alone goes.
        pinned: why no member can go, or "".
        makers: paths of the layers that make these channels.
        mixes: operations that see all members at once: what the others compute changes when one goes.
        table: the table that slots are read from.
    """

    name: str
    classes: IntArray
    cost: IntArray
    pinned: str
    makers: tuple[str, ...]
    mixes: tuple[str, ...]
    table: Table

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Where the members live, in the order in which the network uses the tensors."""
        t = self.table
        first = np.searchsorted(t.pair_class, self.classes)
        width = int(np.searchsorted(t.pair_class, self.classes[0], side="right") - first[0])
        slots = []
        for pairs in (first[:, None] + np.arange(width)).T:
            row, count = int(t.pair_row[pairs[0]]), int(t.pair_count[pairs[0]])
            positions = t.position[t.pair_start[pairs][:, None] + np.arange(count)]
            slots.append(Slot(t.names[row], t.axes[row], positions, t.roles[row]))
        return tuple(slots)


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which channels of a network go together.

    Attributes:
        groups: in the order in which the network makes them.
        table: the axes of all tensors, with the class of every position.
        count: number of classes.
        claims: numbers that modules hold and that follow the channels; parts name classes.
        selections: integer buffers whose values are positions among these classes.
        choices: how operations with numbers in them were read, by place in the source.
        unknown: operations without a rule, with their module path: their inputs are pinned.
        untouched: parameters that the network did not use while it was traced.
        inputs: what the network was traced with, without values.
        kinds: every layer that makes channels, in the order in which they run: "convolution" or "linear".
    """

    groups: tuple[Group, ...]
    table: Table
    count: int
    claims: tuple[Claim, ...]
    selections: tuple[tuple[str, IntArray], ...]
    choices: Mapping[str, int]
    unknown: tuple[tuple[str, str], ...]
    untouched: tuple[str, ...]
    inputs: tuple[Any, ...]
    kinds: Mapping[str, str]

    @cached_property
    def by_name(self) -> Mapping[str, Group]:
        """Groups by name."""
        return {group.name: group for group in self.groups}

    @property
    def free(self) -> tuple[Group, ...]:
        """Groups whose members can go."""
        return tuple(group for group in self.groups if not group.pinned)

    @property
    def mixing(self) -> bool:
        """Whether some operation sees several free channels at once."""
        return any(group.mixes for group in self.free)

    def mask(self, kept: Kept) -> BoolArray:
        """Which classes stay.

        Args:
            kept: per group name a boolean per member; groups that are not named stay whole.

        Returns:
            (count,), True where a class stays.

        Raises:
            ModelError: an unknown group, a wrong number of members, a pinned group, or an axis left without channels.
        """
        mask = np.ones(self.count, np.bool_)
        for name, chosen in kept.items():
            group = self.by_name.get(name)
            if group is None:
                raise ModelError(f"no group of channels is called {name!r}; explain() lists them")
            flags = np.asarray(chosen)
            if flags.dtype != np.bool_ or flags.shape != group.classes.shape:
                raise ModelError(f"{name}: expected {len(group)} booleans, got {flags.dtype} of shape {flags.shape}")
            if group.pinned and not flags.all():
                raise ModelError(f"{name}: its channels cannot go: {group.pinned}")
            mask[group.classes[~flags]] = False
        for name, axis, classes in zip(self.table.names, self.table.axes, self.table.classes, strict=True):
            if not mask[classes].any():
                raise ModelError(f"{name}: axis {axis} would be left without channels; keep one at least")
        return mask


def solve(
    t: Tracer, named: Mapping[str, Tensor], choices: Mapping[str, int], inputs: tuple[Any, ...]
) -> tuple[Coupling, IntArray]:
    """Classes and groups from what a tracer found, and the class of every label.

    Args:
        t: after the run.
        named: parameters and buffers of the traced network by name.
        choices: the readings that were taken.
        inputs: what the network was run on.
    """
    assert isinstance(t.labels, Equations)
    classes, count = _components(t.labels)
    why = np.full(count, -1, np.int64)
    for k in range(len(t.labels.pins) - 1, -1, -1):
        why[classes[t.labels.pins[k][0]]] = k
    reasons = [reason for _, reason in t.labels.pins]
    table = _table(t, named, classes)
    makers = [(m.path, classes[m.labels]) for m in t.found.makers]
    mixes = [(how, classes[labels]) for labels, how in t.labels.mixes]
    claims = [
        Claim(c.path, c.attribute, tuple(p if isinstance(p, int) else classes[p] for p in c.parts), c.kind)
        for c in t.found.claims
    ]
    coupling = Coupling(
        groups=_groups(table, _cost(table, named, count), (why, reasons), makers, mixes),
        table=table,
        count=count,
        claims=tuple(claims),
        selections=tuple((name, classes[labels]) for name, labels in t.found.selections.items()),
        choices=dict(choices),
        unknown=tuple(dict.fromkeys(t.found.unknown)),
        untouched=tuple(n for n, x in named.items() if isinstance(x, nn.Parameter) and _unused(t, x)),
        inputs=inputs,
        kinds={m.path: m.kind for m in t.found.makers},
    )
    return coupling, classes


def _components(labels: Equations) -> tuple[IntArray, int]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = labels.count
    if not labels.edges:
        return np.arange(n), n
    a = np.concatenate([a for a, _ in labels.edges])
    b = np.concatenate([b for _, b in labels.edges])
    graph = csr_array((np.ones(len(a), np.int8), (a, b)), shape=(n, n))
    count, classes = connected_components(graph, directed=False)
    return classes.astype(np.int64), int(count)


def _unused(t: Tracer, tensor: Tensor) -> bool:
    known = t.known[id(tensor)]
    return bool(known.axes) and all(labels is UNSEEN for labels in known.axes)


def _table(t: Tracer, named: Mapping[str, Tensor], classes: IntArray) -> Table:
    """All labelled axes of named tensors, and the sorted pairs of class and axis."""
    rows = [
        (name, axis, labels, tensor)
        for name, tensor in named.items()
        for axis, labels in enumerate(t.known[id(tensor)].axes)
        if labels is not None and labels is not UNSEEN
    ]
    solved = tuple(classes[labels] for _, _, labels, _ in rows)
    lengths = np.array([len(c) for c in solved], np.int64)
    total = int(lengths.sum())
    row = np.repeat(np.arange(len(rows)), lengths)
    position = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    flat = np.concatenate(solved) if rows else np.empty(0, np.int64)
    order = np.lexsort((row, flat)) if rows else np.empty(0, np.int64)
    flat, row = flat[order], row[order]
    new = np.ones(total, np.bool_)
    new[1:] = (flat[1:] != flat[:-1]) | (row[1:] != row[:-1])
    start = np.flatnonzero(new)
    makers: dict[str, set[tuple[int, int]]] = {}
    for m in t.found.makers:
        if len(m.labels):
            makers.setdefault(m.path, set()).add((len(m.labels), int(m.labels[0])))
    return Table(
        names=tuple(name for name, *_ in rows),
        axes=tuple(axis for _, axis, *_ in rows),
        sizes=np.array([(x.shape[a], x.numel()) for _, a, _, x in rows], np.int64).reshape(-1, 2),
        classes=solved,
        roles=tuple(_role(name, x, labels, makers) for name, _, labels, x in rows),
        pair_class=flat[start],
        pair_row=row[start],
        pair_start=start,
        pair_count=np.diff(np.append(start, total)),
        position=position[order],
    )


def _role(name: str, tensor: Tensor, labels: IntArray, makers: Mapping[str, set[tuple[int, int]]]) -> str:
    """What a slice along this axis is to its channel."""
    if tensor.numel() == len(labels) and (tensor.dim() == 1 or tensor.shape[0] == 1):  # not a 1×1 filter of one input
        return "bias"
    paths = ["", *(name[:k] for k, c in enumerate(name) if c == ".")]
    owner = next((path for path in reversed(paths) if path in makers), "")  # not an ancestor that makes what it reads
    return "filter" if (len(labels), int(labels[0])) in makers.get(owner, ()) else "input"


def _cost(table: Table, named: Mapping[str, Tensor], count: int) -> IntArray:
    """Parameters that go with each class: every slice once, also where two axes of a tensor share a class."""
    if not table.names:
        return np.zeros(count, np.int64)
    floats = np.array([isinstance(named[name], nn.Parameter) for name in table.names])
    length, numel = table.sizes[table.pair_row].T
    part = table.pair_count * (numel // np.maximum(length, 1)) * floats[table.pair_row]
    index = {name: k for k, name in enumerate(dict.fromkeys(table.names))}
    tensor = np.array([index[name] for name in table.names])[table.pair_row]
    twice = np.flatnonzero((table.pair_class[1:] == table.pair_class[:-1]) & (tensor[1:] == tensor[:-1]))
    both = table.pair_count[twice] * table.pair_count[twice + 1] * (numel // (length * np.roll(length, -1)))[twice]
    part[twice] -= both * floats[table.pair_row[twice]]
    return np.bincount(table.pair_class, part, minlength=count).astype(np.int64)


def _groups(
    table: Table,
    cost: IntArray,
    pins: tuple[IntArray, list[str]],
    makers: list[tuple[str, IntArray]],
    mixes: list[tuple[str, IntArray]],
) -> tuple[Group, ...]:
    """Classes with the same axes and counts, and the same pin, form a group."""
    if not table.names:
        return ()
    rng = np.random.default_rng(0)
    code = rng.integers(1, 2**63, len(table.names), np.uint64)[table.pair_row]
    code *= 2 * table.pair_count.astype(np.uint64) + 1
    first = np.flatnonzero(np.append(True, np.diff(table.pair_class) != 0))
    present = table.pair_class[first]
    why, reasons = pins
    signature = np.stack([np.add.reduceat(code, first).view(np.int64), why[present]], axis=1)
    _, leader, member = np.unique(signature, axis=0, return_index=True, return_inverse=True)
    member = leader[member.ravel()]  # a group is known by its first class
    of = np.full(len(cost), -1, np.int64)
    of[present] = member
    made, mixed = _by_group(of, makers), _by_group(of, mixes)
    order = np.argsort(member, kind="stable")
    names: dict[str, int] = {}
    groups = []
    for part in np.split(order, np.flatnonzero(np.diff(member[order])) + 1):
        key, classes = int(member[part[0]]), present[part]
        layers = made.get(key, ())
        name = layers[0] if layers else table.names[table.pair_row[first[part[0]]]]
        names[name] = names.get(name, 0) + 1
        full = name if names[name] == 1 else f"{name}#{names[name]}"
        pinned = reasons[why[classes[0]]] if why[classes[0]] >= 0 else ""
        groups.append(Group(full, classes, cost[classes], pinned, layers, mixed.get(key, ()), table))
    return tuple(groups)


def _by_group(of: IntArray, found: list[tuple[str, IntArray]]) -> dict[int, tuple[str, ...]]:
    """For each group the texts of what touches it, once each, in order."""
    texts: dict[int, dict[str, None]] = {}
    for text, classes in found:
        for group in set(of[classes].tolist()) - {-1}:
            texts.setdefault(group, {})[text] = None
    return {group: tuple(found) for group, found in texts.items()}
