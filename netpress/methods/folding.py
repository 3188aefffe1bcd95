"""Fold batch norms into the layers before them: which can be, how, and the check that nothing else changed."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.arch import edit
from netpress.candidate import Candidate, Context, edited
from netpress.errors import ModelError
from netpress.forms import Free, project
from netpress.methods.channels import scaled
from netpress.methods.merging import FROZEN, merge
from netpress.methods.norms import Found, Pair, norm_pairs
from netpress.methods.same_function import Change, compare, image_shape, insist_on_numbers, on_meta

Rest = Literal["keep", "merge", "half"]

TOLERANCE = 1e-6
CAUSE = "it uses a layer or a norm in a way that one run does not show; freeze those that it does"


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A candidate without the batch norms that could be folded.

    Attributes:
        candidate: the new one; its history is that of the one before.
        pairs: what was folded, in the network's order.
        stay: the norms that were not: path -> why.
        note: what the check saw; empty where nothing was folded.
        merged: norms that became scale and shift.
        more: what was done to these, in words.
    """

    candidate: Candidate
    pairs: tuple[Pair, ...]
    stay: Mapping[str, str]
    note: str
    merged: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def told(self) -> tuple[str, ...]:
        """All of it in words, for a record."""
        norms = len(self.pairs) + len(self.stay) + len(self.merged)
        count = f"folded {len(self.pairs)} of {norms} batch norms"
        seen = (self.note,) if self.note else ()
        return (count, *seen, *self.more, *(f"{path} stays: {reason}" for path, reason in self.stay.items()))


def fold(
    candidate: Candidate,
    context: Context,
    *,
    frozen: tuple[str, ...] = (),
    rest: Rest = "keep",
    method: str = "fold_batch_norm",
) -> Folded:
    """Put what batch norms do into weights and bias of the layers before them, and take them out.

        w' = w g / sqrt(v + e)        b' = (b - m) g / sqrt(v + e) + h

    with m and v the running mean and variance, g and h the norm's scale and shift, e its epsilon, all per output
    channel, in float64; the result is rounded once. A layer without a bias gets one.

    Args:
        candidate: left untouched.
        context: its example's shape is taken where the candidate has none; the check's image is drawn from its seed.
        frozen: paths or patterns with `*`: norms, or layers before them, that stay as they are.
        rest: of the norms that no layer can take: `keep` them, or see `merging.merge`.
        method: what errors call it.

    Returns:
        The candidate, and what was folded and what not; the network computes the same in evaluation mode.

    Raises:
        ModelError: a weight is not finite, shares its values, or is no plain parameter; an image does not pass;
            or the folded network computes something else.

    Source: Jacob et al. 2018, section 3.2.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU())
    >>> folded = fold(Candidate(net), Context(example=torch.zeros(1, 1, 8, 8)))
    >>> folded.pairs, type(folded.candidate.net[1]).__name__
    ((Pair(layer='0', norms=('1',)),), 'Identity')
    """
    net = candidate.net
    insist_on_numbers(net, "nothing can be folded into it")
    found = _choose(candidate, frozen, norm_pairs(net, image_shape(candidate, context), method=method), rest)
    note = ""
    if found.pairs and on_meta(net):
        note = "on meta: not checked"
    elif found.pairs:
        change = Change(method, "folded", TOLERANCE, CAUSE)
        note = compare(candidate, context, change, lambda copy: _folded(candidate, copy, found).net)
    folded = Folded(_folded(candidate, deepcopy(net), found), found.pairs, found.stay, note)
    if rest == "keep":
        return folded
    more = merge(folded.candidate, context, found.stay, precision=rest, method=method)
    return replace(folded, candidate=more.candidate, stay=more.stay, merged=more.merged, more=more.notes)


_DONE = {
    "shared": ("shares its weights' values", "sharing"),
    "affine": ("has weights on an integer grid", "quantizing"),
    "signs": ("has weights that are signs", "binarizing"),
}


def _choose(candidate: Candidate, frozen: tuple[str, ...], found: Found, rest: Rest) -> Found:
    """Without the pairs that are frozen, or whose forms folding would break.

    Raises:
        ModelError: a layer's weights share values, or are signs or whole multiples of a step, and its norm is to stay
            a norm.
    """
    pairs, stay = [], {path: _told_to(path, frozen) or reason for path, reason in found.stay.items()}
    for pair in found.pairs:
        named = [p for p in frozen if any(fnmatch.fnmatchcase(path, p) for path in (pair.layer, *pair.norms))]
        formed = [name for name in _filled(pair) if name in candidate.forms]
        form = candidate.forms.get(_of(pair.layer, "weight"))
        if named:
            stay[pair.norms[0]] = f"{FROZEN}{named[0]!r}"
        elif formed:
            stay[pair.norms[0]] = f"{formed[0]} has a form, which folding would not keep"
        elif form is not None and not isinstance(form.values, Free):
            what, order = _DONE[form.values.name]
            if rest != "keep":
                stay[pair.norms[0]] = f"{pair.layer} {what}"
                continue
            raise ModelError(
                f"{pair.layer} {what}, and folding {pair.norms[0]} would scale them channel by channel: "
                f"fold before {order}, or freeze it"
            )
        else:
            pairs.append(pair)
    return Found(tuple(pairs), stay)


def _told_to(path: str, frozen: tuple[str, ...]) -> str | None:
    """Why a norm stays that no layer could take in any case; None where nobody told it to."""
    return next((f"{FROZEN}{pattern!r}" for pattern in frozen if fnmatch.fnmatchcase(path, pattern)), None)


def _filled(pair: Pair) -> list[str]:
    """Tensors whose entries become part of other tensors, or are filled: their own zeros would not stay."""
    return [_of(pair.layer, "bias"), *(_of(norm, name) for norm in pair.norms for name in ("weight", "bias"))]


def _of(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _folded(candidate: Candidate, net: nn.Module, found: Found) -> Candidate:
    """`candidate` with all pairs folded in `net`, which is changed in place."""
    arch = candidate.arch
    for pair in found.pairs:
        if net.get_submodule(pair.layer).bias is None:
            edit(net, "bias", pair.layer)
            arch = edited(arch, "bias", pair.layer)
        _fold(net, pair)
        for path in pair.norms:
            edit(net, "identity", path)
            arch = edited(arch, "identity", path)
        form = candidate.forms.get(_of(pair.layer, "weight"))
        if form is not None:
            weight = net.get_parameter(_of(pair.layer, "weight"))
            with torch.no_grad():
                weight.copy_(project(form, weight))  # zero times a negative scale is -0.0
    return candidate.but(net=net, arch=arch)


def _fold(net: nn.Module, pair: Pair) -> None:
    """Put what the norm does into the layer's weight and bias, in place."""
    norm, weight = net.get_submodule(pair.norms[0]), net.get_parameter(_of(pair.layer, "weight"))
    bias = net.get_parameter(_of(pair.layer, "bias"))
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shifted = (bias.double() - norm.running_mean.double()) * scale
        bias.copy_(shifted if norm.bias is None else shifted + norm.bias.double())
        weight.copy_(scaled(net.get_submodule(pair.layer), weight.double(), scale))
