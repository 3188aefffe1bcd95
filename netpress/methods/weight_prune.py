"""Magnitude and saliency pruning of single weights (Han et al. 2015; LeCun, Denker, Solla 1990)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress.candidate import Candidate, Context, Record, edited
from netpress.errors import ModelError, RecipeError
from netpress.forms import Form, narrow
from netpress.methods.searching import Amounts, Estimate, Knob, Searched
from netpress.methods.targets import Target, check_keys, choose, targets
from netpress.train.bind import formed
from netpress.train.checkpoint import finite
from netpress.train.gradients import diagonal_fisher
from netpress.train.schedule import draw

Sparsity = Annotated[float, Field(ge=0, lt=1)]
Threshold = Annotated[float, Field(ge=0, le=10)]
SEARCHED = (0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.2, 0.0)
"""Sparsities that a search tries: finer where few weights are left."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WeightPrune:
    """Set the least important weights to zero, for ever; what stays keeps its value and is retrained.

        keep w  where  score(w) > threshold        score = |w|, or F w^2 / 2 with F the diagonal Fisher

    Give one of `sparsity` and `threshold_std`. A list means rounds of pruning and retraining. A table gives layers
    their own values: by path, pattern, `conv`, `linear`, `default`; layers it does not name are left alone.

    Attributes:
        sparsity: share of a tensor's weights that are zero afterwards, 0 to 1.
        threshold_std: q of Han et al. 2015: threshold = q x population standard deviation of the layer's weights.
        score: `magnitude`, or `saliency` (needs data): the estimated rise of the loss.
        scope: `layer`: each tensor reaches its own sparsity; `global`: one threshold for all.
        adjust_dropout: lower dropout rates as Han et al. 2015 do, D = D0 sqrt(C / C0), C the connections that the
            layer behind the dropout has left.
        samples: images for the Fisher of `saliency`.

    >>> [round.sparsity for round in WeightPrune(sparsity=[0.5, 0.9]).expand()]
    [0.5, 0.9]
    """

    name: ClassVar[str] = "weight_prune"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset({"support"})
    preserves: ClassVar[frozenset[str]] = frozenset({"support", "shared"})

    sparsity: Sparsity | list[Sparsity] | dict[str, Sparsity | list[Sparsity]] | None = None
    threshold_std: Threshold | list[Threshold] | dict[str, Threshold | list[Threshold]] | None = None
    score: Literal["magnitude", "saliency"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    adjust_dropout: bool = False
    samples: Annotated[int, Field(ge=1)] = 2048

    def __post_init__(self) -> None:
        """Check what no single field can."""
        if (self.sparsity is None) == (self.threshold_std is None):
            raise RecipeError("weight_prune: give one of sparsity and threshold_std")
        if self.scope == "global" and not isinstance(self.sparsity, float | int | list):
            raise RecipeError("weight_prune: scope = 'global' needs one sparsity (or a list), not a table or threshold")
        if self.threshold_std is not None and self.score == "saliency":
            raise RecipeError(
                "weight_prune: threshold_std is a threshold on |w|; with score = 'saliency' give sparsity"
            )
        lengths = {len(v) for v in self._values() if isinstance(v, list)}
        if 0 in lengths or len(lengths) > 1:
            raise RecipeError(f"weight_prune: all lists must have one length of at least 1, got {sorted(lengths)}")

    def _values(self) -> list[Any]:
        setting = self.sparsity if self.sparsity is not None else self.threshold_std
        return list(setting.values()) if isinstance(setting, Mapping) else [setting]

    def expand(self) -> list[WeightPrune]:
        """One method per round."""
        rounds = max([len(v) for v in self._values() if isinstance(v, list)], default=1)
        return [
            replace(self, sparsity=_round(self.sparsity, i), threshold_std=_round(self.threshold_std, i))
            for i in range(rounds)
        ]

    def check(self, net: nn.Module) -> None:
        """Refuse a table that names a layer which `net` does not have."""
        setting: Any = self.sparsity if self.sparsity is not None else self.threshold_std
        check_keys(setting, net, "weight_prune." + ("sparsity" if self.sparsity is not None else "threshold_std"))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Prune once. Weights that were pruned before stay pruned.

        Raises:
            ModelError: a weight is not finite, or nothing would be left of a tensor.
            RecipeError: a table names no layer, or a list was not expanded.
        """
        if any(isinstance(value, list) for value in self._values()):
            raise RecipeError("weight_prune: a list of rounds is for recipes; apply each of expand() in turn")
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: nothing can be pruned by it")
        chosen = self._amounts(candidate.net)
        scores = self._scores(candidate, [t.name for t, _ in chosen], context)
        supports = self._supports(candidate, chosen, scores)
        forms = dict(candidate.forms)
        for name, support in supports.items():
            forms[name] = _shrink(forms.get(name, Form()), support, name)
        pruned = candidate.but(net=formed(candidate.net, forms), forms=forms)
        if self.adjust_dropout:
            pruned = _adjust_dropout(candidate, pruned)
        return pruned.but(history=(*candidate.history, Record(self.name, asdict(self))))

    @classmethod
    def searched(cls, candidate: Candidate, _context: Context, settings: Mapping[str, Any]) -> Searched:
        """A sparsity for every convolution and linear layer."""
        found = list(targets(candidate.net))
        names = {target.path: target.name for target in found}
        sizes = {target.path: candidate.net.get_parameter(target.name).numel() for target in found}

        def foresee(amounts: Amounts, before: Estimate) -> Estimate:
            parts = {}
            for path, sparsity in amounts.items():
                part = before.parts[names[path]]
                parts[names[path]] = replace(part, density=min(part.density, 1 - float(sparsity or 0)))
            return before.changed(parts)

        def tuned(amounts: Amounts) -> WeightPrune | None:
            some = {path: float(sparsity) for path, sparsity in amounts.items() if sparsity}
            return cls(**settings, sparsity={**some}) if some else None

        return Searched(tuple(Knob(t.path, (t.path,), SEARCHED, sizes[t.path], t.kind) for t in found), tuned, foresee)

    def _amounts(self, net: nn.Module) -> list[tuple[Target, float]]:
        self.check(net)
        setting: Any = self.sparsity if self.sparsity is not None else self.threshold_std
        found = [(target, choose(setting, target)) for target in targets(net)]
        return [(target, float(amount)) for target, amount in found if amount is not None]

    def _scores(self, candidate: Candidate, names: list[str], context: Context) -> dict[str, Tensor]:
        weights = {name: candidate.net.get_parameter(name).detach() for name in names}
        if self.score == "magnitude":
            return {name: w.abs() for name, w in weights.items()}
        if context.train is None:
            raise RecipeError("weight_prune: score = 'saliency' needs data")
        seed = draw(context.seed, context.step)
        fisher = diagonal_fisher(candidate.net, names, context.train, candidate.inputs, samples=self.samples, seed=seed)
        return {name: fisher[name] * w.square() / 2 for name, w in weights.items()}

    def _supports(
        self, candidate: Candidate, chosen: list[tuple[Target, float]], scores: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        live = {t.name: _live(candidate.forms.get(t.name), scores[t.name]) for t, _ in chosen}
        if self.threshold_std is not None:
            return {t.name: live[t.name] & (scores[t.name] > _threshold(candidate, t.name, q)) for t, q in chosen}
        if self.scope == "global":
            flat = torch.cat([scores[t.name].masked_fill(~live[t.name], -1).flatten() for t, _ in chosen])
            keep = _largest(flat, flat.numel() - round(float(self.sparsity) * flat.numel()))  # type: ignore[arg-type]
            parts = torch.split(keep, [scores[t.name].numel() for t, _ in chosen])
            return {t.name: p.view_as(scores[t.name]) & live[t.name] for (t, _), p in zip(chosen, parts, strict=True)}
        found = {}
        for target, sparsity in chosen:
            score = scores[target.name].masked_fill(~live[target.name], -1)
            keep = _largest(score.flatten(), max(1, score.numel() - round(sparsity * score.numel())))
            found[target.name] = keep.view_as(score) & live[target.name]
        return found


METHODS = (WeightPrune,)
EXAMPLES = (
    WeightPrune(sparsity=0.8),
    WeightPrune(threshold_std=1.0, adjust_dropout=True),
    WeightPrune(sparsity=0.7, scope="global", score="saliency", samples=64),
    WeightPrune(sparsity={"conv": 0.5, "linear": 0.9}),
)


def _round(setting: Any, i: int) -> Any:
    if isinstance(setting, Mapping):
        return {key: _round(value, i) for key, value in setting.items()}
    return setting[i] if isinstance(setting, list) else setting


def _live(form: Form | None, like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool) if form is None or form.support is None else form.support


def _largest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest scores; among equals the earlier ones are dropped first."""
    order = torch.argsort(scores, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[order[len(order) - count :]] = True
    return mask


def _threshold(candidate: Candidate, name: str, q: float) -> float:
    """q x the population standard deviation of all weights of the layer."""
    w = candidate.net.get_parameter(name).detach()
    return q * w.double().std(correction=0).item()


def _shrink(form: Form, support: Tensor, name: str) -> Form:
    """`form` on a smaller support; a table keeps the places that are still used."""
    if not support.any() and (form.support is None or form.support.any()):
        raise ModelError(f"{name}: nothing would be left of its {support.numel()} weights; prune less")
    return narrow(form, support)


def _adjust_dropout(before: Candidate, after: Candidate) -> Candidate:
    """Lower each dropout's rate by the connections that the next layer behind it has lost in this round."""
    arch, net = after.arch, after.net
    weights = {t.path: t.name for t in targets(net)}
    waiting: list[str] = []
    for path, module in net.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            waiting.append(path)
        elif path in weights:
            left = _count(after, weights[path]) / _count(before, weights[path])
            for dropout in waiting:
                layer = net.get_submodule(dropout)
                assert isinstance(layer, nn.modules.dropout._DropoutNd)
                layer.p = layer.p * math.sqrt(left)
                arch = edited(arch, "dropout", dropout, layer.p)
            waiting = []
    return after.but(arch=arch)


def _count(candidate: Candidate, name: str) -> int:
    w = candidate.net.get_parameter(name)
    return int(_live(candidate.forms.get(name), w).sum())
