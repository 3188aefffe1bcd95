"""Every check of `contract.py` can fail: a method that breaks one promise fails exactly that check and no other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import contract
import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import Tensor, nn

from netpress import onnx_graph
from netpress.candidate import Candidate, Context
from netpress.forms import Form, Free, Shared
from netpress.methods import WeightPrune, WeightShare
from netpress.train.bind import Bound

PRUNE = WeightPrune(sparsity=0.5)
SHARE = WeightShare(bits=2)
Spoil = Callable[[Candidate, Candidate, Context], Candidate]


@dataclass(frozen=True)
class Saboteur:
    """A good method, and what is done wrong behind its back: (argument, good result, context) -> bad result."""

    good: Any
    spoil: Spoil
    name: str = "saboteur"
    revision: int = 1
    gives: frozenset[str] = field(init=False)
    preserves: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gives", self.good.gives)
        object.__setattr__(self, "preserves", self.good.preserves)

    def __getattr__(self, setting: str) -> Any:
        """Settings are the good method's: it promises the same."""
        if setting.startswith("__") or setting == "good":
            raise AttributeError(setting)
        return getattr(self.good, setting)

    def expand(self) -> list[Any]:
        return [self]

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        return self.spoil(candidate, self.good.apply(candidate, context), context)


def changed(result: Candidate, change: Callable[[nn.Module], None]) -> Candidate:
    net = deepcopy(result.net)
    with torch.no_grad():
        change(net)
    return result.but(net=net)


def mutates_a_weight(argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    with torch.no_grad():
        argument.net.conv1.bias += 1.0
    return result


def switches_to_evaluation(argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    argument.net.eval()
    return result


def freezes_the_argument(argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    argument.net.conv1.weight.requires_grad_(False)
    return result


def forgets_in_place(argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    # the result's own forms are copied before
    result = result.but(forms=dict(result.forms))
    if isinstance(argument.forms, dict):
        argument.forms["fc1.bias"] = Form()
    return result


def draws_unseeded(_argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    return changed(result, lambda net: net.conv1.bias.add_(torch.rand(())))


def leaves_a_weight_outside(_argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    form = result.forms["conv2.weight"]
    place = (~form.support).flatten().nonzero()[0]
    return changed(result, lambda net: net.conv2.weight.view(-1).index_fill_(0, place, 1e-30))


def writes_negative_zero(_argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    form = result.forms["conv2.weight"]
    return changed(result, lambda net: net.conv2.weight.masked_fill_(~form.support, -0.0))


def breaks_sharing(_argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    def one_bit(net: nn.Module) -> None:
        w = net.fc1.weight.view(-1)
        w[0] = torch.nextafter(w[0], torch.tensor(9.0))

    return changed(result, one_bit)


def misses_by_one_weight(argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    if argument.forms:
        return result
    form = result.forms["fc1.weight"]
    support = form.support.clone()
    support.view(-1)[(~support).flatten().nonzero()[0]] = True
    return result.but(forms={**result.forms, "fc1.weight": replace(form, support=support)})


def takes_one_value_too_many(argument: Candidate, result: Candidate, context: Context) -> Candidate:
    more = WeightShare(bits={"fc1": 3}).apply(argument, context)
    net = deepcopy(result.net)
    net.fc1.load_state_dict(more.net.fc1.state_dict())
    return result.but(net=net, forms={**result.forms, "fc1.weight": more.forms["fc1.weight"]})


def gives_what_it_does_not_declare(_argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    share = Form(values=Shared(torch.zeros(12, dtype=torch.int64), 1))
    net = deepcopy(result.net)
    nn.init.constant_(net.fc1.bias, 0.25)
    return result.but(net=net, forms={**result.forms, "fc1.bias": share})


def does_not_record_its_edit(_argument: Candidate, result: Candidate, _context: Context) -> Candidate:
    net = deepcopy(result.net)
    net.drop.p = 0.123
    return result.but(net=net)


def forgets_earlier_forms(argument: Candidate, result: Candidate, context: Context) -> Candidate:
    if not argument.forms:
        return result
    return PRUNE.apply(argument.but(forms={}, net=_unpruned(argument)), context)


def _unpruned(candidate: Candidate) -> nn.Module:
    """Where pruned weights live again, as a method would leave them that trains without the mask."""
    net = deepcopy(candidate.net)
    with torch.no_grad():
        for name in candidate.forms:
            w = net.get_parameter(name)
            w.copy_(torch.where(w == 0, torch.full_like(w, 0.5), w))
    return net


def leaky_forward(self: Bound, params: Tensor) -> Tensor:
    """Training without the mask."""
    if self.index is not None:
        return honest_forward(self, params)
    return params


honest_forward, honest_default = Bound.forward, onnx_graph._is_default


def drifting_forward(self: Bound, params: Tensor) -> Tensor:
    """Training in which the members of a cluster drift apart."""
    w = honest_forward(self, params)
    return w if self.index is None else w * (1 + 1e-3 * torch.arange(w.numel()).view_as(w))


def forgets_slopes(good: Any) -> tuple[Any, AbstractContextManager[Any]]:
    """A graph whose leaky ReLUs have the slope that the operator's definition says."""

    def is_default(node: Any, name: str, attribute: Any, schema: Any) -> bool:
        return bool(node.op_type == "LeakyRelu") or honest_default(node, name, attribute, schema)

    return good, mock.patch.object(onnx_graph, "_is_default", is_default)


def bound_wrong(good: Any, forward: Any) -> tuple[Any, AbstractContextManager[Any]]:
    return good, mock.patch.object(Bound, "forward", forward)


def behind(good: Any, spoil: Spoil) -> tuple[Any, AbstractContextManager[Any]]:
    return Saboteur(good, spoil), nullcontext()


CASES = [
    ("argument_untouched", behind(PRUNE, mutates_a_weight)),
    ("argument_untouched", behind(SHARE, switches_to_evaluation)),
    ("argument_untouched", behind(SHARE, freezes_the_argument)),
    ("argument_untouched", behind(SHARE, forgets_in_place)),
    ("same_seed_same_bytes", behind(PRUNE, draws_unseeded)),
    ("forms_hold", behind(PRUNE, leaves_a_weight_outside)),
    ("forms_hold", behind(PRUNE, writes_negative_zero)),
    ("forms_hold", behind(SHARE, breaks_sharing)),
    ("forms_survive_training", bound_wrong(PRUNE, leaky_forward)),
    ("forms_survive_training", bound_wrong(SHARE, drifting_forward)),
    ("promised_size", behind(PRUNE, misses_by_one_weight)),
    ("promised_size", behind(SHARE, takes_one_value_too_many)),
    ("only_declared_traits", behind(PRUNE, gives_what_it_does_not_declare)),
    ("packs_bit_exact", behind(PRUNE, does_not_record_its_edit)),
    ("runtime_agrees", forgets_slopes(SHARE)),
    ("keeps_what_it_preserves", behind(PRUNE, forgets_earlier_forms)),
]


def failing(method: Any) -> dict[str, AssertionError]:
    found = {}
    for check in contract.CHECKS:
        try:
            check(method, "plain")
        except AssertionError as error:
            found[check.__name__] = error
    return found


def label(case: tuple[str, tuple[Any, Any]]) -> str:
    method = case[1][0]
    return f"{case[0]}-{method.spoil.__name__}" if isinstance(method, Saboteur) else f"{case[0]}-patched-{method.name}"


def test_every_check_has_a_saboteur():
    assert {name for name, _ in CASES} == {check.__name__ for check in contract.CHECKS}
    assert all(isinstance(form.values, Free) for form in contract.applied(PRUNE, "plain").forms.values())


@pytest.mark.parametrize("good", [PRUNE, SHARE], ids=lambda method: method.name)
def test_an_honest_saboteur_passes_everything(good):
    assert failing(Saboteur(good, lambda _argument, result, _context: result)) == {}


@pytest.mark.parametrize(("expected", "case"), CASES, ids=[label(case) for case in CASES])
def test_a_saboteur_fails_exactly_its_check(expected, case):
    method, patch = case
    with patch:
        assert set(failing(method)) == {expected}
