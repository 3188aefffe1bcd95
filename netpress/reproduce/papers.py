"""What the papers print: the claims of `papers.json`, which `benchmarks/paper_numbers.py` collects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Claim:
    """One number that a paper prints.

    Args:
        key: "paper/..."; tells which of our counts answers it.
        where: table, figure, section or slide.
        what: is counted, in words.
        printed: as printed, with its unit.
        settings: of the network, where the table gives them.
    """

    key: str
    where: str
    what: str
    printed: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paper(self) -> str:
        """Short name of the paper."""
        return self.key.partition("/")[0]


@cache
def _data() -> Mapping[str, Any]:
    return dict(json.loads((files("netpress.reproduce") / "papers.json").read_text("utf-8")))


def titles() -> Mapping[str, str]:
    """Return the papers' short names and titles, in their order.

    >>> list(titles())
    ['condensenet-mnist', 'squeezenet', 'filter-pruning', 'condensenext', 'sep-net']
    """
    return dict(_data()["papers"])


def claims(paper: str | None = None) -> list[Claim]:
    """Return every printed number, or those of one paper, in the paper's order.

    >>> [claim.printed for claim in claims("filter-pruning")]
    ['factor of 49', '32 times', '25 percent']
    """
    every = [Claim(**one) for one in _data()["claims"]]
    return [one for one in every if paper in (None, one.paper)]


def published(network: str, column: str) -> Sequence[float]:
    """Return what Han et al. 2016 print for each layer of a network.

    Args:
        network: "LeNet-300-100", "LeNet-5", "AlexNet" or "VGG-16".
        column: "kept", the fraction of the weights that stay, or "rate_percent", bytes after Huffman coding.

    >>> published("LeNet-300-100", "kept")
    [0.08, 0.09, 0.26]
    """
    return list(_data()["published"][network][column])
