"""The same amount for everything: what one does by hand, and what a sampler has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from netpress.search.sampler import Question
from netpress.search.samplers.repair import Foresight, Key, key
from netpress.search.space import Policy

LOOK_AHEAD = 64  # terms beyond the trial's own that are looked at for a policy that is new


def van_der_corput(term: int) -> float:
    """Term 1, 2, ... of the sequence in base 2: the binary digits mirrored at the point.

    >>> [van_der_corput(n) for n in range(1, 6)]
    [0.5, 0.25, 0.75, 0.125, 0.625]
    """
    value, weight = 0.0, 0.5
    while term:
        term, digit = divmod(term, 2)
        value += weight * digit
        weight /= 2
    return value


@dataclass(frozen=True, slots=True)
class Uniform:
    """One amount for all dimensions, from a sequence that fills the range evenly; neither rows nor seed matter.

    With limits, the first trial is the largest amount that is foreseen to meet them, and the sequence fills what is
    below it. Amounts that give a policy which an earlier trial had are skipped.

    Attributes:
        name: of the sampler.
    """

    name: str = "uniform"

    def propose(self, question: Question) -> Policy:
        """The policy of the trial's own term of the sequence."""
        seen: set[Key] = set()
        policy = question.space.whole()
        for amount in self._amounts(question):
            policy = question.space.policy(np.full(len(question.space.dimensions), amount))
            if len(seen) == question.number and key(question, policy) not in seen:
                return policy
            seen.add(key(question, policy))
        return policy  # every uniform policy was had: one of them again

    @staticmethod
    def _amounts(question: Question) -> Iterator[float]:
        """Amounts in their order, until one is certain to repeat."""
        largest = 1.0
        if question.goal.limits:
            lowest = np.zeros(len(question.space.dimensions))
            largest = float(Foresight.anchored(question).shifted(lowest, 1.0).max(initial=0.0))
            yield largest
        for term in range(1, question.number + LOOK_AHEAD):
            yield largest * van_der_corput(term)
