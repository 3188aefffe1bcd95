"""A walk from the whole network downwards, always where it costs least accuracy per load: after NetAdapt.

Yang et al., "NetAdapt" (ECCV 2018), try in every round each layer alone, keep the best, and go on from there. That
takes as many trials per round as there are layers. Here only the first round tries them all; later ones believe what
each layer's last trial said until a trial shows otherwise (the lazy evaluation of greedy algorithms: Minoux 1978).

The walk, from the rows alone:

1. Probes: each dimension alone is lowered from the whole network by the fewest notches that save a step. The *rate* of
   a dimension is the accuracy that its last trial lost per load that it saved.
2. A move lowers the dimension of the lowest rate from where the walk is, by a step; where that one cannot save as much,
   the next ones are lowered too, until the step is saved.
3. The move's trial gives all its dimensions a new rate. If it lost no more than the next best move was believed to
   lose, with some patience, the walk goes there. Else it stays, and the new rates decide again. When moves repeat
   because rates no longer change anything, the walk takes the best one that was tried from where it is.

A step is an eighth of the load that has to go, more where trials would not suffice: half of the moves are expected to
be accepted. The last one before the limit saves just what is needed. Below the limit the walk goes on, for the rest of
the front. Loads are anchored at the baseline, so that the walk is found again from the rows whatever `foresee` has
learnt meanwhile. Trials still running count as if they had lost what was believed, failed ones as if they had lost all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from netpress.search.sampler import Question
from netpress.search.samplers.random import Random
from netpress.search.samplers.repair import Foresight, Key, key
from netpress.search.space import Dimension, Policy, Value

STEPS = 8
PATIENCE = 1.5  # a move may lose this many times what the next best was believed to lose
SMALL = 1e-9  # loads that differ by less are equal


@dataclass(frozen=True, slots=True)
class Greedy:
    """The walk of this module.

    Attributes:
        name: of the sampler.
    """

    name: str = "greedy"

    def propose(self, question: Question) -> Policy:
        """The first policy of the walk that no trial had; a random one where the walk is at its end."""
        walk = _Walk.begin(question)
        for _ in range(4 * question.trials + 4 * len(question.space.dimensions)):
            policy = walk.next()
            if policy is None:
                break
            if key(question, policy) not in walk.tried:
                return policy
            walk.learn(policy)
        return Random().propose(question)


@dataclass(slots=True, eq=False)
class _Walk:
    """Where the walk is; made anew for each proposal."""

    foresight: Foresight
    tried: Mapping[Key, float | None]
    at: dict[str, Value]
    top1: float
    step: float
    rates: dict[str, float] = field(default_factory=dict)
    rejected: dict[Key, tuple[float, float, dict[str, Value]]] = field(default_factory=dict)

    @classmethod
    def begin(cls, question: Question) -> _Walk:
        """At the whole network, whose accuracy is the baseline's."""
        foresight = Foresight.anchored(question)
        whole, lowest = question.space.whole(), foresight.load(question.space.strongest())
        goes = foresight.load(whole) - (max(1.0, lowest) if question.goal.limits else lowest)
        if goes <= SMALL:  # the limits are kept as it is
            goes = foresight.load(whole) - lowest
        free = [d for d in question.space if len(d.values) > 1]
        moves = max(1, (question.trials - len(free)) // 2)
        tried: dict[Key, float | None] = {}
        for row in question.rows:
            if row.state != "running":
                tried[key(question, row.policy)] = row.top1 if row.measured else 0.0
            else:
                tried.setdefault(key(question, row.policy), None)
        return cls(foresight, tried, whole, question.goal.baseline.get("top1", 1.0), goes / min(STEPS, moves))

    @property
    def free(self) -> list[Dimension]:
        """Dimensions that can be lowered from where the walk is."""
        return [d for d in self.foresight.question.space if self.at[d.name] != d.values[0]]

    def next(self) -> dict[str, Value] | None:
        """The probe or move whose turn it is; None at the end."""
        for dimension in self.free:
            if dimension.name not in self.rates:
                return self.lowered([dimension])
        order = sorted(self.free, key=lambda d: self.rates[d.name])
        return self.lowered(order) if order else None

    def lowered(self, order: list[Dimension]) -> dict[str, Value]:
        """Dimensions lowered one after the other, notch by notch, until a step is saved."""
        begun = self.foresight.load(self.at)
        limited = bool(self.foresight.question.goal.limits) and begun > 1 + SMALL
        end = max(begun - self.step, 1.0) if limited and len(order) > 1 else begun - self.step
        policy = dict(self.at)
        for dimension in order:
            for place in reversed(range(dimension.values.index(policy[dimension.name]))):
                policy[dimension.name] = dimension.values[place]
                if self.foresight.load(policy) <= end + SMALL:
                    return policy
        return policy

    def learn(self, policy: dict[str, Value]) -> None:
        """Take in what a trial of the walk came to: new rates, and whether the walk goes there."""
        names = [name for name, value in policy.items() if value != self.at[name]]
        saved = self.foresight.load(self.at) - self.foresight.load(policy)
        probe = any(name not in self.rates for name in names)
        believed = max((self.rates.get(name, 0.0) for name in names), default=0.0)
        told = self.tried[key(self.foresight.question, policy)]
        top1 = told if told is not None else self.top1 - believed * max(saved, SMALL)
        rate = (self.top1 - top1) / saved if saved > SMALL else math.inf
        for name in names:
            self.rates[name] = rate
        if probe:
            return
        place = key(self.foresight.question, policy)
        others = [self.rates[d.name] for d in self.free if d.name not in names]
        again = place in self.rejected
        self.rejected[place] = (rate, top1, policy)
        if again:
            _, top1, policy = min(self.rejected.values(), key=lambda found: found[0])
        elif others and rate > PATIENCE * max(min(others), 0.0) + SMALL:
            return
        self.at, self.top1, self.rejected = policy, top1, {}
