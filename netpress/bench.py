"""`netpress bench`: networks, `.press` and `.onnx` files timed in turns; their memory and bytes, and which is faster.

Everything runs on ONNX Runtime, so that what differs is the networks. Letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from netpress.errors import ModelError, RecipeError
from netpress.inspect import table
from netpress.measure.latency import MIN_ROUNDS, ROUNDS, Speedup, Timing, chance, latency, lean, speedup
from netpress.measure.sides import Side, open_sides
from netpress.peak import noise, peak
from netpress.processor import processor, usable_cores

BUSY = 0.5
"""Load of the machine per core, before anything is timed, from which the result says that others are at work."""

LIKELY = 0.01
"""Chance of a verdict between equal networks from which the result names it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        shape: one image (C, H, W), for networks and files that do not say; zoo networks are built for it.
        batch: images per call, beside one image per call.
        threads: threads within an operation, beside one; None: one per core that this process may use.
        rounds: how often each side is timed under each pair of the two.
        turn_s: how long one side's turn lasts at least, seconds.
    """

    shape: tuple[int, ...] | None = None
    batch: int = 32
    threads: int | None = None
    rounds: int = ROUNDS
    turn_s: float = 0.05


def bench(specs: Sequence[str], plan: Plan, *, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Time all sides in turns, at batch 1 and N, at one thread and several; weigh them one by one.

    Args:
        specs: zoo names, `torchvision:NAME`, `timm:NAME`, `path.py:factory` (exported, with fresh weights), `.press`
            and `.onnx` files. Each one is compared with the first.
        plan: what is measured.
        say: told what is being done.

    Returns:
        Plain data: `runtime processor cores input type rounds sides settings notes`; each of `settings` has
        `batch threads timings verdicts`, each side `name kind file_bytes peaks`.

    Raises:
        RecipeError: a number is out of range.
        ModelError: a side cannot be built or run, or the sides do not take the same input.
        FileError: a file is missing or damaged.
    """
    cores = usable_cores()
    threads = _check(plan, cores)
    say = say or (lambda _line: None)
    with tempfile.TemporaryDirectory() as folder:
        sides = open_sides(specs, Path(folder), shape=plan.shape, say=say)
        batches, notes = _batches(sides, plan.batch)
        notes += _busy(cores)
        if len(sides) > 1 and (odds := chance(plan.rounds)) > LIKELY:
            few = f"with {plan.rounds} rounds, chance alone tells equal networks apart in {odds:.0%} of the lines"
            notes.append(f"{few}; --rounds {ROUNDS}: {chance(ROUNDS):.1%}")
        settings = []
        for batch in batches:
            for count in sorted({1, threads}):
                say(f"timing: {_setting(batch, count)}")
                settings.append(_time(sides, batch, count, plan=plan))
        say("peak memory: each network in a process of its own")
        rows = [_weigh(side, batches) for side in sides]
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "processor": processor(),
        "cores": cores,
        "input": list(sides[0].shape),
        "type": sides[0].dtype,
        "rounds": plan.rounds,
        "sides": rows,
        "settings": settings,
        "notes": [*notes, *(side.note for side in sides if side.note)],
    }


def _check(plan: Plan, cores: int) -> int:
    """The larger number of threads."""
    threads = cores if plan.threads is None else plan.threads
    for name, value, least in (("batch", plan.batch, 1), ("threads", threads, 1), ("rounds", plan.rounds, MIN_ROUNDS)):
        if value < least:
            raise RecipeError(f"bench: --{name} must be at least {least}, got {value}")
    if threads > cores:
        raise RecipeError(f"bench: --threads {threads}: this process may use {cores} cores; more threads only wait")
    if plan.shape is not None and (not plan.shape or min(plan.shape) < 1):
        raise RecipeError(f"bench: --input {'x'.join(map(str, plan.shape))}: each size must be at least 1")
    return threads


def _batches(sides: Sequence[Side], batch: int) -> tuple[list[int], list[str]]:
    """Batches that all sides take, and what is said of the others."""
    wanted, notes = sorted({1, batch}), []
    fixed = [side for side in sides if side.batch is not None]
    for side in fixed:
        left = [n for n in wanted if n != side.batch]
        wanted = [n for n in wanted if n == side.batch]
        if left:
            notes.append(f"{side.name} takes {side.batch} images per call, not {' or '.join(map(str, left))}")
    if not wanted:
        raise ModelError(f"bench: no common batch: {'; '.join(notes)}; export with an open batch, or try --batch")
    return wanted, notes


def _time(sides: Sequence[Side], batch: int, threads: int, *, plan: Plan) -> dict[str, Any]:
    first, *others = sides
    x = noise((batch, *first.shape), first.dtype)
    models = {side.name: side.model for side in sides}
    found = latency(models, x, threads=threads, rounds=plan.rounds, min_round_s=plan.turn_s)
    ratios = {side.name: speedup(found[first.name], found[side.name]) for side in others}
    return {
        "batch": batch,
        "threads": threads,
        "timings": {name: _numbers(timing) for name, timing in found.items()},
        "verdicts": [
            {"name": name, "against": first.name, **asdict(ratio), "text": verdict(first.name, name, ratio)}
            for name, ratio in ratios.items()
        ],
    }


def _numbers(timing: Timing) -> dict[str, Any]:
    return {
        "median_ms": timing.median_ms,
        "q1_ms": timing.q1_ms,
        "q3_ms": timing.q3_ms,
        "min_ms": timing.min_ms,
        "images_per_s": 1e3 * timing.batch / timing.median_ms,
        "calls": timing.calls,
        "samples_ms": list(timing.samples_ms),
    }


def verdict(first: str, other: str, ratio: Speedup) -> str:
    """Which of two is faster, if the quartiles of the ratios, as printed, both lie on one side of 1.

    >>> verdict("a", "b", Speedup(1.8, 1.75, 1.861))
    'b is 1.80x faster than a (1.75..1.86)'
    >>> verdict("a", "b", Speedup(0.5, 0.4, 0.8))
    'b is 2.00x slower than a (1.25..2.50)'
    >>> verdict("a", "b", Speedup(1.02, 0.99, 1.04))
    'no difference that this run can show between b and a (0.99..1.04)'

    Args:
        first: name of the one that is compared with.
        other: name of the other.
        ratio: times that `other` is faster, paired round by round.
    """
    side = lean(ratio)
    if side == "faster":
        return f"{other} is {ratio.median:.2f}x faster than {first} ({ratio.q1:.2f}..{ratio.q3:.2f})"
    if side == "slower":
        return f"{other} is {1 / ratio.median:.2f}x slower than {first} ({1 / ratio.q3:.2f}..{1 / ratio.q1:.2f})"
    return f"no difference that this run can show between {other} and {first} ({ratio.q1:.2f}..{ratio.q3:.2f})"


def _weigh(side: Side, batches: Sequence[int]) -> dict[str, Any]:
    """Bytes on disk, and peak memory by batch with one thread."""
    found = {batch: peak(side.file, (batch, *side.shape), dtype=side.dtype) for batch in batches}
    peaks = [{"batch": batch, **asdict(held)} for batch, held in found.items() if held is not None]
    return {"name": side.name, "kind": side.kind, "file_bytes": side.file_bytes, "peaks": peaks}


def _busy(cores: int) -> list[str]:
    """Whether others are at work on this machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < BUSY * cores:
        return []
    return [f"the machine was busy before this began (load {load:.1f} on {cores} cores): spreads are wide"]


def _setting(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def text(facts: dict[str, Any]) -> str:
    """What `bench` found, for people."""
    shape = "x".join(map(str, facts["input"]))
    head = (
        f"{facts['runtime']}, CPU, waiting threads sleep; {facts['processor']}, {facts['cores']} cores; "
        f"input {shape} {facts['type']}; {facts['rounds']} rounds in turns"
    )
    rows = [
        [
            name,
            _setting(part["batch"], part["threads"]),
            *(t[k] for k in ("median_ms", "q1_ms", "q3_ms", "images_per_s")),
        ]
        for part in facts["settings"]
        for name, t in part["timings"].items()
    ]
    times = table(rows, ["network", "at", "ms", "q1", "q3", "images/s"])
    batches = sorted({part["batch"] for part in facts["settings"]})
    held = [f"{words}, batch {batch}" for batch in batches for words in ("peak MB", "of the network")]
    weights = [[side["name"], side["kind"], side["file_bytes"], *_megabytes(side, batches)] for side in facts["sides"]]
    sizes = table(weights, ["network", "measured as", "file bytes", *held])
    said = [
        f"{_setting(part['batch'], part['threads'])}: {found['text']}"
        for part in facts["settings"]
        for found in part["verdicts"]
    ]
    notes = [f"note: {note}" for note in facts["notes"]]
    return "\n".join([head, "", times, "", sizes, *([""] if said or notes else []), *said, *notes])


def _megabytes(side: dict[str, Any], batches: Sequence[int]) -> list[float | None]:
    held = {row["batch"]: row for row in side["peaks"]}
    keys = ("process_bytes", "network_bytes")
    return [held[batch][key] / 1e6 if batch in held else None for batch in batches for key in keys]
