"""What a saved candidate measures: accuracy, parameters, work, bytes; plain data for `metrics.json`."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import netpress
from netpress.candidate import Candidate, Images
from netpress.forms import Affine, Form, Free, Shared, Signs
from netpress.measure.cost import cost
from netpress.processor import processor
from netpress.rounding import grids
from netpress.store import Saved
from netpress.train.evaluate import evaluate

FLOAT_BYTES = 4


def metrics(
    candidate: Candidate, saved: Saved, *, validation: Images, test: Images, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Numbers of one candidate as it lies on disk.

    Args:
        candidate: as read back from its file.
        saved: of that file.
        validation: split that decisions look at.
        test: split that is reported.
        device: where accuracy is measured.

    Returns:
        `params nonzero macs activation_floats peak_activation_bytes file_bytes top1 top5 loss` (accuracies are
        fractions, on `split`), `validation: {top1, top5, loss}` and `layers`: one row per tensor that carries weights.
    """
    counted = cost(candidate.net, candidate.inputs.shape)
    return {
        "params": counted.params,
        "nonzero": counted.nonzero,
        "macs": counted.macs,
        "activation_floats": counted.activation_floats,
        "peak_activation_bytes": FLOAT_BYTES * counted.peak_activation_floats,
        "file_bytes": saved.file_bytes,
        "overhead_bytes": saved.overhead_bytes,
        "split": "test",
        **asdict(evaluate(candidate.net, test, candidate.inputs, device=device)),
        "validation": asdict(evaluate(candidate.net, validation, candidate.inputs, device=device)),
        "layers": layers(candidate, saved),
        **({"note": saved.note} if saved.note else {}),
    }


def layers(candidate: Candidate, saved: Saved) -> list[dict[str, Any]]:
    """One row per parameter, but for the scales of rounded values: its form, what is left of it, its bytes by part."""
    work = {row.path: row.macs for row in cost(candidate.net, candidate.inputs.shape).layers}
    rows, scales = [], {id(grid.scale) for grid in grids(candidate.net).values()}
    for name, parameter in candidate.net.named_parameters():
        if id(parameter) in scales:
            continue
        form = candidate.forms.get(name, Form())
        kept = parameter.numel() if form.support is None else int(form.support.sum())
        table = form.values.size if isinstance(form.values, Shared) else None
        rows.append(
            {
                "name": name,
                "shape": list(parameter.shape),
                "params": parameter.numel(),
                "kept": kept,
                "form": form.values.name,
                "table": table,
                "bits": _bits(form),
                "macs": work.get(name.rpartition(".")[0], 0) if parameter.ndim > 1 else 0,
                "bytes": dict(saved.parts.get(name, {})),
            }
        )
    return rows


def _bits(form: Form) -> int:
    """Bits of one entry inside the support, tables and scales aside."""
    match form.values:
        case Free():
            return 32
        case Shared(size=size):
            return math.ceil(math.log2(size)) if size > 1 else 0
        case Affine(bits=bits):
            return bits
        case Signs():
            return 1


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on: processor, threads, versions."""
    device = torch.device(device)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "numpy", "onnxruntime", "onnxscript")}
        | {"netpress": netpress.__version__},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
