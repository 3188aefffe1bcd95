"""What `netpress measure` prints: the cost of a network or a file, and its accuracy where data is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from netpress import zoo
from netpress.arch import Named, open_network
from netpress.candidate import Candidate, Inputs
from netpress.data import Data
from netpress.data import open as open_data
from netpress.errors import ModelError
from netpress.measure.cost import cost
from netpress.store import load
from netpress.train.evaluate import evaluate
from netpress.weights import Known, open_weights


def measure_file(path: Path, *, data: str | None = None, root: str | None = None) -> dict[str, Any]:
    """Cost, size and accuracy of a `.press` file."""
    candidate = load(path)
    opened = open_data(data, root) if data else None
    return {**_count(candidate), "file_bytes": path.stat().st_size, **_score(candidate, opened)}


def measure_network(
    spec: str,
    *,
    settings: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
    weights: str | None = None,
    data: str | None = None,
    root: str | None = None,
) -> dict[str, Any]:
    """Cost of a network; with weights and data, its accuracy on all test images.

    Args:
        spec: what `open_network` takes.
        settings: of the network, to change.
        shape: one image (C, H, W); None: the data set's, else the one the network was made for.
        weights: a file, or "pretrained"; without, a zoo network is counted on shapes alone.
        data: a data set: for shape and classes, and for accuracy where there are weights.
        root: where known data sets lie.

    Raises:
        ModelError: it cannot be built or filled, or its image shape is not known.
    """
    opened = open_data(data, root) if data else None
    shape = opened.shape if opened else shape
    with torch.device("meta" if ":" not in spec and weights is None else "cpu"):  # shapes only: in no time
        named, shape = open_sized(spec, settings, shape=shape, classes=len(opened.classes) if opened else None)
    known = open_weights(named.net, named.arch, weights, root).known if weights else None
    candidate = Candidate(named.net, arch=named.arch, inputs=_inputs(shape, opened, known))
    notes = [zoo.describe(named.arch.name).note if named.arch.source == "zoo" else "", known.note if known else ""]
    found = {"note": " ".join(filter(None, notes))} if any(notes) else {}
    return {**_count(candidate), **found, **_score(candidate, opened if weights else None)}


def open_sized(
    spec: str,
    settings: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
) -> tuple[Named, tuple[int, ...]]:
    """A network by name, and the shape of the images it takes.

    Args:
        spec: what `open_network` takes.
        settings: of the network, to change.
        shape: one image (C, H, W); None: the one that a zoo network was made for.
        classes: number of outputs; None: the network's own.

    Raises:
        ModelError: it cannot be built, or its image shape is not known.

    >>> open_sized("lenet5")[1]
    (1, 28, 28)
    """
    named = open_network(spec, settings, shape=shape, classes=_classes(spec, settings) if classes is None else classes)
    if shape is None and named.arch.source == "zoo":
        shape = _usual_shape(named.arch.name, named.arch.settings)
    if shape is None:
        raise ModelError(f"{spec}: say the shape of one image, for instance --input 3x224x224")
    return named, shape


def _inputs(shape: tuple[int, ...], data: Data | None, known: Known | None) -> Inputs:
    """The normalisation that the weights want, else the data set's."""
    source = known or data
    return Inputs(shape, source.mean, source.std) if source is not None else Inputs(shape)


def _classes(spec: str, settings: Mapping[str, Any] | None) -> int | None:
    """What a zoo network answers with of its own; `open_network` fits it to the image only if it knows the classes."""
    if ":" in spec:
        return None
    found = {**zoo.settings(spec), **(settings or {})}.get("num_classes")
    return found if isinstance(found, int) else None


def _usual_shape(name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
    """The image that a zoo network was made for, with its settings' channels and size."""
    channels, rows, columns = zoo.describe(name).shape
    size = settings.get("size")
    return (settings.get("in_channels", channels), size or rows, size or columns)


def _count(candidate: Candidate) -> dict[str, Any]:
    counted = asdict(cost(candidate.net, candidate.inputs.shape))
    layers = [
        {**{k: row[k] for k in ("kind", "params", "nonzero", "macs")}, "layer": row["path"] or "(network)"}
        | {"output": "x".join(map(str, row["out_shape"]))}
        for row in counted.pop("layers")
        if row["params"] or row["macs"]
    ]
    facts = {
        "input": list(candidate.inputs.shape),
        **{key: value for key, value in counted.items() if value is not None},
        "activation_bytes": 4 * counted["activation_floats"],
        "peak_activation_bytes": 4 * counted["peak_activation_floats"],
    }
    return {"layers": layers, **facts}


def _score(candidate: Candidate, data: Data | None) -> dict[str, Any]:
    if data is None:
        return {}
    return {"split": "test", **asdict(evaluate(candidate.net, data.test, candidate.inputs))}
