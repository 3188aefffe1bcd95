"""Long-tailed sets: exact counts, chosen for ever, with everything but the training images as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import netpress.data as data_sets
from netpress.data.long_tail import tail
from netpress.errors import DataError


def refused(spec, **more):
    with pytest.raises(DataError) as caught:
        data_sets.open(spec, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_counts_of_the_literature():
    assert tail([5000] * 10, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert tail([5000] * 10, 10) == [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert sum(tail([500] * 100, 100)) == 10_847
    assert tail([1000] * 4, 1000) == [1000, 100, 10, 1]  # whole numbers survive the rounding of powers
    assert tail([7], 5) == [7]


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(1, 6000), min_size=2, max_size=30), factor=st.floats(1, 1000))
def test_every_class_has_enough_and_one_more_would_be_too_many(counts, factor):
    sizes = tail(counts, factor)
    assert all(size <= count for size, count in zip(sizes, counts, strict=True))
    assert sizes == sorted(sizes, reverse=True)
    ratios = [factor ** (k / (len(counts) - 1)) for k in range(len(counts))]
    assert any((sizes[0] + 1) / ratio > count + 1e-9 * count for ratio, count in zip(ratios, counts, strict=True))


def test_only_the_training_images_change():
    whole, data = data_sets.open("digits"), data_sets.open("digits?imbalance=20")
    sizes = torch.bincount(data.train.labels).tolist()
    assert sizes == tail(torch.bincount(whole.train.labels).tolist(), 20)
    assert sizes[0] >= 19 * sizes[-1]
    assert (data.name, data.mean, data.classes) == ("digits?imbalance=20", whole.mean, whole.classes)
    assert torch.equal(data.validation.images, whole.validation.images)
    assert torch.equal(data.test.labels, whole.test.labels)
    assert f"long-tailed by 20: {sum(sizes)} training images are left, by class {sizes[0]}, {sizes[1]}" in data.note
    again = data_sets.open("digits?imbalance=2e1")
    assert (again.fingerprint, again.name) == (data.fingerprint, data.name)
    assert len({data.fingerprint, whole.fingerprint, data_sets.open("digits?imbalance=21").fingerprint}) == 3
    # a subsequence of the training set, each image at most once
    places = iter(zip(whole.train.images, whole.train.labels, strict=True))
    kept = zip(data.train.images, data.train.labels, strict=True)
    assert all(any(torch.equal(x, image) and y == label for image, label in places) for x, y in kept)


def test_the_choice_is_fixed():
    whole, data = data_sets.open("digits"), data_sets.open("digits?imbalance=100")
    last = (whole.train.images[:, None] == data.train.images[data.train.labels == 9][None]).all(-1).all(-1).all(-1)
    assert last.any(1).nonzero().flatten().tolist() == [11]


def test_an_npz_a_file_and_a_folder_take_it(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y, x_val=x, y_val=y)
    data = data_sets.open(f"npz:{tmp_path / 'mine.npz'}?imbalance=4")
    assert torch.bincount(data.train.labels).tolist() == [20, 10, 5]
    assert (data.name, len(data.test)) == ("mine.npz?imbalance=4", 60)
    code = (
        "import numpy as np\ndef make():\n  x = np.zeros((60, 4, 4), np.uint8)\n  return (x, np.arange(60) % 3) * 3\n"
    )
    (tmp_path / "made.py").write_text(code)
    data = data_sets.open(f"{tmp_path / 'made.py'}:make?imbalance=4")
    assert torch.bincount(data.train.labels).tolist() == [20, 10, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("imbalance=0.5", "imbalance is '0.5', expected a number from 1, such as ?imbalance=100"),
        ("imbalance=-3", "imbalance is '-3'"),
        ("imbalance=nan", "imbalance is 'nan'"),
        ("imbalance=inf", "imbalance is 'inf'"),
        ("imbalance=much", "imbalance is 'much'"),
        ("imbalance=", "imbalance is ''"),
        ("imbalance=1000", "leaves no training image of class '7'; the largest that leaves one of every class is 119"),
        ("imbalance=10&imbalance=10", "imbalance is given twice"),
        ("size=8", "unknown option 'size'; expected imbalance"),
        ("imbalance=2&speed=9", "unknown option 'speed'; expected imbalance"),
    ],
)
def test_what_it_cannot_be_is_refused_in_one_line(options, message):
    assert message in refused(f"digits?{options}")


@pytest.mark.slow
def test_the_long_tail_of_the_real_cifar(data_root):
    data = data_sets.open("cifar10?imbalance=100", root=data_root)
    assert torch.bincount(data.train.labels).tolist() == [4507, 2701, 1619, 971, 582, 348, 209, 125, 75, 45]
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.name == "cifar10?imbalance=100"
    assert len(data.validation) == 5_000
