"""Learned group convolutions: 1 x 1 convolutions whose groups learn which inputs they read (Huang et al. 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress.candidate import Candidate, Context, Record
from netpress.errors import RecipeError
from netpress.methods.condensing import Asked, Picked, by_source, opened, pick, supported
from netpress.methods.feeding import norm_before
from netpress.methods.origin import sources
from netpress.methods.regrouping import Linear, Site, converted, linear_site, shortened
from netpress.methods.same_function import image_shape
from netpress.methods.uses import watch

Pattern = Annotated[str, Field(min_length=1)]
Moment = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Condense:
    """Let the groups of 1 x 1 convolutions learn which inputs they read, then make them grouped convolutions.

    Output o of a layer belongs to group o mod G. At each of C - 1 moments of its training every group loses those
    floor(I / C) of the inputs it has left that weigh least,

        sum over the outputs o of the group of |W[o, i]|

    so that in the end it reads I / C inputs, its own. Then each layer becomes index - grouped convolution -
    interleave, which computes the same with a C-th of the weights and multiply-adds. Where a batch norm feeds the layer
    and nothing else, the index stands before the norm, which then has only the channels that are read; not if G > C,
    where that would make more of them, nor where the norm can be folded into a layer before it. A step without epochs
    drops everything at once.

    Attributes:
        groups: G, divides a layer's outputs.
        factor: C, the condense factor, divides a layer's inputs.
        layers: paths, or patterns with `*`; without, all 1 x 1 convolutions that divide and do not read the image. One
            named by its very path must fit.
        frozen: paths or patterns of layers that stay, the last linear layer included.
        at: the C - 1 moments, as shares of the training, rising; without, s / (2 (C - 1)) for s = 1 .. C - 1.
        group_lasso: weight in the loss of the sum over groups and inputs of sqrt(sum of W[o, i]^2 over the group),
            until the last moment; 1e-5 in the paper on ImageNet, 0 on CIFAR.
        linear_keep: share of its inputs that the last linear layer keeps in the end, those with the largest sum of
            |W|, without retraining; 0.5 in the reference.

    Source: Huang, Liu, van der Maaten and Weinberger 2018, CondenseNet, section 3. There the network is one of theirs
    and 3 x 3 convolutions have groups from the start; here it is any network.

    >>> from netpress.methods import apply
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
    >>> apply(Condense(groups=2, factor=4), net, example=torch.zeros(1, 1, 8, 8)).net[2]
    Sequential(
      (index): Index()
      (layer): Conv2d(4, 8, kernel_size=(1, 1), stride=(1, 1), groups=2)
      (interleave): Interleave()
    )
    """

    name: ClassVar[str] = "condense"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset({"support"})

    groups: Annotated[int, Field(ge=1)] = 4
    factor: Annotated[int, Field(ge=2)] = 4
    layers: Annotated[tuple[Pattern, ...], Field(min_length=1)] | None = None
    frozen: tuple[Pattern, ...] = ()
    at: tuple[Moment, ...] | None = None
    group_lasso: Annotated[float, Field(ge=0, le=1)] = 0.0
    linear_keep: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        """Check what no single field can."""
        if self.at is None:
            return
        if len(self.at) != self.factor - 1:
            raise RecipeError(
                f"condense: factor {self.factor} has {self.factor - 1} moments, at has {len(self.at)}: give one each"
            )
        if any(a >= b for a, b in zip(self.at, self.at[1:], strict=False)):
            raise RecipeError(f"condense: at must rise, got {', '.join(map(str, self.at))}")

    @property
    def moments(self) -> tuple[float, ...]:
        """When inputs are dropped, as shares of the training."""
        return self.at or tuple(s / (2 * (self.factor - 1)) for s in range(1, self.factor))

    def expand(self) -> list[Condense]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`, sizes that fit no layer or not the one named by its path."""
        self._asked.check(net)
        wide = max(self.groups, self.factor)
        able = [(p, m) for p, m in net.named_modules() if isinstance(m, nn.Conv2d) and not _kind(m)]
        able = [(path, layer) for path, layer in able if layer.in_channels >= wide]
        reasons = [f"{path}: {why}" for path, layer in able if (why := self._fits(layer)) is not None]
        if able and len(reasons) == len(able):
            raise RecipeError(f"condense: none of the {len(able)} 1 x 1 convolutions fits, for instance {reasons[0]}")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Drop all at once on the weights as they are, and convert.

        Raises:
            ModelError: a weight is not finite or no plain parameter, an image does not pass, or the converted network
                computes something else.
            RecipeError: a pattern names no layer, or one named by its path cannot be condensed.
        """
        acting = self.gradually(candidate, context)
        return acting.finish(acting.candidate, context)

    def gradually(self, candidate: Candidate, context: Context) -> Condensing:
        """The training inside which the groups learn; raises what `apply` does."""
        picked = pick(candidate, context, self._asked)
        sites = tuple(self._site(candidate, picked, path) for path in picked.paths)
        linear, why = linear_site(candidate, picked, self.linear_keep, self._asked.chosen.frozen_by)
        stay = {**picked.stay, **why}
        return Condensing(opened(candidate, picked.paths), self.moments, self, sites, linear, stay, candidate)

    def _site(self, candidate: Candidate, picked: Picked, path: str) -> Site:
        layer: Any = candidate.net.get_submodule(path)
        norm = norm_before(candidate.net, path, picked.uses) if self.groups <= self.factor else None
        if norm is not None and any(name.rpartition(".")[0] == norm for name in candidate.forms):
            norm = None
        return Site(path, self.groups, layer.in_channels, layer.in_channels // self.factor, layer.out_channels, norm)

    @property
    def _asked(self) -> Asked:
        return Asked(self.name, self.layers, self.frozen, _kind, self._fits)

    def _fits(self, layer: nn.Conv2d) -> str | None:
        if layer.out_channels % self.groups:
            return f"its {layer.out_channels} outputs do not make {self.groups} groups"
        if self.factor > layer.in_channels:
            return f"factor {self.factor} is more than its {layer.in_channels} inputs"
        if layer.in_channels % self.factor:
            return f"factor {self.factor} does not divide its {layer.in_channels} inputs"
        return None


METHODS = (Condense,)
EXAMPLES = (Condense(groups=2, factor=2, linear_keep=0.5), Condense(groups=2, factor=4, group_lasso=1e-4))


def _kind(layer: nn.Conv2d) -> str | None:
    if layer.kernel_size != (1, 1):
        return f"its filters are {' x '.join(map(str, layer.kernel_size))}, not 1 x 1"
    return f"it has {layer.groups} groups already" if layer.groups > 1 else None


@dataclasses.dataclass(slots=True, eq=False)
class Condensing:
    """Learned group convolutions in training.

    Attributes:
        candidate: with a support on every weight that is condensed.
        moments: when inputs are dropped.
        settings: the method.
        sites: the layers.
        linear: the linear layer that loses inputs in the end, or None.
        stay: why other layers stay.
        before: as the method was given it.
    """

    candidate: Candidate
    moments: tuple[float, ...]
    settings: Condense
    sites: tuple[Site, ...]
    linear: Linear | None
    stay: Mapping[str, str]
    before: Candidate

    def act(self, stage: int, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Where each weight may still differ from zero: its groups lose floor(I / C) further inputs each."""
        found = {}
        for site in self.sites:
            weight = weights[site.weight].detach()
            kept = site.kept(weight, site.inputs - (stage + 1) * (site.inputs // self.settings.factor))
            start = supported(self.candidate.forms[site.weight], weight)
            found[site.weight] = site.mask(kept, weight) & start.to(weight.device)
        return found

    def penalty(self, stage: int, weights: Mapping[str, Tensor]) -> Tensor | None:
        """The group lasso, until the last moment has passed."""
        if self.settings.group_lasso == 0 or stage >= len(self.moments) or not self.sites:
            return None
        sums = [_norms(weights[site.weight], site.groups) for site in self.sites]
        return self.settings.group_lasso * torch.stack(sums).sum()

    def finish(self, trained: Candidate, context: Context) -> Candidate:
        """Grouped convolutions in the layers' places; what moments have not dropped yet goes at once.

        Raises:
            ModelError: the converted network computes something else.
        """
        kept = {site.path: site.chosen(trained) for site in self.sites}
        small, seen = converted(trained, context, self.sites, kept, formed_before=self.before.forms)
        rows = self._rows(trained, context, kept)
        linear: dict[str, Any] = {}
        if self.linear is not None:
            small, inputs = shortened(small, self.linear)
            linear = {"path": self.linear.path, "inputs": self.linear.inputs, "kept": inputs}
        notes = (*seen, *self._told(rows, linear))
        facts = {"condensed": rows} | ({"linear": linear} if linear else {})
        record = Record(self.settings.name, dataclasses.asdict(self.settings), notes, facts)
        return small.but(history=(*trained.history, record))

    def _rows(self, trained: Candidate, context: Context, kept: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """One row of plain data per layer."""
        uses = watch(trained.net, image_shape(trained, context), method=self.settings.name)
        rows = []
        for site in self.sites:
            weight = trained.net.get_parameter(site.weight).detach()
            masked = weight * site.mask(kept[site.path].to(weight.device), weight)
            row = {
                "path": site.path,
                "before": site.norm or site.path,
                "inputs": site.inputs,
                "outputs": site.outputs,
                "kept": kept[site.path].tolist(),
                "connections": [site.inputs * site.outputs, site.width * site.outputs],
                "sources": by_source(sources(trained.net, site.path, uses), masked),
            }
            rows.append(row)
        return rows

    def _told(self, rows: Sequence[Mapping[str, Any]], linear: Mapping[str, Any]) -> list[str]:
        """The rows in words."""
        said = [f"condensed {len(rows)} of {len(rows) + len(self.stay)} layers"]
        for row in rows:
            many, few = row["connections"]
            said.append(
                f"{row['path']}: {len(row['kept'])} groups read {len(row['kept'][0])} of {row['inputs']} inputs each, "
                f"{few:,} of {many:,} connections, index before {row['before']}"
            )
        if linear:
            said.append(f"{linear['path']}: reads {len(linear['kept'])} of {linear['inputs']} inputs")
        return said + [f"{path} stays: {reason}" for path, reason in self.stay.items()]


def _norms(weight: Tensor, groups: int) -> Tensor:
    """The sum over groups and inputs of the root of the group's sum of squares."""
    squares = weight.reshape(-1, groups, weight.shape[1]).square().sum(0)
    alive = squares > 0  # the root has no slope at 0, where dropped inputs are
    return torch.where(alive, squares, 1).sqrt().mul(alive).sum()
