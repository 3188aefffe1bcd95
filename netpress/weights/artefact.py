"""Pruned networks with shared values from the files of the Deep Compression artefacts (`.net`), forms included."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from netpress.codec import deep_compression
from netpress.codec.deep_compression import Layer
from netpress.errors import FileError, ModelError
from netpress.forms import Form, from_stored, holds


def read_net(path: Path, net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Form]]:
    """Read a `.net` file as the tensors of a network, and which of their values are zero or shared.

    Args:
        path: the file.
        net: tells names, shapes and order of the layers; is not changed.

    Returns:
        Every tensor of the network by name, and the forms of the weights.

    Raises:
        ModelError: the network has other tensors than weights and biases of convolutions and linear layers.
        FileError: the file is cut, damaged, or of another network.
    """
    try:
        found = deep_compression.read(path.read_bytes(), layers(net))
    except (FileError, ModelError) as error:
        raise type(error)(f"{path}: {error}") from None
    tensors, forms = {}, {}
    for name, stored in found.items():
        form, tensors[name] = from_stored(stored)
        # a table with -0.0 is no form of ours: such a weight is taken as it is
        if form.traits and holds(form, tensors[name]):
            forms[name] = form
    return tensors, forms


def layers(net: nn.Module) -> list[Layer]:
    """The layers of a network, in its order, as a `.net` file has them: each with a weight and a bias.

    Raises:
        ModelError: the network has other tensors.

    >>> layers(nn.Sequential(nn.Conv2d(3, 8, 5), nn.Flatten(), nn.Linear(8, 2)))
    [Layer(name='0', shape=(8, 3, 5, 5)), Layer(name='2', shape=(2, 8))]
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = [Layer(name.removesuffix(".weight"), shape) for name, shape in shapes.items() if len(shape) > 1]
    expected = [f"{layer.name}.{what}" for layer in found for what in ("weight", "bias")]
    if expected != list(shapes) or any(shapes[f"{layer.name}.bias"] != layer.shape[:1] for layer in found):
        other = sorted(set(shapes) ^ set(expected)) or list(shapes)
        raise ModelError(
            f"a .net file holds the weights and biases of convolutions and linear layers; {other[0]} of the network "
            "is none of a pair"
        )
    return found
