"""Batches: pure in the seed, right in what they do to an image, and exact in their normalisation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.data import Augment, Split, batches, normalise
from netpress.data.batches import share
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


class Counting:
    """Images that count how many of them are taken."""

    def __init__(self, images):
        self.images, self.taken = images, 0
        self.shape, self.device = images.shape, images.device

    def __getitem__(self, index):
        found = self.images[index]
        self.taken += len(found)
        return found


class Counted:
    def __init__(self, split):
        self.images, self.labels = Counting(split.images), split.labels

    def __len__(self):
        return len(self.labels)


@settings(max_examples=40, deadline=None)
@given(seed=st.none() | st.integers(0, 2**40), start=st.integers(0, 9), size=st.integers(1, 12), drop=st.booleans())
def test_an_epoch_begun_in_its_middle_goes_on_bit_for_bit(seed, start, size, drop):
    split = Counted(make())
    options = {**PLAIN, "size": size, "seed": seed, "augment": Augment(2, flip=True) if seed is not None else None}
    whole = list(batches(make(), **options, drop_last=drop))[start:]
    rest = list(batches(split, **options, drop_last=drop, start=start))
    assert len(rest) == len(whole)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(whole, rest, strict=True))
    assert split.images.taken == sum(len(y) for _, y in whole)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.none() | st.integers(0, 2**40), world=st.integers(1, 6), size=st.integers(1, 12), start=st.integers(0, 2)
)
def test_the_parts_of_all_processes_are_the_whole_batch_in_order(seed, world, size, start):
    augment = Augment(2, flip=True) if seed is not None else None
    options = {**PLAIN, "size": size, "seed": seed, "augment": augment, "start": start}
    whole = list(batches(make(), **options))
    parts = [list(batches(make(), **options, part=(rank, world))) for rank in range(world)]
    for (images, labels), *mine in zip(whole, *parts, strict=True):
        lengths = [len(y) for _, y in mine]
        if len(labels) < world:  # too few to go round: everybody gets them all
            assert all(torch.equal(x, images) and torch.equal(y, labels) for x, y in mine)
            continue
        assert max(lengths) - min(lengths) <= 1
        assert lengths == [high - low for low, high in (share(len(labels), (rank, world)) for rank in range(world))]
        assert torch.equal(torch.cat([x for x, _ in mine]), images)
        assert torch.equal(torch.cat([y for _, y in mine]), labels)


def test_normalise_follows_the_formula():
    images = make(channels=3).images
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert (normalise(images, mean, std) - expected).abs().max() < 1e-6


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(DataError, match="images have 1 channels, the normalisation 3 means and 3 deviations"):
        next(batches(make(), size=5, mean=(0.5,) * 3, std=(0.5,) * 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 1, "augment": Augment(2)}, "needs a seed"),
        ({"size": 1, "start": -1}, "start is -1"),
        ({"size": 1, "part": (2, 2)}, r"part \(2, 2\)"),
        ({"size": 1, "part": (0, 0)}, r"part \(0, 0\)"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_batch(wrong, message):
    with pytest.raises(ValueError, match=message):
        batches(make(), **PLAIN, **wrong)


def test_the_stream_of_seed_zero_is_fixed():
    _, labels = epoch(make(), seed=0)
    assert labels[:6].tolist() == [19, 8, 16, 3, 15, 20]
