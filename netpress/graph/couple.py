"""Find out which channels of a network go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.graph.labels import Equations, IntArray
from netpress.graph.rules_math import RULES
from netpress.graph.run import hollow_input, run, to_meta
from netpress.graph.solve import Coupling, solve
from netpress.graph.trace import Rule, Tracer
from netpress.graph.trial import trial

TRIALS = 120

Rules = Mapping[str | None, Rule]


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
    hollow = to_meta(net)
    inputs = example if isinstance(example, tuple) else (example,)
    inputs = tuple(hollow_input(x) for x in inputs)
    modes: tuple[bool, ...] = (False,)
    choices: dict[str, int] = {}
    for _ in range(TRIALS):
        tracer, coupling, classes = _solved(hollow, inputs, rules, choices, modes)
        if coupling.untouched and not choices and len(modes) == 1 and _trains(hollow, inputs, rules):
            modes = (False, True)  # with auxiliary classifiers, say, which run in training only
            tracer, coupling, classes = _solved(hollow, inputs, rules, choices, modes)
        if strict and coupling.unknown:
            listed = ", ".join(f"{name} in {path or 'the network'}" for name, path in coupling.unknown)
            raise ModelError(f"no rule for {listed}; without strict their channels are kept")
        if len(modes) == 1 and not _risky(tracer, coupling, classes):
            return coupling
        misfit = trial(hollow, inputs, tracer, (coupling, classes), modes=modes)
        if misfit is None:
            return coupling
        choices = _next(choices, tracer, misfit)
    raise ModelError(f"the sizes written into the network's forward do not settle in {TRIALS} trials")


def _solved(
    hollow: nn.Module, inputs: tuple[Any, ...], rules: Rules, choices: Mapping[str, int], modes: tuple[bool, ...]
) -> tuple[Tracer, Coupling, IntArray]:
    tracer = Tracer(Equations(), rules, choices)
    run(tracer, hollow, inputs, modes=modes)
    return tracer, *solve(tracer, _named(tracer), choices, inputs)


def _trains(hollow: nn.Module, inputs: tuple[Any, ...], rules: Rules) -> bool:
    try:
        run(Tracer(Equations(), rules), hollow, inputs, modes=(True,))
    except ModelError:
        return False
    return True


def _named(tracer: Tracer) -> dict[str, Tensor]:
    return {known.name: known.tensor for known in tracer.known.values() if known.name}


def _refuse_lazy(net: nn.Module) -> None:
    for name, x in net.named_parameters():
        if isinstance(x, nn.parameter.UninitializedParameter):
            raise ModelError(f"{name} is not initialised yet; run the network once on an input, then prune it")


def _risky(tracer: Tracer, coupling: Coupling, classes: IntArray) -> bool:
    """Whether a number in the code may stand for channels that can go."""
    if not coupling.free:
        return False
    if tracer.found.risks:
        return True
    held = np.zeros(coupling.count, np.bool_)
    for group in coupling.free:
        held[group.classes] = True
    return any(held[classes[labels]].any() for labels in tracer.found.created)


def _next(choices: Mapping[str, int], tracer: Tracer, misfit: int) -> dict[str, int]:
    """The next reading of the operation that did not do as expected; pinned where there is none left."""
    for index in range(misfit, -1, -1):
        site, options = tracer.found.sites.get(index, ("", 0))
        if choices.get(site, 0) < options - 1:
            return {**choices, site: choices.get(site, 0) + 1}
        if f"pin {index}" not in choices:
            return {**choices, f"pin {index}": 1}
    raise ModelError("the sizes written into the network's forward cannot be followed")
