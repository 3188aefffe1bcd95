"""The protocol that every sampler keeps, whatever it proposes."""

from __future__ import annotations

import dataclasses

import pytest
from search_toys import BASELINE, Toy, question, run

from netpress.errors import RecipeError
from netpress.search.goal import Goal, Row
from netpress.search.sampler import Question, Sampler
from netpress.search.samplers import names, sampler
from netpress.search.samplers.repair import Foresight
from netpress.search.space import Dimension, Space

ALL = names()
TOY = Toy("pairs", 4, 0)
GOALS = {"limited": TOY.goal(0.4), "least": TOY.goal(None, 0.9), "both": TOY.goal(0.5, 0.7)}
TRIALS = 14


def made(name: str) -> Sampler:
    return sampler(name)


@pytest.fixture(scope="module")
def runs():
    kept: dict[tuple[str, str], list[Row]] = {}

    def get(name: str, goal: str) -> list[Row]:
        if (name, goal) not in kept:
            kept[name, goal] = run(made(name), TOY, GOALS[goal], TRIALS, seed=3)
        return kept[name, goal]

    return get


def assert_valid(space: Space, policy):
    assert list(policy) == [d.name for d in space]
    assert all(policy[d.name] in d.values for d in space)


@pytest.mark.parametrize("name", ALL)
def test_samplers_are_frozen_and_carry_their_name(name):
    it = made(name)
    assert it.name == name
    assert isinstance(it, Sampler)
    with pytest.raises(dataclasses.FrozenInstanceError):
        it.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ALL)
def test_proposals_are_policies_of_the_space(name, goal, runs):
    for row in runs(name, goal):
        assert_valid(TOY.space, row.policy)
    assert len({tuple(row.policy.values()) for row in runs(name, goal)}) > 3


@pytest.mark.parametrize("name", ALL)
def test_a_search_that_was_interrupted_proposes_what_an_undisturbed_one_does(name, runs):
    rows = runs(name, "limited")
    for number in (0, 1, 6, TRIALS - 1):
        asked = question(TOY, GOALS["limited"], rows[:number], TRIALS, seed=3)
        assert made(name).propose(asked) == rows[number].policy


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("uniform", "greedy", "paper-mlp")])
def test_another_seed_proposes_otherwise(name, runs):
    """Midway: at the end, samplers may well agree on the best."""
    rows = runs(name, "limited")[:6]
    asked = [question(TOY, GOALS["limited"], rows, TRIALS, seed=seed) for seed in (3, 4, 5)]
    assert len({tuple(made(name).propose(one).values()) for one in asked}) > 1


@pytest.mark.parametrize("name", [n for n in ALL if n != "greedy"])  # its probes begin at the whole network
def test_limits_that_are_foreseen_are_met(name, runs):
    for goal in ("limited", "both"):
        assert all(GOALS[goal].load(row.costs) <= 1 for row in runs(name, goal))


def test_the_walk_arrives_within_the_limits(runs):
    loads = [GOALS["limited"].load(row.costs) for row in runs("greedy", "limited")]
    assert loads[0] > 1
    assert loads[-1] <= 1


def mixed(states: tuple[str, ...]) -> list[Row]:
    """Rows as they are while several workers run, some of which stopped early or failed."""
    rows = run(sampler("random"), TOY, GOALS["limited"], len(states), seed=5)
    changed = {"running": {"top1": 0.0, "costs": {}, "rung": -1}, "failed": {"top1": 0.0, "costs": {}, "rung": -1}}
    return [dataclasses.replace(r, state=s, **changed.get(s, {})) for r, s in zip(rows, states, strict=True)]


MIXTURES = {
    "none": (),
    "one": ("complete",),
    "all failed": ("failed",) * 9,
    "all running": ("running",) * 9,
    "all halved": ("halved",) * 9,
    "mixed": ("complete", "halved", "failed", "complete", "running", "halved", "complete", "failed", "running") * 2,
}


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("states", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("name", ALL)
def test_rows_of_every_state_are_taken(name, states, goal):
    asked = question(TOY, GOALS[goal], mixed(states), 25)
    policy = made(name).propose(asked)
    assert_valid(TOY.space, policy)
    assert policy == made(name).propose(asked)


SPACES = {
    "one dimension": (Dimension("m:a", (0.25, 0.5, 0.75, 1.0), "m", ("a",)),),
    "one value": (Dimension("m:a", (0.5, None), "m", ("a",)), Dimension("m:b", (8,), "m", ("b",))),
    "nothing to decide": (Dimension("m:b", (8,), "m", ("b",)),),
    "on and off": tuple(Dimension(f"m:{i}", (4, None), "m", (f"{i}",)) for i in range(3)),
}


def foresee(policy) -> dict[str, float]:
    return {"params": sum(1.0 if value is None else float(value) / 10 for value in policy.values())}


@pytest.mark.parametrize("limits", [{}, {"params": 1.3}, {"params": 1e-9}, {"latency_ms": 1.0}], ids=str)
@pytest.mark.parametrize("dimensions", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", ALL)
def test_small_spaces_and_odd_limits(name, dimensions, limits):
    """Also limits that no policy meets, and a cost that nobody foresees."""
    space = Space(dimensions)
    goal = Goal({**foresee(space.whole()), "top1": 0.9}, limits, None if limits else 0.5, "params")
    rows: list[Row] = []
    for number in range(8):
        policy = made(name).propose(Question(space, goal, tuple(rows), number, 8, 0, foresee))
        assert_valid(space, policy)
        costs = {**foresee(policy), "latency_ms": foresee(policy)["params"]}
        rows.append(Row(number, policy, "complete", 0.1 * number, costs, 0))


@pytest.mark.parametrize("most", [0.2, 0.5, 0.8])
def test_repair_meets_limits_and_fills_them(most):
    toy = Toy("squares", 6, 1, levels=65)
    asked = question(toy, toy.goal(most), [])
    foresight = Foresight(asked)
    whole = toy.space.point(toy.space.whole())
    loads = [foresight.load_at(foresight.repaired(whole * share)) for share in (1.0, 0.9)]
    assert all(0.95 < load <= 1 for load in loads)
    strongest = whole * 0
    assert (foresight.repaired(strongest) == strongest).all()  # what meets the limits stays
    assert (Foresight(question(toy, toy.goal(1e-6), [])).repaired(whole) == 0).all()


def test_uniform_fills_the_range_and_repeats_nothing():
    toy = Toy("squares", 3, 0)
    rows = run(sampler("uniform"), toy, toy.goal(0.4), 4)
    shares = [set(row.policy.values()) for row in rows]
    assert all(len(share) == 1 for share in shares)
    amounts = [share.pop() for share in shares]
    assert amounts[0] == max(amounts)
    assert len(set(amounts)) == 4
    loads = [toy.goal(0.4).load(row.costs) for row in rows]
    assert loads[0] <= 1


@pytest.mark.parametrize("name", ["greedy", "uniform"])
def test_foresight_that_learns_does_not_lead_astray(name):
    """The loop multiplies foreseen costs by factors that change with every trial."""
    goal = GOALS["limited"]
    steady, rows = run(made(name), TOY, goal, 20), []
    for number in range(20):
        factor = 1 + 0.3 * (number % 4)

        def foresee(policy, factor=factor):
            return {cost: value * factor for cost, value in TOY.foresee(policy).items()}

        policy = made(name).propose(Question(TOY.space, goal, tuple(rows), number, 20, 0, foresee))
        rows.append(Row(number, policy, "complete", TOY.top1(policy, number), TOY.foresee(policy), 0))
    assert [row.policy for row in rows] == [row.policy for row in steady]


@pytest.mark.parametrize("name", ["mlp", "tpe", "random"])
def test_costs_that_come_out_higher_than_foreseen_and_latencies_are_learnt(name):
    whole = TOY.foresee(TOY.space.whole())
    goal = Goal(
        {**whole, "top1": BASELINE, "latency_ms": 4.0}, {"latency_ms": 2.0, "file_bytes": 0.5 * whole["file_bytes"]}
    )
    rows: list[Row] = []
    for number in range(16):
        policy = made(name).propose(Question(TOY.space, goal, tuple(rows), number, 16, 0, TOY.foresee))
        costs = TOY.foresee(policy)
        costs["latency_ms"] = 1.0 + 3.0 * (costs["macs"] / whole["macs"])
        costs["file_bytes"] = 1.15 * costs["file_bytes"]
        rows.append(Row(number, policy, "complete", TOY.top1(policy, number), costs, 0))
    assert sum(goal.load(row.costs) <= 1.02 for row in rows[8:]) >= 6


def test_unknown_names_and_settings_are_said():
    with pytest.raises(RecipeError, match=r"expected one of mlp, .*, got 'annealing'"):
        sampler("annealing")
    with pytest.raises(RecipeError, match=r"sampler mlp: .*members.*, got 'layers'"):
        sampler("mlp", layers=3)
    assert sampler("tpe", startup=4).startup == 4  # type: ignore[attr-defined]


def test_baseline_is_what_the_toys_reach():
    assert Toy("pairs", 4, 0, noise=0.0).top1(TOY.space.whole(), 0) == pytest.approx(BASELINE)
