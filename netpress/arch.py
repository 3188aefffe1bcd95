"""Build a network from its description: zoo, torchvision, timm by name, the user's own by factory; then its edits."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from netpress import user_file, zoo
from netpress.codec.header import Arch
from netpress.errors import ModelError
from netpress.factor import CHILDREN, condensing, scaling, structure
from netpress.graph.structure import EDITS
from netpress.rounding import add_rounding


def build(arch: Arch, *, into: nn.Module | None = None) -> nn.Module:
    """The network that `arch` describes, with fresh weights.

    Args:
        arch: source, name, settings and edits.
        into: the user's own network, edited in place; needed for the source "own".

    Returns:
        The network, in training mode.

    Raises:
        ModelError: the source or its package is missing, the name unknown, or an edit does not fit.

    >>> build(Arch("zoo", "lenet5")).fc2.out_features
    10
    """
    net = into if into is not None else _SOURCES[arch.source](arch)
    for operation, path, *numbers in arch.edits:
        edit(net, operation, path, *numbers)
    return net


def edit(net: nn.Module, operation: str, path: str, *numbers: Any) -> None:
    """Change the structure of a network in place; the same call rebuilds it from a file.

    Args:
        net: the network.
        operation: `dropout` (a number: the rate), `bias` (the layer gets one, of zeros), `identity` (a batch norm is
            taken out), `pruned` (a note), `round` (a value becomes an integer: function, number of the call, trained
            or not), one of `graph.structure` (smaller tensors, numbers of modules), of `factor.structure` (other
            layers in a layer's place), of `factor.condensing` (layers that read chosen channels) or of
            `factor.scaling` (a norm becomes scale and shift).
        path: of the module.
        numbers: what the operation needs.

    Raises:
        ModelError: the operation is unknown, or does not fit the module.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    >>> edit(net, "bias", "0"); edit(net, "identity", "1"); net
    Sequential(
      (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
    )
    """
    if operation not in _EDITS:
        raise ModelError(f"edit {operation!r} of {path!r} is unknown: written by a newer version; update netpress")
    try:
        _EDITS[operation](net, path, *numbers)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"edit {operation!r} does not fit {path!r} of the network: {error}") from error


def _zoo(arch: Arch) -> nn.Module:
    return zoo.create(arch.name, **arch.settings)


_FETCH = (
    "weights",
    "weights_backbone",
    "pretrained",
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
)
"""Settings by which the libraries open files or download: a file must not make us do so."""


def refuse_fetching(arch: Arch) -> None:
    """Refuse a description, read from a file, that would make a library open other files or download.

    Raises:
        ModelError: its name is no plain name, or a setting fetches.

    >>> refuse_fetching(Arch("timm", "resnet18", {"num_classes": 10}))
    """
    if arch.source not in ("torchvision", "timm"):
        return
    if not re.fullmatch(r"\w[\w.\-]*", arch.name):  # timm takes hf-hub:... and local-dir:... for names
        raise ModelError(f"{arch.source}:{arch.name}: not the name of a network")
    for key in _FETCH:
        if arch.settings.get(key):
            raise ModelError(f"{arch.source}:{arch.name}: setting {key!r} opens files or downloads: refused in a file")


def _torchvision(arch: Arch) -> nn.Module:
    models = optional("torchvision.models")
    try:
        net: nn.Module = models.get_model(arch.name, **{"weights": None, **arch.settings})
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"torchvision:{arch.name}: {str(error).splitlines()[0]}") from error
    return net


def _timm(arch: Arch) -> nn.Module:
    models = optional("timm")
    try:
        net: nn.Module = models.create_model(arch.name, **{"pretrained": False, **arch.settings})
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"timm:{arch.name}: {str(error).splitlines()[0]}") from error
    return net


def _own(arch: Arch) -> nn.Module:
    raise ModelError(f"{arch.name} is a network of your own: build it and pass it, load(path, into=net)")


_SOURCES: dict[str, Callable[[Arch], nn.Module]] = {
    "zoo": _zoo,
    "torchvision": _torchvision,
    "timm": _timm,
    "own": _own,
}


def _dropout(net: nn.Module, path: str, rate: float) -> None:
    module = net.get_submodule(path)
    if not isinstance(module, nn.modules.dropout._DropoutNd):
        raise TypeError(f"expected a dropout layer, got {type(module).__name__}")
    module.p = rate


def _bias(net: nn.Module, path: str) -> None:
    layer = net.get_submodule(path)
    if not isinstance(layer, _ConvNd | nn.Linear):
        raise TypeError(f"expected a convolution or a linear layer, got {type(layer).__name__}")
    if layer.bias is not None:
        raise TypeError("it has a bias already; give the network as it was before it was compressed")
    weight, transposed = layer.weight, isinstance(layer, _ConvNd) and layer.transposed
    channels = weight.shape[1] * int(getattr(layer, "groups", 1)) if transposed else weight.shape[0]
    zeros = torch.zeros(channels, dtype=weight.dtype, device=weight.device)
    layer.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)


def _identity(net: nn.Module, path: str) -> None:
    norm = net.get_submodule(path)
    if not isinstance(norm, _BatchNorm):
        raise TypeError(f"expected a batch norm, got {type(norm).__name__}")
    # some libraries' norms hold what comes behind them, dropout and activation, as children: these stay
    behind = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    rest = nn.Identity() if not behind else behind[0] if len(behind) == 1 else nn.Sequential(*behind)
    if rest not in behind:
        rest.training = norm.training
    net.set_submodule(path, rest)


def _pruned(_net: nn.Module, _group: str) -> None:
    """A note for later steps: the channels of this name have had their turn. It changes nothing."""


def _replaced(operation: str) -> Callable[..., None]:
    def replace(net: nn.Module, path: str, *numbers: int) -> None:
        net.set_submodule(path, structure(net.get_submodule(path), operation, *numbers))

    return replace


_EDITS: dict[str, Callable[..., None]] = {
    **{operation: _replaced(operation) for operation in CHILDREN},
    **condensing.EDITS,
    **scaling.EDITS,
    "dropout": _dropout,
    "bias": _bias,
    "identity": _identity,
    "pruned": _pruned,
    "round": add_rounding,
    **EDITS,
}


def optional(name: str) -> Any:
    """Import a module that may not be installed.

    Raises:
        ModelError: it is not, or it cannot be imported.

    >>> optional("math").floor(1.5)
    1
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ModelError(f"{package} is not installed: pip install {package}") from error
    except Exception as error:  # a broken installation raises anything: compiled operators that do not fit PyTorch, ...
        raise ModelError(f"{name} cannot be imported: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """A network and how it was named."""

    net: nn.Module
    arch: Arch


def open_network(
    spec: str | nn.Module,
    settings: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
) -> Named:
    """A network by what the command line calls it, made for a data set.

    Args:
        spec: a zoo name, `torchvision:NAME`, `timm:NAME`, `path.py:factory` (runs that file of yours), or a module.
        settings: arguments of the builder; they go before what the data set asks for.
        shape: (C, H, W) of the images.
        classes: number of outputs.

    Raises:
        ModelError: it cannot be built; one line.

    >>> open_network("lenet5", shape=(3, 32, 32), classes=7).arch.settings
    {'num_classes': 7, 'in_channels': 3, 'size': 32}
    """
    settings = dict(settings or {})
    if isinstance(spec, nn.Module):
        return Named(spec, Arch("own", type(spec).__name__))
    head, colon, rest = spec.partition(":")
    if head.endswith(".py") and colon:
        net = user_file.call(Path(head), rest, error=ModelError, **settings)
        if not isinstance(net, nn.Module):
            raise ModelError(f"{spec}: expected an nn.Module, got {type(net).__name__}")
        return Named(net, Arch("own", type(net).__name__, settings))
    source = head if colon else "zoo"
    if source not in ("zoo", "torchvision", "timm"):
        raise ModelError(f"network {spec!r}: expected a zoo name, torchvision:NAME, timm:NAME or path.py:factory")
    name = rest if colon else head
    arch = Arch(source, name, {**_asked(source, name, shape, classes), **settings})
    return Named(build(arch), arch)


def _asked(source: str, name: str, shape: tuple[int, ...] | None, classes: int | None) -> dict[str, Any]:
    """Settings that fit a network to the data, where they differ from its own."""
    if shape is None or classes is None:
        return {}
    if source != "zoo":
        return {"num_classes": classes} | ({"in_chans": shape[0]} if source == "timm" and shape[0] != 3 else {})
    usual = zoo.settings(name)
    wanted = {"num_classes": classes, "in_channels": shape[0], "size": shape[1]}
    return {key: value for key, value in wanted.items() if key in usual and value != usual[key]}
