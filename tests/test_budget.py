"""Budgets: amounts with units, shares of a baseline, verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netpress import budget
from netpress.budget import Budget, amount, judge


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("20kB", budget.BYTES, 20_000),
        ("1.5 MB", budget.BYTES, 1_500_000),
        ("1KiB", budget.BYTES, 1024),
        ("300", budget.BYTES, 300),
        ("2e3b", budget.BYTES, 2000),
        ("100k", budget.COUNT, 100_000),
        ("5M", budget.COUNT, 5_000_000),
        ("5ms", budget.TIME, 5),
        ("250us", budget.TIME, 0.25),
        ("250µs", budget.TIME, 0.25),
        (".5s", budget.TIME, 500),
    ],
)
def test_amounts(text, units, expected):
    assert amount(text, units) == pytest.approx(expected)


@given(st.floats(0.001, 1000), st.floats(1, 1e9))
def test_shares(percent, baseline):
    assert amount(f"{percent:.6f}%", budget.COUNT, baseline=baseline) == pytest.approx(
        float(f"{percent:.6f}") / 100 * baseline
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "expected a number with a unit"),
        ("kB", "expected a number with a unit"),
        ("-5kB", "expected a number with a unit"),
        ("5 parsecs", "unit 'parsecs' is unknown"),
        ("50%", "share of the baseline"),
    ],
)
def test_amounts_that_are_none(text, what):
    with pytest.raises(ValueError, match=what):
        amount(text, budget.BYTES)


@pytest.mark.parametrize("field", ["max_size", "max_params", "max_macs", "max_latency"])
@pytest.mark.parametrize("value", ["0", "0%", "many", True, [1]])
def test_budgets_refuse(field, value):
    with pytest.raises(ValidationError):
        Budget(**{field: value})


def test_budgets_take_numbers_and_shares():
    assert Budget(max_size=5000, max_macs="50%").max_size == "5000"


BEFORE = {"file_bytes": 1000, "nonzero": 200, "macs": 5000, "latency_ms": 2.0, "validation": {"top1": 0.95}}
AFTER = {"file_bytes": 100, "nonzero": 50, "macs": 2500, "latency_ms": 1.0, "validation": {"top1": 0.94}}


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        ({"max_drop": 1.0}, True),
        ({"max_drop": 0.99}, False),
        ({"min_top1": 94}, True),
        ({"min_top1": 94.1}, False),
        ({"max_size": "100"}, True),
        ({"max_size": "99"}, False),
        ({"max_size": "10%"}, True),
        ({"max_params": "24%"}, False),
        ({"max_macs": "50%"}, True),
        ({"max_macs": "2.4k"}, False),
        ({"max_latency": "1ms"}, True),
        ({"max_latency": "49%"}, False),
    ],
)
def test_verdicts(limits, met):
    (verdict,) = judge(Budget(**limits), BEFORE, AFTER)
    assert verdict.limit == next(iter(limits))
    assert verdict.met is met
    assert verdict.met == (verdict.measured >= verdict.allowed if "min" in verdict.limit else not _above(verdict))


def _above(verdict):
    return verdict.measured > verdict.allowed


def test_no_limits_no_verdicts():
    assert judge(Budget(), BEFORE, AFTER) == []
    assert judge(Budget(max_latency="5ms"), BEFORE, {k: v for k, v in AFTER.items() if k != "latency_ms"}) == []
