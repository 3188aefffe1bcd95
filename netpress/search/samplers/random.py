"""Policies drawn at random: the floor under every sampler that learns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netpress.search.sampler import Question
from netpress.search.samplers.repair import Foresight
from netpress.search.space import Policy

REDRAWS = 50
HOPELESS = 1.05  # foreseen loads above this are drawn again; those just above the limit are repaired


@dataclass(frozen=True, slots=True)
class Random:
    """Every dimension evenly and on its own, a function of (seed, number) alone.

    What is foreseen to exceed the limits is drawn again, up to 50 times, then lowered until it meets them.

    Attributes:
        name: of the sampler.
    """

    name: str = "random"

    def propose(self, question: Question) -> Policy:
        """The first draw that is not hopeless, repaired."""
        foresight = Foresight.taught(question)
        draws = np.random.default_rng([question.seed, question.number])
        size = len(question.space.dimensions)
        point = draws.random(size)
        for _ in range(REDRAWS if question.goal.limits else 0):
            if foresight.load_at(point) <= HOPELESS:
                break
            point = draws.random(size)
        return question.space.policy(foresight.repaired(point))
