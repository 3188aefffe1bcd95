"""Milliseconds of ONNX models on ONNX Runtime, several in one process and in turns, so that they compare fairly.

The machine's speed drifts by tens of per cent within seconds (other load, heat). Models timed one after the other
would take that drift for a difference; here every round times each model once, and a speed-up is the median of the
per-round ratios, in which the drift cancels.
"""

import gc
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from netpress.errors import ModelError, RecipeError
from netpress.onnx_session import open_session

MIN_ROUNDS = 7
ROUNDS = 31
"""How often each model is timed where verdicts are wanted: fewer give some by chance."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one model took, round by round.

    Args:
        samples_ms: milliseconds per call, one entry per round.
        turns: position of each sample in the run's overall order: of two models, one has 0, 2, 4 ... and the
            other 1, 3, 5 ...
        calls: calls per round that each sample is the mean of.
        threads: threads within an operation.
        batch: images per call.
        runtime: name and version of what ran the model.
    """

    samples_ms: tuple[float, ...]
    turns: tuple[int, ...]
    calls: int
    threads: int
    batch: int
    runtime: str

    @property
    def median_ms(self) -> float:
        """Median over the rounds."""
        return _quantile(self.samples_ms, 0.5)

    @property
    def q1_ms(self) -> float:
        """First quartile over the rounds."""
        return _quantile(self.samples_ms, 0.25)

    @property
    def q3_ms(self) -> float:
        """Third quartile over the rounds."""
        return _quantile(self.samples_ms, 0.75)

    @property
    def min_ms(self) -> float:
        """Fastest round."""
        return min(self.samples_ms)


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster one model is than another: quantiles of the per-round ratios.

    Args:
        median: median ratio; above 1 is faster than the baseline.
        q1: first quartile.
        q3: third quartile.
    """

    median: float
    q1: float
    q3: float


def _quantile(values: tuple[float, ...], q: float) -> float:
    return float(np.quantile(values, q))


def speedup(baseline: Timing, small: Timing) -> Speedup:
    """Compare two models timed in the same run.

    speedup = median over rounds r of baseline_ms[r] / small_ms[r]

    Args:
        baseline: the slower one, usually the original network.
        small: the one whose speed-up is asked for.

    Returns:
        Median and quartiles of the ratios.

    Raises:
        ModelError: the two were not timed in turns in one run.

    >>> a = Timing((2.0, 4.0, 6.0), (0, 2, 4), 1, 1, 1, "none")
    >>> b = Timing((1.0, 2.0, 2.0), (1, 3, 5), 1, 1, 1, "none")
    >>> speedup(a, b).median
    2.0
    """
    if len(baseline.turns) != len(small.turns) or not set(baseline.turns).isdisjoint(small.turns):
        raise ModelError("speedup: these are not two models of one run; time both in one call of `latency`")
    ratios = tuple(a / b for a, b in zip(baseline.samples_ms, small.samples_ms, strict=True))
    return Speedup(_quantile(ratios, 0.5), _quantile(ratios, 0.25), _quantile(ratios, 0.75))


def lean(ratio: Speedup) -> Literal["faster", "slower", ""]:
    """Which way a speed-up leans: "" unless both quartiles, as printed, lie on the same side of 1.

    >>> lean(Speedup(1.8, 1.75, 1.861)), lean(Speedup(0.5, 0.4, 0.8)), lean(Speedup(1.02, 0.99, 1.04))
    ('faster', 'slower', '')
    """
    if round(ratio.q1, 2) > 1:
        return "faster"
    return "slower" if round(ratio.q3, 2) < 1 else ""


def chance(rounds: int) -> float:
    """How often the quartiles of the ratios of two equal networks lie on one side of 1, by chance.

    2 sum over k <= (n - 1) / 4 of C(n, k) / 2^n, n rounds of independent ratios: as many lie above 1 as coins fall

    >>> round(chance(9), 3), round(chance(31), 4)
    (0.18, 0.0033)
    """
    return 2 * sum(math.comb(rounds, k) for k in range((rounds - 1) // 4 + 1)) / (1 << rounds)


def latency(
    models: Mapping[str, bytes | Path],
    x: NDArray[Any],
    *,
    threads: int,
    rounds: int = 9,
    warmup: int = 3,
    min_round_s: float = 0.05,
) -> dict[str, Timing]:
    """Time several ONNX models in turns: A B C, A B C, ...; threads that wait sleep, they do not spin.

    Args:
        models: name -> the model's bytes, or the path of its file; each takes one input.
        x: the input, batch first, of the type the models take.
        threads: threads within an operation, at least 1; operations run one after the other.
        rounds: how often each model is timed, at least 7.
        warmup: calls before the first round, not timed.
        min_round_s: how long one model's turn lasts at least, seconds; sets the calls per turn.

    Returns:
        One timing per model, in the order given.

    Raises:
        ModelError: a model cannot be opened, or does not take `x`.
        RecipeError: a number is out of range, or there is no model.

    >>> import onnx.parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }'
    >>> model = onnx.parser.parse_model(text).SerializeToString()
    >>> timings = latency({"a": model, "b": model}, np.zeros((1, 4), "float32"), threads=1, min_round_s=0)
    >>> timings["a"].turns[:3], timings["b"].turns[:3]
    ((0, 2, 4), (1, 3, 5))
    """
    _check(models, threads=threads, rounds=rounds, warmup=warmup, min_round_s=min_round_s)
    runs = {name: _Run(name, model, x, threads) for name, model in models.items()}
    calls = {name: run.calls_for(min_round_s, warmup) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    turns: dict[str, list[int]] = {name: [] for name in runs}
    with _no_collection():
        for turn, name in enumerate(list(runs) * rounds):
            samples[name].append(runs[name].seconds(calls[name]) / calls[name] * 1e3)
            turns[name].append(turn)
    return {
        name: Timing(
            samples_ms=tuple(samples[name]),
            turns=tuple(turns[name]),
            calls=calls[name],
            threads=threads,
            batch=len(x),
            runtime=f"onnxruntime {onnxruntime.__version__}",
        )
        for name in runs
    }


def slowest(models: Mapping[str, bytes | Path], x: NDArray[Any], *, threads: int) -> float:
    """Seconds of one call of the slowest of some models: how long a round will be.

    Raises:
        ModelError: a model cannot be opened, or does not take `x`.
    """
    # opening runs each once, so that what is seen here is not the first call
    return max(_Run(name, model, x, threads).seconds(1) for name, model in models.items())


def _check(models: Mapping[str, object], *, threads: int, rounds: int, warmup: int, min_round_s: float) -> None:
    if not models:
        raise RecipeError("latency: no model given; give at least one name with its ONNX bytes")
    for name, value, least in (("threads", threads, 1), ("rounds", rounds, MIN_ROUNDS), ("warmup", warmup, 0)):
        if value < least:
            raise RecipeError(f"latency: {name} must be at least {least}, got {value}")
    if not 0 <= min_round_s <= 60:
        raise RecipeError(f"latency: min_round_s must be from 0 to 60 seconds, got {min_round_s}")


class _Run:
    """One opened model with its input."""

    def __init__(self, name: str, model: bytes | Path, x: NDArray[Any], threads: int) -> None:
        try:
            self._session = open_session(model, threads=threads)
            (entry,) = self._session.get_inputs()
            self._feed = {entry.name: np.ascontiguousarray(x)}
            self._session.run(None, self._feed)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"latency: {name!r} does not run on an input of shape {x.shape}, type {x.dtype}: {reason}"
            ) from error

    def seconds(self, calls: int) -> float:
        """Return the time of `calls` calls, seconds."""
        run, feed = self._session.run, self._feed
        start = time.perf_counter()
        for _ in range(calls):
            run(None, feed)
        return time.perf_counter() - start

    def calls_for(self, min_round_s: float, warmup: int) -> int:
        """Warm up; return how many calls fill a turn."""
        self.seconds(warmup)
        once = max(min(self.seconds(1) for _ in range(3)), 1e-7)
        return max(1, math.ceil(min_round_s / once))


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection inside one turn would be taken for the model's time."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
