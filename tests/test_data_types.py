"""Splits, data sets, fingerprints and stratification."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.data import Data, Split, build, decide_on_test, hold_out, stratify
from netpress.data.split import complete
from netpress.data.types import pixel_statistics
from netpress.errors import DataError


def make(count=12, classes=3, shape=(1, 4, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % classes)


def make_data(**changes) -> Data:
    splits = tuple(changes.pop(part, make(seed=k)) for k, part in enumerate(("train", "validation", "test")))
    return build("toy", splits, classes=changes.pop("classes", ("a", "b", "c")), note="", **changes)


def test_data_tells_its_shape_and_splits():
    data = make_data()
    assert data.shape == (1, 4, 4)
    assert [name for name, _ in data.splits()] == ["train", "validation", "test"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "torch.float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "2 images, 3 labels"),
    ],
)
def test_a_malformed_split_is_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split(images, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": make(0)}, "toy, test: no images"),
        ({"validation": make(shape=(1, 4, 5))}, r"toy, validation: images of shape \(1, 4, 5\)"),
        ({"test": make(shape=(3, 4, 4))}, r"toy, test: images of shape \(3, 4, 4\)"),
        ({"test": make(classes=4)}, r"toy, test: labels out of range: expected 0\.\.2, got 0\.\.3"),
        ({"train": Split(make(2).images, torch.tensor([-1, 1]))}, r"got -1\.\.1"),
        ({"classes": ("a", "b", "c", "d")}, "empty class 'd'"),
        ({"statistics": ((0.5,) * 3, (0.5,) * 3)}, "1 channels, but mean and std of 3 and 3"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        make_data(**changes)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_fixed_and_sees_every_change():
    data = make_data()
    # Byte for byte, because run folders keep it: class names, then shape, pixels and int64 labels of each split.
    zeros = Split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))
    toy = build("toy", (zeros, zeros, zeros), classes=("a",), note="")
    assert toy.fingerprint == hashlib.sha256(b'["a"]' + 3 * (b"[1, 1, 2, 2]" + bytes(4) + bytes(8))).hexdigest()
    assert data.fingerprint == make_data().fingerprint
    one_pixel = make(seed=2)
    one_pixel.images[0, 0, 0, 0] ^= 1
    one_label = make(seed=0)
    one_label.labels[0] = 1
    others = [
        make_data(test=one_pixel),
        make_data(train=one_label),
        make_data(classes=("a", "b", "d")),
        make_data(train=make(seed=1), validation=make(seed=0)),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_fingerprint_does_not_depend_on_the_memory_layout():
    split = make(shape=(3, 4, 4))
    turned = Split(split.images.contiguous(memory_format=torch.channels_last), split.labels)
    assert make_data(train=split, validation=split, test=split).fingerprint == (
        make_data(train=turned, validation=turned, test=turned).fingerprint
    )


def test_statistics_agree_with_numpy():
    images = make(50, shape=(3, 5, 7)).images
    mean, std = pixel_statistics(images)
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=3, max_size=80), seed=st.integers(0, 2**32), data=st.data())
def test_stratify_deals_every_image_once_and_in_proportion(labels, seed, data):
    first = data.draw(st.integers(0, len(labels)))
    second = data.draw(st.integers(0, len(labels) - first))
    counts = (first, second, len(labels) - first - second)
    parts = stratify(torch.tensor(labels), counts, seed=seed)
    assert tuple(map(len, parts)) == counts
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for part, count in zip(parts, counts, strict=True):
        got = np.bincount(np.array(labels)[part.numpy()], minlength=5)
        assert np.abs(got - np.bincount(labels, minlength=5) * count / len(labels)).max() <= 1 + 5 / 2
        if len(set(labels)) == 1:
            assert got.sum() == count


def test_stratify_is_within_one_image_for_equal_classes():
    parts = stratify(torch.arange(1000) % 10, (100, 205, 695), seed=3)
    counts = [torch.bincount(torch.arange(1000)[part] % 10) for part in parts]
    assert counts[0].tolist() == [10] * 10
    assert counts[1].max() - counts[1].min() <= 1


def test_stratify_depends_on_the_seed_and_nothing_else():
    labels = torch.arange(100) % 4
    again, other = (stratify(labels, (20, 80), seed=seed)[0] for seed in (0, 1))
    assert torch.equal(stratify(labels, (20, 80), seed=0)[0], again)
    assert not torch.equal(again, other)


def test_stratify_refuses_counts_that_do_not_add_up():
    with pytest.raises(ValueError, match="add up to 9, not to 10"):
        stratify(torch.zeros(10, dtype=torch.int64), (4, 5), seed=0)


def test_hold_out_keeps_images_with_their_labels():
    split = Split(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), torch.arange(20) % 4)
    for part in hold_out(split, 8, seed=0):
        assert torch.equal(part.images.flatten() % 4, part.labels.to(torch.uint8))
    with pytest.raises(DataError, match="cannot hold out 20 of 20"):
        hold_out(split, 20, seed=0)


def test_decide_on_test_splits_the_test_images_and_leaves_train():
    data = make_data(test=make(30, seed=2))
    decided = decide_on_test(data, count=12)
    assert (len(decided.validation), len(decided.test)) == (12, 18)
    assert torch.bincount(decided.validation.labels).tolist() == [4, 4, 4]
    assert torch.equal(decided.train.images, data.train.images)
    both = torch.cat([decided.validation.images, decided.test.images]).flatten(1).tolist()
    assert sorted(both) == sorted(data.test.images.flatten(1).tolist())
    assert decided.mean == data.mean
    assert "have seen" in decided.note


def test_complete_cuts_tenths_and_refuses_too_few():
    splits, note = complete([make(100), make(7)], where="here")
    assert [len(split) for split in splits] == [90, 10, 7]
    assert note.startswith("90/10/7")
    with pytest.raises(DataError, match="here: 9 images are too few"):
        complete([make(9)], where="here")
