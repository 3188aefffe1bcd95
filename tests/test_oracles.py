"""Methods and training against independent calculations: brute force, numpy, explicit loops, formulas."""

from __future__ import annotations

import math

import contract
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_nets import KINDS, toy_candidate, toy_context, toy_data

from netpress.candidate import Candidate, Context, Inputs
from netpress.data import Split
from netpress.data.batches import batches
from netpress.errors import ModelError, RecipeError
from netpress.forms import Shared
from netpress.methods import WeightPrune, WeightShare
from netpress.train.gradients import diagonal_fisher

CONTEXT = Context(example=torch.zeros(1, 4))


def linear(weights: list[float], rows: int = 1) -> Candidate:
    net = nn.Linear(len(weights) // rows, rows, bias=False)
    net.weight.data = torch.tensor(weights, dtype=torch.float32).view(rows, -1)
    return Candidate(net, inputs=Inputs((len(weights) // rows,)))


def kept(candidate: Candidate, name: str = "weight") -> list[int]:
    support = candidate.forms[name].support
    assert support is not None
    return support.flatten().nonzero().flatten().tolist()


def brute_force_kept(weights: list[float], sparsity: float) -> list[int]:
    """Drop one at a time: always the smallest |w|, of equals the earliest."""
    alive = list(range(len(weights)))
    for _ in range(min(round(sparsity * len(weights)), len(weights) - 1)):
        least = min(abs(np.float32(weights[i])) for i in alive)
        alive.remove(next(i for i in alive if abs(np.float32(weights[i])) == least))
    return alive


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]) | st.floats(-3, 3, width=32), min_size=1, max_size=12
    ),
    st.floats(0, 0.99),
)
def test_magnitude_pruning_is_brute_force(weights, sparsity):
    pruned = WeightPrune(sparsity=sparsity).apply(linear(weights), CONTEXT)
    assert kept(pruned) == brute_force_kept(weights, sparsity)
    expected = [w if i in kept(pruned) else 0.0 for i, w in enumerate(torch.tensor(weights).tolist())]
    assert pruned.net.weight.flatten().tolist() == expected


def test_of_equals_the_earlier_is_dropped_first():
    assert kept(WeightPrune(sparsity=0.5).apply(linear([1.0, -1.0, 1.0, -1.0]), CONTEXT)) == [2, 3]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=12), st.lists(st.floats(0, 0.95), min_size=2, max_size=4)
)
def test_rounds_never_bring_a_weight_back(weights, rounds):
    candidate = linear(weights)
    alive = set(range(len(weights)))
    for sparsity in sorted(rounds):
        candidate = WeightPrune(sparsity=sparsity).apply(candidate, CONTEXT)
        assert set(kept(candidate)) <= alive
        alive = set(kept(candidate))
        assert len(alive) == max(1, len(weights) - round(sparsity * len(weights)))


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_threshold_is_a_multiple_of_numpys_population_deviation(kind, q):
    before = toy_candidate(kind)
    after = WeightPrune(threshold_std=q).apply(before, toy_context())
    assert len(after.forms) >= 3
    for name, form in after.forms.items():
        w = before.net.get_parameter(name).detach().numpy()
        assert np.array_equal(form.support.numpy(), np.abs(w) > q * np.std(w.astype(np.float64)))


def test_global_scope_is_one_threshold_for_all():
    before = toy_candidate("plain")
    after = WeightPrune(sparsity=0.6, scope="global").apply(before, toy_context())
    names = list(after.forms)
    scores = np.concatenate([before.net.get_parameter(n).detach().abs().numpy().ravel() for n in names])
    support = np.concatenate([after.forms[n].support.numpy().ravel() for n in names])
    assert (~support).sum() == round(0.6 * support.size)
    assert scores[~support].max() <= scores[support].min()
    shares = [1 - after.forms[n].support.double().mean().item() for n in names]
    assert max(shares) - min(shares) > 0.2  # not just the same share in every layer


def test_a_layer_that_would_be_pruned_whole_is_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[0].weight.data.fill_(1e-6)
    with pytest.raises(ModelError, match=r"0\.weight: nothing would be left of its 16 weights"):
        WeightPrune(sparsity=0.5, scope="global").apply(Candidate(net, inputs=Inputs((4,))), CONTEXT)


# --- saliency ---


@pytest.mark.parametrize("kind", ["plain", "depthwise", "shuffle", "squeeze_excite"])
@pytest.mark.parametrize("samples", [1, 33, 50, 1000])
def test_fisher_is_the_mean_of_squared_gradients_image_by_image(kind, samples):
    candidate = toy_candidate(kind)
    data = toy_data()
    names = [n for n, p in candidate.net.named_parameters() if p.ndim > 1]
    ours = diagonal_fisher(candidate.net, names, data.train, candidate.inputs, samples=samples, seed=5)
    net = toy_candidate(kind).net.eval()
    total, seen = {n: torch.zeros_like(net.get_parameter(n), dtype=torch.float64) for n in names}, 0
    for x, y in batches(data.train, size=1, mean=data.mean, std=data.std, seed=5):
        if seen == samples:
            break
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for n in names:
            total[n] += net.get_parameter(n).grad.double().square()
        seen += 1
    assert seen == min(samples, len(data.train))
    for n in names:
        torch.testing.assert_close(ours[n].double(), total[n] / seen, rtol=1e-4, atol=1e-9)


class Scaled(nn.Module):
    """Logits (w . x, 0): for small w the loss is a quadratic whose curvature in w_i is that of x_i."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(x.flatten(1))
        return torch.cat([z, torch.zeros_like(z)], 1)


def quadratic() -> tuple[Candidate, Split]:
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 100.0, 10.0, 50.0])
    pixels = (128 + spread * torch.randn(400, 4, generator=rng).clamp(-1.2, 1.2)).to(torch.uint8).view(400, 1, 2, 2)
    candidate = Candidate(Scaled(), inputs=Inputs((1, 2, 2), (128 / 255,), (1.0,)))
    candidate.net.fc.weight.data = torch.tensor([[0.5, 0.05, 0.2, 0.02]])
    return candidate, Split(pixels, torch.randint(0, 2, (400,), generator=rng))


def test_saliency_ranks_as_the_true_rise_of_the_loss():
    candidate, split = quadratic()
    x = (
        next(iter(batches(split, size=400, mean=candidate.inputs.mean, std=candidate.inputs.std)))[0]
        .flatten(1)
        .double()
    )
    w = candidate.net.fc.weight.detach().double()[0]
    # at w = 0 the Hessian of the mean cross-entropy of two classes is E[x x^T] / 4, whatever the labels are
    rise = 0.5 * (x.square().mean(0) / 4) * w.square()
    order = rise.argsort().tolist()
    for dropped in (1, 2, 3):
        method = WeightPrune(sparsity=dropped / 4, score="saliency", samples=400)
        context = Context(example=torch.zeros(1, 1, 2, 2), train=split)
        assert kept(method.apply(candidate, context), "fc.weight") == sorted(order[dropped:])
    assert order != w.abs().argsort().tolist()  # magnitude would choose otherwise


def test_saliency_needs_data_and_no_threshold():
    with pytest.raises(RecipeError, match="needs data"):
        WeightPrune(sparsity=0.5, score="saliency").apply(toy_candidate("plain"), CONTEXT)
    with pytest.raises(ValueError, match="give sparsity"):  # told before anything is trained
        WeightPrune(threshold_std=1.0, score="saliency")


# --- sharing ---


@pytest.mark.parametrize("kind", KINDS)
def test_with_enough_values_sharing_changes_nothing(kind):
    before = WeightPrune(sparsity=0.5).apply(toy_candidate(kind), toy_context())
    after = WeightShare(bits=12).apply(before, toy_context())
    assert contract.state(after.net) == contract.state(before.net)


@pytest.mark.parametrize("init", ["forgy", "density", "linear", "optimal"])
def test_every_weight_goes_to_the_nearest_value_and_every_value_is_the_mean(init):
    before = toy_candidate("plain")
    after = WeightShare(bits=3, init=init).apply(before, toy_context())
    for name, form in after.forms.items():
        assert isinstance(form.values, Shared)
        old = before.net.get_parameter(name).detach().flatten().double()
        new = after.net.get_parameter(name).detach().flatten().double()
        table = new.unique()
        distance = (old[:, None] - table[None]).abs()
        assert ((old - new).abs() <= distance.min(1).values + 1e-6).all()
        for value in table:
            assert old[new == value].mean().item() == pytest.approx(value.item(), abs=1e-6)


def test_optimal_start_is_never_worse():
    def inertia(init: str) -> float:
        before = toy_candidate("plain")
        after = WeightShare(bits=2, init=init).apply(before, toy_context())
        return sum(
            (before.net.get_parameter(n) - after.net.get_parameter(n)).square().sum().item() for n in after.forms
        )

    assert inertia("optimal") <= min(inertia(i) for i in ("forgy", "density", "linear")) * (1 + 1e-4)


# --- dropout ---


def test_dropout_follows_the_formula_over_all_rounds():
    candidate = toy_candidate("plain")
    connections = candidate.net.fc1.weight.numel()
    for method in WeightPrune(sparsity=[0.3, 0.6, 0.9], adjust_dropout=True).expand():
        candidate = method.apply(candidate, toy_context())
        left = int(candidate.forms["fc1.weight"].support.sum())
        assert candidate.net.drop.p == pytest.approx(0.4 * math.sqrt(left / connections))
    assert candidate.arch.edits[-1] == ("dropout", "drop", candidate.net.drop.p)
    assert len(candidate.arch.edits) == 3


def test_dropout_stays_where_it_was_not_asked_for():
    assert WeightPrune(sparsity=0.9).apply(toy_candidate("plain"), toy_context()).net.drop.p == 0.4
