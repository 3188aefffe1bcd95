"""One trial: the methods of a policy on the original network, short retraining on a sample, accuracy and costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netpress import crew, store
from netpress.candidate import Candidate, Context
from netpress.data.batches import normalise
from netpress.data.split import stratify
from netpress.data.types import Split
from netpress.measure.cost import cost
from netpress.measure.latency import latency
from netpress.measure.metrics import FLOAT_BYTES
from netpress.methods.searching import Estimate
from netpress.runtime import graph_bytes
from netpress.search.drawing import Drawn, draw_space
from netpress.search.plan import Plan, shaping
from netpress.search.space import Policy
from netpress.train import fit
from netpress.train.evaluate import evaluate

FITTED = 100
"""Steps of a trial's trainings are numbered from here, those of its methods from 1: no two draw the same numbers."""
TIMED_ROUNDS = 15


@dataclass(eq=False)
class Trials:
    """What every worker holds to run trials; see `executors.Work`.

    Attributes:
        baseline: the network as it comes, a `.press` file without a graph.
        own: the module that the file is loaded into where the network is the user's own.
        train, judged: the sample that trials are retrained on, the validation images that they are judged on.
        plan: how.
        seed: of all trials: the same policy gives the same numbers wherever it is tried.
        around: bytes of the baseline's file that a file without a graph does not have.
        timed: whether milliseconds are measured.
        threads, device: of one task.
    """

    baseline: bytes
    own: nn.Module | None
    train: tuple[Tensor, Tensor]
    judged: tuple[Tensor, Tensor]
    plan: Plan
    seed: int
    around: int = 0
    timed: bool = False
    threads: int = 1
    device: str = "cpu"
    _drawn: Drawn | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to a worker: not the closures, which it makes again."""
        return {**self.__dict__, "_drawn": None}

    def run(self, policy: Policy, rung: int, state: bytes) -> tuple[dict[str, Any], bytes]:
        """One rung of one trial; see `executors.Work.run`.

        Returns:
            `top1`, `loss`, `costs`, `test_seconds` per image, `train_seconds`; and the trained network.
        """
        start = self._open(self.baseline)
        shapes, values = shaping(self._space(start).methods(policy))
        context = self._context(start)
        candidate = self._open(state) if state else self._applied(start, shapes, context, first=1)
        began = time.perf_counter()
        settings = self.plan.train.model_copy(update={"epochs": self.plan.rungs[rung], "patience": 0})
        teacher = start.net if settings.taught else None
        fitted = fit(candidate, settings, replace(context, step=FITTED + rung), teacher=teacher).candidate
        trained = time.perf_counter() - began
        final = self._applied(fitted, values, context, first=1 + len(shapes))
        return {**self._measured(final), "train_seconds": trained}, crew.packed(fitted)

    def _open(self, file: bytes) -> Candidate:
        return crew.opened(file, into=deepcopy(self.own))

    def _space(self, start: Candidate) -> Drawn:
        if self._drawn is None:
            plan = self.plan
            self._drawn = draw_space(
                plan.methods or (),
                start,
                self._context(start),
                Estimate({}),
                settings=plan.settings,
                groups=plan.groups,
            )
        return self._drawn

    def _context(self, start: Candidate) -> Context:
        images = normalise(self.train[0][:1], start.inputs.mean, start.inputs.std)
        return Context(
            example=images,
            train=Split(*self.train),
            validation=Split(*self.judged),
            seed=self.seed,
            device=torch.device(self.device),
        )

    def _applied(self, candidate: Candidate, methods: list[Any], context: Context, *, first: int) -> Candidate:
        for number, method in enumerate(methods, start=first):
            candidate = method.apply(candidate, replace(context, step=number))
        return candidate

    def _measured(self, candidate: Candidate) -> dict[str, Any]:
        began = time.perf_counter()
        scores = evaluate(candidate.net, Split(*self.judged), candidate.inputs, device=self.device)
        seconds = (time.perf_counter() - began) / len(self.judged[1])
        counted = cost(candidate.net, candidate.inputs.shape)
        costs: dict[str, float] = {
            "params": counted.params,
            "nonzero": counted.nonzero or 0,
            "macs": counted.macs,
            "peak_activation_bytes": FLOAT_BYTES * counted.peak_activation_floats,
            "test_seconds": seconds,
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.press"
            saved = store.save(candidate, path, graph=self.timed)
            costs["file_bytes"] = saved.file_bytes + (0 if self.timed else self.around)
            if self.timed:
                costs["latency_ms"] = milliseconds(path, candidate)
        return {"top1": scores.top1, "loss": scores.loss, "costs": costs}


def milliseconds(path: Path, candidate: Candidate) -> float:
    """Median time of one image on ONNX Runtime with as many threads as torch has here."""
    x = np.zeros((1, *candidate.inputs.shape), np.float32)
    models = {"it": graph_bytes(path)}
    return latency(models, x, threads=torch.get_num_threads(), rounds=TIMED_ROUNDS)["it"].median_ms


def sampled(split: Split, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a sample, every class in the share it has; all of them where there are no more.

    Args:
        split: in memory or streamed.
        count: images.
        seed: of the choice.

    >>> split = Split(torch.zeros(100, 1, 2, 2, dtype=torch.uint8), torch.arange(100) % 10)
    >>> sampled(split, 20, seed=0)[1].bincount().tolist()
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    if count >= len(split):
        return split.images[torch.arange(len(split))], split.labels
    chosen, _ = stratify(split.labels, (count, len(split) - count), seed=seed)
    return split.images[chosen], split.labels[chosen]


def plain_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them."""
    return {key: plain_numbers(value) if isinstance(value, Mapping) else float(value) for key, value in numbers.items()}
