"""What methods declare for a search: amounts that mean what they say, and costs foreseen without building anything."""

from __future__ import annotations

import pytest
from toy_nets import KINDS, toy_candidate, toy_context

from netpress import methods
from netpress.errors import RecipeError
from netpress.measure.cost import cost
from netpress.methods.searching import Estimate, Knob, Part, Searchable, estimate
from netpress.search.drawing import draw_space, grouped

SEARCHED = sorted(name for name, kind in methods.available().items() if isinstance(kind, Searchable))
NETS = sorted(KINDS)


def drawn(name: str, net: str, **settings):
    candidate = toy_candidate(net)
    before = estimate(candidate, 0.0)
    return candidate, draw_space([name], candidate, toy_context(), before, settings={name: settings}, groups=100)


def made(space, candidate, policy):
    for method in space.methods(policy):
        candidate = method.apply(candidate, toy_context())
    return candidate


def test_the_methods_that_take_something_away_can_be_searched():
    assert {"filter_prune", "low_rank", "quantize", "weight_prune", "weight_share"} <= set(SEARCHED)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", SEARCHED)
def test_the_last_values_change_nothing(name, net):
    candidate, space = drawn(name, net)
    whole = space.space.whole()
    assert space.methods(whole) == []
    assert space.foresee(whole)["params"] == cost(candidate.net, candidate.inputs.shape).params
    assert space.foresee(whole)["macs"] == cost(candidate.net, candidate.inputs.shape).macs


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", SEARCHED)
def test_stronger_values_are_foreseen_to_cost_no_more_and_can_be_applied(name, net):
    candidate, space = drawn(name, net)
    count = len(space.space.dimensions)
    costs = [space.foresee(space.space.policy([i / 4] * count)) for i in range(5)]
    for measure in ("params", "nonzero", "macs"):
        column = [each[measure] for each in costs]
        assert column == sorted(column), measure
    sizes = [each["file_bytes"] for each in costs]
    assert sizes[0] < sizes[-1]  # between them, a table may be larger than the few weights that share it
    small = made(space, candidate, space.space.policy([0.3] * count))
    assert cost(small.net, candidate.inputs.shape).macs <= cost(candidate.net, candidate.inputs.shape).macs


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("net", NETS)
def test_filters_are_foreseen_exactly(net, share):
    candidate, space = drawn("filter_prune", net)
    policy = space.space.policy([share] * len(space.space.dimensions))
    foreseen, found = space.foresee(policy), cost(made(space, candidate, policy).net, candidate.inputs.shape)
    assert (foreseen["params"], foreseen["macs"]) == (found.params, found.macs)


def test_filters_are_foreseen_exactly_with_rounding_floor_and_frozen_layers():
    settings = {"round_to": 2, "floor": 0.3, "frozen": ("conv2",)}
    candidate, space = drawn("filter_prune", "plain", **settings)
    assert "filter_prune:conv2" not in [d.name for d in space.space]
    policy = space.space.policy([0.1] * len(space.space.dimensions))
    found = cost(made(space, candidate, policy).net, candidate.inputs.shape)
    assert (space.foresee(policy)["params"], space.foresee(policy)["macs"]) == (found.params, found.macs)


@pytest.mark.parametrize("net", NETS)
def test_zeros_are_foreseen(net):
    candidate, space = drawn("weight_prune", net)
    policy = space.space.policy([0.5] * len(space.space.dimensions))
    found = made(space, candidate, policy)
    zeros = cost(candidate.net, candidate.inputs.shape).params - cost(found.net, candidate.inputs.shape).nonzero
    expected = space.before.params - space.foresee(policy)["nonzero"]
    assert zeros == pytest.approx(expected, abs=len(space.space.dimensions) + 30)  # biases and norms begin at zero


def test_methods_foresee_one_after_the_other():
    candidate = toy_candidate("plain")
    before = estimate(candidate, 0.0)
    names = ["filter_prune", "weight_prune", "weight_share"]
    space = draw_space(names, candidate, toy_context(), before, settings={}, groups=100)
    policy = space.space.policy([0.4] * len(space.space.dimensions))
    assert [method.name for method in space.methods(policy)] == names
    small = made(space, candidate, policy)
    found = cost(small.net, candidate.inputs.shape)
    foreseen = space.foresee(policy)
    assert (foreseen["params"], foreseen["macs"]) == (found.params, found.macs)
    assert foreseen["nonzero"] < found.params / 2


def test_bytes_are_counted_by_entropy():
    assert Part(800, density=0.0).file_bytes == 0
    assert Part(800, bits=8, table=7).file_bytes == 807
    assert Estimate({"a": Part(8)}, overhead=5).changed({"a": Part(4)}).file_bytes == 21


def test_groups_are_neighbours_of_one_kind():
    knobs = [Knob(str(i), (str(i),), (0.5, 1.0), size=i + 1, kind="ab"[i % 2]) for i in range(9)]
    groups = grouped(knobs, 4)
    assert sorted(knob.name for group in groups for knob in group) == [str(i) for i in range(9)]
    assert all(len({knob.kind for knob in group}) == 1 for group in groups)
    assert len(groups) == 4
    assert [g[0].name for g in groups] == sorted(g[0].name for g in groups)
    assert len(grouped(knobs, 1)) == 2  # one per kind stays


def test_one_dimension_decides_for_all_its_layers():
    candidate = toy_candidate("residual")
    space = draw_space(["weight_prune"], candidate, toy_context(), estimate(candidate, 0), settings={}, groups=1)
    conv = next(d for d in space.space if len(d.paths) > 1)
    assert conv.name == f"weight_prune:{conv.paths[0]}..{conv.paths[-1]}"
    policy = {**space.space.whole(), conv.name: conv.values[0]}
    (method,) = space.methods(policy)
    assert set(method.sparsity) == set(conv.paths)


def test_a_method_that_declares_nothing_is_refused():
    with pytest.raises(
        RecipeError, match=r"'sort_channels' declares no amounts to search; expected some of .*filter_p"
    ):
        drawn("sort_channels", "plain")


def test_an_unknown_setting_is_refused():
    _, space = drawn("filter_prune", "plain", scroe="l1")
    with pytest.raises(Exception, match="scroe"):
        space.methods(space.space.strongest())
