"""The class-balanced focal loss: numbers of the paper, limits of beta, float64 formula, extreme logits, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.errors import DataError, RecipeError
from netpress.recipe import parse
from netpress.train import Training
from netpress.train.balanced import class_balanced_focal, class_weights, effective_number
from netpress.train.losses import distillation, training_loss

FORMS = ("sigmoid", "softmax")
NUMBERS = {
    5000: {0.9: 10.0, 0.99: 100.0, 0.999: 993.279, 0.9999: 3934.845},
    500: {0.9: 10.0, 0.99: 99.343, 0.999: 393.621, 0.9999: 487.730},
}


@pytest.mark.parametrize(("count", "beta"), [(n, b) for n, row in NUMBERS.items() for b in row])
def test_effective_numbers_are_the_printed_ones(count, beta):
    assert effective_number(count, beta) == pytest.approx(NUMBERS[count][beta], abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.floats(0, 0.99999))
def test_effective_numbers_are_the_series(count, beta):
    assert effective_number(count, beta) == pytest.approx(float(np.sum(beta ** np.arange(count))), rel=1e-9)


def long_tail(counts: list[int]) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_beta_zero_weighs_classes_alike():
    assert class_weights(long_tail([5000, 500, 1]), 3, 0.0).tolist() == [1, 1, 1]


def test_beta_towards_one_weighs_by_inverse_frequency():
    counts = [5000, 500, 50, 1]
    inverse = 1 / np.array(counts)
    found = class_weights(long_tail(counts), 4, 1 - 1e-12).numpy()
    np.testing.assert_allclose(found, 4 * inverse / inverse.sum(), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1 - 1e-12])
def test_balanced_data_have_weights_of_one(beta):
    assert class_weights(long_tail([500] * 10), 10, beta).tolist() == [1] * 10


def test_weights_follow_the_effective_numbers():
    e = np.array([NUMBERS[n][0.9999] for n in (5000, 500)])
    found = class_weights(long_tail([5000, 500]), 2, 0.9999)
    np.testing.assert_allclose(found, 2 / e / (1 / e).sum(), rtol=1e-5)
    assert found.sum().item() == pytest.approx(2)


def test_a_class_without_images_weighs_nothing():
    assert class_weights(long_tail([7, 0, 7]), 3, 0.99).tolist() == [1, 0, 1]


@pytest.mark.parametrize("labels", [[], [0, 3], [-1, 0]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(DataError, match="expected labels from 0 to 2"):
        class_weights(torch.tensor(labels, dtype=torch.int64), 3, 0.9)


def formula(z: np.ndarray, y: np.ndarray, alpha: np.ndarray, form: str, gamma: float) -> float:
    """As the paper writes it, in float64."""
    rows = np.arange(len(y))
    if form == "sigmoid":
        sign = -np.ones_like(z)
        sign[rows, y] = 1
        p = 1 / (1 + np.exp(-sign * z))
        return float(np.mean(alpha[y] * -((1 - p) ** gamma * np.log(p)).sum(1)))
    p = (np.exp(z) / np.exp(z).sum(1, keepdims=True))[rows, y]
    return float(np.mean(alpha[y] * -((1 - p) ** gamma) * np.log(p)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]), st.booleans())
def test_the_loss_is_the_formula(seed, form, gamma, double):
    rng = np.random.default_rng(seed)
    z, y, alpha = rng.normal(size=(7, 6)) * 3, rng.integers(0, 6, 7), rng.uniform(0, 3, 6)
    dtype, rel = (torch.float64, 1e-10) if double else (torch.float32, 1e-4)
    given_z = torch.tensor(z, dtype=dtype)
    ours = class_balanced_focal(given_z, torch.tensor(y), torch.tensor(alpha, dtype=dtype), form=form, gamma=gamma)
    assert ours.dtype == dtype
    assert ours.item() == pytest.approx(formula(z, y, alpha, form, gamma), rel=rel, abs=1e-6 * (not double))


def test_without_focus_it_is_cross_entropy():
    z, y, ones = torch.randn(9, 5), torch.arange(9) % 5, torch.ones(5)
    plain = class_balanced_focal(z, y, ones, form="softmax", gamma=0.0)
    torch.testing.assert_close(plain, F.cross_entropy(z, y))
    yes = F.one_hot(y, 5).float()
    each = class_balanced_focal(z, y, ones, form="sigmoid", gamma=0.0)
    torch.testing.assert_close(each, F.binary_cross_entropy_with_logits(z, yes, reduction="none").sum(1).mean())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_right(form, gamma):
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y, alpha = torch.tensor([0, 1, 2, 1]), torch.tensor([0.5, 2.0, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: class_balanced_focal(z, y, alpha, form=form, gamma=gamma), z)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("right", [True, False])
def test_extreme_logits_stay_finite(form, gamma, dtype, right):
    z = torch.full((2, 3), -1e4, dtype=dtype)
    z[:, 0] = 1e4
    z.requires_grad_()
    y = torch.tensor([0, 0] if right else [1, 2])
    loss = class_balanced_focal(z, y, torch.ones(3), form=form, gamma=gamma)
    loss.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    if right:
        assert loss.item() == 0
        assert (z.grad == 0).all()
    else:  # wrong for sure: the whole distance, once or (sigmoid) for the class taken and for the class missed
        distance = float(z[0, 0].detach()) - float(z[0, 1].detach())
        assert loss.item() == pytest.approx(distance, rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_is_nearly_right_for_sure_keeps_its_digits(form):
    """1 - p_y is 1e-9 here: float32 has no such p_y, but its loss."""
    z = torch.tensor([[20.0, -0.7]])
    ours = class_balanced_focal(z, torch.tensor([0]), torch.ones(2), form=form, gamma=1.0).item()
    exact = formula(z.double().numpy(), np.array([0]), np.ones(2), form, 1.0)
    assert ours == pytest.approx(exact, rel=1e-3)
    assert ours > 0


def test_the_training_loss_takes_it_and_still_learns_from_a_teacher():
    z, y, t, alpha = torch.randn(8, 4), torch.arange(8) % 4, torch.randn(8, 4), torch.tensor([0.5, 0.5, 1.0, 2.0])
    for form in FORMS:
        s = Training(loss="class_balanced_focal", focal_form=form, focal_gamma=1.5, distill=0.3)
        hard = class_balanced_focal(z, y, alpha, form=form, gamma=1.5)
        torch.testing.assert_close(training_loss(z, y, None, s, alpha), hard)
        soft = distillation(z, t, temperature=s.temperature)
        torch.testing.assert_close(training_loss(z, y, t, s, alpha), 0.7 * hard + 0.3 * soft)
        # before it begins (`focal_from`) there are no weights
        torch.testing.assert_close(training_loss(z, y, None, s), torch.nn.functional.cross_entropy(z, y))


def test_smoothed_labels_are_refused_in_one_line():
    train = {"loss": "class_balanced_focal", "label_smoothing": 0.1}
    with pytest.raises(RecipeError, match=r"baseline: loss 'class_balanced_focal' takes no label_smoothing") as caught:
        parse({"network": {"name": "lenet5"}, "data": {"name": "digits"}, "baseline": train})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "focal"},
        {"focal_form": "tanh"},
        {"focal_gamma": -1},
        {"focal_beta": 1},
        {"ema": 1},
        {"ema": -0.1},
        {"accumulate": 0},
        {"compile": "yes, please"},
        {"precision": "16-true"},
    ],
)
def test_fields_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)
