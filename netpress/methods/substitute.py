"""Cheaper kinds of layers in the place of convolutions, started from the trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from netpress.candidate import Candidate, Context, Record
from netpress.factor import CHILDREN, Rebuilt, Refused, rebuilt
from netpress.factor.compose import relative_error
from netpress.factor.fire import Patches, fire
from netpress.factor.groups import grouped, shuffled
from netpress.factor.separable import separable
from netpress.factor.stacked import stacked
from netpress.factor.svd import spatial_svd
from netpress.methods.refitting import Calibration, Refitted, calibration, refit
from netpress.methods.replaceable import Chosen, Layer, find
from netpress.methods.replacing import Done, instead, notes, price, rows, settle, unspared
from netpress.train.channels import recalibrate
from netpress.train.loop import draw
from netpress.train.moments import Moments, moments
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
    when: Literal["saves", "always"] = "saves"
    recalibrate: Annotated[int, Field(ge=0)] = 2048

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
        """
        chosen = self._chosen
        found = find(candidate, context.example, self._operation, chosen=chosen)
        images = None
        if self.objective != "weights":
            what = f"substitute: objective = {self.objective!r}"
            images = calibration(candidate, context, samples=self.samples, what=what)
        net = deepcopy(candidate.net)
        hosts = net if self.objective == "asymmetric" else deepcopy(candidate.net)
        work = _Work(candidate.net, hosts, images, draw(context.seed, context.step))
        done, reasons, said = {}, {}, []
        for turn, layer in enumerate(found):
            context.progress(f"substitute {layer.path}", turn, len(found), {})
            planned = self._planned(candidate.net, layer)
            if isinstance(planned, str):
                reasons[layer.path] = planned
                continue
            made, fitted = self._made(work, layer, planned.numbers)
            net.set_submodule(layer.path, made)
            done[layer.path] = _measured(candidate.net.get_submodule(layer.path), made, planned, fitted)
            if fitted is not None and fitted.singular:
                said.append(f"{layer.path}: some direction of its inputs never varies: fitted with a ridge")
        small = settle(candidate, net, done, context.example)
        if context.train is not None and self.recalibrate and done:
            recalibrate(small.net, context.train, candidate.inputs, samples=self.recalibrate, seed=work.seed)
        table = rows(found, done, reasons)
        record = Record(self.name, asdict(self), (*notes(table), *said), {"layers": table})
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

    def _made(self, work: _Work, layer: Layer, numbers: Sequence[int]) -> tuple[nn.Module, Refitted | None]:
        """The module for a layer's place, and how well it meets the outputs."""
        module: Any = work.original.get_submodule(layer.path)
        seen = work.seen(layer.path) if self.kind in ("fire", "asymmetric") else None
        made = rebuilt(module, self._fitted(module, numbers, seen, work.seed))
        if work.images is None:
            return made, None
        with instead(work.host, layer.path, made):
            return made, refit(work.host, layer.path, layer.operation, work.original, work.images)

    def _fitted(self, layer: Any, numbers: Sequence[int], seen: Moments | None, seed: int) -> Rebuilt:
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


class _Work:
    """What fitting a layer needs: the network as it was, the one to fit in, images, and a seed."""

    def __init__(self, original: nn.Module, host: nn.Module, images: Calibration | None, seed: int) -> None:
        self.original, self.host, self.images, self.seed = original, host, images, seed

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
    return replace(planned, error=error, output_error=None if fitted is None else fitted.error)
