"""Tiny ImageNet, or a part of it: the packed part, or the unpacked folder."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from netpress.data.decode import decode, stack
from netpress.data.download import read
from netpress.data.split import complete
from netpress.data.types import Data, Split, build
from netpress.errors import DataError

_TOP = "tiny-imagenet-200"
_FOLDERS = ("tiny-imagenet", "tiny_imagenet", ".")
_SIDE = 64
_MEAN = (0.4802, 0.4481, 0.3975)
_STD = (0.2770, 0.2691, 0.2821)


@dataclass(frozen=True, slots=True)
class _Member:
    path: str  # below tiny-imagenet-200, with /
    content: bytes


def load(root: Path) -> Data:
    """Load Tiny ImageNet: 64x64 RGB, 200 classes; its val images are the test, a tenth of train validates.

    Read from `tiny-imagenet/*.tar.xz` or from the unpacked folder `tiny-imagenet-200`, in the original layout
    (`train/n.../images/`, `val/images/` with `val/val_annotations.txt`) or with val images in class folders. Classes
    are the sorted ids, named by the first word of `words.txt`. Grey images are repeated over three channels.

    Source: the set of Stanford's course CS231n, made from ImageNet.

    Args:
        root: the data root. Nothing is fetched: how much of the set is there decides the numbers.

    Raises:
        DataError: missing or damaged.
    """
    texts, images = {}, []
    where = _locate(root)
    for member in _members(where):
        if member.path.endswith(".txt"):
            texts[member.path] = member.content.decode(errors="replace")
        else:
            images.append(member)
    rows = (line.split("\t") for line in texts.get("val/val_annotations.txt", "").splitlines() if "\t" in line)
    annotated = {f"val/images/{name}": class_id for name, class_id, *_box in rows}
    ids = sorted({_class_id(member.path, annotated) for member in images})
    train = _to_split([member for member in images if member.path.startswith("train/")], ids, annotated, where)
    test = _to_split([member for member in images if member.path.startswith("val/")], ids, annotated, where)
    splits, note = complete((train, test), where=str(where))
    words = dict(line.split("\t", 1) for line in texts.get("words.txt", "").splitlines() if "\t" in line)
    classes = tuple(words.get(each, each).split(",")[0] for each in ids)
    note = f"Tiny ImageNet, {note} (the val images)"
    return build("tiny_imagenet", splits, classes=classes, note=note, statistics=(_MEAN, _STD))


def _locate(root: Path) -> Path:
    for folder in (root / name for name in _FOLDERS):
        if (folder / _TOP / "train").is_dir():
            return folder / _TOP
        if archives := sorted(folder.glob("train*_val*.tar.xz")):
            return archives[0]
    raise DataError(
        f"{root}: no Tiny ImageNet; get tiny-imagenet-200.zip from the pages of the course CS231n and unpack it there "
        f"({root / _TOP}), or put a train*_val*.tar.xz into {root / _FOLDERS[0]}"
    )


def _members(where: Path) -> Iterator[_Member]:
    """Yield the images and texts of a folder or an archive; the archive's members are never written to disk."""
    if where.is_dir():
        for path in where.rglob("*"):
            if path.suffix in {".JPEG", ".txt"}:
                yield _Member(path.relative_to(where).as_posix(), read(path))
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(read(where))) as tar:
            for member in tar:
                if member.name.endswith((".JPEG", ".txt")) and (file := tar.extractfile(member)):
                    yield _Member(member.name.removeprefix(f"{_TOP}/"), file.read())
    except tarfile.TarError as error:
        raise DataError(f"{where}: truncated or damaged ({error}); fetch it again") from error


def _class_id(path: str, annotated: dict[str, str]) -> str:
    return annotated.get(path) or path.split("/")[1]


def _to_split(members: list[_Member], ids: list[str], annotated: dict[str, str], where: Path) -> Split:
    if not members:
        raise DataError(f"{where}: no images in train or in val; expected both folders below {_TOP}")
    # By class, then by name: the same order from a folder and from an archive.
    members = sorted(members, key=lambda each: (_class_id(each.path, annotated), each.path))
    images = [decode(f"{where}/{each.path}", each.content) for each in members]
    for member, image in zip(members, images, strict=True):
        if image.shape[:2] != (_SIDE, _SIDE):
            got = f"{image.shape[1]}x{image.shape[0]}"
            raise DataError(f"{where}/{member.path}: expected {_SIDE}x{_SIDE} pixels, got {got}")
    labels = torch.tensor([ids.index(_class_id(each.path, annotated)) for each in members])
    return Split(torch.from_numpy(stack(images, channels=3)), labels)
