"""Budgets divided among layers: damage as measured, what is left out, and what messages say."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from toy_nets import toy_candidate, toy_context

from netpress.errors import BudgetError, ModelError
from netpress.measure.cost import cost
from netpress.methods.layer_budget import Choices, Limit, afford, limit_of, scanned
from netpress.methods.rank_choice import Option


def scaled(candidate, path, factors):
    """A layer that can also be had with its weights times a factor."""

    def make(numbers):
        net = deepcopy(candidate.net)
        with torch.no_grad():
            net.get_submodule(path).weight.mul_(numbers[0] if numbers[0] < 9 else float("nan"))
        return net

    return Choices("svd", [Option((), 100, 10, 0.0), *(Option((k,), k, k, 0.5) for k in factors)], make)


def test_the_damage_is_what_the_loss_rises_by_and_never_below_zero():
    candidate = toy_candidate("plain")
    options, rows = scanned(
        candidate, {"fc2": scaled(candidate, "fc2", (0, 1, 2, 9))}, toy_context(), samples=32, settings={}
    )
    loss = {tuple(row["numbers"]): row["loss"] for row in rows}
    assert [o.numbers for o in options["fc2"]] == [(), (0,), (1,), (2,)]  # 9 has no finite loss
    assert loss[9,] is None
    for option in options["fc2"]:
        assert option.damage == max(0.0, loss[option.numbers] - loss[()])
    assert options["fc2"][2].damage == 0
    assert any(loss[k,] != loss[()] for k in (0, 2))


def test_a_network_without_a_loss_of_its_own_is_refused():
    candidate = toy_candidate("plain")
    with torch.no_grad():
        next(m for m in candidate.net.modules() if isinstance(m, nn.Linear)).bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="the network's own loss is not finite"):
        scanned(candidate, {"fc2": scaled(candidate, "fc2", (1,))}, toy_context(), samples=8, settings={})


def test_the_target_is_the_whole_networks_and_the_nearest_counts_the_rest():
    candidate = toy_candidate("plain")
    within = limit_of("low_rank: max_params = 5", "params", candidate)
    assert within.before == cost(candidate.net, candidate.inputs.shape).params
    options = {
        "a": [Option((), 100, 10, 0.0), Option((1,), 40, 8, 0.3)],
        "b": [Option((), 50, 30, 0.0), Option((2,), 45, 5, 0.1)],
    }
    within = Limit("low_rank: max_macs = 5k", "macs", 1000)
    assert {p: o.numbers for p, o in afford(options, within, 1000).items()} == {"a": (), "b": ()}
    assert {p: o.numbers for p, o in afford(options, within, 996).items()} == {"a": (), "b": (2,)}
    assert {p: o.numbers for p, o in afford(options, within, 950).items()} == {"a": (1,), "b": ()}
    with pytest.raises(BudgetError) as caught:
        afford(options, within, 900)
    assert str(caught.value) == (
        "low_rank: max_macs = 5k: 900 multiply-adds cannot be met; the nearest that can be reached is 935 of 1,000"
    )
    assert afford({}, within, 1000) == {}
    with pytest.raises(BudgetError, match="the nearest that can be reached is 1,000 of 1,000"):
        afford({}, within, 999)
