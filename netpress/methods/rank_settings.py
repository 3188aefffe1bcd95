"""Which ranks: from what the settings of `low_rank` say to numbers for each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn

from netpress.budget import BYTES, COUNT, amount
from netpress.candidate import Candidate, Context
from netpress.errors import BudgetError, RecipeError
from netpress.factor import Refused
from netpress.methods.file_bytes import coded, overhead
from netpress.methods.layer_budget import STAYS, Choices, afford, limit_of, scanned
from netpress.methods.rank_choice import Option
from netpress.methods.rank_fit import Fitter
from netpress.methods.rank_sites import Numbers, Site
from netpress.methods.refitting import Calibration
from netpress.methods.replaceable import Layer
from netpress.methods.replacing import settle
from netpress.methods.sensitivity import Row
from netpress.methods.targets import Target
from netpress.methods.targets import choose as choose_for
from netpress.train.moments import moments

SCAN_POINTS = 5
_POINTS, _ALL_POINTS = 24, 1200
_TRIES = 8
_NEAR = 0.02


@dataclass(frozen=True, slots=True)
class Settings:
    """What a recipe says about the ranks: the setting's name and value, how a budget is divided, which layers."""

    name: str
    value: Any
    allocation: Literal["energy", "scan"]
    samples: int
    layers: tuple[str, ...]
    all: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Choice:
    """Numbers per layer, in the order of the calls; why the others stay; what a scan measured."""

    chosen: list[tuple[Site, Numbers]] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    scanned: list[Row] = field(default_factory=list)


def sites_of(
    net: nn.Module, layers: Sequence[Layer], images: Calibration | None, *, seed: int, step: int = 1
) -> list[Site]:
    """The layers that can be replaced; with images, the moments of their inputs.

    Args:
        net: left untouched.
        layers: of `replaceable.find`.
        images: for the moments, or None.
        seed: of random starts.
        step: ranks that are chosen are multiples of it.
    """
    found = []
    for layer in layers:
        if layer.reason is not None:
            continue
        module, moment = net.get_submodule(layer.path), None
        if images is not None:
            seen = moments(
                net, layer.path, net, layer.path, images.split, images.inputs, samples=images.samples, seed=images.seed
            )
            moment = (seen if module.bias is None else seen.centred()).whole
        found.append(Site(layer, module, moment, seed, step))
    return found


def choose(settings: Settings, sites: Sequence[Site], candidate: Candidate, context: Context, fitter: Fitter) -> Choice:
    """The ranks that the settings mean.

    Raises:
        RecipeError: a layer named by its path has no such rank, or a scan has no data.
        BudgetError: the budget cannot be met.
    """
    if settings.name.startswith("max_"):
        return _within(settings, sites, candidate, context, fitter)
    choice = Choice()
    for site in sites:
        value = choose_for(settings.value, Target("", site.layer.path, _kind(site)))
        if value is None:
            choice.reasons[site.layer.path] = f"low_rank.{settings.name} has no value for it"
            continue
        numbers, reason = _meant(settings.name, value, site)
        if numbers is None:
            named = isinstance(settings.value, Mapping) and site.layer.path in settings.value
            if named or site.layer.path in settings.layers:
                raise RecipeError(f"low_rank.{settings.name}: {site.layer.path}: {reason}")
            choice.reasons[site.layer.path] = reason
        else:
            choice.chosen.append((site, numbers))
    return choice


def _kind(site: Site) -> str:
    return "linear" if isinstance(site.module, nn.Linear) else "conv"


def _meant(name: str, value: Any, site: Site) -> tuple[Numbers | None, str]:
    """The numbers that a value means for a layer, or why it means none."""
    match name:
        case "energy":
            return site.at_energy(value), ""
        case "keep":
            return site.at_share(value), ""
    if value == "vbmf":
        return site.by_bayes(), "variational Bayes takes all of it for noise"
    pair = isinstance(value, tuple)
    if site.operation == "tucker2":
        numbers = value if pair else tuple(min(value, most) for most in site.full)
    else:
        numbers = (min(value) if pair else value,)  # a 1 x 1 or linear layer among those of a tucker2
    try:
        site.price(numbers)
    except Refused as error:
        return None, str(error)
    if not pair and site.operation == "tucker2" and value > max(site.full):
        return None, f"rank {value}: expected 1 to {max(site.full)}, the full rank"
    return numbers, ""


# --- budgets ---


def _within(
    settings: Settings, sites: Sequence[Site], candidate: Candidate, context: Context, fitter: Fitter
) -> Choice:
    """Ranks for a budget."""
    options, rows = _options(settings, sites, candidate, context, fitter)
    choice = Choice(scanned=rows)
    told = f"low_rank: {settings.name} = {settings.value}"
    bound = limit_of(told, "macs" if settings.name == "max_macs" else "params", candidate)

    def pick(target: float) -> list[tuple[Site, Numbers]]:
        found = afford(options, bound, target)
        return [(site, found[site.layer.path].numbers) for site in sites if found[site.layer.path].numbers]

    if settings.name == "max_size":
        choice.chosen = _sized(settings, candidate, context, pick, bound.before)
    else:
        choice.chosen = pick(amount(settings.value, COUNT, baseline=bound.before))
    replaced = {site.layer.path for site, _ in choice.chosen}
    for site in sites:
        if site.layer.path not in replaced:
            choice.reasons[site.layer.path] = STAYS
    return choice


def _sized(
    settings: Settings,
    candidate: Candidate,
    context: Context,
    pick: Callable[[float], list[tuple[Site, Numbers]]],
    params: int,
) -> list[tuple[Site, Numbers]]:
    """Ranks whose file is within the bytes: parameters are what is bought, coded tensors say for how much."""
    extra = overhead(candidate)
    whole = extra + coded(candidate)
    limit = amount(settings.value, BYTES, baseline=whole)
    if limit >= whole:
        return []
    target, best = params * limit / whole, None
    for _ in range(_TRIES):
        small = _small(candidate, context, found := pick(target))
        size = extra + coded(small)
        if size <= limit:
            extra = overhead(small)  # the graph has grown with the layers
            size = extra + coded(small)
        if size <= limit:
            best = found
            if size >= (1 - _NEAR) * limit:
                break
        target -= (size - (1 - _NEAR / 2) * limit) / 4  # bytes of a float32
    if best is None:
        raise BudgetError(
            f"low_rank: max_size = {settings.value}: {limit:,.6g} bytes cannot be met; the nearest that was found is "
            f"{size:,} of {whole:,}"
        )
    return best


def _small(candidate: Candidate, context: Context, chosen: Sequence[tuple[Site, Numbers]]) -> Candidate:
    """The candidate with these ranks, fitted to the weights."""
    net = deepcopy(candidate.net)
    plain = Fitter(candidate.net, "weights", None, "none")
    done = {site.layer.path: plain.put(net, site, numbers) for site, numbers in chosen}
    return settle(candidate, net, done, context.example)


def _options(
    settings: Settings, sites: Sequence[Site], candidate: Candidate, context: Context, fitter: Fitter
) -> tuple[Mapping[str, Sequence[Option]], list[Row]]:
    """Per layer what it can be, with the damage by energy or as measured; and the rows of the scan."""
    if settings.allocation == "energy":
        points = max(_POINTS, _ALL_POINTS // max(len(sites), 1))
        return {site.layer.path: site.options(points) for site in sites}, []
    choices = {
        site.layer.path: Choices(site.operation, site.options(SCAN_POINTS), partial(fitter.alone, site))
        for site in sites
    }
    told = {name: settings.all[name] for name in ("kind", "objective", "samples", "fallback")}
    return scanned(candidate, choices, context, samples=settings.samples, settings=told)
