"""Readings of an operation that holds numbers: they follow the channels, or they are constants. The trial tells."""

from __future__ import annotations

from netpress.graph.call import Call, Claim, Option
from netpress.graph.labels import Axis, IntArray
from netpress.graph.trace import Tracer

CONSTANT = "a number of channels is written into the code: "


def constant(t: Tracer, call: Call, *labels: Axis) -> Option:
    """The last reading: the numbers are constants, so these channels stay."""

    def apply() -> None:
        for part in labels:
            t.pin(part, CONSTANT + call.name)

    return Option(apply)


def tie(t: Tracer, rows: IntArray, *claims: Claim) -> Option:
    """Equal offsets of the rows go together, and attributes of the module follow."""

    def apply() -> None:
        for row in rows[1:]:
            t.labels.equate(row, rows[0])
        t.found.claims.extend(claims)

    return Option(apply)
