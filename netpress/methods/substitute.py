"""Cheaper kinds of layers in the place of convolutions, started from the trained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from netpress.budget import COUNT, Count, amount
from netpress.candidate import Candidate, Context, Record
from netpress.errors import RecipeError
from netpress.factor import CHILDREN, Rebuilt, Refused, rebuilt
from netpress.factor.compose import relative_error
from netpress.factor.fire import Patches, fire
from netpress.factor.groups import grouped, shuffled
from netpress.factor.separable import separable
from netpress.factor.stacked import stacked
from netpress.factor.svd import spatial_svd
from netpress.methods.layer_budget import STAYS, Choices, afford, limit_of, scanned
from netpress.methods.rank_choice import Option, energy_damage
from netpress.methods.refitting import Calibration, Refitted, calibration, refit
from netpress.methods.replaceable import Chosen, Layer, find
from netpress.methods.replacing import Done, instead, notes, price, rows, settle, unspared
from netpress.methods.sensitivity import Row
from netpress.train.channels import recalibrate
from netpress.train.moments import Moments, moments
from netpress.train.schedule import draw
from netpress.zoo.dense_blocks import Index

Pattern = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Substitute:
    """Replace convolutions by cheaper kinds, with the weights that come nearest to what was trained.

    | kind | in the place of a k x k convolution | multiply-adds per place |
    |---|---|---|
    | `stacked` | two 3 x 3, for a 5 x 5 | 9 I M + 9 M O |
    | `asymmetric` | k x 1, then 1 x k | k I M + k M O |
    | `grouped` | g groups, channels as they lie | k^2 I O / g |
    | `shuffled` | g groups, channels in the order in which the blocks hold most | k^2 I O / g |
    | `separable` | depthwise k x k, then 1 x 1 | k^2 I m + I m O |
    | `fire` | 1 x 1 to S channels, then 1 x 1 (n) and k x k (O - n) side by side | I S + S n + k^2 S (O - n) |

    for I inputs, O outputs, M = middle O, S = condense O, n = ones O. No activation stands between but for `fire`. The
    weights are the best fit in the sense of least squares; retraining, and distilling the layers' outputs, is the
    recipe's affair.

    Attributes:
        kind: what takes the layers' places.
        layers: paths, or patterns with `*`; all that can take it. One named by its very path must be able to.
        frozen: paths or patterns of layers that stay.
        middle: channels between, as a share of the outputs (`stacked`, `asymmetric`).
        groups: of `grouped` and `shuffled`.
        multiplier: depthwise kernels per input (`separable`).
        condense: condensed channels as a share of the outputs (`fire`), SqueezeNet's squeeze ratio.
        ones: share of the outputs that 1 x 1 filters make (`fire`).
        rectified: what follows the condensing convolution (`fire`): `relu` as in SqueezeNet, or `identity`.
        objective: `weights`: nearest to the weights. `outputs`: the last filters are fitted to the layer's outputs on
            training images. `asymmetric`: the same on inputs as they come through the layers replaced before, so that
            these errors are taken back (Zhang et al. 2016).
        samples: training images to fit on.
        max_macs, max_params: what the network may cost afterwards, `5M`, `60%`; per cent are of the network as it comes
            in. Only as many layers are replaced as that takes; without, all that can be.
        allocation: which: `energy`: those with which the product of the energies kept is largest, of the squared
            weights, or outputs (see `objective`); `scan`: those with which the sum of the rises of the loss, measured
            on `scan_samples` images with one layer replaced at a time, is least (needs data).
        scan_samples: validation images of the scan.
        when: `saves`: a layer stays where neither its multiply-adds nor its parameters fall; `always`.
        recalibrate: images that batch norms are measured on afterwards; 0: they keep their statistics.

    Source: Simonyan and Zisserman 2015 (stacked), Szegedy et al. 2016 (asymmetric), Krizhevsky et al. 2012 (groups),
    Chollet 2017 (separable), Iandola et al. 2016 (fire): all train such layers from scratch, here they start from
    trained ones.

    >>> from netpress.methods import apply
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
    >>> apply(Substitute("separable"), net, example=torch.zeros(1, 4, 8, 8)).net[0]
    Sequential(
      (depthwise): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=4, bias=False)
      (pointwise): Conv2d(4, 8, kernel_size=(1, 1), stride=(1, 1))
    )
    """

    name: ClassVar[str] = "substitute"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["stacked", "asymmetric", "grouped", "shuffled", "separable", "fire"]
    layers: Annotated[tuple[Pattern, ...], Field(min_length=1)] = ("*",)
    frozen: tuple[Pattern, ...] = ()
    middle: Annotated[float, Field(gt=0, le=4)] = 1.0
    groups: Annotated[int, Field(ge=2)] = 2
    multiplier: Annotated[int, Field(ge=1)] = 1
    condense: Share = 0.125
    ones: Share = 0.5
    rectified: Literal["relu", "identity"] = "relu"
    objective: Literal["weights", "outputs", "asymmetric"] = "weights"
    samples: Annotated[int, Field(ge=1)] = 512
    max_macs: Count | None = None
    max_params: Count | None = None
    allocation: Literal["energy", "scan"] = "energy"
    scan_samples: Annotated[int, Field(ge=1)] = 1024
    when: Literal["saves", "always"] = "saves"
    recalibrate: Annotated[int, Field(ge=0)] = 2048

    def __post_init__(self) -> None:
        """Check what no single field can."""
        if self.max_macs is not None and self.max_params is not None:
            raise RecipeError("substitute: give one of max_macs, max_params, got both")
        limited = self.max_macs is not None or self.max_params is not None
        if self.allocation == "scan" and not limited:
            raise RecipeError("substitute: allocation = 'scan' divides a budget: give max_macs or max_params")
        cut = self.kind == "fire" and self.rectified == "relu" and self.objective == "weights"
        if limited and self.allocation == "energy" and cut:
            raise RecipeError(
                "substitute: a budget for fire with rectified = 'relu' needs objective = 'outputs' or 'asymmetric', or "
                "allocation = 'scan': there is no error of its weights to choose layers by"
            )

    def expand(self) -> list[Substitute]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`, and layers named by their path that cannot take this kind."""
        self._chosen.check(net, self._operation)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Replace what can be replaced; what stays is noted with its reason.

        Raises:
            ModelError: a weight is not finite or no plain parameter, or the network breaks; names the layer.
            RecipeError: a pattern names no layer, a layer named by its path cannot take this kind, or images are
                needed and there are none.
            BudgetError: the budget cannot be met; says what is the nearest.
        """
        found = find(candidate, context.example, self._operation, chosen=self._chosen)
        images = None
        if self.objective != "weights":
            what = f"substitute: objective = {self.objective!r}"
            images = calibration(candidate, context, samples=self.samples, what=what)
        work = _Work(candidate.net, deepcopy(candidate.net), images, draw(context.seed, context.step))
        plans, reasons = self._plans(candidate.net, found)
        chosen, scan = self._afforded(plans, work, candidate, context)
        reasons |= {path: STAYS for path in plans if path not in chosen}
        net, done, said = deepcopy(candidate.net), dict[str, Done](), []
        if self.objective == "asymmetric":
            work = dataclasses.replace(work, host=net, fits={})
        for turn, path in enumerate(chosen):
            context.progress(f"substitute {path}", turn, len(chosen), {})
            fit = self._fit(work, path, plans[path].done)
            net.set_submodule(path, fit.made)
            done[path] = fit.done
            if fit.singular:
                said.append(f"{path}: some direction of its inputs never varies: fitted with a ridge")
        small = settle(candidate, net, done, context.example)
        if context.train is not None and self.recalibrate and done:
            recalibrate(small.net, context.train, candidate.inputs, samples=self.recalibrate, seed=work.seed)
        table = rows(found, done, reasons)
        facts: dict[str, Any] = {"layers": table} | ({"sensitivity": scan} if scan else {})
        record = Record(self.name, dataclasses.asdict(self), (*notes(table), *said), facts)
        return small.but(history=(*candidate.history, record))

    @property
    def _chosen(self) -> Chosen:
        return Chosen(self.name, self.layers, self.frozen)

    def _operation(self, _layer: nn.Module) -> str:
        return "spatial_svd" if self.kind == "asymmetric" else self.kind

    def _numbers(self, layer: Any) -> tuple[int, ...]:
        """The numbers of the structure for one layer."""
        outputs = layer.out_channels
        match self.kind:
            case "stacked" | "asymmetric":
                return (max(1, round(self.middle * outputs)),)
            case "grouped" | "shuffled":
                return (self.groups,)
            case "separable":
                return (self.multiplier,)
            case "fire":
                ones = min(max(1, round(self.ones * outputs)), outputs - 1)
                return max(1, round(self.condense * outputs)), ones, int(self.rectified == "relu")

    def _plans(self, net: nn.Module, found: Sequence[Layer]) -> tuple[dict[str, _Plan], dict[str, str]]:
        """What can take each layer's place, and why the others stay."""
        plans, reasons = dict[str, _Plan](), dict[str, str]()
        for layer in found:
            planned = self._planned(net, layer)
            if isinstance(planned, str):
                reasons[layer.path] = planned
            else:
                plans[layer.path] = _Plan(layer, planned)
        return plans, reasons

    def _planned(self, net: nn.Module, layer: Layer) -> Done | str:
        """What is to take a layer's place and what that costs, or why the layer stays."""
        if layer.reason is not None:
            return layer.reason
        module = net.get_submodule(layer.path)
        numbers = self._numbers(module)
        try:
            macs, params = price(module, layer.operation, numbers, layer.inputs)
        except Refused as refused:
            self._chosen.insist(layer.path, str(refused))
            return str(refused)
        if self.when == "saves" and (reason := unspared(layer, macs, params)) is not None:
            return reason
        return Done(layer.operation, numbers, macs, params)

    def _afforded(
        self, plans: Mapping[str, _Plan], work: _Work, candidate: Candidate, context: Context
    ) -> tuple[list[str], list[Row]]:
        """The paths to replace: all, or those with which the budget is met at least loss; and the rows of a scan."""
        name = "max_macs" if self.max_macs is not None else "max_params"
        value = getattr(self, name)
        if value is None:
            return list(plans), []
        within = limit_of(f"substitute: {name} = {value}", "macs" if name == "max_macs" else "params", candidate)
        if self.allocation == "scan":
            choices = {
                path: Choices(plan.done.operation, plan.options(0.0), partial(self._alone, work, path, plan.done))
                for path, plan in plans.items()
            }
            told = {"kind": self.kind, "objective": self.objective, "samples": self.samples}
            options, scan = scanned(candidate, choices, context, samples=self.scan_samples, settings=told)
        else:
            options, scan = {}, []
            for turn, (path, plan) in enumerate(plans.items()):
                context.progress(f"substitute: what {path} would lose", turn, len(plans), {})
                options[path] = plan.options(energy_damage(self._fit(work, path, plan.done).lost))
        picked = afford(options, within, amount(value, COUNT, baseline=within.before))
        return [path for path in plans if picked[path].numbers], scan

    def _alone(self, work: _Work, path: str, planned: Done, _numbers: tuple[int, ...]) -> nn.Module:
        """The network as it was with one layer replaced; for a scan."""
        net = deepcopy(work.original)
        net.set_submodule(path, self._fit(work, path, planned).made)
        return net

    def _fit(self, work: _Work, path: str, planned: Done) -> _Fit:
        """The module for a layer's place, and how well it does there; the same again where it was asked before."""
        if path not in work.fits:
            work.fits[path] = self._fitted(work, path, planned)
        return work.fits[path]

    def _fitted(self, work: _Work, path: str, planned: Done) -> _Fit:
        module: Any = work.original.get_submodule(path)
        seen = work.seen(path) if self.kind in ("fire", "asymmetric") else None
        made = rebuilt(module, self._nearest(module, planned.numbers, seen, work.seed))
        if work.images is None:
            return _Fit(made, _measured(module, made, planned, None), singular=False)
        with instead(work.host, path, made):
            met = refit(work.host, path, planned.operation, work.original, work.images)
        return _Fit(made, _measured(module, made, planned, met), met.singular)

    def _nearest(self, layer: Any, numbers: Sequence[int], seen: Moments | None, seed: int) -> Rebuilt:
        """The weights that come nearest, by weights or under the moments of what the layer sees."""
        weight = layer.weight.detach()
        match self.kind:
            case "stacked":
                return stacked(weight, *numbers)
            case "asymmetric":
                about = None if seen is None else seen.whole if layer.bias is None else seen.centred().whole
                return spatial_svd(weight, *numbers, moment=about)
            case "grouped":
                return grouped(weight, *numbers)
            case "shuffled":
                return shuffled(weight, *numbers, seed=seed)
            case "separable":
                return separable(weight, *numbers)
            case "fire":
                patches = None if seen is None else Patches(seen.whole, seen.patch_mean[0])
                return fire(weight, *numbers[:2], rectified=self.rectified, bias=layer.bias, seen=patches)


METHODS = (Substitute,)
EXAMPLES = (
    Substitute("separable"),
    Substitute("asymmetric", middle=0.5, objective="asymmetric", samples=64),
    Substitute("shuffled", objective="outputs", samples=64, recalibrate=0),
    Substitute("fire", condense=0.25, objective="outputs", samples=64),
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """A layer, and what can take its place."""

    layer: Layer
    done: Done

    def options(self, damage: float) -> list[Option]:
        """The layer as it is, or replaced at this damage."""
        whole = Option((), self.layer.macs, self.layer.params, 0.0)
        return [whole, Option(self.done.numbers, self.done.macs, self.done.params, damage)]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What was made for a layer's place, how near it comes, and whether some direction of its inputs never varies."""

    made: nn.Module
    done: Done
    singular: bool

    @property
    def lost(self) -> float:
        """The share of the energy that is lost: of the outputs where they were fitted, else of the weights."""
        error = self.done.error if self.done.output_error is None else self.done.output_error
        assert error is not None  # `Substitute` refuses to choose by it where it is not there
        return error**2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What fitting a layer needs: the network as it was, the one to fit in, images, a seed; and what is fitted."""

    original: nn.Module
    host: nn.Module
    images: Calibration | None
    seed: int
    fits: dict[str, _Fit] = dataclasses.field(default_factory=dict)

    def seen(self, path: str) -> Moments | None:
        """Moments of the patches that a layer sees in the host, and of the original's outputs."""
        if self.images is None:
            return None
        split, inputs = self.images.split, self.images.inputs
        samples, seed = self.images.samples, self.images.seed
        return moments(self.host, path, self.original, path, split, inputs, samples=samples, seed=seed)


def _measured(layer: Any, made: Any, planned: Done, fitted: Refitted | None) -> Done:
    """With the errors of weights and outputs."""
    children = {name: made.get_submodule(name) if name else made for name in CHILDREN[planned.operation] or ("",)}
    weights = {name: part.index if isinstance(part, Index) else part.weight.detach() for name, part in children.items()}
    error = relative_error(layer.weight.detach(), Rebuilt(planned.operation, planned.numbers, weights))
    return dataclasses.replace(planned, error=error, output_error=None if fitted is None else fitted.error)
