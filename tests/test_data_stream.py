"""Streamed folders: the same pixels, splits and batches as in memory, and nothing left behind."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import netpress.data as data_sets
from netpress.data import Augment, batches
from netpress.data.rate import Metered
from netpress.errors import DataError

AUGMENT = {"seed": 3, "augment": Augment(2, flip=True)}


def picture(path, size=(8, 6), mode="RGB", value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pets"
    for number in range(200):
        name, mode = (("cat", "L"), ("dog", "RGB"))[number % 2]
        picture(folder / name / f"{number:03}.png", value=number, mode=mode)
    return folder


def epoch(data, **settings):
    return list(batches(data.train, **{"size": 20, "mean": data.mean, "std": data.std, **AUGMENT, **settings}))


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", ["", "size=5&"])
def test_a_streamed_folder_gives_the_same_epochs_as_one_in_memory(pets, workers, options):
    here = data_sets.open(f"folder:{pets}?{options}imbalance=1")
    there = data_sets.open(f"folder:{pets}?{options}stream=1&workers={workers}&imbalance=1")
    assert (there.shape, there.classes, there.mean, there.std) == (here.shape, here.classes, here.mean, here.std)
    assert [len(split) for _, split in there.splits()] == [len(split) for _, split in here.splits()]
    assert same(epoch(here), epoch(there))
    assert same(epoch(here, seed=None, augment=None), epoch(there, seed=None, augment=None))
    assert same(epoch(here)[3:], epoch(there, start=3))
    for rank in range(3):
        assert same(epoch(here, part=(rank, 3), start=1), epoch(there, part=(rank, 3), start=1))
    state = torch.get_rng_state()
    epoch(there)
    assert torch.equal(torch.get_rng_state(), state)
    assert not multiprocessing.active_children()


def test_everything_that_indexes_a_split_works_on_a_streamed_one(pets):
    here, there = (data_sets.open(f"folder:{pets}{options}").test for options in ("", "?stream=1"))
    mask = here.labels == 1
    for index in (0, -1, slice(2, 7), slice(None), torch.tensor([5, 0, 5]), mask):
        assert torch.equal(there.images[index], here.images[index])
        assert there.images[index].dtype == torch.uint8
        if not isinstance(index, int):
            chosen = there.select(index)
            assert torch.equal(chosen.images[:], here.images[index])
            assert torch.equal(chosen.labels, here.labels[index])
    assert there.images.shape == here.images.shape
    assert there.images[:0].shape == (0, 3, 6, 8)
    assert np.array_equal(there.images.numpy(), here.images.numpy())
    assert all(torch.equal(a, b) for a, b in zip(there.images, here.images, strict=True))
    assert there.to("cpu") is there
    with pytest.raises(IndexError):
        there.images[len(here)]


def test_the_fingerprint_is_of_names_and_sizes_and_the_same_elsewhere(pets, tmp_path):
    data = data_sets.open(f"folder:{pets}?stream=1")
    assert data.fingerprint != data_sets.open(f"folder:{pets}").fingerprint
    other = tmp_path / "pets"
    subprocess.run(["cp", "-r", pets, other], check=True)
    assert data_sets.open(f"folder:{other}?stream=1&workers=0").fingerprint == data.fingerprint
    with (other / "cat" / "000.png").open("ab") as file:
        file.write(b"\0")
    assert data_sets.open(f"folder:{other}?stream=1").fingerprint != data.fingerprint
    assert "mean and deviation of 160 training images (seed 0)" in data.note


def test_a_long_tail_may_be_streamed(pets):
    here, there = (data_sets.open(f"folder:{pets}?imbalance=4{options}") for options in ("", "&stream=1"))
    assert torch.bincount(there.train.labels).tolist() == [80, 20]
    assert there.name == "pets?imbalance=4"
    assert same(epoch(here), epoch(there))


@pytest.fixture
def damaged(tmp_path):
    for number in range(150):
        picture(tmp_path / "set" / "train" / ("a", "b")[number % 2] / f"{number:03}.jpg", value=number)
        picture(tmp_path / "set" / "test" / ("a", "b")[number % 2] / f"{number:03}.jpg", value=number)
    return tmp_path / "set"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_found_damaged_in_the_middle_is_named(damaged, workers):
    data = data_sets.open(f"folder:{damaged}?stream=1&workers={workers}")
    bad = damaged / data.train.images.names[70]
    whole = bad.read_bytes()
    cases = {
        b"": "cannot be decoded (not an image)",
        whole[:-20]: "cannot be decoded (",
        None: "No such file",
    }
    for content, message in cases.items():
        bad.unlink() if content is None else bad.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            epoch(data)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)
    picture(bad, size=(9, 9))
    with pytest.raises(DataError, match="9x9 pixels, but the first has 8x6"):
        epoch(data)
    assert not multiprocessing.active_children()


def test_colour_among_grey_files_is_named(damaged):
    for path in damaged.rglob("*.jpg"):
        picture(path, mode="L")
    data = data_sets.open(f"folder:{damaged}?stream=1&workers=0")
    assert data.shape == (1, 6, 8)
    picture(damaged / data.train.images.names[9])
    with pytest.raises(DataError, match=r"a colour image, but those looked at first are grey"):
        epoch(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("stream=2", "stream is '2'; expected 1"),
        ("workers=2", "stream is '0'; expected 1, which workers need"),
        ("stream=1&workers=-1", "workers is '-1', expected a number of processes"),
        ("stream=1&size=0", "size is '0', expected a number of pixels"),
        ("stream=1&crop=5", "unknown option 'crop'; expected size or stream or workers or imbalance"),
    ],
)
def test_wrong_options_are_refused_in_one_line(pets, options, message):
    with pytest.raises(DataError, match=re.escape(message)):
        data_sets.open(f"folder:{pets}?{options}")


def test_an_epoch_given_up_leaves_no_workers(pets):
    data = data_sets.open(f"folder:{pets}?stream=1&workers=2")
    stream = Metered(batches(data.train, size=20, mean=data.mean, std=data.std, **AUGMENT))
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()


INTERRUPTED = """
import sys, time, multiprocessing, netpress.data as d
data = d.open(sys.argv[1])
try:
    for x, y in d.batches(data.train, size=2, mean=data.mean, std=data.std, seed=0):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        time.sleep(20)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_leaves_no_workers(pets):
    command = [sys.executable, "-c", INTERRUPTED, f"folder:{pets}?stream=1&workers=2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does: to all of them
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == ""
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_meter_counts_what_its_user_waits_for():
    def slow():
        for size in (3, 2):
            time.sleep(0.02)
            yield torch.zeros(size, 1), torch.zeros(size)

    meter = Metered(slow())
    assert (meter.seconds, meter.share, meter.images_per_second, meter.images_per_second_ready) == (0, 0, 0, 0)
    for _ in meter:
        time.sleep(0.05)
    assert meter.images == 5
    assert 0.04 <= meter.waiting < 0.09 < meter.seconds
    assert meter.images_per_second_ready == 5 / meter.waiting > meter.images_per_second == 5 / meter.seconds
    assert meter.share == meter.waiting / meter.seconds
