"""The numbers of a whole run: ratio, speed against the baseline, parity without PyTorch, images that changed class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netpress import export
from netpress.candidate import Candidate
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.measure.latency import latency, speedup
from netpress.runtime import graph_bytes
from netpress.train.evaluate import logits


def summarise(
    out: Path, stages: Sequence[Mapping[str, Any]], start: Candidate, final: Candidate, *, data: Data
) -> dict[str, Any]:
    """What `metrics.json` of a run says beyond its stages; writes `model.onnx` on the way.

    Args:
        out: run folder with `model.press`.
        stages: metrics of the baseline and of every step.
        start: the baseline, as read back.
        final: the result, as read back.
        data: its test split is reported.

    Returns:
        Plain data: `network data classes baseline steps final ratio speedup parity changed`;
        ratio = 4 x baseline parameters / final file bytes.

    Raises:
        FileError: the runtime without PyTorch and the network disagree.
    """
    model = out / "model.press"
    baseline, end = dict(stages[0]), dict(stages[-1])
    timing: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    if not end.get("note"):
        export.export_onnx(model, out / "model.onnx")
        parity = asdict(export.check(model, final, data.test))
        timing = _time(out / str(stages[0]["name"]) / "candidate.press", model, data)
        baseline["latency_ms"], end["latency_ms"] = timing["baseline_ms"], timing["final_ms"]
    return {
        "network": f"{final.arch.source}:{final.arch.name}",
        "data": {"name": data.name, "fingerprint": data.fingerprint, "note": data.note},
        "classes": list(data.classes),
        "baseline": baseline,
        "steps": list(stages[1:]),
        "final": end,
        "ratio": 4 * baseline["params"] / end["file_bytes"],
        "speedup": timing,
        "parity": parity,
        "changed": _changed(start, final, data),
    }


def _time(baseline: Path, model: Path, data: Data) -> dict[str, Any]:
    """Milliseconds per image of both networks, at batch 1, in turns."""
    image: Tensor = normalise(data.test.images[:1], data.mean, data.std)
    threads = torch.get_num_threads()
    models = {"baseline": graph_bytes(baseline), "final": graph_bytes(model)}
    timed = latency(models, image.numpy(), threads=threads)
    ratio = speedup(timed["baseline"], timed["final"])
    return {
        **asdict(ratio),
        "baseline_ms": timed["baseline"].median_ms,
        "final_ms": timed["final"].median_ms,
        "timings": {name: asdict(timing) for name, timing in timed.items()},
        "threads": threads,
        "batch": 1,
    }


def _changed(baseline: Candidate, final: Candidate, data: Data) -> dict[str, Any]:
    """Test images that changed class, and the confusion matrix of the result (rows: true class)."""
    before = logits(baseline.net, data.test, baseline.inputs).argmax(1)
    after = logits(final.net, data.test, final.inputs).argmax(1)
    classes, labels = len(data.classes), data.test.labels
    confusion = torch.bincount(labels * classes + after.clamp(max=classes - 1), minlength=classes**2)
    moved = (before != after).nonzero().flatten()[:64]
    return {
        "images": int((before != after).sum()),
        "lost": int(((before == labels) & (after != labels)).sum()),
        "won": int(((before != labels) & (after == labels)).sum()),
        "confusion": confusion.view(classes, classes).tolist(),
        "examples": [
            {"index": i, "label": int(labels[i]), "before": int(before[i]), "after": int(after[i])}
            for i in moved.tolist()
        ],
    }
