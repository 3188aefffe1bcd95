"""Low rank: a layer's weights as a product of smaller ones, its place taken by several cheaper layers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from netpress.budget import Bytes, Count
from netpress.candidate import Candidate, Context, Record
from netpress.errors import RecipeError
from netpress.methods.rank_fit import Fitter
from netpress.methods.rank_settings import Choice, Settings, choose, sites_of
from netpress.methods.refitting import Calibration, calibration
from netpress.methods.replaceable import Chosen, Layer, find
from netpress.methods.replacing import Done, notes, rows, settle, unspared
from netpress.methods.searching import Amounts, Estimate, Knob, Searched
from netpress.methods.targets import check_keys
from netpress.train.channels import recalibrate
from netpress.train.schedule import draw

Pattern = Annotated[str, Field(min_length=1)]
Rank = Annotated[int, Field(ge=1)]
Ranks = Rank | tuple[Rank, Rank]
Share = Annotated[float, Field(gt=0, le=1)]
_AMOUNTS = ("rank", "energy", "keep", "max_macs", "max_params", "max_size")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LowRank:
    """Put two to four cheaper layers in the place of a convolution or a linear layer, fitted to its weights.

        svd           W (O, I k k) = A B         k x k onto r channels, 1 x 1            r (I k^2 + O)
        spatial_svd   W (I k, O k) = A B         k x 1 onto r channels, 1 x k            r k (I + O)
        cp            W = sum_r a o b o c o d    1 x 1, k x 1 and 1 x k depthwise, 1 x 1   r (I + 2 k + O)
        tucker2       W = G x P x U              1 x 1, k x k from r to s, 1 x 1         I r + k^2 r s + s O

    with the weights of each on the right, as many multiply-adds per place. Linear layers and 1 x 1 convolutions are
    always divided in two (`svd`). Say how much with one of the first six settings; a table gives layers their own: by
    path, pattern, kind (`conv`, `linear`) or `default`.

    Attributes:
        kind: see above.
        rank: a number, two for `tucker2` (of the inputs, of the outputs; one stands for both, as far as there are so
            many channels), or "vbmf": by variational Bayes, which takes what it cannot tell from noise for noise.
        energy: the least rank that keeps this share of the squared weights, or outputs (see `objective`).
        keep: share of each layer's multiply-adds that stays, at most.
        max_macs, max_params, max_size: what the network may cost afterwards, `5M`, `60%`, `100kB`; per cent are of the
            network as it comes in. Which layer gives how much is decided by `allocation`.
        allocation: `energy`: so that the product of the energies kept is largest (Zhang et al. 2016); `scan`: so that
            the sum of the losses measured on `scan_samples` images, one layer at a time, is least (needs data).
        round_to: ranks that are chosen, not given by `rank`, are multiples of it as far as the full ranks allow; 8 is
            what ONNX Runtime's kernels like on a CPU.
        layers, frozen: paths or patterns of layers that are replaced, and of layers that are not; frozen wins.
        when: `saves`: a layer is left alone where neither multiply-adds nor parameters would fall; or `always`.
        objective: what is fitted: the `weights`; the layer's `outputs` on calibration images; or `asymmetric`, these
            outputs of the original network by inputs as they come through the layers replaced so far.
        samples: calibration images.
        scan_samples: validation images of the scan.
        fallback: what takes the place of a `cp` whose terms cancel each other instead of converging (degeneracy), with
            as many multiply-adds at most; `none`: the regularised `cp` itself.
        recalibrate: images that batch norms are measured on afterwards; 0: they keep their statistics.

    Sources: Denton et al. 2014 (svd), Jaderberg et al. 2014 (spatial_svd), Lebedev et al. 2015 (cp), Kim et al. 2016
    (tucker2, vbmf), Zhang et al. 2016 (outputs, asymmetric). They do not say: linear responses are fitted, before the
    nonlinearity; for `spatial_svd`, `cp` and `tucker2` the last factor is fitted to the outputs exactly, those before
    it in the metric of the inputs alone.

    >>> from netpress.methods import apply
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 10))
    >>> apply(LowRank(kind="tucker2", rank=4), net, example=torch.zeros(1, 16, 8, 8)).net[0].core
    Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), bias=False)
    """

    name: ClassVar[str] = "low_rank"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["svd", "spatial_svd", "cp", "tucker2"] = "svd"
    rank: Ranks | Literal["vbmf"] | dict[str, Ranks] | None = None
    energy: Share | dict[str, Share] | None = None
    keep: Share | dict[str, Share] | None = None
    max_macs: Count | None = None
    max_params: Count | None = None
    max_size: Bytes | None = None
    allocation: Literal["energy", "scan"] = "energy"
    round_to: Annotated[int, Field(ge=1, le=1024)] = 1
    layers: tuple[Pattern, ...] = ("*",)
    frozen: tuple[Pattern, ...] = ()
    when: Literal["saves", "always"] = "saves"
    objective: Literal["weights", "outputs", "asymmetric"] = "weights"
    samples: Annotated[int, Field(ge=1)] = 512
    scan_samples: Annotated[int, Field(ge=1)] = 1024
    fallback: Literal["tucker2", "spatial_svd", "svd", "none"] = "tucker2"
    recalibrate: Annotated[int, Field(ge=0)] = 2048

    def __post_init__(self) -> None:
        """Check what no single field can."""
        given = [name for name in _AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise RecipeError(f"low_rank: give one of {', '.join(_AMOUNTS)}, got {', '.join(given) or 'none'}")
        if self.allocation == "scan" and not given[0].startswith("max_"):
            raise RecipeError("low_rank: allocation = 'scan' divides a budget: give max_macs, max_params or max_size")
        if self.rank == "vbmf" and self.kind == "cp":
            raise RecipeError("low_rank: rank = 'vbmf' is about the singular values of a matrix, which cp has none of")
        pairs = self.rank.values() if isinstance(self.rank, Mapping) else (self.rank,)
        if self.kind != "tucker2" and any(isinstance(pair, tuple) for pair in pairs):
            raise RecipeError(f"low_rank: two ranks are those of tucker2; {self.kind} has one")

    @property
    def amount(self) -> str:
        """The setting that says how much."""
        return next(name for name in _AMOUNTS if getattr(self, name) is not None)

    def expand(self) -> list[LowRank]:
        """One round."""
        return [self]

    @classmethod
    def searched(cls, candidate: Candidate, context: Context, settings: Mapping[str, Any]) -> Searched:
        """The share of its multiply-adds that each layer keeps which can be divided."""
        plain = cls(**{"kind": "spatial_svd", **settings}, keep=1.0)
        layers = [
            x for x in find(candidate, context.example, plain.operation, chosen=plain._chosen) if x.reason is None
        ]

        def foresee(amounts: Amounts, before: Estimate) -> Estimate:
            parts = {}
            for layer in layers:
                if (keep := amounts.get(_pattern(layer.path))) is not None:
                    part, keep = before.parts[name := f"{layer.path}.weight"], float(keep)
                    parts[name] = replace(part, entries=part.entries * keep, macs=part.macs * keep)
            return before.changed(parts)

        def tuned(amounts: Amounts) -> LowRank | None:
            some: Any = {path: keep for path, keep in amounts.items() if keep is not None}
            return replace(plain, keep=some) if some else None

        values = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, None)
        knobs = (Knob(x.path, (_pattern(x.path),), values, x.params, _kind(candidate, x)) for x in layers)
        return Searched(tuple(knobs), tuned, foresee)

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`, and layers that are named and cannot be divided."""
        self._chosen.check(net, self.operation)
        check_keys(getattr(self, self.amount), net, f"low_rank.{self.amount}")

    @property
    def _chosen(self) -> Chosen:
        return Chosen(self.name, self.layers, self.frozen)

    def operation(self, layer: nn.Module) -> str:
        """What is to stand in a layer's place."""
        plain = isinstance(layer, nn.Linear) or tuple(getattr(layer, "kernel_size", ())) == (1, 1)
        return "svd" if plain else self.kind

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Replace layers.

        Raises:
            ModelError: a weight is not finite or no plain parameter, or the network does not run afterwards.
            RecipeError: a pattern names no layer, a layer named by its path cannot be divided or has no such rank, or
                data are needed and not there.
            BudgetError: a budget cannot be met; says what is the nearest.
        """
        check_keys(getattr(self, self.amount), candidate.net, f"low_rank.{self.amount}")
        found = find(candidate, context.example, self.operation, chosen=self._chosen)
        images = self._images(candidate, context)
        sites = sites_of(candidate.net, found, images, seed=draw(context.seed, context.step), step=self.round_to)
        fitter = Fitter(candidate.net, self.objective, images, self.fallback)
        choice = choose(self._settings(), sites, candidate, context, fitter)
        net, done = self._replaced(candidate, context, choice, fitter)
        small = settle(candidate, net, done, context.example)
        if done and context.train is not None and self.recalibrate:
            seed = draw(context.seed, context.step)
            recalibrate(small.net, context.train, candidate.inputs, samples=self.recalibrate, seed=seed)
        return small.but(history=(*candidate.history, self._record(found, choice, done, fitter)))

    def _images(self, candidate: Candidate, context: Context) -> Calibration | None:
        if self.objective == "weights":
            return None
        return calibration(candidate, context, samples=self.samples, what=f"low_rank.objective = {self.objective!r}")

    def _settings(self) -> Settings:
        return Settings(
            self.amount, getattr(self, self.amount), self.allocation, self.scan_samples, self.layers, asdict(self)
        )

    def _replaced(
        self, candidate: Candidate, context: Context, choice: Choice, fitter: Fitter
    ) -> tuple[nn.Module, dict[str, Done]]:
        """The network with the layers replaced, in the order in which it calls them."""
        net, done = deepcopy(candidate.net), dict[str, Done]()
        for site, numbers in choice.chosen:
            path = site.layer.path
            context.progress("low rank", len(done), len(choice.chosen), {})
            reason = unspared(site.layer, *site.price(numbers)) if self.when == "saves" else None
            if reason is not None:
                choice.reasons[path] = f"{_named(site.operation, numbers)}: {reason}"
            else:
                done[path] = fitter.put(net, site, numbers)
        return net, done

    def _record(self, found: tuple[Layer, ...], choice: Choice, done: Mapping[str, Done], fitter: Fitter) -> Record:
        table = rows(found, done, choice.reasons)
        facts: dict[str, Any] = {"layers": table}
        if choice.scanned:
            facts["sensitivity"] = choice.scanned
        return Record(self.name, asdict(self), (*notes(table), *fitter.said), facts)


METHODS = (LowRank,)
EXAMPLES = (
    LowRank(kind="svd", keep=0.5),
    LowRank(kind="cp", keep=0.6, objective="outputs", samples=32),
    LowRank(kind="tucker2", energy=0.8, when="always", objective="asymmetric", samples=32),
)


def _pattern(path: str) -> str:
    """A pattern that fits this layer alone: unlike its plain path it insists on nothing where a step before it left
    too little to divide.

    >>> _pattern("block1.conv")
    'block1.con[v]'
    """
    return f"{path[:-1]}[{path[-1]}]"


def _kind(candidate: Candidate, layer: Layer) -> str:
    return "linear" if isinstance(candidate.net.get_submodule(layer.path), nn.Linear) else "conv"


def _named(operation: str, numbers: tuple[int, ...]) -> str:
    return f"{operation} {', '.join(map(str, numbers))}"
