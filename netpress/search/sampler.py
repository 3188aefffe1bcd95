"""The protocol of samplers: which policy to try next, as a function of what was tried before and of a seed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from netpress.search.goal import Costs, Goal, Row
from netpress.search.space import Policy, Space


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a sampler is asked.

    Attributes:
        space: what can be decided.
        goal: what is wanted.
        rows: trials that began before this one, by number; the newest may be running still.
        number: of the trial that is asked for.
        trials: how many there will be at most.
        seed: of the search; what a sampler draws is a function of (seed, number) and the rows.
        foresee: costs of a policy, from shapes alone, without building or training anything; cheap.
    """

    space: Space
    goal: Goal
    rows: Sequence[Row]
    number: int
    trials: int
    seed: int
    foresee: Callable[[Policy], Costs]


@runtime_checkable
class Sampler(Protocol):
    """Chooses policies. It holds no state: asked the same, it answers the same, on any machine, after any interruption.

    Attributes:
        name: what `--sampler` calls it.
    """

    name: str

    def propose(self, question: Question) -> Policy:
        """The next policy to try. It may have been tried before; whoever asks then asks for a neighbour."""
        ...
