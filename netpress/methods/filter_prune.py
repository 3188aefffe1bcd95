"""Filter pruning by channel labels: whole filters go, with everything that belongs to them (Li et al. 2017)."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from netpress import graph
from netpress.budget import Bytes, Count, Milliseconds, amount
from netpress.candidate import Candidate, Context, Record, edited
from netpress.errors import BudgetError, ModelError, RecipeError
from netpress.graph import Coupling, Group
from netpress.methods.filter_budget import UNITS, meter, pruned
from netpress.methods.filter_choice import TOLERANCE, Bundle, Flags, bundles, flags, in_order, meet
from netpress.methods.filter_facts import facts
from netpress.methods.filter_scores import Scores, score
from netpress.methods.filter_search import searched
from netpress.methods.searching import Amounts, Searched
from netpress.methods.targets import targets
from netpress.train.bind import parametrized
from netpress.train.channels import recalibrate
from netpress.train.checkpoint import finite
from netpress.train.schedule import draw

Share = Annotated[float, Field(gt=0, le=1)]
Filters = Annotated[int, Field(ge=0)]
Least = Annotated[float, Field(ge=0)]
_AMOUNTS = ("keep", "remove", "threshold", *UNITS)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FilterPrune:
    """Remove whole filters, with their biases, norms and the weights that read them, wherever they are coupled.

        score of a filter = sum |w|  (l1)        the lowest go; a class of coupled channels goes as one

    The result is a smaller network that equals the original with these channels zero, checked on every prune. Say how
    much with one of the first seven settings; a table gives layers their own: by path, pattern or `default`.

    Attributes:
        keep: share of each layer's filters that stays, above 0 to 1.
        remove: filters that go from each layer.
        threshold: filters of a lower score go.
        max_macs, max_params, max_size, max_latency: what the network may cost afterwards, `5M`, `60%`, `100kB`, `4ms`;
            per cent are of the network as it comes in; met within 2 %, from below if possible. Latency: ONNX Runtime,
            one thread, batch 1.
        score: `l1`, `l2`, `bn_scale`, `taylor` (needs data), `geometric_median`, `activation` (needs data), `random`.
        scope: `layer`: all layers lose the same share; `global`: the least important of all go first.
        floor: share of every layer's filters that stays whatever happens.
        round_to: what stays of a layer that loses filters is a multiple of it; layers that are smaller stay whole.
        frozen: paths or patterns of layers that keep their filters.
        order: `together`, or `largest_first`: each round prunes one layer, that with most parameters first.
        rounds: rounds of pruning and retraining; together, each takes an equal factor of what is to go.
        recalibrate: images that batch norms are measured on afterwards; 0: they keep their statistics.
        samples: images for `taylor` and `activation`.
        turn: which of the rounds this is, from 0; `expand` sets it.

    >>> from netpress.methods import apply
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> apply(FilterPrune(keep=0.5), net, example=torch.zeros(1, 1, 8, 8)).net[0].out_channels
    4
    """

    name: ClassVar[str] = "filter_prune"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset({"support", "shared"})

    keep: Share | dict[str, Share] | None = None
    remove: Filters | dict[str, Filters] | None = None
    threshold: Least | dict[str, Least] | None = None
    max_macs: Count | None = None
    max_params: Count | None = None
    max_size: Bytes | None = None
    max_latency: Milliseconds | None = None
    score: Literal["l1", "l2", "bn_scale", "taylor", "geometric_median", "activation", "random"] = "l1"
    scope: Literal["layer", "global"] = "layer"
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    round_to: Annotated[int, Field(ge=1, le=1024)] = 1
    frozen: tuple[str, ...] = ()
    order: Literal["together", "largest_first"] = "together"
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    recalibrate: Annotated[int, Field(ge=0)] = 2048
    samples: Annotated[int, Field(ge=1)] = 512
    turn: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """Check what no single field can."""
        given = [name for name in _AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise RecipeError(f"filter_prune: give one of {', '.join(_AMOUNTS)}, got {', '.join(given) or 'none'}")
        if self.scope == "global" and not (given[0] in UNITS or isinstance(self.keep, float)):
            raise RecipeError("filter_prune: scope = 'global' needs one keep or a budget such as max_macs")
        if self.order == "largest_first" and given[0] in UNITS:
            raise RecipeError("filter_prune: order = 'largest_first' needs keep, remove or threshold")
        if self.rounds > 1 and self.order == "together" and given[0] in ("remove", "threshold"):
            raise RecipeError("filter_prune: several rounds together need keep or a budget such as max_macs")
        if self.turn >= self.rounds:
            raise RecipeError(f"filter_prune: turn {self.turn} of {self.rounds} rounds; turns count from 0")

    def expand(self) -> list[FilterPrune]:
        """One method per round."""
        return [replace(self, turn=turn) for turn in range(self.rounds)]

    @classmethod
    def searched(cls, candidate: Candidate, context: Context, settings: Mapping[str, Any]) -> Searched:
        """A share of the filters for every group of channels that can go."""

        def tuned(amounts: Amounts) -> FilterPrune | None:
            some: Any = {path: keep for path, keep in amounts.items() if keep is not None and keep < 1}
            return cls(**settings, keep=some) if some else None

        return searched(candidate, context, tuned, settings)

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`."""
        self._check_patterns([path for path, module in net.named_modules() if path and _filters_in(module)])

    def _check_patterns(self, paths: Sequence[str]) -> None:
        amounts = {name: getattr(self, name) for name in ("keep", "remove", "threshold")}
        named = [("frozen", key) for key in self.frozen]
        named += [(name, key) for name, v in amounts.items() if isinstance(v, Mapping) for key in v if key != "default"]
        for field, key in named:
            if not any(fnmatch.fnmatchcase(path, key) for path in paths):
                some = ", ".join(paths[:12]) + (", ..." if len(paths) > 12 else "")
                raise RecipeError(f"filter_prune.{field}: {key!r} names no layer with filters; expected one of {some}")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Prune once; the pruned network is compared with its zeroed twin in float64.

        Raises:
            ModelError: a weight is not finite, no channel can go, or the check fails.
            RecipeError: a pattern names no layer, or the score needs data.
            BudgetError: a budget cannot be met within 2 %; says what is the nearest.
        """
        list(targets(candidate.net))  # refuses weights that a hook computes
        if (where := parametrized(candidate.net)) is not None:
            raise ModelError(f"{where} is computed by a parametrization: remove that before pruning")
        self.check(candidate.net)
        coupling = graph.couple(candidate.net, context.example)  # also refuses weights that are not there yet
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: nothing can be pruned by it")
        self._check_patterns(list(dict.fromkeys(path for group in coupling.groups for path in group.makers)))
        groups = self._groups(coupling, candidate)
        scores = score(self.score, candidate, groups, context, samples=self.samples)
        kept = self._kept(candidate, coupling, groups, scores)
        small = pruned(candidate, coupling, kept)
        error = graph.check(candidate.net, small.net, coupling, kept)
        if self.order == "largest_first":
            small = small.but(arch=edited(small.arch, "pruned", groups[0].name))
        if context.train is not None and self.recalibrate:
            seed = draw(context.seed, context.step)
            recalibrate(small.net, context.train, candidate.inputs, samples=self.recalibrate, seed=seed)
        frozen = {g.name for g in coupling.free if self._frozen(g)}
        told = facts(coupling, kept, scores, frozen=frozen)
        record = Record(self.name, asdict(self), _notes(coupling, kept, error), told)
        return small.but(history=(*candidate.history, record))

    def _groups(self, coupling: Coupling, candidate: Candidate) -> list[Group]:
        """Groups whose members may go."""
        found = [group for group in coupling.free if not self._frozen(group)]
        if self.order == "largest_first":
            turns = [edit[1] for edit in candidate.arch.edits if edit[0] == "pruned"]
            done = turns[len(turns) - self.turn :]  # a note per turn, also in the file between the turns
            left = [group for group in found if group.name not in done]
            if self.rounds - self.turn > len(left) > 0:  # none at all: said below
                raise RecipeError(
                    f"filter_prune: rounds = {self.rounds}, but only {len(done) + len(left)} layers can be pruned"
                )
            found = [max(left, key=_own_parameters)] if left else []
        if not found:
            reasons = {group.pinned for group in coupling.groups if group.pinned}
            raise ModelError(f"no filter can be removed: {'; '.join(sorted(reasons)[:3]) or 'all layers are frozen'}")
        return found

    def _frozen(self, group: Group) -> bool:
        return any(fnmatch.fnmatchcase(path, key) for path in group.makers for key in self.frozen)

    def _kept(self, candidate: Candidate, coupling: Coupling, groups: Sequence[Group], scores: Scores) -> Flags:
        each = {g.name: bundles(g, scores, round_to=self.round_to, floor=self.floor) for g in groups}
        going = in_order(coupling, (b for found in each.values() for b in found), self._key)
        if limit := next((name for name in UNITS if getattr(self, name) is not None), None):
            return flags(self._meet(limit, candidate, coupling, (going, groups)), groups)
        if self.scope == "global":
            assert isinstance(self.keep, float)
            ends = np.cumsum([0, *(len(b.members) for b in going)])
            count = int(np.abs(ends - (1 - self._part(self.keep)) * sum(map(len, groups))).argmin())
            return flags(going[:count], groups)
        return flags((b for b in going if self._goes(b, coupling.by_name[b.group])), groups)

    def _key(self, bundle: Bundle) -> float:
        return bundle.rank if self.scope == "global" else bundle.share

    def _part(self, keep: float) -> float:
        """The share that this round keeps."""
        return float(keep ** (1 / self.rounds)) if self.order == "together" else keep

    def _goes(self, bundle: Bundle, group: Group) -> bool:
        """Whether a bundle goes by its layer's own share, count or threshold."""
        if self.keep is not None:
            keep = _of(self.keep, group)
            return keep is not None and bundle.share < 1 - self._part(keep) - 1e-9
        if self.remove is not None:
            return bundle.gone <= (_of(self.remove, group) or 0)
        least = _of(self.threshold, group)
        return least is not None and bundle.most < least

    def _meet(
        self, limit: str, candidate: Candidate, coupling: Coupling, order: tuple[Sequence[Bundle], Sequence[Group]]
    ) -> Sequence[Bundle]:
        """Which bundles must go for a budget."""
        going, groups = order
        left = _remembering(meter(limit, candidate, coupling, near=flags([], groups)), groups)
        text: str = getattr(self, limit)
        whole = left([])
        target = amount(text, UNITS[limit], baseline=whole)
        target = whole * (target / whole) ** (1 / (self.rounds if "%" in text else self.rounds - self.turn))
        if target >= whole:
            return []
        chosen = meet(going, left, target)
        if limit == "max_size":  # again, where header and graph are those of a network that is nearly the result
            left = _remembering(meter(limit, candidate, coupling, near=flags(chosen, groups)), groups)
            chosen = meet(going, left, target)
        if abs(left(chosen) - target) > TOLERANCE * target:
            raise BudgetError(
                f"filter_prune: {limit} = {text}: {target:,.6g} cannot be met within 2 %; the nearest that can be "
                f"reached is {left(chosen):,.6g} of {whole:,.6g}"
            )
        return chosen


METHODS = (FilterPrune,)
EXAMPLES = (
    FilterPrune(keep=0.5, score="l2"),
    FilterPrune(keep=0.7, scope="global", score="taylor", samples=64),
    FilterPrune(keep=0.6, rounds=2, recalibrate=0),
    FilterPrune(remove=1, order="largest_first", score="geometric_median"),
)


def _remembering(measure: Callable[[Flags], float], groups: Sequence[Group]) -> Callable[[Sequence[Bundle]], float]:
    """What is left when some bundles have gone; nothing is measured twice."""
    known: dict[bytes, float] = {}

    def left(chosen: Sequence[Bundle]) -> float:
        kept = flags(chosen, groups)
        key = b"".join(part.tobytes() for part in kept.values())
        if key not in known:
            known[key] = measure(kept)
        return known[key]

    return left


def _filters_in(module: nn.Module) -> bool:
    """Whether a module holds parameters that may be filters."""
    norm = isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm)
    return not norm and next(module.parameters(recurse=False), None) is not None


def _own_parameters(group: Group) -> int:
    """Weights that make the channels; those that read them are other layers'."""
    made = [slot for slot in group.slots if slot.role == "filter"] or group.slots
    rows = {
        (name, axis): size
        for name, axis, size in zip(group.table.names, group.table.axes, group.table.sizes, strict=True)
    }
    sizes = [rows[slot.tensor, slot.axis] for slot in made]
    return sum(slot.positions.size * int(numel // length) for slot, (length, numel) in zip(made, sizes, strict=True))


def _of(setting: Any, group: Group) -> Any:
    """The value that a setting has for a group: of a table, that of the first key that names one of its layers."""
    if not isinstance(setting, Mapping):
        return setting
    for key, value in setting.items():
        if any(fnmatch.fnmatchcase(path, key) for path in group.makers):
            return value
    return setting.get("default")


def _notes(coupling: Coupling, kept: Flags, error: float) -> tuple[str, ...]:
    notes = [f"{name}: {int(chosen.sum())} of {len(chosen)} stay" for name, chosen in kept.items() if not chosen.all()]
    pinned: dict[str, int] = {}
    for group in coupling.groups:
        if group.pinned:
            pinned[group.pinned] = pinned.get(group.pinned, 0) + len(group)
    notes += [f"{count} channels cannot go: {reason}" for reason, count in pinned.items()]
    mixed = sorted({mix for group in coupling.free for mix in group.mixes if group.name in kept})
    notes += [f"changes the function: {mix}" for mix in mixed]
    return (*notes, f"equals the zeroed twin to {error:.1e} (float64)")
