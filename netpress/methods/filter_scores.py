"""How important each channel of a network is: one number per member of a group of channels that go together.

A group has several filters per member where layers share their channels (a residual stream has one per block); the
score is their mean. Criteria whose numbers mean nothing outside their layer are divided by the layer's mean first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from netpress.candidate import Candidate, Context
from netpress.errors import ModelError, RecipeError
from netpress.graph import Group, Slot
from netpress.train.channels import mean_activation
from netpress.train.gradients import first_order
from netpress.train.schedule import draw

Parts = Mapping[str, Sequence[Tensor]]
"""By group name, one tensor (members,) for each of its layers; larger is more important."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """By group name, (members,) each.

    Attributes:
        raw: the criterion as its source defines it, the mean over the group's layers.
        rank: comparable across layers: what the order of removal goes by.
    """

    raw: Mapping[str, NDArray[np.float64]]
    rank: Mapping[str, NDArray[np.float64]]


def score(kind: str, candidate: Candidate, groups: Sequence[Group], context: Context, *, samples: int) -> Scores:
    """Score the members of every group by one criterion.

    Args:
        kind: a name of `SCORES`.
        candidate: its network is left untouched.
        groups: of its coupling.
        context: data for `taylor` and `activation`; the seed for these and `random`.
        samples: images for `taylor` and `activation`.

    Raises:
        RecipeError: the criterion needs data and there is none, or fits no layer of a group.
        ModelError: a score is NaN or an infinity.
    """
    if kind in ("taylor", "activation") and context.train is None:
        raise RecipeError(f"filter_prune: score = {kind!r} needs data")
    parts = SCORES[kind](candidate, groups, context, samples)
    raw = {name: torch.stack([*found]).mean(0).numpy() for name, found in parts.items()}
    if bad := next((name for name, found in raw.items() if not np.isfinite(found).all()), None):
        raise ModelError(f"filter_prune: score = {kind!r} of {bad} is not finite: the network's answers are not")
    if kind in COMPARABLE:
        return Scores(raw, raw)
    scaled = {name: [part / part.mean().clamp_min(1e-300) for part in found] for name, found in parts.items()}
    return Scores(raw, {name: torch.stack(found).mean(0).numpy() for name, found in scaled.items()})


def _rows(candidate: Candidate, slot: Slot) -> Tensor:
    """The slices of a tensor that each member owns: (members, numbers)."""
    tensor = candidate.net.get_parameter(slot.tensor).detach().double().movedim(slot.axis, 0)
    return tensor[torch.from_numpy(slot.positions)].flatten(1)


def _filters(candidate: Candidate, group: Group) -> list[Slot]:
    """Where the members are made: the filters of the group's layers, else every parameter that they own a slice of."""
    parameters = {name for name, _ in candidate.net.named_parameters()}
    slots = [slot for slot in group.slots if slot.tensor in parameters]
    return [slot for slot in slots if slot.role == "filter"] or slots


def _norm(order: int) -> Callable[..., Parts]:
    """The sum of |w|, or the root of the sum of w², of each filter (Li et al. 2017; He et al. 2018)."""

    def scored(candidate: Candidate, groups: Sequence[Group], _context: Context, _samples: int) -> Parts:
        def one(slot: Slot) -> Tensor:
            norms: Tensor = torch.linalg.vector_norm(_rows(candidate, slot), order, dim=1)
            return norms

        return {g.name: [one(slot) for slot in _filters(candidate, g)] for g in groups}

    return scored


def _geometric_median(candidate: Candidate, groups: Sequence[Group], _context: Context, _samples: int) -> Parts:
    """How far a filter is from all others of its layer: the sum of distances (He et al. 2019, FPGM, equation 6)."""
    found = {}
    for group in groups:
        rows = [_rows(candidate, slot) for slot in _filters(candidate, group)]
        found[group.name] = [torch.cdist(part, part).sum(1) for part in rows]
    return found


def _norms(candidate: Candidate, group: Group, last: str) -> list[Slot]:
    """Scales ("weight") or shifts ("bias") of the group's normalisation layers."""
    found = []
    for slot in group.slots:
        path, _, name = slot.tensor.rpartition(".")
        layer = candidate.net.get_submodule(path)
        if name == last and isinstance(layer, _NormBase | nn.GroupNorm | nn.LayerNorm):
            found.append(slot)
    return found


def _bn_scale(candidate: Candidate, groups: Sequence[Group], _context: Context, _samples: int) -> Parts:
    """|gamma| of the normalisation behind the filters (Liu et al. 2017, network slimming)."""
    found = {}
    for group in groups:
        slots = _norms(candidate, group, "weight")
        if not slots:
            raise RecipeError(
                f"filter_prune: score = 'bn_scale': no normalisation follows {', '.join(group.makers)}; "
                "freeze these layers or take another score"
            )
        found[group.name] = [_rows(candidate, slot).abs().mean(1) for slot in slots]
    return found


def _taylor(candidate: Candidate, groups: Sequence[Group], context: Context, samples: int) -> Parts:
    """(sum of w dL/dw)², the change of the loss to first order, mean over batches (Molchanov et al. 2019).

    Summed over scale and shift of the normalisation behind the filters, the gate that the source found best; over the
    filters' weights where there is none.
    """
    slots = {g.name: _norms(candidate, g, "weight") + _norms(candidate, g, "bias") for g in groups}
    slots = {name: found or _filters(candidate, g) for (name, found), g in zip(slots.items(), groups, strict=True)}
    names = sorted({slot.tensor for group in slots.values() for slot in group})
    assert context.train is not None
    seed = draw(context.seed, context.step)
    total = {g.name: torch.zeros(len(g), dtype=torch.float64) for g in groups}
    steps = 0
    for change in first_order(candidate.net, names, context.train, candidate.inputs, samples=samples, seed=seed):
        steps += 1
        for name, group in slots.items():
            parts = [
                change[slot.tensor].double().movedim(slot.axis, 0)[torch.from_numpy(slot.positions)] for slot in group
            ]
            total[name] += torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0).square()
    return {name: [sums / steps] for name, sums in total.items()}


def _activation(candidate: Candidate, groups: Sequence[Group], context: Context, samples: int) -> Parts:
    """Mean of |output| of the layers that make the channels."""
    assert context.train is not None
    # what another module returns need not be the channels that it makes
    layers = {path: candidate.net.get_submodule(path) for group in groups for path in group.makers}
    paths = sorted(path for path, layer in layers.items() if isinstance(layer, _ConvNd | nn.Linear))
    seed = draw(context.seed, context.step)
    found = mean_activation(candidate.net, paths, context.train, candidate.inputs, samples=samples, seed=seed)
    scores = {}
    for group in groups:
        parts = []
        for slot in group.slots:
            path = slot.tensor.rpartition(".")[0]
            if slot.role == "filter" and path in found:
                parts.append(found[path][torch.from_numpy(slot.positions)].mean(1))
        if not parts:
            raise RecipeError(
                f"filter_prune: score = 'activation': no module returns the channels of {group.name} as they are; "
                "freeze it or take another score"
            )
        scores[group.name] = parts
    return scores


def _random(_candidate: Candidate, groups: Sequence[Group], context: Context, _samples: int) -> Parts:
    """The control that every criterion must beat."""
    generator = np.random.default_rng(draw(context.seed, context.step))
    return {group.name: [torch.from_numpy(generator.random(len(group)))] for group in groups}


SCORES: Mapping[str, Callable[[Candidate, Sequence[Group], Context, int], Parts]] = {
    "l1": _norm(1),
    "l2": _norm(2),
    "bn_scale": _bn_scale,
    "taylor": _taylor,
    "geometric_median": _geometric_median,
    "activation": _activation,
    "random": _random,
}
"""Criteria by name."""

COMPARABLE = frozenset({"bn_scale", "taylor", "random"})
"""Those whose numbers can be compared across layers as they are."""
