"""How filter pruning is searched: a share of the filters for every group of channels, and what that costs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from netpress import graph
from netpress.candidate import Candidate, Context
from netpress.graph import Coupling, Group
from netpress.methods.filter_budget import parameters
from netpress.methods.filter_choice import Flags, bundles, flags, in_order
from netpress.methods.filter_scores import Scores
from netpress.methods.searching import Amounts, Estimate, Knob, Searched

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Shares of a layer's filters that a search tries."""


def searched(
    candidate: Candidate, context: Context, tuned: Callable[[Amounts], Any], settings: Mapping[str, Any]
) -> Searched:
    """Knobs and foresight of filter pruning.

    Args:
        candidate: left untouched.
        context: an example.
        tuned: the method with such amounts.
        settings: its fields that stay: `frozen`, `floor` and `round_to` matter here.
    """
    coupling = graph.couple(candidate.net, context.example)
    frozen = settings.get("frozen", ())
    groups = [g for g in coupling.free if not any(fnmatch.fnmatchcase(m, key) for m in g.makers for key in frozen)]
    floor = settings.get("floor", 0.0)
    values = tuple(share for share in SHARES if share >= floor) or (1.0,)
    knobs = tuple(
        Knob(g.name, (g.makers[0],), values, int(g.cost.sum()), _kind(candidate.net, g)) for g in groups if g.makers
    )
    counted = partial(_kept, coupling, groups, round_to=settings.get("round_to", 1), floor=floor)
    return Searched(knobs, tuned, partial(_foresee, coupling, counted))


def _kind(net: nn.Module, group: Group) -> str:
    """Channels that several layers share are a stream of their own; they cost and matter more than a layer's own."""
    dense = [path for path in group.makers if getattr(net.get_submodule(path), "groups", 1) == 1]
    return "stream" if len(dense) > 1 else "layer"


def _kept(coupling: Coupling, groups: Sequence[Group], amounts: Amounts, *, round_to: int, floor: float) -> Flags:
    """As many members of each group as `filter_prune` with `keep` leaves; which they are does not matter here."""
    ranks = {g.name: np.arange(len(g), dtype=np.float64) for g in groups}
    scores = Scores(ranks, ranks)
    each = [b for g in groups for b in bundles(g, scores, round_to=round_to, floor=floor)]
    going = in_order(coupling, each, lambda bundle: bundle.share)
    keep = {g.name: float(amounts.get(g.makers[0], 1.0) or 1.0) for g in groups if g.makers}
    return flags((b for b in going if b.share < 1 - keep.get(b.group, 1.0) - 1e-9), groups)


def _foresee(coupling: Coupling, counted: Callable[[Amounts], Flags], amounts: Amounts, before: Estimate) -> Estimate:
    entries = {name: round(part.entries) for name, part in before.parts.items()}
    known = {name: count for name, count in entries.items() if name in set(coupling.table.names)}
    left = parameters(coupling, known, counted(amounts))
    parts = {}
    for name, count in left.items():
        part = before.parts[name]
        share = count / part.entries if part.entries else 1.0
        parts[name] = replace(part, entries=float(count), macs=part.macs * share)
    return before.changed(parts)
