"""Which ranks: the least damage within a budget, against every choice there is."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.errors import BudgetError
from netpress.methods import rank_choice
from netpress.methods.rank_choice import Option, allocate

WHOLE = Option((), 100, 80, 0.0)


def total(chosen, field="macs"):
    return sum(getattr(option, field) for option in chosen.values())


def brute(options, cost, budget):
    """The least damage of all choices, or None."""
    each = itertools.product(*options.values())
    fits = [sum(o.damage for o in some) for some in each if sum(getattr(o, cost) for o in some) <= budget]
    return min(fits, default=None)


@st.composite
def layers(draw):
    found = {}
    for i in range(draw(st.integers(1, 5))):
        whole = draw(st.integers(1, 60))
        cheaper = st.builds(
            lambda macs, params, damage: Option((macs + 1,), macs, params, damage),
            st.integers(0, 70),
            st.integers(0, 70),
            st.one_of(st.integers(0, 6).map(float), st.floats(0, 3)),
        )
        found[f"layer{i}"] = [Option((), whole, whole, 0.0), *draw(st.lists(cheaper, max_size=6))]
    return found


@settings(max_examples=300, deadline=None)
@given(layers(), st.sampled_from(["macs", "params"]), st.floats(0, 1.1))
def test_no_choice_within_the_budget_is_better(options, cost, share):
    budget = share * sum(getattr(found[0], cost) for found in options.values())
    best = brute(options, cost, budget)
    if best is None:
        with pytest.raises(BudgetError):
            allocate(options, cost=cost, budget=budget)
        return
    chosen = allocate(options, cost=cost, budget=budget)
    assert chosen.keys() == options.keys()
    assert all(option in options[path] for path, option in chosen.items())
    assert total(chosen, cost) <= budget
    assert total(chosen, "damage") == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert chosen == allocate(options, cost=cost, budget=budget)


def test_what_is_not_on_the_hull_is_found():
    # by damage per cost saved the step to 10 comes first and is dear; the option at 50 lies above the hull
    options = {"a": [WHOLE, Option((5,), 50, 50, 0.9), Option((1,), 10, 10, 1.0)], "b": [WHOLE]}
    assert allocate(options, cost="macs", budget=150)["a"].numbers == (5,)


def test_a_budget_that_does_not_bind_leaves_all_as_it_is():
    options = {path: [WHOLE, Option((4,), 50, 40, 0.1)] for path in "abc"}
    assert {option.numbers for option in allocate(options, cost="macs", budget=300).values()} == {()}


def test_what_costs_less_and_damages_nothing_is_taken():
    options = {"a": [WHOLE, Option((4,), 50, 40, 0.0)]}
    assert allocate(options, cost="macs", budget=1e9)["a"].numbers == (4,)


def test_parameters_and_multiply_adds_are_counted_apart():
    options = {"a": [WHOLE, Option((1,), 20, 79, 0.1), Option((2,), 99, 10, 0.1)]}
    assert allocate(options, cost="macs", budget=30)["a"].numbers == (1,)
    assert allocate(options, cost="params", budget=30)["a"].numbers == (2,)


def test_what_cannot_be_met_is_said_with_the_nearest():
    options = {path: [WHOLE, Option((4,), 50, 40, 0.1)] for path in "ab"}
    with pytest.raises(BudgetError, match=r"^99 multiply-adds cannot be met; .* is 100 of 200$"):
        allocate(options, cost="macs", budget=99)
    with pytest.raises(BudgetError, match=r"79 parameters cannot be met; .* is 80 of 160$"):
        allocate(options, cost="params", budget=79)


@pytest.mark.parametrize("damage", [-0.1, math.nan, math.inf])
def test_damage_must_be_a_number_that_adds_up(damage):
    with pytest.raises(ValueError, match="a: expected options of a finite damage"):
        allocate({"a": [WHOLE, Option((1,), 5, 5, damage)]}, cost="macs", budget=50)


def network(count, *, alike):
    """Layers with the truncation errors of made-up spectra: equal ones, or each its own."""
    rng = np.random.default_rng(0)
    options = {}
    for i in range(count):
        energy = np.sort(rng.gamma(0.5, size=64))[::-1] if not alike else 1 / np.arange(1, 65) ** 2
        lost = 1 - np.cumsum(energy) / energy.sum()
        size = 1000 if alike else int(rng.integers(100, 9000))
        ranks = range(1, 40)
        options[f"layer{i}"] = [
            Option((), 40 * size, size, 0.0),
            *(Option((r,), r * size, r * 20, max(0.0, float(lost[r - 1]))) for r in ranks),
        ]
    return options


@pytest.mark.parametrize("alike", [False, True])
def test_large_networks_take_a_moment_and_meet_the_bound(alike):
    options = network(120, alike=alike)
    budget = 0.4 * sum(found[0].macs for found in options.values())
    start = time.perf_counter()
    chosen = allocate(options, cost="macs", budget=budget)
    assert time.perf_counter() - start < 5
    assert 0.99 * budget < total(chosen) <= budget


def test_too_many_partial_choices_are_thinned_and_the_greedy_one_is_kept(monkeypatch):
    options = network(12, alike=False)
    budget = 0.4 * sum(found[0].macs for found in options.values())
    best = total(allocate(options, cost="macs", budget=budget), "damage")
    monkeypatch.setattr(rank_choice, "MOST", 2)
    thinned = allocate(options, cost="macs", budget=budget)
    assert total(thinned) <= budget
    assert best <= total(thinned, "damage") < 1.1 * best
