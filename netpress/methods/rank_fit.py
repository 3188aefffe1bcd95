"""The factors that take a layer's place: fitted to its weights, or to its outputs on calibration images."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netpress.factor.compose import relative_error
from netpress.factor.structure import refusal
from netpress.methods.rank_sites import Numbers, Site, decomposed
from netpress.methods.refitting import Calibration, refit
from netpress.methods.replacing import Done, instead, put
from netpress.train.moments import Moments, moments, target

Objective = Literal["weights", "outputs", "asymmetric"]


@dataclass(slots=True, eq=False)
class Fitter:
    """Puts factors in layers' places, one layer after the other.

    Attributes:
        original: the network as it was; left untouched.
        objective: what is fitted.
        images: to fit outputs on; None for weights.
        fallback: what takes the place of a degenerate `cp`, or "none".
        said: what a reader of the log should know: degeneracies, singular moments.
    """

    original: nn.Module
    objective: Objective
    images: Calibration | None
    fallback: str
    said: list[str] = field(default_factory=list)
    _probe: nn.Module | None = None

    def put(self, net: nn.Module, site: Site, numbers: Numbers) -> Done:
        """Replace a layer of a network in place.

        Args:
            net: the original, in which layers that are called earlier may have been replaced before.
            site: the layer.
            numbers: its ranks.
        """
        site, numbers = self._instead_of_degenerate(site, numbers)
        path, weight = site.layer.path, site.weight
        done = Done(site.operation, numbers, *site.price(numbers))
        if self.images is None:
            found = decomposed(site, numbers, weight=weight, moment=None)
            put(net, path, found)
            return replace(done, error=relative_error(weight, found))
        goal, moment = self._goal(net, site)
        found = decomposed(site, numbers, weight=goal, moment=moment)
        put(net, path, found)
        fitted = self._refit(net, site)
        if fitted.singular:
            self.said.append(f"{path}: its inputs' second moment is singular on {self.images.samples} images: a ridge")
        return replace(done, error=relative_error(weight, found), output_error=fitted.error)

    def _instead_of_degenerate(self, site: Site, numbers: Numbers) -> tuple[Site, Numbers]:
        """Another kind of the same price where the terms of a `cp` cancel each other."""
        if site.operation != "cp" or (why := site.cp(numbers[0]).degenerate) is None:
            return site, numbers
        path = site.layer.path
        if self.fallback == "none" or refusal(site.module, self.fallback) is not None:
            self.said.append(f"{path}: cp {numbers[0]} is degenerate and was regularised: {why}")
            return site, numbers
        other = Site(replace(site.layer, operation=self.fallback), site.module, site.moment, site.seed, site.step)
        again = other.at_share(site.price(numbers)[0] / site.layer.macs)
        told = ", ".join(map(str, again))
        self.said.append(f"{path}: cp {numbers[0]} is degenerate: {why}; {self.fallback} {told} takes its place")
        return other, again

    def _goal(self, net: nn.Module, site: Site) -> tuple[Tensor, Tensor]:
        """The kernel that the factors should come near, and the moment of the inputs in whose metric."""
        found = self._moments(net if self.objective == "asymmetric" else self.original, site)
        bias = site.module.bias is not None
        goal = site.weight.double()
        if self.objective == "asymmetric":
            goal = target(site.weight, found, bias=bias).reshape(site.weight.shape)
        return goal, (found.centred() if bias else found).whole

    def _moments(self, student: nn.Module, site: Site) -> Moments:
        images, path = self.images, site.layer.path
        assert images is not None
        return moments(
            student, path, self.original, path, images.split, images.inputs, samples=images.samples, seed=images.seed
        )

    def _refit(self, net: nn.Module, site: Site) -> Any:
        """Fit the last factor to the outputs."""
        assert self.images is not None
        path = site.layer.path
        if self.objective == "asymmetric":
            return refit(net, path, site.operation, self.original, self.images)
        if self._probe is None:
            self._probe = deepcopy(self.original)
        with instead(self._probe, path, net.get_submodule(path)):
            return refit(self._probe, path, site.operation, self.original, self.images)

    def alone(self, site: Site, numbers: Numbers) -> nn.Module:
        """The original network with one layer replaced; for a scan."""
        net = deepcopy(self.original)
        quiet = replace(self, said=[], objective="weights" if self.images is None else "outputs")
        with torch.no_grad():
            quiet.put(net, site, numbers)
        return net
