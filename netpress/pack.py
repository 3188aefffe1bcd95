"""A trained network of somebody else's as a `.press` file, without loss."""

from __future__ import annotations

from pathlib import Path

from netpress import zoo
from netpress.arch import open_network
from netpress.candidate import Candidate, Inputs
from netpress.errors import ModelError
from netpress.store import Saved, save
from netpress.weights import open_weights


def pack(
    model: str,
    weights: Path,
    out: Path,
    *,
    shape: tuple[int, ...] | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Saved:
    """Build a network, fill it, save it.

    Args:
        model: what `open_network` takes.
        weights: file with its tensors.
        out: the `.press` file.
        shape: of one image (C, H, W); zoo networks know their own.
        mean: of pixel / 255, per channel; without it and `std`, known weights bring their own.
        std: of pixel / 255, per channel.

    Raises:
        ModelError: the network cannot be built or does not fit the weights, or the shape is not known.
        FileError: a compressed file of weights (`.net`) is cut, damaged, or of another network.
    """
    named = open_network(model)
    if shape is None and named.arch.source == "zoo":
        shape = zoo.describe(named.arch.name).shape
    if shape is None:
        raise ModelError(f"{model}: say the shape of one image, for instance --input 3x224x224")
    if not len(mean) == len(std) or (mean and len(mean) != shape[0]):
        raise ModelError(f"mean and std need one number per channel ({shape[0]}), got {len(mean)} and {len(std)}")
    known, forms = open_weights(named.net, named.arch, str(weights))
    if known is not None and not mean:
        mean, std = known.mean, known.std
    return save(Candidate(named.net.eval(), forms, named.arch, Inputs(shape, mean, std)), out)
