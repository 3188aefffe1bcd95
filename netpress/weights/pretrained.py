"""Weights by the word `pretrained`: a published file of ours, or what torchvision and timm fetch themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from netpress.arch import build, optional
from netpress.codec.header import Arch
from netpress.data import Data, data_root, decide_on_test
from netpress.data.download import fetch
from netpress.errors import DataError, ModelError
from netpress.forms import Form
from netpress.weights.known import KNOWN, Known, recognise
from netpress.weights.load import fill, load_weights

PRETRAINED = "pretrained"

ELSEWHERE = {
    "alexnet": ("torchvision", "alexnet"),
    "densenet121": ("torchvision", "densenet121"),
    "densenet169": ("torchvision", "densenet169"),
    "densenet201": ("torchvision", "densenet201"),
    "googlenet-bn": ("torchvision", "googlenet"),
    "mobilenet-v2": ("torchvision", "mobilenet_v2"),
    "resnet18": ("torchvision", "resnet18"),
    "resnet34": ("torchvision", "resnet34"),
    "resnet50": ("torchvision", "resnet50"),
    "resnet101": ("torchvision", "resnet101"),
    "resnet152": ("torchvision", "resnet152"),
    "squeezenet": ("torchvision", "squeezenet1_0"),
    "vgg16": ("torchvision", "vgg16"),
    "xception": ("timm", "legacy_xception"),
}
"""Networks of the zoo whose weights another library fetches: which library, and its name for the network."""


class Opened(NamedTuple):
    """What came with the weights that a network was filled with.

    Args:
        known: the normalisation that they want (`mean`, `std`) and a sentence about them (`note`); None: a file that is
            not among the known ones.
        forms: by tensor, where the file holds it pruned or with shared values.
    """

    known: Known | None
    forms: Mapping[str, Form]


def open_weights(net: nn.Module, arch: Arch, weights: str, data_root: str | os.PathLike[str] | None = None) -> Opened:
    """Fill a network, in place, and say what is known about its weights.

    Args:
        net: the network.
        arch: how it was named.
        weights: a file that `load_weights` reads, or "pretrained": a published file, looked for below the data root and
            fetched where it lacks, or the default weights of torchvision or timm, fetched by that library.
        data_root: as `data.data_root` takes it.

    Returns:
        What is known about the weights, and their forms.

    Raises:
        ModelError: no such weights, or they do not fit the network; one line.
        FileError: a `.net` file is cut, damaged, or of another network.
    """
    name = arch.name if arch.source == "zoo" else None
    if weights == PRETRAINED:
        return _pretrained(net, arch, data_root)
    path = Path(weights)
    known = recognise(path)
    if known is not None and name not in (None, known.network):
        raise ModelError(f"{path}: these are the weights of {known.network}, not of {name}")
    return Opened(known, load_weights(net, path, name=name))


def suited(data: Data, known: Known | None) -> Data:
    """The data set as trained weights want it: their normalisation, and a split they have not been trained on.

    Weights that have seen the usual validation images are decided about on half of the test images, and reported on the
    other half.

    Args:
        data: as it was opened.
        known: about the weights; None changes nothing.

    Returns:
        A data set whose note says what was changed.
    """
    if known is None:
        return data
    if known.data == data.name and known.trained_on == "train+validation":
        data = decide_on_test(data, count=len(data.test) // 2)
    return replace(data, mean=known.mean, std=known.std, note=f"{data.note}; {known.note}")


def _pretrained(net: nn.Module, arch: Arch, root: str | os.PathLike[str] | None) -> Opened:
    source, name = arch.source, arch.name
    if source == "zoo":
        for known in KNOWN:
            if known.network == name:
                return Opened(known, load_weights(net, _file(known, data_root(root)), name=name))
        source, name = ELSEWHERE.get(name, ("", ""))
    if source not in _FETCHERS:
        available = ", ".join(sorted({known.network for known in KNOWN} | set(ELSEWHERE)))
        raise ModelError(f"no pretrained weights of {arch.name}: there are some of {available}, torchvision:, timm:")
    tensors, known = _FETCHERS[source](name)
    fill(net, tensors, where=known.source, name=arch.name if arch.source == "zoo" else None)
    return Opened(known, {})


def _file(known: Known, root: Path) -> Path:
    """The file of known weights, fetched where it is not there yet."""
    assert known.file is not None
    path = root / known.file.path
    if path.is_file():
        if recognise(path) is not known:
            raise ModelError(f"{path}: not the published file: expected SHA-256 {known.file.sha256[:16]}...; delete it")
        return path
    if not known.file.mirrors and "NETPRESS_MIRROR" not in os.environ:
        raise ModelError(
            f"{path} is missing and is nowhere to be fetched ({known.source}); put it there, or give a file as weights"
        )
    try:
        return fetch(known.file, root)
    except DataError as error:
        raise ModelError(str(error)) from error


def _torchvision(name: str) -> tuple[Mapping[str, Tensor], Known]:
    theirs, choice = _fetched("torchvision", name, {"weights": "DEFAULT"}), _torchvision_choice(name)
    transforms = choice.transforms()
    # GoogLeNet's network turns ImageNet's usual normalisation into the one that its weights were made with.
    other = getattr(theirs, "transform_input", False)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if other else (tuple(transforms.mean), tuple(transforms.std))
    top1 = choice.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    known = Known(
        network=f"torchvision:{name}",
        mean=mean,
        std=std,
        data="imagenet",
        trained_on="train",
        top1=None if top1 is None else top1 / 100,
        licence="not stated (torchvision itself: BSD-3-Clause)",
        source=f"torchvision {choice}",
    )
    return theirs.state_dict(), known


def _torchvision_choice(name: str) -> Any:
    return optional("torchvision.models").get_model_weights(name).DEFAULT


def _timm(name: str) -> tuple[Mapping[str, Tensor], Known]:
    theirs: Any = _fetched("timm", name, {"pretrained": True})
    config = theirs.pretrained_cfg
    known = Known(
        network=f"timm:{name}",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        data="imagenet",
        trained_on="train",
        top1=None,
        licence=str(config.get("license") or "not stated"),
        source=f"timm {config['architecture']}.{config['tag']}",
    )
    return theirs.state_dict(), known


_FETCHERS = {"torchvision": _torchvision, "timm": _timm}


def _fetched(library: str, name: str, settings: dict[str, Any]) -> nn.Module:
    """A library's network with the weights that it fetches itself."""
    try:
        return build(Arch(library, name, settings))
    except ModelError:
        raise
    except Exception as error:  # every library of downloads has exceptions of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{library}:{name}: could not fetch the weights ({reason}); give a file instead") from error
