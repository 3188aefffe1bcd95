"""The numbers of a whole run: ratio, speed against the baseline, parity without PyTorch, images that changed class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from netpress import export
from netpress.candidate import Candidate
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.measure.latency import ROUNDS, Timing, chance, latency, lean, slowest, speedup
from netpress.processor import usable_cores
from netpress.runtime import graph_bytes
from netpress.train.evaluate import logits

BATCH = 32
"""Images per call, beside one."""
FEWEST, TURN_S = 9, 0.02
"""Rounds of the slowest networks; how long one network's turn lasts at least, seconds."""
MOST_S, MOST_CALL_S = 20, 2
"""Seconds that all rounds of a setting should take at most, and a call in a setting beside the first."""


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
    """Milliseconds per image of both networks in turns: at batch 1 and the run's threads, then in other settings."""
    images = normalise(data.test.images[:BATCH], data.mean, data.std).numpy()
    threads = torch.get_num_threads()
    models = {"baseline": graph_bytes(baseline), "final": graph_bytes(model)}
    timed = _turns(models, images[:1], threads, slowest(models, images[:1], threads=threads))
    return {
        **asdict(speedup(*timed.values())),
        "baseline_ms": timed["baseline"].median_ms,
        "final_ms": timed["final"].median_ms,
        "timings": {name: asdict(timing) for name, timing in timed.items()},
        "threads": threads,
        "batch": 1,
        "settings": _settings(models, images, timed),
    }


def _turns(models: Mapping[str, bytes], images: NDArray[Any], threads: int, call_s: float) -> dict[str, Timing]:
    """Time models in turns, in fewer rounds where a call takes `call_s` seconds and all rounds would take too long."""
    rounds = int(MOST_S / (len(models) * max(call_s, TURN_S)))
    return latency(models, images, threads=threads, rounds=min(max(rounds, FEWEST), ROUNDS), min_round_s=TURN_S)


def _settings(models: Mapping[str, bytes], images: NDArray[Any], first: Mapping[str, Timing]) -> list[dict[str, Any]]:
    """Both networks at one image per call and several, at one thread, the run's and one per core.

    Where a call would take too long, going by one image's, the row says so and holds no times.
    """
    given = first["baseline"].threads
    image_s = max(timing.median_ms for timing in first.values()) / 1e3
    rows = []
    for batch in sorted({1, len(images)}):
        for threads in sorted({1, given, usable_cores()}):
            if (batch, threads) == (1, given):
                rows.append(_row(first))
            elif batch * image_s > MOST_CALL_S:
                about = f"one call would take about {batch * image_s:.0f} seconds"
                rows.append({"batch": batch, "threads": threads, "skipped": about})
            else:
                rows.append(_row(_turns(models, images[:batch], threads, batch * image_s)))
    return rows


def _row(timed: Mapping[str, Timing]) -> dict[str, Any]:
    """One setting: milliseconds per image, the ratio, which way it leans, and how often chance alone would lean so."""
    baseline, final = timed["baseline"], timed["final"]
    ratio, rounds = speedup(baseline, final), len(final.samples_ms)
    return {
        "batch": final.batch,
        "threads": final.threads,
        "baseline_ms": baseline.median_ms / baseline.batch,
        "final_ms": final.median_ms / final.batch,
        **asdict(ratio),
        "rounds": rounds,
        "verdict": lean(ratio),
        "chance": chance(rounds),
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
