"""The known sets: their files in every accepted place and form, every kind of damage, and the real ones."""

import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import netpress.data as data_sets
from netpress.data.digits import enlarge
from netpress.data.types import pixel_statistics
from netpress.errors import DataError

COUNT = 5_100
IDX_NAMES = {"train": COUNT, "t10k": 50}


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def idx_files(mean=0.1307):
    """Random images with the mean of MNIST (the loader looks at it), labels in turn."""
    random = np.random.default_rng(0)
    files = {}
    for part, count in IDX_NAMES.items():
        files[f"{part}-images-idx3-ubyte"] = (random.random((count, 28, 28)) < mean).astype(np.uint8) * 255
        files[f"{part}-labels-idx1-ubyte"] = np.arange(count) % 10
    return files


FILES = idx_files()


def write_idx(folder, pack=lambda content: content, suffix="", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {**FILES, **{key.replace("_", "-"): value for key, value in changes.items()}}.items():
        (folder / f"{name}{suffix}").write_bytes(pack(idx_bytes(array)))


def refused(name, root):
    with pytest.raises(DataError) as caught:
        data_sets.open(name, root=root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("NETPRESS_MIRROR", "nowhere")


@pytest.mark.parametrize(
    ("place", "pack", "suffix"),
    [
        ("mnist", lambda content: gzip.compress(content, 1), ".gz"),
        ("mnist", bytes, ""),
        (".", bytes, ""),
        ("MNIST/raw", lambda content: lzma.compress(content, preset=0), ".xz"),
    ],
)
def test_mnist_is_found_in_any_place_and_packing(tmp_path, place, pack, suffix):
    write_idx(tmp_path / place, pack, suffix)
    data = data_sets.open("mnist", root=tmp_path)
    assert data.shape == (1, 28, 28)
    assert [len(split) for _, split in data.splits()] == [100, 5000, 50]
    images = FILES["train-images-idx3-ubyte"]
    assert np.array_equal(data.train.images[:, 0].numpy(), images[:100])
    assert np.array_equal(data.validation.images[:, 0].numpy(), images[100:])
    assert data.test.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images_idx3_ubyte": np.zeros((COUNT, 28, 27))}, "expected images of (28, 28), got (28, 27)"),
        ({"train_images_idx3_ubyte": np.zeros((COUNT, 784))}, "not an idx file of 3 axes: expected 00 00 08 03"),
        ({"train_labels_idx1_ubyte": np.zeros(COUNT - 1)}, "unequal lengths: 5,099 labels for 5,100 images"),
        ({"t10k_labels_idx1_ubyte": np.arange(50)}, "mnist, test: labels out of range: expected 0..9, got 0..49"),
        ({"train_labels_idx1_ubyte": np.arange(COUNT) % 9}, "empty class '9'"),
        (
            {"train_images_idx3_ubyte": np.zeros((4000, 28, 28)), "train_labels_idx1_ubyte": np.zeros(4000)},
            "expected more than 5,000 training images, got 4,000",
        ),
        ({"train_images_idx3_ubyte": np.full((COUNT, 28, 28), 73)}, "not the pixels of MNIST: their mean is 0.286"),
    ],
)
def test_wrong_idx_files_are_refused(tmp_path, changes, message):
    write_idx(tmp_path / "mnist", **changes)
    assert message in refused("mnist", tmp_path)


@pytest.mark.parametrize(
    ("pack", "suffix"),
    [(bytes, ""), (lambda content: gzip.compress(content, 1), ".gz"), (lzma.compress, ".xz")],
)
def test_a_truncated_idx_file_is_named(tmp_path, pack, suffix):
    write_idx(tmp_path / "mnist", bytes)
    plain = tmp_path / "mnist" / "train-labels-idx1-ubyte"
    packed = pack(plain.read_bytes())
    plain.unlink()
    cut = plain.with_name(f"{plain.name}{suffix}")
    for length in (len(packed) - 9, 6, 0):
        cut.write_bytes(packed[:length])
        said = refused("mnist", tmp_path)
        assert str(cut) in said
        assert "truncated" in said or "not an idx file" in said
    cut.write_bytes(b"<html>not found</html>")
    assert str(cut) in refused("mnist", tmp_path)


def test_one_missing_idx_file_is_named_and_no_network_is_said(tmp_path):
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    assert f"{tmp_path / 'mnist' / 't10k-labels-idx1-ubyte.gz'} is missing" in refused("mnist", tmp_path)


def cifar_batch(label_of=lambda positions: positions % 10):
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = label_of(np.arange(10_000))
    records[:, 1], records[:, 1 + 1024 + 33], records[:, -1] = 11, 22, 33
    return records.tobytes()


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A folder with six batches, mostly zeros so that they pack well."""
    folder = tmp_path_factory.mktemp("cifar")
    packed = lzma.compress(cifar_batch(), preset=0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin.xz").write_bytes(packed)
    return folder


def link(folder, target, but=()):
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name not in but:
            (target / path.name).symlink_to(path)


def test_cifar_planes_labels_and_splits(cifar, tmp_path):
    link(cifar, tmp_path / "cifar-10-batches-bin")
    data = data_sets.open("cifar10", root=tmp_path)
    assert data.shape == (3, 32, 32)
    assert [len(split) for _, split in data.splits()] == [45_000, 5_000, 10_000]
    image = data.validation.images[7]
    assert (image[0, 0, 0], image[1, 1, 1], image[2, 31, 31], int((image > 0).sum())) == (11, 22, 33, 3)
    assert data.validation.labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: cifar_batch()[:-1], "expected 30,730,000 bytes, got 30,729,999"),
        (lambda: cifar_batch(lambda positions: positions % 11), "labels out of range: expected 0..9, got 10"),
        (lambda: b"", "got 0"),
    ],
)
def test_a_damaged_cifar_batch_is_named(cifar, tmp_path, content, message):
    link(cifar, tmp_path / "cifar-10", but=("data_batch_3.bin.xz",))
    bad = tmp_path / "cifar-10" / "data_batch_3.bin"
    bad.write_bytes(content())
    said = refused("cifar10", tmp_path)
    assert said.startswith(str(bad))
    assert message in said


def test_a_truncated_cifar_xz_and_a_missing_batch_are_named(cifar, tmp_path):
    link(cifar, tmp_path / "cifar-10", but=("test_batch.bin.xz",))
    assert "test_batch.bin is missing, 5 of 6 batches are there" in refused("cifar10", tmp_path)
    bad = tmp_path / "cifar-10" / "test_batch.bin.xz"
    bad.write_bytes((cifar / "test_batch.bin.xz").read_bytes()[:-20])
    assert f"{bad}: truncated or damaged" in refused("cifar10", tmp_path)


def test_the_original_archive_is_read_in_place(tmp_path):
    batch = cifar_batch()
    archive = tmp_path / "cifar-10" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(batch)
            tar.addfile(member, io.BytesIO(batch))
    assert len(data_sets.open("cifar10", root=tmp_path).train) == 45_000
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert f"{archive}: truncated or damaged" in refused("cifar10", tmp_path)
    with tarfile.open(archive, "w:gz"):
        pass
    assert "cifar-10-batches-bin/data_batch_1.bin is missing in the archive" in refused("cifar10", tmp_path)


def jpeg(seed, side=64, mode="RGB"):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, "jpeg")
    return file.getvalue()


def tiny_files(original):
    """Two classes with 10 train and 2 val images, in the original layout or with val in class folders."""
    files = {"words.txt": b"n01\tcat, house cat\nn02\tdog\nn03\tunused\n", "wnids.txt": b"n02\nn01\n"}
    rows = []
    for k, class_id in enumerate(("n01", "n02")):
        for number in range(10):
            inner = "images/" if original else ""
            mode = "L" if number == 3 else "RGB"
            files[f"train/{class_id}/{inner}{class_id}_{number}.JPEG"] = jpeg(100 * k + number, mode=mode)
        for number in range(2):
            name = f"val_{10 * (1 - k) + number}.JPEG"
            files[f"val/images/{name}" if original else f"val/{class_id}/{name}"] = jpeg(1000 + 10 * k + number)
            rows.append(f"{name}\t{class_id}\t0\t0\t63\t63")
    if original:
        files["val/val_annotations.txt"] = "\n".join(rows).encode()
    return files


def write_tiny(root, original=False, **changes):
    for name, content in {**tiny_files(original), **changes}.items():
        path = root / "tiny-imagenet-200" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_tiny_imagenet_is_the_same_from_folder_original_and_archive(tmp_path):
    write_tiny(tmp_path / "a" / "tiny-imagenet")
    write_tiny(tmp_path / "b", original=True)
    packed = tmp_path / "c" / "tiny-imagenet" / "train10_val2.tar.xz"
    packed.parent.mkdir(parents=True)
    with tarfile.open(packed, "w:xz") as tar:
        tar.add(tmp_path / "a" / "tiny-imagenet" / "tiny-imagenet-200", "tiny-imagenet-200")
    sets = [data_sets.open("tiny_imagenet", root=tmp_path / place) for place in "abc"]
    assert len({data.fingerprint for data in sets}) == 1
    data = sets[0]
    assert (data.shape, data.classes) == ((3, 64, 64), ("cat", "dog"))
    assert [len(split) for _, split in data.splits()] == [18, 2, 4]
    assert data.validation.labels.tolist() == [0, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    first = np.asarray(Image.open(io.BytesIO(jpeg(1000)))).transpose(2, 0, 1)
    assert np.array_equal(data.test.images[0].numpy(), first)


def test_bad_tiny_imagenet_is_refused(tmp_path):
    assert "no Tiny ImageNet; get tiny-imagenet-200.zip" in refused("tiny_imagenet", tmp_path)
    write_tiny(tmp_path, **{"train/n01/n01_4.JPEG": jpeg(1, side=32)})
    assert "n01_4.JPEG: expected 64x64 pixels, got 32x32" in refused("tiny_imagenet", tmp_path)
    write_tiny(tmp_path, **{"train/n01/n01_4.JPEG": jpeg(1)[:300]})
    assert "train/n01/n01_4.JPEG: cannot be decoded" in refused("tiny_imagenet", tmp_path)
    packed = tmp_path / "other" / "train1_val1.tar.xz"
    packed.parent.mkdir()
    packed.write_bytes(lzma.compress(bytes(10_240))[:-8])
    assert f"{packed}: truncated or damaged" in refused("tiny_imagenet", packed.parent)
    packed.write_bytes(lzma.compress(bytes(10_240)))
    assert "no images in train or in val" in refused("tiny_imagenet", packed.parent)


def test_digits_are_stratified_and_enlarged_exactly():
    data = data_sets.open("digits")
    for _, split in data.splits():
        share = torch.bincount(split.labels) / len(split)
        assert share.min() > 0.09
        assert share.max() < 0.11
    assert data.train.images.max() == 255
    frame = data.train.images.clone()
    frame[:, :, 2:26, 2:26] = 0
    assert not frame.any()


def test_enlarging_keeps_the_middle_pixels_and_is_linear_between():
    small = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    large = enlarge(small)[:, 2:26, 2:26]
    exact = small * 255 / 16
    assert np.abs(large[:, 1::3, 1::3] - exact).max() <= 0.5
    between = (2 * exact[:, :, :-1] + exact[:, :, 1:]) / 3
    assert np.abs(large[:, 1::3, 2:-1:3] - between).max() <= 0.5
    assert np.array_equal(enlarge(small.transpose(0, 2, 1)), enlarge(small).transpose(0, 2, 1))


def test_the_real_mnist(data_root):
    data = data_sets.open("mnist", root=data_root)
    assert [len(split) for _, split in data.splits()] == [55_000, 5_000, 10_000]
    assert torch.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    images = torch.cat([data.train.images, data.validation.images])
    assert pixel_statistics(images) == (pytest.approx(data.mean, abs=1e-4), pytest.approx(data.std, abs=1e-4))
    assert data.fingerprint == data_sets.open("mnist", root=data_root / "mnist").fingerprint


def test_the_real_part_of_tiny_imagenet(data_root):
    data = data_sets.open("tiny_imagenet", root=data_root)
    assert [len(split) for _, split in data.splits()] == [7_200, 800, 2_000]
    assert torch.bincount(data.validation.labels).tolist() == [4] * 200
    assert torch.bincount(data.test.labels).tolist() == [10] * 200
    assert data.classes[0] == "goldfish"
    mean, std = pixel_statistics(data.train.images)
    assert mean == pytest.approx(data.mean, abs=0.01)
    assert std == pytest.approx(data.std, abs=0.01)


@pytest.mark.slow
def test_the_real_cifar(data_root):
    data = data_sets.open("cifar10", root=data_root)
    assert [len(split) for _, split in data.splits()] == [45_000, 5_000, 10_000]
    images = torch.cat([data.train.images, data.validation.images])
    assert pixel_statistics(images) == (pytest.approx(data.mean, abs=1e-4), pytest.approx(data.std, abs=1e-4))
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
