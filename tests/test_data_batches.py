"""Batches: pure in the seed, right in what they do to an image, and exact in their normalisation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.data import Augment, Split, batches, normalise
from netpress.errors import DataError

PLAIN = {"mean": (0.0,), "std": (1.0,)}


def make(count=23, channels=1, side=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, channels, side, side + 1), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count))


def epoch(split, **settings_):
    pairs = list(batches(split, **{"size": 5, **PLAIN, **settings_}))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def pixels(images):
    return (images * 255).round().to(torch.uint8)


def test_without_a_seed_the_order_stays_and_nothing_changes():
    split = make()
    images, labels = epoch(split)
    assert torch.equal(pixels(images), split.images)
    assert torch.equal(labels, split.labels)
    assert images.dtype == torch.float32


def test_a_seed_permutes_images_together_with_labels():
    split = make()
    images, labels = epoch(split, seed=7)
    assert labels.tolist() != split.labels.tolist()
    assert sorted(labels.tolist()) == split.labels.tolist()
    assert torch.equal(pixels(images), split.images[labels])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), shift=st.integers(0, 7), flip=st.booleans(), size=st.integers(1, 30))
def test_an_epoch_is_a_function_of_the_seed_and_not_of_the_batch_size(seed, shift, flip, size):
    split, augment = make(), Augment(shift, flip)
    state = torch.get_rng_state()
    images, labels = epoch(split, seed=seed, augment=augment, size=size)
    again, same = epoch(split, seed=seed, augment=augment, size=23)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), shift=st.integers(1, 4), flip=st.booleans())
def test_every_image_is_some_shift_of_its_original_with_black_coming_in(seed, shift, flip):
    split = make(channels=3)
    wide = torch.nn.functional.pad(split.images, (shift,) * 4)
    images, labels = epoch(split, mean=(0.0,) * 3, std=(1.0,) * 3, seed=seed, augment=Augment(shift, flip))
    rows, columns = split.images.shape[2:]
    for image, label in zip(pixels(images), labels, strict=True):
        windows = [
            wide[label, :, down : down + rows, right : right + columns]
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
        ]
        mirrored = [window.flip(2) for window in windows] if flip else []
        assert any(torch.equal(image, window) for window in windows + mirrored)


def test_shifts_and_flips_are_uniform():
    count, shift = 6000, 1
    one = torch.zeros(count, 1, 5, 5, dtype=torch.uint8)
    one[:, :, 2, 1] = 255
    split = Split(one, torch.zeros(count, dtype=torch.int64))
    images, _ = epoch(split, size=1000, seed=0, augment=Augment(shift, flip=True))
    frequency = images[:, 0].mean(0)
    assert frequency.sum() == pytest.approx(1, abs=1e-5)
    # Rows 1..3 alike; unflipped columns 0..2, flipped 2..4: the middle column is reached twice as often.
    expected = torch.zeros(5, 5)
    expected[1:4] = torch.tensor([1.0, 1, 2, 1, 1]) / 18
    assert (frequency - expected).abs().max() < 0.015


def test_switching_the_flip_on_does_not_change_order_and_shifts():
    symmetric = make()
    symmetric = Split(torch.cat([symmetric.images, symmetric.images.flip(3)], 3), symmetric.labels)
    plain, _ = epoch(symmetric, seed=3)
    flipped, _ = epoch(symmetric, seed=3, augment=Augment(flip=True))
    assert torch.equal(plain, flipped)


def test_the_last_batch_is_short_or_left_out():
    assert [len(y) for _, y in batches(make(), size=5, **PLAIN)] == [5, 5, 5, 5, 3]
    assert [len(y) for _, y in batches(make(), size=5, **PLAIN, drop_last=True)] == [5, 5, 5, 5]
    assert not list(batches(make(), size=24, **PLAIN, drop_last=True))


def test_normalise_follows_the_formula():
    images = make(channels=3).images
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert (normalise(images, mean, std) - expected).abs().max() < 1e-6


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(DataError, match="images have 1 channels, the normalisation 3 means and 3 deviations"):
        next(batches(make(), size=5, mean=(0.5,) * 3, std=(0.5,) * 3))


@pytest.mark.parametrize(
    ("wrong", "message"), [({"size": 0}, "size is 0"), ({"size": 1, "augment": Augment(2)}, "needs a seed")]
)
def test_wrong_arguments_are_refused_before_the_first_batch(wrong, message):
    with pytest.raises(ValueError, match=message):
        batches(make(), **PLAIN, **wrong)


def test_the_stream_of_seed_zero_is_fixed():
    _, labels = epoch(make(), seed=0)
    assert labels[:6].tolist() == [19, 8, 16, 3, 15, 20]
