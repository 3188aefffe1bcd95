"""Data of the user: folders, npz files, factories, and what `open` says about a spec."""

import io
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

import netpress.data as data_sets
from netpress.errors import DataError


def arrays(**changes):
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
    labels = np.arange(40) % 4
    made = {"x_train": images, "y_train": labels, "x_test": images[:8], "y_test": labels[:8], **changes}
    return {key: value for key, value in made.items() if value is not None}


@pytest.fixture
def npz(tmp_path):
    def save(**changes):
        np.savez(tmp_path / "mine.npz", **arrays(**changes))
        return f"npz:{tmp_path / 'mine.npz'}"

    return save


def picture(path, size=(8, 6), mode="RGB", value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def images(tmp_path):
    for number in range(40):
        picture(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number:02}.png", value=number)
    return tmp_path / "pets"


def refused(spec, **more):
    with pytest.raises(DataError) as caught:
        data_sets.open(spec, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_npz_gives_what_was_saved(npz):
    given = arrays()
    data = data_sets.open(npz())
    assert data.shape == (1, 6, 5)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 8)
    assert torch.bincount(data.validation.labels).tolist() == [1, 1, 1, 1]
    assert np.array_equal(data.test.images[:, 0].numpy(), given["x_test"])
    assert data.classes == ("0", "1", "2", "3")
    assert data.name == "mine.npz"


def test_npz_takes_validation_colour_columns_of_labels_and_class_names(npz):
    colour = np.random.default_rng(1).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    labels = (np.arange(40) % 4).astype(np.uint8)[:, None]
    spec = npz(x_train=colour, y_train=labels, x_test=colour, y_test=labels, x_val=colour[:9], y_val=labels[:9],
               classes=np.array(["a", "b", "c", "d"]))  # fmt: skip
    data = data_sets.open(spec)
    assert data.shape == (3, 6, 5)
    assert len(data.validation) == 9
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), colour)
    assert data.classes == ("a", "b", "c", "d")


NAN = np.full((40, 6, 5), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "array 'y_test' is missing; expected x_train, y_train, x_test, y_test, got x_train"),
        ({"x_val": np.zeros((4, 6, 5), np.uint8)}, "array 'y_val' is missing"),
        ({"x_train": np.zeros((40, 6, 5), np.float32)}, "x_train: expected uint8 pixels 0..255, got float32"),
        ({"x_train": NAN}, "x_train: contains NaN"),
        ({"y_train": np.full(40, np.nan)}, "y_train: contains NaN"),
        ({"y_train": np.arange(40) / 2}, "y_train: expected whole numbers of shape (N,), got float64 (40,)"),
        ({"x_train": np.zeros((39, 6, 5), np.uint8)}, "unequal lengths: x_train has 39, y_train has 40"),
        ({"x_train": np.zeros((40, 3, 32, 32), np.uint8)}, "channels come last: transpose(0, 2, 3, 1)"),
        ({"x_train": np.zeros((40, 30), np.uint8)}, "expected shape (N, H, W) or (N, H, W, C) with C 1 to 4"),
        ({"x_test": np.zeros((8, 6, 6), np.uint8)}, "test: images of shape (1, 6, 6), train has (1, 6, 5)"),
        ({"x_test": np.zeros((8, 6, 5, 3), np.uint8)}, "test: images of shape (3, 6, 5), train has (1, 6, 5)"),
        ({"y_test": np.arange(8)}, "test: labels out of range: expected 0..3, got 0..7"),
        ({"y_train": np.arange(40) % 4 - 1}, "labels out of range"),
        ({"y_train": np.arange(40) % 4 * 10**12}, "labels out of range"),
        ({"y_train": np.arange(40) % 4 * 2}, "empty class '1'"),
        ({"classes": np.array(["a", "b", "c", "d", "e"])}, "empty class 'e'"),
        ({"x_test": np.zeros((0, 6, 5), np.uint8), "y_test": np.zeros(0, int)}, "test: no images"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8), "y_train": np.zeros(0, int)}, "labels out of range"),
        ({"x_train": np.array([None] * 40)}, "with objects in it"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(npz, changes, message):
    assert message in refused(npz(**changes))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    assert "not an npz file, damaged" in refused(f"npz:{tmp_path / 'bad.npz'}")


def test_a_truncated_npz_or_a_lone_array_is_refused(npz, tmp_path):
    npz()
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(f"npz:{tmp_path / 'cut.npz'}")
    damaged = bytearray(whole)
    damaged[400] ^= 255
    (tmp_path / "flip.npz").write_bytes(damaged)
    assert "damaged" in refused(f"npz:{tmp_path / 'flip.npz'}")
    np.save(tmp_path / "lone.npy", np.zeros(3))
    assert "a single array" in refused(f"npz:{tmp_path / 'lone.npy'}")
    assert "no such file" in refused(f"npz:{tmp_path / 'none.npz'}")


def test_a_folder_is_cut_80_10_10_by_class(images):
    data = data_sets.open(f"folder:{images}")
    assert (data.name, data.shape, data.classes) == ("pets", (3, 6, 8), ("cat", "dog"))
    assert [len(split) for _, split in data.splits()] == [32, 4, 4]
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    assert "80 % train" in data.note
    assert data.fingerprint == data_sets.open(f"folder:{images}").fingerprint
    cats = {np.asarray(Image.open(path)).tobytes() for path in (images / "cat").iterdir()}
    for _, split in data.splits():
        for image, label in zip(split.images, split.labels, strict=True):
            assert (image.permute(1, 2, 0).contiguous().numpy().tobytes() in cats) == (label == 0)


@pytest.mark.parametrize(
    ("subfolders", "lengths", "note"),
    [
        ({"train": 40, "val": 6, "test": 8}, [40, 6, 8], "as given"),
        ({"train": 40, "test": 8}, [36, 4, 8], "a tenth of train validates"),
        ({"train": 40, "valid": 6}, [36, 4, 6], "a tenth of train validates"),
        ({"train": 40}, [32, 4, 4], "80 % train"),
    ],
)
def test_a_folder_with_splits_is_taken_as_it_is(tmp_path, subfolders, lengths, note):
    for part, count in subfolders.items():
        for number in range(count):
            picture(tmp_path / part / ("cat", "dog")[number % 2] / f"{number}.jpg", mode="L", value=number)
    data = data_sets.open(f"folder:{tmp_path}")
    assert [len(split) for _, split in data.splits()] == lengths
    assert data.shape == (1, 6, 8)
    assert note in data.note


def test_one_colour_image_makes_all_three_channels(images):
    for path in images.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert data_sets.open(f"folder:{images}").shape == (1, 6, 8)
    picture(images / "cat" / "00.png")
    data = data_sets.open(f"folder:{images}")
    assert data.shape == (3, 6, 8)
    grey = (data.train.images[:, 0] == data.train.images[:, 2]).flatten(1).all(1)
    assert grey.sum() >= len(data.train) - 1


def test_size_cuts_the_middle_square_and_scales(images):
    picture(images / "cat" / "wide.png", size=(50, 20))
    data = data_sets.open(f"folder:{images}?size=12")
    assert data.shape == (3, 12, 12)


def test_a_different_size_names_both_files_and_the_cure(images):
    picture(images / "dog" / "odd.png", size=(9, 6))
    said = refused(f"folder:{images}")
    assert f"{images / 'dog' / 'odd.png'}: 9x6 pixels, but {images / 'cat' / '00.png'} has 8x6" in said
    assert "?size=6" in said


def test_corrupt_images_are_named(images):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(whole, "png")
    bad = images / "dog" / "bad.png"
    for content in (b"", b"not an image", whole.getvalue()[:60], whole.getvalue()[:-30]):
        bad.write_bytes(content)
        assert f"{bad}: cannot be decoded" in refused(f"folder:{images}")
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(bad)
    assert f"{bad}: mode I;16, expected 8 bits" in refused(f"folder:{images}")


def test_bad_folders_are_refused(images, tmp_path):
    assert "no such folder" in refused(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "bare").mkdir()
    assert "no subfolders; expected one per class" in refused(f"folder:{tmp_path / 'bare'}")
    (images / "eel").mkdir()
    (images / "eel" / "readme.txt").write_text("no image")
    assert f"{images / 'eel'}: empty class" in refused(f"folder:{images}")
    assert "size is '0'" in refused(f"folder:{images}?size=0")


def test_a_class_that_train_lacks_is_refused(tmp_path):
    for number in range(12):
        picture(tmp_path / "train" / "cat" / f"{number}.png")
    picture(tmp_path / "test" / "dog" / "0.png")
    assert "dog: a class that train does not have; expected cat" in refused(f"folder:{tmp_path}")


FACTORY = """
    from __future__ import annotations
    from dataclasses import dataclass
    import numpy as np
    import torch
    from beside import LABELS
    from netpress.data import from_arrays
    from netpress.errors import DataError

    @dataclass
    class Settings:
        side: int = 6

    images = np.random.default_rng(0).integers(0, 256, (40, Settings().side, 5), dtype=np.uint8)

    def four():
        return images, LABELS, images, LABELS

    def six():
        return torch.from_numpy(images), torch.from_numpy(LABELS), images[:6], LABELS[:6], images, LABELS

    def mapping():
        return {"x_train": images, "y_train": LABELS, "x_test": images, "y_test": LABELS}

    def ready():
        return from_arrays("made", mapping())

    def three():
        return images, LABELS, images

    def ragged():
        return [[1], [1, 2]], LABELS, images, LABELS

    def wrong():
        return 5

    def breaks():
        raise RuntimeError("first line\\nsecond line")

    def complains():
        raise DataError("my own words")
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent(FACTORY))
    (tmp_path / "beside.py").write_text("import numpy as np\nLABELS = np.arange(40) % 4\n")
    yield str(tmp_path / "mine.py")
    sys.modules.pop("beside", None)


@pytest.mark.parametrize(("function", "validation"), [("four", 4), ("six", 6), ("mapping", 4), ("ready", 4)])
def test_a_factory_may_return_arrays_or_data(factory, function, validation):
    before = list(sys.path)
    data = data_sets.open(f"{factory}:{function}")
    assert data.shape == (1, 6, 5)
    assert len(data.validation) == validation
    assert data.name == ("made" if function == "ready" else f"mine.py:{function}")
    assert sys.path == before


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("for", "no function 'for'; did you mean 'four'?"),
        ("three", "expected a netpress Data, or 4 or 6 arrays, got a tuple of 3"),
        ("ragged", "x_train: not an array"),
        ("wrong", "got int"),
        ("breaks", "raised RuntimeError: first line second line"),
        ("complains", "my own words"),
    ],
)
def test_a_factory_that_fails_is_told_in_one_line(factory, function, message):
    assert message in refused(f"{factory}:{function}")


def test_a_python_file_that_is_missing_or_broken(tmp_path):
    assert "no such file" in refused(f"{tmp_path / 'none.py'}:make")
    (tmp_path / "broken.py").write_text("def make(:\n")
    assert "raised SyntaxError" in refused(f"{tmp_path / 'broken.py'}:make")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnits", "unknown data set 'mnits'; did you mean 'mnist'? expected one of digits, mnist, fashion_mnist"),
        ("fashion-mnist", "did you mean 'fashion_mnist'?"),
        ("CIFAR-10", "did you mean 'cifar10'?"),
        ("mine.npz", "did you mean 'npz:mine.npz'?"),
        ("mine.py", "did you mean 'mine.py:factory'?"),
        ("folder:", "unknown data set 'folder:'"),
        ("", "unknown data set ''"),
    ],
)
def test_an_unknown_spec_lists_the_known_ones(spec, message):
    assert message in refused(spec)


def test_a_path_alone_gets_the_right_hint(tmp_path):
    assert f"did you mean 'folder:{tmp_path}'?" in refused(str(tmp_path))
