"""Shards: each image once an epoch, in an order of the seed, split over processes by tar file; nothing else is read."""

import io
import pickle
import re
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import netpress.data as data_sets
from netpress.data import Augment, batches, shards
from netpress.errors import DataError

pytest.importorskip("webdataset")
AUGMENT = {"seed": 3, "augment": Augment(2, flip=True)}


def readers() -> list[str]:
    """Threads that this file's streams could have left; other tests of the process may have started bars."""
    return [t.name for t in threading.enumerate() if t is not threading.main_thread() and "tqdm" not in t.name]


def image(value, size=(8, 6), kind="png"):
    file = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples(first, count):
    for value in range(first, first + count):
        yield from (
            (f"{value:04}.png", image(value)),
            (f"{value:04}.cls", b"%d\n" % (value % 3)),
            (f"{value:04}.json", b"{"),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("data") / "set"
    for shard, (first, count) in enumerate([(0, 30), (30, 25), (55, 31), (86, 14), (100, 20)]):
        write(where / f"train-{shard:03}.tar", samples(first, count))
    write(where / "val-000.tar", samples(130, 12))
    write(where / "test-000.tar", samples(150, 9))
    return where


def epoch(data, **settings):
    return list(batches(data.train, **{"size": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3, **AUGMENT, **settings}))


def values(pairs):
    """Every image is of one value, which names it; labels go with it."""
    found = torch.cat([x for x, _ in pairs]).mul(255).round().amax((1, 2, 3)).int().tolist()
    assert [value % 3 for value in found] == torch.cat([y for _, y in pairs]).tolist()
    return found


def same(one, other):
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(one, other, strict=True))


def test_an_epoch_has_every_image_once_in_an_order_of_the_seed(folder):
    data = data_sets.open(f"shards:{folder}")
    assert [len(split) for _, split in data.splits()] == [120, 12, 9]
    assert (data.shape, data.classes, data.name) == ((3, 6, 8), ("0", "1", "2"), "set")
    found = values(epoch(data))
    assert sorted(found) == list(range(120))
    assert values(epoch(data)) == found
    assert values(epoch(data, size=7)) == found
    assert values(epoch(data, seed=4)) != found != sorted(found)
    assert values(epoch(data, seed=None, augment=None)) == list(range(120))
    assert same(epoch(data), epoch(data_sets.open(f"shards:{folder}?workers=1")))
    assert values([(data.validation.images / 255, data.validation.labels)]) == list(range(130, 142))
    assert "120/12/9; as given; 5 tar files; mean and deviation of the first 120" in data.note


def test_an_epoch_begun_in_its_middle_goes_on_and_skips_tar_files(folder, monkeypatch):
    monkeypatch.setattr(shards, "_BUFFER", 8)
    data, read = data_sets.open(f"shards:{folder}"), []
    contents = shards.contents
    monkeypatch.setattr(shards, "contents", lambda path: (read.append(path.name), contents(path))[1])
    whole = epoch(data)
    assert len(read) == 5
    for start in (0, 1, 5, 7, 8):
        read.clear()
        assert same(whole[start:], epoch(data, start=start))
    assert len(read) == 0
    read.clear()
    epoch(data, start=7)
    assert len(read) == 1


def test_processes_read_different_tar_files_and_as_many_batches(folder):
    data = data_sets.open(f"shards:{folder}")
    whole, parts = epoch(data), [epoch(data, part=(rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for (_, labels), *mine in zip(whole, *parts, strict=True):
        assert [len(y) for _, y in mine] == [len(labels) // 2] * 2
    first, second = (set(values(part)) for part in parts)
    assert not first & second
    edges = [0, 30, 55, 86, 100, 120]
    shard = [{np.searchsorted(edges, value, side="right") for value in part} for part in (first, second)]
    assert not shard[0] & shard[1]
    assert sorted(shard[0] | shard[1]) == [1, 2, 3, 4, 5]
    assert same(parts[1][2:], epoch(data, part=(1, 2), start=2))
    with pytest.raises(DataError, match="5 tar files for 6 processes"):
        epoch(data, part=(0, 6))


def test_it_indexes_like_a_split(folder):
    data = data_sets.open(f"shards:{folder}?size=4&imbalance=2")
    assert torch.bincount(data.train.labels).tolist() == [40, 28, 20]
    assert data.train.images.shape == (88, 3, 4, 4)
    index = torch.tensor([80, 3, 3, 41])
    assert torch.equal(data.train.images[index], data.train.images[:][index])
    assert sorted(values(epoch(data))) == sorted(values([(data.train.images[:] / 255, data.train.labels)]))
    assert readers() == []


def test_one_part_is_cut_into_halves_and_names_are_read(folder, tmp_path):
    write(tmp_path / "train-0.tar", samples(0, 30))
    write(tmp_path / "validation-0.tar", samples(30, 12))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    data = data_sets.open(f"shards:{tmp_path}")
    assert [len(split) for _, split in data.splits()] == [30, 6, 6]
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert data.classes == ("ant", "bee", "cat")
    assert "validation cut into halves" in data.note


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran what a file holds')",))


def test_nothing_but_images_and_classes_is_read(folder, tmp_path):
    trap = pickle.dumps(Trap())
    more = [(f"0000.{kind}", trap) for kind in ("pyd", "pth", "pkl", "npy", "ten", "mp4", "pickle")]
    good = list(samples(0, 30))
    write(tmp_path / "train-0.tar", [*good[:1], *more, *good[1:], ("__meta__/a.png", trap), ("__x__.png", trap)])
    write(tmp_path / "test-0.tar", samples(0, 6))
    data = data_sets.open(f"shards:{tmp_path}")
    assert sorted(values(epoch(data))) == list(range(30))


def refused(spec):
    with pytest.raises(DataError) as caught:
        epoch(data_sets.open(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


GOOD = list(samples(0, 30))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (GOOD[:1], "train-0.tar/0000.cls: '', expected a class number"),
        ([GOOD[0], ("0000.cls", b"cat")], "train-0.tar/0000.cls: 'cat', expected a class number"),
        ([GOOD[0], ("0000.cls", b"9" * 30)], "expected a class number"),
        ([GOOD[0], ("0000.cls", b"100")], "class numbers up to 100 for 1 images"),
        ([GOOD[0], GOOD[1], ("0000.jpg", b"x")], "0000: more than one image of this name"),
        ([GOOD[0], GOOD[1], GOOD[0]], "duplicate file name in tar file png"),
        ([*GOOD[:6], *GOOD[:2]], "0000: more than one image of this name"),
        ([GOOD[2]], "train-0.tar: no images; expected NAME.jpg"),
        ([("0000.png", b""), GOOD[1]], "0000.png: 0 bytes; expected an image file"),
        ([("0000.png", b"no image"), *GOOD[1:]], "train-0.tar/0000: cannot be decoded (not an image)"),
        ([("0000.png", image(0, (9, 9))), *GOOD[1:]], "8x6 pixels, but"),
    ],
)
def test_bad_shards_are_refused_in_one_line(tmp_path, members, message):
    write(tmp_path / "train-0.tar", members)
    write(tmp_path / "test-0.tar", samples(0, 6))
    assert message in refused(f"shards:{tmp_path}")


def test_damage_is_named(folder, tmp_path):
    assert "expected tar files train-*.tar" in refused(f"shards:{tmp_path}")
    path = tmp_path / "train-0.tar"
    write(tmp_path / "test-0.tar", samples(0, 6))
    write(path, GOOD)
    whole = path.read_bytes()
    for cut in (0, 700, len(whole) // 2 + 99):
        path.write_bytes(whole[:cut])
        assert re.search(r"train-0.tar: (truncated|no images)|0.cls: ''", refused(f"shards:{tmp_path}"))
    path.write_bytes(whole)
    data = data_sets.open(f"shards:{tmp_path}")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-0.tar: truncated or damaged|gone since the set was opened"):
        epoch(data)
    write(path, GOOD[:60])
    with pytest.raises(DataError, match=r"train-0.tar/00\d\d: gone since the set was opened"):
        epoch(data)
    path.unlink()
    with pytest.raises(DataError, match=r"train-0.tar: truncated or damaged"):
        epoch(data)
    assert readers() == []


def test_a_file_name_never_becomes_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = tmp_path / "pipe:touch ran;"
    write(where / "train-0.tar", GOOD)
    write(where / "test-0.tar", samples(0, 6))
    assert len(epoch(data_sets.open("shards:pipe:touch ran;"))) == 2
    assert not (tmp_path / "ran").exists()


def test_without_the_library_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert refused(f"shards:{folder}") == "shards need the webdataset library; pip install 'netpress[stream]'"


def test_an_epoch_given_up_leaves_no_threads(folder):
    data = data_sets.open(f"shards:{folder}?workers=3")
    stream = batches(data.train, size=8, mean=data.mean, std=data.std, **AUGMENT)
    next(stream)
    assert len(readers()) > 0
    stream.close()
    assert readers() == []
