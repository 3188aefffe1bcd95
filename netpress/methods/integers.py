"""A candidate in integers: the grids of weights and activations, for any choice of layers that stay float."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netpress.arch import edit
from netpress.candidate import Candidate, Context, edited
from netpress.forms import Affine, Form, Free, Shared, Signs, inside, project
from netpress.methods.ranges import Levels, Range, activation_grids, fitted_grid, symmetric_grid
from netpress.methods.refitting import Calibration
from netpress.methods.targets import Target, choose, targets
from netpress.methods.values import Plan, plan
from netpress.rounding import LAYERS, Place, grids, settle_biases


@dataclass(frozen=True, slots=True)
class Rules:
    """How grids are chosen; `most` limits the bits, the rest is as in `Quantize`."""

    bits: int | Mapping[str, int]
    most: int
    grain: Literal["channel", "tensor"]
    range: Range
    zero_point: Literal["middle", "fitted"]
    activation_range: Range
    percentile: float
    trained: bool
    biases: bool


class Whole:
    """Builds a candidate in integers, again and again with other layers kept float.

    Args:
        ready: the candidate, batch norms folded; left untouched.
        context: its example is run through.
        rules: how grids are chosen.
        images: calibration images; None: activations stay floats.
    """

    def __init__(self, ready: Candidate, context: Context, rules: Rules, images: Calibration | None) -> None:
        self.ready, self.example, self.rules, self.images = ready, context.example, rules, images
        self.targets = tuple(targets(ready.net))
        self._forms: dict[str, Form] = {}
        self._grids: dict[Place, Levels] = {}

    def build(self, kept: Collection[str]) -> tuple[Candidate, dict[str, Any]]:
        """The candidate with every layer but those of `kept` in integers, and plain data for the report."""
        net, forms, rows = deepcopy(self.ready.net), dict(self.ready.forms), []
        for target in self.targets:
            if target.path in kept:
                continue
            weight = net.get_parameter(target.name)
            before = weight.detach().double()
            forms[target.name] = form = self._form(target)
            with torch.no_grad():
                weight.copy_(project(form, weight))
            rows.append(_row(target, form, before, weight.detach().double()))
        if self.rules.biases:
            forms |= self._biases(net, forms)
        made = self.ready.but(net=net, forms=forms)
        facts: dict[str, Any] = {"layers": rows, "kept": dict(kept) if isinstance(kept, Mapping) else {}}
        return self._rounded(made, facts, kept) if self.images is not None else (made, facts)

    def layer_bits(self, target: Target) -> int:
        """Bits of a layer's weights."""
        return min(choose(self.rules.bits, target) or self.rules.most, self.rules.most)

    def _form(self, target: Target) -> Form:
        """The form of a layer's weight; found once."""
        if target.name not in self._forms:
            given = self.ready.forms.get(target.name, Form())
            weight = self.ready.net.get_parameter(target.name).detach()
            self._forms[target.name] = replace(given, values=self._values(given, weight, target))
        return self._forms[target.name]

    def _values(self, given: Form, weight: Tensor, target: Target) -> Affine | Shared | Signs:
        rules, bits = self.rules, self.layer_bits(target)
        match given.values:
            case Free():
                if rules.zero_point == "fitted":
                    return replace(fitted_grid(_some(inside(given, weight), weight.ndim), bits), trained=rules.trained)
                axis = _channel_axis(self.ready.net.get_submodule(target.path)) if rules.grain == "channel" else None
                grid = symmetric_grid(weight, bits, axis=axis, kind=rules.range, percentile=rules.percentile)
                return replace(grid, trained=rules.trained)
            case Shared(grid=None) as shared:
                table = inside(given, weight)
                grid = symmetric_grid(table, bits, axis=None, kind="minmax", percentile=100)
                return replace(shared, grid=replace(grid, trained=rules.trained))
            case Shared() | Affine() | Signs() as settled:
                return settled

    def _biases(self, net: nn.Module, forms: Mapping[str, Form]) -> dict[str, Form]:
        """Forms of everything with one axis: biases, scales and shifts of norms."""
        found = {}
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1 and name not in forms and len(parameter):
                grid = replace(fitted_grid(parameter.detach(), 8), trained=self.rules.trained)
                found[name] = form = Form(values=grid)
                with torch.no_grad():
                    parameter.copy_(project(form, parameter))
        return found

    def _rounded(
        self, made: Candidate, facts: dict[str, Any], kept: Collection[str]
    ) -> tuple[Candidate, dict[str, Any]]:
        """The candidate with its activations on grids too."""
        found = plan(self.ready.net, self.example, kept)
        arch, rows = made.arch, []
        for place, levels in self._calibrated(found).items():
            numbers = (place.name, place.number, int(self.rules.trained))
            edit(made.net, "round", place.path, *numbers)
            arch = edited(arch, "round", place.path, *numbers)  # type: ignore[arg-type]
            grid = grids(made.net)[place]
            with torch.no_grad():
                grid.scale.fill_(levels.scale)
                grid.zero.fill_(levels.zero)
            rows.append({"value": str(place), **asdict(levels)})
        settle_biases(made.net, made.forms, self.example)
        facts |= {"values": rows, "floats": {str(place): name for place, name in found.floats.items()}}
        return made.but(arch=arch), facts

    def _calibrated(self, found: Plan) -> dict[Place, Levels]:
        new = [place for place in found.places if place not in self._grids]
        if new:
            assert self.images is not None
            rules = self.rules
            self._grids |= activation_grids(
                self.ready.net, new, self.images, kind=rules.activation_range, percentile=rules.percentile
            )
        return {place: self._grids[place] for place in found.places}

    def told(self, facts: Mapping[str, Any], kept: Mapping[str, str]) -> Iterator[str]:
        """What was built, in words."""
        layers, values = facts["layers"], facts.get("values")
        bits = sorted({row["bits"] for row in layers})
        spans = f"{bits[0]} to {bits[-1]}" if len(bits) > 1 else f"{bits[0]}" if bits else "no"
        activations = "float" if values is None else f"UINT8 in {len(values)} places"
        yield f"{len(layers)} layers with {spans}-bit weights; activations {activations}"
        for row in values or ():
            if row["low"] == row["high"]:
                yield f"{row['value']} is always 0 on the calibration images: its grid is of steps of 1"
        for path, reason in kept.items():
            yield f"{path} stays float: {reason}"
        for place, name in facts.get("floats", {}).items():
            if name not in LAYERS:
                yield f"{place} computes in floats: no integer kernel"


def _some(entries: Tensor, axes: int) -> Tensor:
    """The entries with as many axes as their tensor, so that a step made for them fits it; one zero for none."""
    return (entries if len(entries) else entries.new_zeros(1)).reshape(-1, *[1] * (axes - 1))


def _channel_axis(layer: nn.Module) -> int | None:
    """The axis of a weight along which output channels lie; None where groups lie between them."""
    if not getattr(layer, "transposed", False):
        return 0
    return 1 if layer.groups == 1 else None


def _row(target: Target, form: Form, before: Tensor, after: Tensor) -> dict[str, Any]:
    values = form.values
    grid = values if isinstance(values, Affine) else values.grid if isinstance(values, Shared) else None
    return {
        "path": target.path,
        "bits": None if grid is None else grid.bits,
        "steps": 0 if grid is None else grid.step.numel(),
        "form": values.name,
        "error": float((after - before).norm() / before.norm().clamp(min=1e-30)),
    }
