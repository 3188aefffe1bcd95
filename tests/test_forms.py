"""Forms: projection to the bit, gradients of shared tables, what a file holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from netpress.codec.stored import restore
from netpress.forms import (
    Form,
    Free,
    Shared,
    decode,
    encode,
    from_stored,
    gather,
    holds,
    inside,
    project,
    select,
    symbols,
)


def bits(w: Tensor) -> bytes:
    return w.detach().contiguous().numpy().tobytes()


floats = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3e38])


@st.composite
def formed_tensors(draw):
    """A tensor of one to three axes, with or without a support, free or shared."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    count = int(np.prod(shape))
    w = torch.tensor(draw(st.lists(floats, min_size=count, max_size=count)), dtype=torch.float32).view(*shape)
    support = None
    if draw(st.booleans()):
        chosen = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        chosen[draw(st.integers(0, count - 1))] = True
        support = torch.tensor(chosen).view(*shape)
    if draw(st.booleans()):
        return Form(support=support), w
    inner = count if support is None else int(support.sum())
    size = draw(st.integers(1, inner))
    index = list(range(size)) + draw(st.lists(st.integers(0, size - 1), min_size=inner - size, max_size=inner - size))
    return Form(support=support, values=Shared(torch.tensor(draw(st.permutations(index))), size)), w


@settings(max_examples=150, deadline=None)
@given(formed_tensors())
def test_project_is_idempotent_to_the_bit(case):
    form, w = case
    once = project(form, w)
    assert bits(project(form, once)) == bits(once)
    assert holds(form, once)
    assert once.shape == w.shape


@settings(max_examples=150, deadline=None)
@given(formed_tensors())
def test_outside_the_support_is_plus_zero(case):
    form, w = case
    if form.support is not None:
        outside = project(form, w)[~form.support]
        assert bits(outside) == bytes(4 * outside.numel())


@settings(max_examples=150, deadline=None)
@given(formed_tensors())
def test_a_file_gives_back_form_and_tensor(case):
    form, w = case
    w = project(form, w)
    stored = symbols(form, w)
    assert restore(stored).tobytes() == bits(w)
    back_form, back = from_stored(stored)
    assert bits(back) == bits(w)
    assert back_form.traits == form.traits
    assert (back_form.support is None) == (form.support is None)
    if form.support is not None:
        assert torch.equal(back_form.support, form.support)
    if isinstance(form.values, Shared):
        assert isinstance(back_form.values, Shared)
        assert torch.equal(back_form.values.index, form.values.index)
        assert back_form.values.size == form.values.size


@settings(max_examples=150, deadline=None)
@given(formed_tensors(), st.data())
def test_a_form_is_carried_along_when_channels_are_taken(case, data):
    form, w = case
    w = project(form, w)
    axis = data.draw(st.integers(0, w.ndim - 1))
    keep = torch.tensor(data.draw(st.sets(st.integers(0, w.shape[axis] - 1), min_size=1).map(sorted)))
    taken, smaller = select(form, w.shape, axis, keep), w.index_select(axis, keep)
    assert holds(taken, smaller)
    assert taken.traits <= form.traits
    if isinstance(taken.values, Shared):
        assert torch.equal(torch.unique(taken.values.index), torch.arange(taken.values.size))
    back_form, back = from_stored(symbols(taken, smaller))
    assert bits(back) == bits(smaller)
    assert back_form.traits == taken.traits


@settings(max_examples=60, deadline=None)
@given(formed_tensors(), st.integers(0, 2**31))
def test_gradient_equals_plain_indexing(case, seed):
    form, w = case
    if isinstance(form.values, Free):
        return
    up = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))
    ours = torch.randn(form.values.size, generator=torch.Generator().manual_seed(seed + 1)).requires_grad_()
    plain = ours.detach().double().requires_grad_()
    (decode(form, ours, w.shape) * up).sum().backward()
    full = torch.zeros(w.numel(), dtype=torch.float64)
    places = torch.arange(w.numel()) if form.support is None else form.support.flatten().nonzero().flatten()
    full = full.index_put((places,), plain[form.values.index])
    (full.view(w.shape) * up.double()).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad.float(), rtol=1e-6, atol=1e-6)


def test_gather_passes_the_numerical_gradient_check():
    table = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    index, places = torch.tensor([2, 0, 0, 1]), torch.tensor([0, 2, 3, 5])
    assert torch.autograd.gradcheck(lambda t: gather(t, index, places, torch.Size([2, 3])), (table,))
    assert torch.autograd.gradcheck(lambda t: gather(t, index, None, torch.Size([2, 2])), (table,))


def test_the_table_is_the_mean_of_its_members():
    form = Form(values=Shared(torch.tensor([0, 1, 0, 1]), 2))
    assert encode(form, torch.tensor([1.0, 10.0, 2.0, 20.0])).tolist() == [1.5, 15.0]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-45, 3e38, -7e-39])
def test_equal_members_keep_their_value(value):
    w = torch.full((100_003,), value)
    form = Form(values=Shared(torch.zeros(len(w), dtype=torch.int64), 1))
    assert bits(project(form, w)) == bits(w)


def test_a_table_that_was_trained_to_minus_zero_holds():
    form = Form(values=Shared(torch.tensor([0, 1, 0]), 2))
    assert holds(form, decode(form, torch.tensor([-0.0, 1.0]), torch.Size([3])))


@pytest.mark.parametrize("seed", range(5))
def test_free_form_masks_gradients(seed):
    rng = torch.Generator().manual_seed(seed)
    form = Form(support=torch.rand(4, 5, generator=rng) < 0.5)
    w = torch.randn(4, 5, generator=rng).requires_grad_()
    decode(form, w, w.shape).sum().backward()
    assert torch.equal(w.grad, form.support.float())


def test_nan_outside_the_support_does_not_come_through():
    form = Form(support=torch.tensor([True, False]))
    assert project(form, torch.tensor([1.0, float("nan")])).tolist() == [1.0, 0.0]


def test_a_tensor_that_breaks_its_form_is_not_written():
    form = Form(support=torch.tensor([True, False]))
    for wrong in (torch.tensor([1.0, 1e-30]), torch.tensor([1.0, -0.0])):
        assert not holds(form, wrong)
        with pytest.raises(ValueError, match="does not hold its form"):
            symbols(form, wrong)


def test_traits():
    support, shared = torch.tensor([True]), Shared(torch.tensor([0]), 1)
    assert Form().traits == frozenset()
    assert Form(support).traits == {"support"}
    assert Form(values=shared).traits == {"shared"}
    assert Form(support, shared).traits == {"support", "shared"}
    assert inside(Form(torch.tensor([False, True])), torch.tensor([1.0, 2.0])).tolist() == [2.0]
