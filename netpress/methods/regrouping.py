"""Learned groups made real: the index of kept inputs, the grouped convolution, and the proof that nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netpress.arch import edit
from netpress.candidate import Candidate, Context, edited
from netpress.factor.condensing import by_group, grouped_kernel
from netpress.forms import Form, narrow, select
from netpress.methods.condensing import Picked, largest, supported
from netpress.methods.replaceable import alike, stuck
from netpress.methods.same_function import Change, compare, on_meta
from netpress.train.bind import formed

TOLERANCE = 1e-6
_CAUSE = "it uses a layer in a way that one run does not show; freeze it"


@dataclass(frozen=True, slots=True)
class Site:
    """A 1 x 1 convolution that is condensed.

    Attributes:
        path: of the layer.
        groups: G.
        inputs: I.
        width: inputs that a group reads in the end, I / C.
        outputs: O.
        norm: path of the batch norm before which the index stands; None: directly before the layer.
    """

    path: str
    groups: int
    inputs: int
    width: int
    outputs: int
    norm: str | None

    @property
    def weight(self) -> str:
        """Name of its weight."""
        return f"{self.path}.weight"

    def kept(self, weight: Tensor, count: int, alive: Tensor | None = None) -> Tensor:
        """Mask (G, I) of the `count` inputs of each group with the largest sums of |W| over the group's outputs.

        Args:
            weight: (O, I, 1, 1).
            count: how many.
            alive: (O, I, 1, 1) bool: where the weight may differ from zero; others come last.
        """
        scores = self._groups(weight.double().abs()).sum(0)
        if alive is not None:
            scores = torch.where(self._groups(alive).any(0), scores, -1)
        return largest(scores, count)

    def mask(self, kept: Tensor, weight: Tensor) -> Tensor:
        """The connections, shaped like the weight, of the inputs that each group keeps.

        Args:
            kept: bool (G, I), or the int64 (G, n) inputs themselves.
            weight: (O, I, 1, 1).
        """
        if kept.dtype != torch.bool:
            kept = torch.zeros(self.groups, self.inputs, dtype=torch.bool, device=kept.device).scatter_(1, kept, 1)
        return kept.repeat(self.outputs // self.groups, 1).view_as(weight)

    def chosen(self, trained: Candidate) -> Tensor:
        """int64 (G, I / C): the inputs of each group, ascending; those that training dropped are not among them.

        Where an earlier step has left a group fewer, some that it has only zeros for fill up the number.
        """
        weight = trained.net.get_parameter(self.weight).detach()
        alive = supported(trained.forms.get(self.weight), weight).to(weight.device)
        mask = self.kept(weight, self.width, alive)
        return mask.nonzero()[:, 1].view(self.groups, self.width)

    def _groups(self, tensor: Tensor) -> Tensor:
        """(O, I, 1, 1) as (O / G, G, I)."""
        return tensor.reshape(-1, self.groups, self.inputs)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer that is to read fewer of its inputs: its path, how many it has, how many it keeps."""

    path: str
    inputs: int
    keep: int


# --- 1 x 1 convolutions ---


def converted(
    trained: Candidate,
    context: Context,
    sites: Sequence[Site],
    kept: Mapping[str, Tensor],
    *,
    formed_before: Collection[str],
) -> tuple[Candidate, tuple[str, ...]]:
    """Grouped convolutions in the place of dense ones whose groups read the kept inputs alone; and what a check saw.

    Args:
        trained: left untouched.
        context: whose seed and step the check's image is drawn from.
        sites: the layers.
        kept: by path int64 (G, n), ascending.
        formed_before: tensors that had a form before: the converted ones have one too.

    Raises:
        ModelError: the converted network computes something else than the dense one without the other connections.
    """
    masked = _masked(trained, sites, kept)
    note: tuple[str, ...] = ()
    if sites and not on_meta(masked.net):
        change = Change("condense", "converted", TOLERANCE, _CAUSE)
        note = (compare(masked, context, change, lambda net: _regroup(net, sites, kept)),)
    forms, arch = dict(masked.forms), masked.arch
    for site in sites:
        for operation, path, *numbers in _edits(site):
            arch = edited(arch, operation, path, *numbers)
        _carry(forms, site, kept[site.path], formed_before)
    return masked.but(net=_regroup(deepcopy(masked.net), sites, kept), forms=forms, arch=arch), note


def _masked(trained: Candidate, sites: Sequence[Site], kept: Mapping[str, Tensor]) -> Candidate:
    """The candidate without the connections that are not kept."""
    forms = dict(trained.forms)
    for site in sites:
        weight, form = trained.net.get_parameter(site.weight), forms.get(site.weight, Form())
        support = supported(form, weight)
        forms[site.weight] = narrow(form, support & site.mask(kept[site.path].to(support.device), weight))
    return trained.but(net=formed(trained.net, forms), forms=forms)


def _edits(site: Site) -> list[tuple[Any, ...]]:
    if site.norm is None:
        return [("condensed", site.path, site.groups, site.width)]
    return [
        ("indexed", site.norm, site.groups * site.width),
        ("regrouped", site.path, site.groups, site.width),
    ]


def _regroup(net: nn.Module, sites: Sequence[Site], kept: Mapping[str, Tensor]) -> nn.Module:
    """Convert a network's layers in place."""
    for site in sites:
        layer: Any = net.get_submodule(site.path)
        norm = None if site.norm is None else deepcopy(net.get_submodule(site.norm))
        inputs = kept[site.path].to(layer.weight.device)
        for change in _edits(site):
            edit(net, *change)
        made: Any = net.get_submodule(site.path)
        place: Any = made if site.norm is None else net.get_submodule(site.norm)
        with torch.no_grad():
            place.index.index.copy_(inputs.flatten())
            made.layer.weight.copy_(grouped_kernel(layer.weight, inputs))
            if layer.bias is not None:
                made.layer.bias.copy_(layer.bias[by_group(site.outputs, site.groups, layer.bias.device)])
            if norm is not None:
                _gather(place.layer, norm, inputs.flatten())
    return net


def _gather(norm: nn.Module, before: nn.Module, index: Tensor) -> None:
    """Give a norm the channels of another."""
    tensors = {**dict(before.named_parameters(recurse=False)), **dict(before.named_buffers(recurse=False))}
    for name, tensor in tensors.items():
        if tensor.dim():  # not the counter of batches
            getattr(norm, name).copy_(tensor[index])


def _carry(forms: dict[str, Form], site: Site, kept: Tensor, formed_before: Collection[str]) -> None:
    """Forms of a converted layer's tensors under their new names; a support of everything is none of its own."""
    form = forms.pop(site.weight)
    assert form.support is not None
    support = grouped_kernel(form.support, kept.to(form.support.device))
    if site.weight in formed_before or not support.all():
        forms[f"{site.path}.layer.weight"] = Form(support)
    bias = forms.pop(f"{site.path}.bias", None)
    if bias is not None:
        shape = torch.Size([site.outputs])
        forms[f"{site.path}.layer.bias"] = select(bias, shape, 0, by_group(site.outputs, site.groups))


# --- the last linear layer ---


def linear_site(
    candidate: Candidate, picked: Picked, keep: float, frozen_by: Callable[[str], str | None]
) -> tuple[Linear | None, dict[str, str]]:
    """The linear layer that is called last, if it can lose inputs; else why it stays.

    Args:
        candidate: left untouched.
        picked: how its network uses its layers.
        keep: share of the inputs to keep.
        frozen_by: the pattern that freezes a path.
    """
    net = candidate.net
    linear = [path for path in picked.seen.order if isinstance(net.get_submodule(path), nn.Linear)]
    if keep == 1:
        return None, {}
    if not linear:
        return None, {"linear_keep": "the network has no linear layer"}
    path = linear[-1]
    layer: Any = net.get_submodule(path)
    frozen, reason = frozen_by(path), stuck(net, path, alike(net)) or picked.seen.reason(path)
    if frozen is None and reason is None and (type(layer) is not nn.Linear or len(picked.seen.inputs[path][0]) != 2):
        reason = "it is no plain linear layer of one row per image"
    if frozen is not None or reason is not None:
        return None, {path: reason or f"frozen by {frozen!r}"}
    count = int(layer.in_features * keep)
    if count == 0:
        return None, {path: f"linear_keep {keep} would leave none of its {layer.in_features} inputs"}
    return (None, {}) if count == layer.in_features else (Linear(path, layer.in_features, count), {})


def shortened(candidate: Candidate, linear: Linear) -> tuple[Candidate, list[int]]:
    """A linear layer that reads those of its inputs with the largest sum of |W|, through an index; and which.

    Args:
        candidate: left untouched.
        linear: which layer.
    """
    net, path = deepcopy(candidate.net), linear.path
    layer: Any = net.get_submodule(path)
    weight = layer.weight.detach()
    inputs = largest(weight.double().abs().sum(0, keepdim=True), linear.keep)[0].nonzero().flatten()
    edit(net, "indexed", path, linear.keep)
    made: Any = net.get_submodule(path)
    with torch.no_grad():
        made.index.index.copy_(inputs)
        made.layer.weight.copy_(weight.index_select(1, inputs))
    forms = dict(candidate.forms)
    if (form := forms.pop(f"{path}.weight", None)) is not None:
        forms[f"{path}.layer.weight"] = select(form, weight.shape, 1, inputs.cpu())
    if (form := forms.pop(f"{path}.bias", None)) is not None:
        forms[f"{path}.layer.bias"] = form
    arch = edited(candidate.arch, "indexed", path, linear.keep)
    return candidate.but(net=net, forms=forms, arch=arch), inputs.tolist()
