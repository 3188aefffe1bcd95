"""Cross-layer equalisation: give the channels of neighbouring layers like ranges (Nagel et al. 2019, section 4.1)."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netpress.candidate import Candidate, Context
from netpress.forms import Free
from netpress.methods.channels import largest, scaled
from netpress.methods.links import Link, Links, find_links
from netpress.methods.same_function import Change, compare, image_shape, insist_on_numbers, on_meta

TOLERANCE = 1e-9
CAUSE = "it uses a layer in a way that one run does not show; freeze those that it does"
MOST_BIAS = 1.0  # of the layer's largest bias: what a bias may grow to
STEADY, MOST_ROUNDS = 1e-3, 100  # a factor within 0.1 % of 1 moves no integer of 8 bits


@dataclass(frozen=True, slots=True, eq=False)
class Equalised:
    """A candidate that computes the same with channels of like ranges.

    Attributes:
        candidate: the new one; its history is that of the one before.
        pairs: the layers between which channels were scaled, in the network's order.
        stay: the layers whose output channels were not scaled: path -> why.
        notes: all of it in words, for a record.
    """

    candidate: Candidate
    pairs: tuple[Link, ...]
    stay: Mapping[str, str]
    notes: tuple[str, ...]


def equalise(
    candidate: Candidate, context: Context, *, frozen: tuple[str, ...] = (), method: str = "equalise"
) -> Equalised:
    """Scale output channels of layers down and the next layer's inputs up, so that both have the same range.

        W1[i] /= s[i]    b1[i] /= s[i]    W2[:, i] *= s[i]    s[i] = sqrt(max |W1[i]| / max |W2[:, i]|)

    over all pairs, again and again, until no factor moves by more than 0.1 %, or 100 times. The factors are found in
    float64, and each tensor is rounded once. A channel without weights on either side keeps its scale, and no bias
    grows above the largest of its layer: weight decay leaves channels of next to no weights and some bias, which would
    take up the whole range of the activations. Batch norms end a pair: fold them first.

    Args:
        candidate: left untouched; weights that have a form, other than zeros that stay, take no part.
        context: its example's shape is taken where the candidate has none; the check's image is drawn from its seed.
        frozen: paths or patterns with `*` of layers that stay as they are.
        method: what errors call it.

    Returns:
        The candidate, and what was scaled and what not; the network computes the same in evaluation mode.

    Raises:
        ModelError: a weight is not finite, or no plain parameter; an image does not pass; or the network
            computes something else.

    Source: Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section 4.1.
    There ReLU6 is replaced by ReLU; here it ends a pair, since the function would change. There biases grow without
    bound, and are absorbed by the next layer afterwards, which changes the function a little; here they are bounded.

    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> for layer, w in ((net[0], [[8.0], [1.0]]), (net[2], [[2.0, 1.0]])):
    ...     layer.weight.data = torch.tensor(w)
    >>> even = equalise(Candidate(net), Context(example=torch.zeros(1, 1)))
    >>> even.candidate.net[0].weight.tolist(), even.candidate.net[2].weight.tolist()
    ([[4.0], [1.0]], [[4.0, 1.0]])
    """
    net = candidate.net
    insist_on_numbers(net, "its channels have no ranges")
    found = _choose(candidate, frozen, find_links(net, image_shape(candidate, context), method=method))
    if not found.links or on_meta(net):
        said = "on meta: nothing was scaled" if found.links else "no two layers can be equalised"
        return Equalised(candidate.but(net=deepcopy(net)), (), found.stay, (said, *_reasons(found)))
    factors, rounds = _factors(net, found.links)
    change = Change(method, "equalised", TOLERANCE, CAUSE)
    seen = compare(candidate, context, change, lambda copy: _rescaled(copy, found.links, factors))
    even = _rescaled(deepcopy(net), found.links, factors)
    before, after = _filling(net, found.links), _filling(even, found.links)
    count = f"equalised {len(found.links)} pairs of layers in {rounds} rounds"
    notes = (f"{count}: on average a channel spans {before:.0%} of its layer's range before, {after:.0%} after", seen)
    return Equalised(candidate.but(net=even), found.links, found.stay, (*notes, *_reasons(found)))


def _reasons(found: Links) -> list[str]:
    return [f"{path} is not equalised: {reason}" for path, reason in found.stay.items()]


def _choose(candidate: Candidate, frozen: tuple[str, ...], found: Links) -> Links:
    """Without the pairs that are frozen, or whose forms scaling would break."""
    links, stay = [], dict(found.stay)
    for link in found.links:
        ends = (link.first, link.second)
        named = [pattern for pattern in frozen if any(fnmatch.fnmatchcase(path, pattern) for path in ends)]
        changed = [_of(link.first, "weight"), _of(link.first, "bias"), _of(link.second, "weight")]
        forms = {name: candidate.forms[name] for name in changed if name in candidate.forms}
        fixed = [(name, form.values.name) for name, form in forms.items() if not isinstance(form.values, Free)]
        if named:
            stay[link.first] = f"frozen by {named[0]!r}"
        elif fixed:
            stay[link.first] = "{} is {}, and scaling would break that".format(*fixed[0])
        else:
            links.append(link)
    return Links(tuple(links), stay)


def _of(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach().double()


def _ranges(layers: Mapping[str, nn.Module], weights: Mapping[str, Tensor], link: Link) -> tuple[Tensor, Tensor]:
    """max |w| of each channel, where it is made and where it is read."""
    a, b = link.first, link.second
    read = largest(layers[b], weights[b], "inputs").view(-1, link.inputs).amax(1)
    return largest(layers[a], weights[a]), read


def _floor(layer: nn.Module, like: Tensor) -> Tensor:
    """The least factor of each channel that keeps its bias within what the layer's largest bias allows."""
    if not isinstance(layer.bias, Tensor):
        return torch.zeros_like(like)
    size = layer.bias.detach().double().abs()
    return size / (MOST_BIAS * size.max()).clamp(min=1e-300)


def _factors(net: nn.Module, links: Sequence[Link]) -> tuple[list[Tensor], int]:
    """What each pair's channels are divided by, float64, and after how many rounds."""
    layers = {path: net.get_submodule(path) for link in links for path in (link.first, link.second)}
    weights = {path: _weight(layer) for path, layer in layers.items()}
    ranges = [_ranges(layers, weights, link) for link in links]
    floors = [_floor(layers[link.first], given) for link, (given, _) in zip(links, ranges, strict=True)]
    factors = [torch.ones_like(given) for given, _ in ranges]
    rounds, moved = 0, math.inf
    while moved > STEADY and rounds < MOST_ROUNDS:
        rounds, moved = rounds + 1, 0.0
        for place, link in enumerate(links):
            a, b = link.first, link.second
            given, taken = _ranges(layers, weights, link)
            s = torch.maximum((given / taken).sqrt(), floors[place] / factors[place])
            s = torch.where((given > 0) & (taken > 0), s, 1.0)
            weights[a] = scaled(layers[a], weights[a], 1 / s)
            weights[b] = scaled(layers[b], weights[b], s.repeat_interleave(link.inputs), "inputs")
            factors[place] = factors[place] * s
            moved = max(moved, s.log().abs().max().item())
    return factors, rounds


def _rescaled(net: nn.Module, links: Sequence[Link], factors: Sequence[Tensor]) -> nn.Module:
    """`net`, changed in place; a layer between two others is scaled on both sides and rounded once."""
    outputs = {link.first: s for link, s in zip(links, factors, strict=True)}
    inputs = {link.second: s.repeat_interleave(link.inputs) for link, s in zip(links, factors, strict=True)}
    for path in outputs | inputs:
        layer = net.get_submodule(path)
        weight = _weight(layer)
        with torch.no_grad():
            if path in outputs:
                weight = scaled(layer, weight, 1 / outputs[path])
                if layer.bias is not None:
                    net.get_parameter(_of(path, "bias")).div_(outputs[path])
            if path in inputs:
                weight = scaled(layer, weight, inputs[path], "inputs")
            net.get_parameter(_of(path, "weight")).copy_(weight)
    return net


def _filling(net: nn.Module, links: Sequence[Link]) -> float:
    """max |W[i]| over max |W|, on average over channels and over the layers that links start from."""
    layers = [net.get_submodule(link.first) for link in links]
    sizes = [largest(layer, _weight(layer)) for layer in layers]
    return sum((size / size.max().clamp(min=1e-300)).mean().item() for size in sizes) / len(sizes)
