"""Every parameter, multiply-add and memory number of the five papers, ours beside it, each with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from netpress.candidate import Progress, silent
from netpress.reproduce import condensenet_mnist, condensenext, filter_pruning, papers, sep_net, squeezenet
from netpress.reproduce.counting import Answer, Counter
from netpress.reproduce.papers import Claim
from netpress.reproduce.verdict import judge

Answers = Callable[[Sequence[Claim], Counter], dict[str, Answer]]

ANSWERS: Mapping[str, Answers] = {
    "condensenet-mnist": condensenet_mnist.answers,
    "squeezenet": squeezenet.answers,
    "filter-pruning": filter_pruning.answers,
    "condensenext": condensenext.answers,
    "sep-net": sep_net.answers,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One printed number beside ours.

    Args:
        paper: short name of the paper; `papers.titles()` has its title.
        where: table, figure, section or slide.
        what: is counted.
        printed: as printed.
        ours: in `unit`: parameters, bytes ...; shares are fractions; None where no network gives it.
        runnable: the count of the network that runs, where the printed one cannot.
        unit: of `ours` and `runnable`.
        verdict: "exact", "rounded" or "differs", computed from `printed` and `ours`.
        how: "rounded", "truncated", or by how much it differs.
        label: "reconstruction", "not reproducible", "fitted afterwards" or "".
        reason: why it differs, or what was counted.
    """

    paper: str
    where: str
    what: str
    printed: str
    ours: float | None
    runnable: int | None
    unit: str
    verdict: str
    how: str
    label: str
    reason: str


def sizes(progress: Progress = silent) -> list[Row]:
    """Count every network of the papers and compare with what they print.

    Args:
        progress: told after each paper.

    Returns:
        One row for each printed number, in the papers' order; under 60 s on one core, no weights are drawn.
    """
    counter, rows = Counter(), []
    for done, (paper, answers) in enumerate(ANSWERS.items(), start=1):
        claims = papers.claims(paper)
        found = answers(claims, counter)
        assert set(found) == {claim.key for claim in claims}, paper
        rows += [_row(claim, found[claim.key]) for claim in claims]
        progress("counting networks", done, len(ANSWERS), {})
    return rows


def _row(claim: Claim, answer: Answer) -> Row:
    verdict = judge(claim.printed, answer.ours)
    return Row(
        paper=claim.paper,
        where=claim.where,
        what=claim.what,
        printed=claim.printed,
        ours=answer.ours,
        runnable=answer.runnable,
        unit=answer.unit,
        verdict=verdict.verdict,
        how=verdict.how,
        label=answer.label,
        reason=f"{answer.label}: {answer.reason}" if answer.label else answer.reason,
    )
