"""What `filter_mlp.py` measures: one network pruned, retrained briefly or in full, judged; nothing is done twice.

Every result is a row of `rows.json`, in a folder named by the baseline and the settings that all of them depend on: a
call that was killed goes on where it was, in the midst of a training in full too.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from torch import nn

from netpress import atomic, store
from netpress.candidate import Candidate, Context
from netpress.data import Data
from netpress.data import open as open_data
from netpress.data.batches import normalise
from netpress.data.types import Split
from netpress.measure.cost import cost
from netpress.measure.latency import latency, speedup
from netpress.methods import FilterPrune
from netpress.opening import state_digest
from netpress.recipe import read
from netpress.search.trial import sampled
from netpress.train import Training, evaluate, fit
from netpress.train.loop import Row

BRIEF_LR, FULL_LR = 0.01, 0.02
"""A tenth and a fifth of the rate that the baseline was trained with."""
TRIAL_ROUNDS, ROUNDS = 15, 31
FITTED = 100
"""Trainings draw the numbers of this step, prunings those of the steps from 1."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is spent.

    Attributes:
        sample: training images of a brief retraining.
        judged: validation images that a trial is judged on.
        trials: of each predictor.
        epochs: over all training images, of what is retrained in full.
        share: of a layer's filters that goes, where layers are pruned one after another.
        seed: of everything random.
    """

    sample: int = 4000
    judged: int = 2000
    trials: int = 10
    epochs: int = 2
    share: float = 0.25
    seed: int = 0


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def largest_layer(net: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution with most weights, the first of equals.

    >>> largest_layer(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)))[0]
    '1'
    """
    convolutions = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    return max(convolutions, key=lambda found: found[1].weight.numel())


class Work:
    """The baseline with its data, and the results so far.

    Args:
        run: folder of the baseline's run.
        data_root: where its data set lies.
        out: folder of results, networks and checkpoints.
        sizes: how much is spent.
    """

    def __init__(self, run: Path, data_root: str | None, out: Path, sizes: Sizes) -> None:
        recipe = read(run / "recipe.toml")
        assert recipe.data is not None
        self.sizes = sizes
        self.data: Data = open_data(recipe.data.name, data_root)
        self.start: Candidate = store.load(run / "00-baseline" / "candidate.press")
        self.trained: Training = recipe.baseline
        self.layer, self.conv = largest_layer(self.start.net)
        self.sample = Split(*sampled(self.data.train, sizes.sample, seed=sizes.seed))
        self.judged = Split(*sampled(self.data.validation, sizes.judged, seed=sizes.seed))
        shown = [state_digest(self.start), self.data.fingerprint, self.brief.model_dump(mode="json"), sizes.seed]
        self.identity = hashlib.sha256(json.dumps([*shown, sizes.sample, sizes.judged]).encode()).hexdigest()[:16]
        self.out = out / self.identity
        self.out.mkdir(parents=True, exist_ok=True)
        self._path = self.out / "rows.json"
        self._rows: dict[str, dict[str, Any]] = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self._graph: bytes | None = None

    @property
    def brief(self) -> Training:
        """Of a trial: one epoch over the sample."""
        return self.trained.model_copy(update={"epochs": 1, "lr": BRIEF_LR, "warmup": 0.0})

    @property
    def full(self) -> Training:
        """Of what is retrained in full."""
        return self.trained.model_copy(update={"epochs": self.sizes.epochs, "lr": FULL_LR, "warmup": 0.0})

    def kept(
        self, what: Mapping[str, Any], make: Callable[[], dict[str, Any]], file: Path | None = None
    ) -> dict[str, Any]:
        """The row of something, made now where it is not there yet, or where the file that goes with it is missing."""
        key = json.dumps(what, sort_keys=True)
        if key not in self._rows or (file is not None and not file.is_file()):
            began = time.perf_counter()
            made = make()
            self._rows[key] = {**made, "seconds": time.perf_counter() - began}
            atomic.write(self._path, json.dumps(self._rows, indent=1))
            accuracy = "".join(f", {name} {100 * made[name]:.2f} %" for name in ("bare", "top1") if name in made)
            words = ", ".join(f"{name} {value}" for name, value in what.items())
            say(f"{words}: {self._rows[key]['seconds']:.0f} s{accuracy}")
        return self._rows[key]

    def context(self, step: int, *, train: Split | None = None, scratch: Path | None = None) -> Context:
        """What methods and trainings are told: the sample, where nothing else is given."""
        images = normalise(self.data.train.images[:1], self.start.inputs.mean, self.start.inputs.std)
        return Context(example=images, train=train or self.sample, seed=self.sizes.seed, step=step, scratch=scratch)

    def top1(self, candidate: Candidate, split: Split | None = None) -> float:
        """Accuracy, on the judged validation images where no split is given."""
        return evaluate(candidate.net, split or self.judged, candidate.inputs).top1

    def counts(self, candidate: Candidate) -> dict[str, int]:
        """Parameters and multiply-adds."""
        counted = cost(candidate.net, candidate.inputs.shape)
        return {"params": counted.params, "macs": counted.macs}

    def pruned(self, removed: int) -> Candidate:
        """The original without some filters of its largest layer, those of the least L1 norm."""
        if removed == 0:
            return self.start
        return FilterPrune(remove={self.layer: removed}).apply(self.start, self.context(1))

    def before(self) -> dict[str, Any]:
        """The baseline: accuracy on what judges trials, counts, milliseconds."""

        def make() -> dict[str, Any]:
            return {"top1": self.top1(self.start), **self.counts(self.start), "latency_ms": self.milliseconds()}

        return self.kept({"kind": "baseline"}, make)

    def trial(self, removed: int) -> dict[str, Any]:
        """Some filters of the largest layer gone: accuracy before and after brief retraining, costs."""
        before = self.before()

        def make() -> dict[str, Any]:
            small = self.pruned(removed)
            bare = self.top1(small)
            fitted = fit(small, self.brief, self.context(FITTED)).candidate
            time_share = 1 / self._speedup(common.graph(fitted))
            filters = self.conv.out_channels
            costs = {
                **self.counts(fitted),
                "latency_ms": before["latency_ms"] * time_share,
                "batch": self.brief.batch,
                "ratio": removed / filters,
                "filters": filters - removed,
            }
            return {"removed": removed, "bare": bare, "top1": self.top1(fitted), "costs": costs}

        return self.kept({"kind": "trial", "layer": self.layer, "removed": removed}, make)

    def finished(self, name: str, made: Callable[[], Candidate], *, epochs: int | None = None) -> dict[str, Any]:
        """A network retrained in full (0 epochs: as it is), its file, accuracy on all validation and test images.

        Args:
            name: of its folder; must say what it is.
            made: gives it.
            epochs: other than those of `sizes`.
        """
        settings = self.full if epochs is None else self.full.model_copy(update={"epochs": epochs})
        folder = self.out / f"{name}-epochs-{settings.epochs}"
        file = folder / "model.press"
        what = {"kind": "full", "name": name, "epochs": settings.epochs, "lr": settings.lr}

        def make() -> dict[str, Any]:
            folder.mkdir(exist_ok=True)
            context = self.context(FITTED, train=self.data.train, scratch=folder)

            def told(row: Row) -> None:
                trained = f"trained to {100 * row['train_top1']:.2f} %"
                say(f"{name}, epoch {row['epoch']:.0f}: {row['seconds']:.0f} s, {trained}")

            key = json.dumps([what, self.identity, settings.model_dump(mode="json")])
            result = fit(made(), settings, context, key=key, on_epoch=told)
            fitted = result.candidate
            saved = store.save(fitted, file)
            found: dict[str, Any] = {"validation": self.top1(fitted, self.data.validation)}
            found["train_seconds"] = sum(row["seconds"] for row in result.history)  # of all calls
            found["test_seconds"] = common.cpu_seconds(lambda: found.update(top1=self.top1(fitted, self.data.test)))
            return {**found, **self.counts(fitted), "file_bytes": saved.file_bytes, "epochs": settings.epochs}

        return {**self.kept(what, make, file), "name": name, "file": str(file)}

    def layer_step(self, turn: int, groups: int) -> tuple[Candidate, dict[str, Any]]:
        """The network after layer number `turn` was pruned, the largest of those that are whole, and retrained."""
        folder = self.out / f"layers-{self.sizes.share:g}"
        file = folder / f"{turn}.press"
        method = FilterPrune(keep=1 - self.sizes.share, order="largest_first", rounds=groups, turn=turn)

        def make() -> dict[str, Any]:
            folder.mkdir(exist_ok=True)
            candidate = store.load(folder / f"{turn - 1}.press") if turn else self.start
            small = method.apply(candidate, self.context(1 + turn))
            bare = self.top1(small)
            fitted = fit(small, self.brief, self.context(FITTED + turn)).candidate
            store.save(fitted, file, graph=False, codec="bits")
            path = str(fitted.arch.edits[-1][1])
            return {"layer": path, "bare": bare, "top1": self.top1(fitted), **self.counts(fitted)}

        row = self.kept({"kind": "layer", "turn": turn, "share": self.sizes.share}, make, file)
        return store.load(file), row

    def milliseconds(self) -> float:
        """Of one image, the baseline."""
        x = np.zeros((1, *self.start.inputs.shape), np.float32)
        return latency({"it": self._own_graph()}, x, threads=1, rounds=TRIAL_ROUNDS)["it"].median_ms

    def _own_graph(self) -> bytes:
        if self._graph is None:
            self._graph = common.graph(self.start)
        return self._graph

    def _speedup(self, graph: bytes) -> float:
        """Against the baseline, timed in turns: how fast the machine is just then does not matter."""
        x = np.zeros((1, *self.start.inputs.shape), np.float32)
        timed = latency({"before": self._own_graph(), "it": graph}, x, threads=1, rounds=TRIAL_ROUNDS)
        return speedup(timed["before"], timed["it"]).median

    def settings(self) -> dict[str, Any]:
        """What the results depend on."""
        shown = ("epochs", "lr", "optimizer", "batch", "precision", "shift", "flip")
        trainings = {"brief": self.brief, "full": self.full}
        return {
            **asdict(self.sizes),
            **{n: t.model_dump(mode="json", include=set(shown)) for n, t in trainings.items()},
        }
