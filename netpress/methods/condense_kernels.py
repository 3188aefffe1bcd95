"""Single kernels of dense convolutions, pruned in steps while they train (Kalgaonkar and El-Sharkawy 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress.arch import edit
from netpress.candidate import Candidate, Context, Record, edited
from netpress.forms import Form, narrow
from netpress.methods.condensing import Asked, by_source, largest, opened, pick, supported
from netpress.methods.origin import sources
from netpress.methods.same_function import Change, compare, image_shape, on_meta
from netpress.methods.uses import watch
from netpress.train.bind import formed

Pattern = Annotated[str, Field(min_length=1)]
_TOLERANCE = 1e-6
_CAUSE = "it uses a layer in a way that one run does not show; freeze it"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CondenseKernels:
    """Leave a dense k x k convolution p kernels per input, chosen while it trains, and compute these alone.

    A kernel is the k x k filter from one input to one output; its score is the sum of its |w|. O outputs make
    G = O // C groups, output o in group o mod G, for the cardinality C. At each of n moments j / (2 n) of the training
    every group loses its floor((I O / G - p I / G) / n) lowest kernels, and at the last what is still above p I / G, so
    that exactly p I kernels of the layer's I O stay. The layer then becomes an index of their inputs, a depthwise
    convolution of p I channels, and sums of these into the outputs, which multiply nothing; it computes the same. A
    step without epochs prunes everything at once.

    Attributes:
        p: kernels per input that stay, at most the outputs.
        steps: n.
        cardinality: C, divides a layer's outputs; without, all of them: one group, the whole layer.
        layers: paths, or patterns with `*`; without, all k x k convolutions without groups that fit and do not read the
            image. One named by its very path must fit.
        frozen: paths or patterns of layers that stay.

    Source: Kalgaonkar and El-Sharkawy 2021, CondenseNeXt, equations 2 to 4: p = 4, C = O. Their code keeps
    I C - n floor(I (C - p) / n) kernels, up to n - 1 more than p I where n does not divide; its moments never come, as
    they are epochs that it compares with shares.

    >>> from netpress.methods import apply
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> apply(CondenseKernels(p=2), net, example=torch.zeros(1, 1, 8, 8)).net[2]
    KernelSums(
      (index): Index()
      (conv): Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), groups=16, bias=False)
    )
    """

    name: ClassVar[str] = "condense_kernels"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset({"support"})

    p: Annotated[int, Field(ge=1)] = 4
    steps: Annotated[int, Field(ge=1, le=64)] = 8
    cardinality: Annotated[int, Field(ge=1)] | None = None
    layers: Annotated[tuple[Pattern, ...], Field(min_length=1)] | None = None
    frozen: tuple[Pattern, ...] = ()

    @property
    def moments(self) -> tuple[float, ...]:
        """When kernels are dropped, as shares of the training."""
        return tuple(j / (2 * self.steps) for j in range(1, self.steps + 1))

    def expand(self) -> list[CondenseKernels]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`, and layers named by their path that do not fit."""
        self._asked.check(net)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Prune all at once on the weights as they are, and convert.

        Raises:
            ModelError: a weight is not finite or no plain parameter, an image does not pass, or the converted network
                computes something else.
            RecipeError: a pattern names no layer, or one named by its path cannot be condensed.
        """
        acting = self.gradually(candidate, context)
        return acting.finish(acting.candidate, context)

    def gradually(self, candidate: Candidate, context: Context) -> CondensingKernels:
        """The training inside which the kernels are chosen; raises what `apply` does."""
        picked = pick(candidate, context, self._asked)
        sites = tuple(self._site(candidate.net.get_submodule(path), path) for path in picked.paths)
        return CondensingKernels(opened(candidate, picked.paths), self.moments, self, sites, picked.stay, candidate)

    def _site(self, layer: Any, path: str) -> KernelSite:
        return KernelSite(path, self._groups(layer), layer.in_channels, layer.out_channels, self.p * layer.in_channels)

    @property
    def _asked(self) -> Asked:
        return Asked(self.name, self.layers, self.frozen, _kind, self._fits)

    def _groups(self, layer: nn.Conv2d) -> int:
        return layer.out_channels // (self.cardinality or layer.out_channels)

    def _fits(self, layer: nn.Conv2d) -> str | None:
        inputs, outputs = layer.in_channels, layer.out_channels
        if outputs % (self.cardinality or outputs):
            return f"cardinality {self.cardinality} does not divide its {outputs} outputs"
        if self.p > outputs:
            return f"p {self.p} is more than the {outputs} kernels that each of its inputs has"
        if self.p * inputs % self._groups(layer):
            return f"its p I = {self.p * inputs} kernels do not make {self._groups(layer)} groups"
        return None


METHODS = (CondenseKernels,)
EXAMPLES = (CondenseKernels(p=2), CondenseKernels(p=1, steps=3, cardinality=4))


def _kind(layer: nn.Conv2d) -> str | None:
    if layer.kernel_size == (1, 1):
        return "its filters are 1 x 1"
    return f"it has {layer.groups} groups already" if layer.groups > 1 else None


@dataclasses.dataclass(frozen=True, slots=True)
class KernelSite:
    """A dense convolution that keeps single kernels: its path, G, I, O, and the kernels that stay, p I."""

    path: str
    groups: int
    inputs: int
    outputs: int
    kernels: int

    @property
    def weight(self) -> str:
        """Name of its weight."""
        return f"{self.path}.weight"

    def left(self, stage: int, steps: int) -> int:
        """Kernels that each group has left behind moment number `stage`."""
        every, few = self.inputs * self.outputs // self.groups, self.kernels // self.groups
        return few if stage + 1 >= steps else every - (stage + 1) * ((every - few) // steps)

    def kept(self, weight: Tensor, count: int, alive: Tensor | None = None) -> Tensor:
        """Mask (O, I) of the `count` kernels of each group with the largest sums of |w|.

        Args:
            weight: (O, I, k, k).
            count: how many.
            alive: bool, shaped like the weight: where it may differ from zero; kernels of nothing else come last.
        """
        scores = weight.double().abs().flatten(2).sum(2)
        if alive is not None:
            scores = torch.where(alive.flatten(2).any(2), scores, -1)
        rows = scores.view(-1, self.groups, self.inputs).transpose(0, 1)  # group by group
        return largest(rows.flatten(1), count).view_as(rows).transpose(0, 1).reshape(self.outputs, self.inputs)


@dataclasses.dataclass(slots=True, eq=False)
class CondensingKernels:
    """Dense convolutions that lose kernels in training.

    Attributes:
        candidate: with a support on every weight that is pruned.
        moments: when kernels are dropped.
        settings: the method.
        sites: the layers.
        stay: why other layers stay.
        before: as the method was given it.
    """

    candidate: Candidate
    moments: tuple[float, ...]
    settings: CondenseKernels
    sites: tuple[KernelSite, ...]
    stay: Mapping[str, str]
    before: Candidate

    def act(self, stage: int, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Where each weight may still differ from zero: in the kernels that its groups have left."""
        found = {}
        for site in self.sites:
            weight = weights[site.weight].detach()
            kept = site.kept(weight, site.left(stage, self.settings.steps))[:, :, None, None]
            found[site.weight] = kept & supported(self.candidate.forms[site.weight], weight).to(weight.device)
        return found

    def penalty(self, _stage: int, _weights: Mapping[str, Tensor]) -> Tensor | None:
        """Nothing."""
        return None

    def finish(self, trained: Candidate, context: Context) -> Candidate:
        """Depthwise convolutions and sums in the layers' places; what moments have not dropped yet goes at once.

        Raises:
            ModelError: the converted network computes something else.
        """
        forms, kept = dict(trained.forms), dict[str, Tensor]()
        for site in self.sites:
            weight, form = trained.net.get_parameter(site.weight).detach(), forms.get(site.weight, Form())
            alive = supported(form, weight)
            kept[site.path] = site.kept(weight, site.kernels // site.groups, alive.to(weight.device))
            forms[site.weight] = narrow(form, alive & kept[site.path][:, :, None, None].to(alive.device))
        masked = trained.but(net=formed(trained.net, forms), forms=forms)
        notes = self._checked(masked, context, kept)
        rows = self._rows(masked, context, kept)
        arch = masked.arch
        for site in self.sites:
            arch = edited(arch, "kernel_sums", site.path, site.kernels)
            self._carry(forms, site, kept[site.path])
        said = [f"condensed {len(rows)} of {len(rows) + len(self.stay)} layers"]
        said += [f"{row['path']}: {row['kernels'][1]:,} of {row['kernels'][0]:,} kernels stay" for row in rows]
        said += [f"{path} stays: {reason}" for path, reason in self.stay.items()]
        record = Record(
            self.settings.name, dataclasses.asdict(self.settings), (*notes, *said), {"condensed_kernels": rows}
        )
        net = self._convert(deepcopy(masked.net), kept)
        return masked.but(net=net, forms=forms, arch=arch, history=(*trained.history, record))

    def _checked(self, masked: Candidate, context: Context, kept: Mapping[str, Tensor]) -> tuple[str, ...]:
        if not self.sites or on_meta(masked.net):
            return ()
        change = Change(self.settings.name, "converted", _TOLERANCE, _CAUSE)
        return (compare(masked, context, change, lambda net: self._convert(net, kept)),)

    def _rows(self, masked: Candidate, context: Context, kept: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """One row of plain data per layer: kernels per output are counted in the order of the outputs."""
        uses = watch(masked.net, image_shape(masked, context), method=self.settings.name)
        return [
            {
                "path": site.path,
                "inputs": site.inputs,
                "outputs": site.outputs,
                "kernels": [site.inputs * site.outputs, site.kernels],
                "per_output": kept[site.path].sum(1).tolist(),
                "per_input": kept[site.path].sum(0).tolist(),
                "sources": by_source(sources(masked.net, site.path, uses), masked.net.get_parameter(site.weight)),
            }
            for site in self.sites
        ]

    def _convert(self, net: nn.Module, kept: Mapping[str, Tensor]) -> nn.Module:
        """Convert a network's layers in place; kernels lie output by output, inputs rising."""
        for site in self.sites:
            layer: Any = net.get_submodule(site.path)
            edit(net, "kernel_sums", site.path, site.kernels)
            made: Any = net.get_submodule(site.path)
            outputs, inputs = kept[site.path].to(layer.weight.device).nonzero(as_tuple=True)
            with torch.no_grad():
                made.index.index.copy_(inputs)
                made.outputs.copy_(outputs)
                made.conv.weight.copy_(layer.weight[outputs, inputs].unsqueeze(1))
                if layer.bias is not None:
                    made.bias.copy_(layer.bias)
        return net

    def _carry(self, forms: dict[str, Form], site: KernelSite, kept: Tensor) -> None:
        """Forms of a converted layer's tensors under their names; a support of everything is none of its own."""
        form = forms.pop(site.weight)
        assert form.support is not None
        outputs, inputs = kept.to(form.support.device).nonzero(as_tuple=True)
        support = form.support[outputs, inputs].unsqueeze(1)
        if site.weight in self.before.forms or not support.all():
            forms[f"{site.path}.conv.weight"] = Form(support)
