"""The space of a search, drawn from what the methods declare; and what a policy means: methods, and costs foreseen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress import methods
from netpress.candidate import Candidate, Context
from netpress.errors import RecipeError
from netpress.methods.searching import Estimate, Knob, Searched
from netpress.search.goal import Costs
from netpress.search.space import Dimension, Policy, Space


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A space with its meaning.

    Attributes:
        space: what is decided.
        searched: by method name, in the order of application.
        before: the estimate of the network as it comes.
    """

    space: Space
    searched: Mapping[str, Searched]
    before: Estimate

    def methods(self, policy: Policy) -> list[Any]:
        """The methods that a policy stands for, in order; those that change nothing are left out."""
        found = (known.tuned(self._amounts(name, policy)) for name, known in self.searched.items())
        return [method for method in found if method is not None]

    def foresee(self, policy: Policy) -> Costs:
        """What a network made by a policy will cost, from shapes alone."""
        after = self.before
        for name, known in self.searched.items():
            after = known.foresee(self._amounts(name, policy), after)
        return {"params": after.params, "nonzero": after.nonzero, "macs": after.macs, "file_bytes": after.file_bytes}

    def _amounts(self, method: str, policy: Policy) -> dict[str, float | int | None]:
        return {path: policy[d.name] for d in self.space if d.method == method for path in d.paths}


def draw_space(
    names: Sequence[str],
    candidate: Candidate,
    context: Context,
    before: Estimate,
    *,
    settings: Mapping[str, Mapping[str, Any]],
    groups: int,
) -> Drawn:
    """The space of some methods on a network.

    Args:
        names: of the methods, in the order in which they are applied.
        candidate: the baseline.
        context: an example.
        before: estimate of the baseline.
        settings: by method, its fields that stay the same.
        groups: dimensions per method at most; neighbouring layers of one kind share one.

    Raises:
        RecipeError: a method declares nothing that could be searched, or none has anything to decide here.
    """
    searched: dict[str, Searched] = {}
    dimensions: list[Dimension] = []
    for name in names:
        method = methods.find(name)
        if not hasattr(method, "searched"):
            known = sorted(n for n, kind in methods.available().items() if hasattr(kind, "searched"))
            raise RecipeError(f"method {name!r} declares no amounts to search; expected some of {', '.join(known)}")
        found = method.searched(candidate, context, settings.get(name, {}))
        searched[name] = found
        dimensions += [_dimension(name, knobs) for knobs in grouped(found.knobs, groups)]
    if not dimensions:
        raise RecipeError(f"nothing to search: {', '.join(names)} can change no layer of {candidate.arch.name}")
    return Drawn(Space(tuple(dimensions)), searched, before)


def grouped(knobs: Sequence[Knob], most: int) -> list[list[Knob]]:
    """Neighbouring knobs of one kind put together until at most so many groups are left, the smallest first.

    Args:
        knobs: in the network's order.
        most: groups at most; one per kind stays whatever `most` is.

    >>> [len(g) for g in grouped([Knob(str(i), (str(i),), (0.5, 1.0), size) for i, size in enumerate((1, 2, 8, 9))], 3)]
    [2, 1, 1]
    """
    lines: dict[str, list[list[Knob]]] = {}
    for knob in knobs:
        lines.setdefault(knob.kind, []).append([knob])
    while sum(map(len, lines.values())) > most:
        pairs = [
            (sum(k.size for k in first + second), kind, i)
            for kind, line in lines.items()
            for i, (first, second) in enumerate(itertools.pairwise(line))
        ]
        if not pairs:
            break
        _, kind, i = min(pairs)
        line = lines[kind]
        line[i : i + 2] = [line[i] + line[i + 1]]
    order = {id(knob): place for place, knob in enumerate(knobs)}
    return sorted((group for line in lines.values() for group in line), key=lambda group: order[id(group[0])])


def _dimension(method: str, knobs: Sequence[Knob]) -> Dimension:
    first, last = knobs[0].name, knobs[-1].name
    name = first if len(knobs) == 1 else f"{first}..{last}"
    paths = tuple(path for knob in knobs for path in knob.paths)
    return Dimension(f"{method}:{name}", knobs[0].values, method, paths)
