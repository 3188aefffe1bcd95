"""Find out which channels of a network go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.graph.labels import Equations, IntArray
from netpress.graph.rules_math import RULES
from netpress.graph.run import hollow_input, run, to_meta
from netpress.graph.solve import Coupling, solve
from netpress.graph.trace import Rule, Tracer
from netpress.graph.trial import Misfit, trial

TRIALS, ALONE = 60, 4  # trials before whole kinds of operations are pinned; pins before a line of the source is

Rules = Mapping[str | None, Rule]
Choices = Mapping[str, int]


def couple(net: nn.Module, example: Any, *, strict: bool = False, rules: Rules = RULES) -> Coupling:
    """Which channels of a network go together, found by one run on channel labels.

    Every axis of every parameter gets integer labels; operations move them and equate them; a class is a connected
    component of the equations. Where an operation holds numbers that may or may not follow the channels, the readings
    are tried in turn: a network pruned at random is run on labels too, and must do to them what the original does.

    Args:
        net: left untouched; its weights are not read.
        example: an input, or a tuple of inputs; only shapes and types matter.
        strict: refuse a network that holds an operation without a rule, instead of pinning what enters it.
        rules: rule per operation.

    Returns:
        Classes, groups, pins with their reasons.

    Raises:
        ModelError: the network does not run on the example, looks at values, or (`strict`) an operation has no rule.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> [(g.name, len(g), g.cost.tolist(), g.pinned) for g in couple(net, torch.zeros(1, 1, 8, 8)).groups]
    [('0', 4, [28, 28, 28, 28], ''), ('2', 2, [37, 37], 'network output')]
    """
    _refuse_lazy(net)
    inputs = example if isinstance(example, tuple) else (example,)
    subject = _Subject(to_meta(net), tuple(hollow_input(x) for x in inputs), rules)
    found = subject.read({})
    if strict and found.coupling.unknown:
        listed = ", ".join(f"{name} in {path or 'the network'}" for name, path in found.coupling.unknown)
        raise ModelError(f"no rule for {listed}; without strict their channels are kept")
    if found.coupling.untouched and subject.trains():
        subject = _Subject(subject.net, subject.inputs, rules, modes=(False, True))
        found = subject.read({})
    return _widened(subject, *subject.settled(found, TRIALS)).coupling


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One reading of a network: what was traced, what follows from it, the class of every label."""

    tracer: Tracer
    coupling: Coupling
    classes: IntArray

    @property
    def choices(self) -> Choices:
        return self.coupling.choices

    @property
    def free(self) -> int:
        """Parameters on channels that can go, each counted once per channel that it hangs on."""
        return sum(int(group.cost.sum()) for group in self.coupling.free)


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """A hollow network, its inputs, and the modes in which it is run: training too where that uses more of it."""

    net: nn.Module
    inputs: tuple[Any, ...]
    rules: Rules
    modes: tuple[bool, ...] = (False,)

    def read(self, choices: Choices) -> _Found:
        tracer = Tracer(Equations(), self.rules, choices)
        run(tracer, self.net, self.inputs, modes=self.modes)
        return _Found(tracer, *solve(tracer, _named(tracer), choices, self.inputs))

    def trains(self) -> bool:
        try:
            run(Tracer(Equations(), self.rules), self.net, self.inputs, modes=(True,))
        except ModelError:
            return False
        return True

    def settled(self, found: _Found, trials: int) -> tuple[_Found, int]:
        """Other readings, until a trial finds nothing amiss; and how many trials are left."""
        while len(self.modes) > 1 or _risky(found):
            solved = (found.coupling, found.classes)
            misfit = trial(self.net, self.inputs, found.tracer, solved, modes=self.modes)
            trials -= 1
            if misfit is None:
                break
            found = self.read(_next(found, misfit, coarse=trials < 0))
        return found, trials


def _widened(subject: _Subject, found: _Found, trials: int) -> _Found:
    """Readings under which more channels can go, where the ones taken pinned some."""
    tried: set[tuple[str, int]] = set()
    while trials > 0:
        pinned = np.zeros(found.coupling.count, np.bool_)
        for group in found.coupling.groups:
            pinned[group.classes] = bool(group.pinned) and not group.pinned.startswith("network")
        step = next(
            (
                (site.place, option)
                for site in found.tracer.found.sites.values()
                if pinned[found.classes[site.labels]].any()
                for option in range(site.options - 1)
                if (site.place, option) not in tried and option != found.choices.get(site.place, 0)
            ),
            None,
        )
        if step is None:
            break
        tried.add(step)
        without_pins = {place: k for place, k in found.choices.items() if not place.startswith("pin ")}
        other, trials = subject.settled(subject.read({**without_pins, step[0]: step[1]}), trials - 1)
        if other.free > found.free:
            found = other
    return found


def _named(tracer: Tracer) -> dict[str, Tensor]:
    return {known.name: known.tensor for known in tracer.known.values() if known.name}


def _refuse_lazy(net: nn.Module) -> None:
    for name, x in net.named_parameters():
        if isinstance(x, nn.parameter.UninitializedParameter):
            raise ModelError(f"{name} is not initialised yet; run the network once on an input, then prune it")


def _risky(found: _Found) -> bool:
    """Whether a number in the code may stand for channels that can go."""
    if not found.coupling.free:
        return False
    if found.tracer.found.risks:
        return True
    held = np.zeros(found.coupling.count, np.bool_)
    for group in found.coupling.free:
        held[group.classes] = True
    return any(held[found.classes[labels]].any() for labels in found.tracer.found.created)


def _next(found: _Found, misfit: Misfit, *, coarse: bool) -> Choices:
    """The next reading of the operation that did not do as expected; pinned where there is none left.

    The operation alone is pinned; where a line of the source has failed `ALONE` times, it is pinned in every block that
    runs it; if `coarse`, every operation of its name is. Then what enters the module: its code may ask for that shape.
    """
    choices, places = found.choices, found.tracer.found.places
    names = {output.index: output.name for output in found.tracer.found.outputs}
    for index in range(misfit.index, -1, -1):
        site = found.tracer.found.sites.get(index)
        if not coarse and site is not None and choices.get(site.place, 0) < site.options - 1:
            return {**choices, site.place: choices.get(site.place, 0) + 1}
        every = f"pin every {names.get(index, 'view')}"
        place = places.get(index, "pin nothing")  # places are written down once there are choices
        alone = sum(places[k] == place for k in places if f"pin {k}" in choices)
        for pin in (every,) if coarse else (place,) if alone >= ALONE else (f"pin {index}",):
            if pin not in choices:
                return {**choices, pin: 1}
        if index == misfit.index and misfit.owner and (inputs := f"pin inputs of {misfit.owner}") not in choices:
            return {**choices, inputs: 1}
    raise ModelError("the sizes written into the network's forward cannot be followed")
