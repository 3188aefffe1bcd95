"""What `netpress measure` prints: the cost of a network or a file, and its accuracy where data is given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from netpress import zoo
from netpress.arch import open_network
from netpress.candidate import Candidate, Inputs
from netpress.data import open as open_data
from netpress.errors import ModelError
from netpress.measure.cost import cost
from netpress.store import load
from netpress.train.evaluate import evaluate


def measure_file(path: Path, *, data: str | None = None, root: str | None = None) -> dict[str, Any]:
    """Cost, size and accuracy of a `.press` file."""
    return {**_measure(load(path), data=data, root=root), "file_bytes": path.stat().st_size}


def measure_network(
    spec: str, *, shape: tuple[int, ...] | None = None, data: str | None = None, root: str | None = None
) -> dict[str, Any]:
    """Cost of a network with fresh weights.

    Raises:
        ModelError: it cannot be built, or its image shape is not known.
    """
    opened = open_data(data, root) if data else None
    shape = opened.shape if opened else shape
    named = open_network(spec, shape=shape, classes=len(opened.classes) if opened else None)
    if shape is None and named.arch.source == "zoo":
        shape = zoo.describe(named.arch.name).shape
    if shape is None:
        raise ModelError(f"{spec}: say the shape of one image, for instance --shape 3x224x224")
    return _measure(Candidate(named.net, arch=named.arch, inputs=Inputs(shape)), data=None, root=None)


def _measure(candidate: Candidate, *, data: str | None, root: str | None) -> dict[str, Any]:
    counted = asdict(cost(candidate.net, candidate.inputs.shape))
    layers = [
        {**{k: row[k] for k in ("kind", "params", "nonzero", "macs")}, "layer": row["path"] or "(network)"}
        | {"output": "x".join(map(str, row["out_shape"]))}
        for row in counted.pop("layers")
        if row["params"] or row["macs"]
    ]
    scores: dict[str, Any] = {}
    if data is not None:
        opened = open_data(data, root)
        scores = {"split": "test", **asdict(evaluate(candidate.net, opened.test, candidate.inputs))}
    return {"layers": layers, **counted, **scores}
