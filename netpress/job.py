"""The main job: baseline, steps, file, check, timing, verdict; every moment can be the last one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

import netpress
from netpress import atomic, crew, html_table, store
from netpress import run_folder as folders
from netpress.adopt import adopt
from netpress.arch import Named, open_network
from netpress.budget import judge
from netpress.candidate import Acting, Candidate, Context, Gradual, Inputs, Refusing, silent
from netpress.codec import container
from netpress.codec.stored import Codec
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.errors import DataError, ModelError, RecipeError
from netpress.forms import Form
from netpress.measure.metrics import machine, metrics
from netpress.opening import Options, check_fit, device_of, named, opened, state_digest
from netpress.recipe import Recipe, Step, read
from netpress.report import write_report
from netpress.summary import summarise
from netpress.tracking import check_trackers, open_trackers
from netpress.train import Fitted, Training, draw, fit, processes
from netpress.train.bind import parametrized
from netpress.train.checkpoint import CHECKPOINT, finite
from netpress.train.schedule import due
from netpress.weights import Known, open_weights, suited

BASELINE = "00-baseline"
CODERS: tuple[Codec, ...] = ("bits", "huffman", "rans")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished run: its folder, its numbers, the final candidate, and the data set as it was split for it."""

    folder: Path
    metrics: Mapping[str, Any]
    candidate: Candidate
    data: Data

    @property
    def met(self) -> bool:
        """Whether every limit of the budget is kept; one that could not be measured is not."""
        return all(verdict["met"] for verdict in self.metrics["budget"]) and not self.metrics["unmeasured"]

    def _repr_html_(self) -> str:
        return html_table.run_card(self.folder, self.metrics, met=self.met)


def run(
    recipe: str | Path | Recipe,
    *,
    net: str | nn.Module | None = None,
    data: str | Data | None = None,
    out: str | Path,
    options: Options | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Run:
    """Run a recipe, or go on where an earlier call in the same folder was stopped.

    Args:
        recipe: a preset's name, a path, or a `Recipe`.
        net: replaces the recipe's network: a name, or a module of yours (its weights are the baseline's start).
        data: replaces the recipe's data set: a name, or an opened one.
        out: the run folder.
        options: seed, device and so on.
        overrides: dotted key -> TOML value, as `--set` takes them.

    Returns:
        The finished run.

    Raises:
        RecipeError, ModelError, DataError, FileError: one line each; finished steps stay.
    """
    options = options or Options()
    with processes.joined(device_of(options.device)):
        job = _Job(read(recipe, overrides=overrides), net, data, Path(out), options)
        if not processes.first():
            return job.follow()
        with crew.leading() as tell:
            done = job.run()
            tell(done.metrics, (done.folder / "model.press").read_bytes())
        return done


def beginning(
    recipe: Recipe, *, net: nn.Module | None = None, data: str | Data | None = None, options: Options
) -> tuple[Candidate, Data]:
    """The network and the data that a run would begin with, checked as there; nothing is written."""
    job = _Job(recipe, net, data, Path(), options)
    return job.start, job.data


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """What a stage trains.

    Attributes:
        source: what other processes are given: the candidate itself, or what a method begins with that acts in it.
        subject: the candidate, or the method at work.
        train, context: of the training.
        teacher: the baseline, where it is needed.
    """

    source: Candidate
    subject: Candidate | Acting
    train: Training
    context: Context
    teacher: Candidate | None = None


class _Job:
    """What the stages of one run share."""

    def __init__(
        self, recipe: Recipe, net: str | nn.Module | None, data: str | Data | None, out: Path, options: Options
    ) -> None:
        self.out, self.options = out, options
        self.device = device_of(options.device)
        self.recipe = named(recipe, net, data)
        source = data if isinstance(data, Data) else opened(self.recipe, options)
        network, known, forms = self._network(net, source)
        self.data = suited(source, known)
        plain, masks = adopt(network.net)
        self.own = plain if network.arch.source == "own" else None
        inputs = Inputs(self.data.shape, self.data.mean, self.data.std)
        self.start = Candidate(plain, {**forms, **masks}, arch=network.arch, inputs=inputs, classes=self.data.classes)
        self._check()

    def _check(self) -> None:
        """Everything that can be known to be wrong before the folder is touched."""
        check_trackers(self.options.trackers)
        precisions = get_args(Training.model_fields["precision"].annotation)
        if self.options.precision not in (None, *precisions):
            raise RecipeError(f"precision {self.options.precision!r}: expected one of {', '.join(precisions)}")
        self._check_start()
        if (bad := finite(self.start.net)) is not None:
            raise ModelError(f"the baseline's {bad} holds NaN or an infinity")
        if (where := parametrized(self.start.net)) is not None:
            raise ModelError(f"{where} has a parametrization: remove it before compressing")
        check_fit(self.start, self.data)
        for step in self.recipe.steps():
            if lost := sorted(self.start.traits - step.method.preserves):
                raise RecipeError(f"{step.name} would break the {lost[0]!r} form that the network came with")
            step.method.check(self.start.net)
            if step.train.epochs and isinstance(step.method, Gradual):
                due(step.method.moments, step.train.epochs * math.ceil(len(self.data.train) / step.train.batch))
            if step.number == 1 and isinstance(step.method, Refusing):
                step.method.refuse(self.start, self._context(self.out, ""))

    def _check_start(self) -> None:
        """A network without weights is trained as the baseline, or by a first step that acts while it trains."""
        if self._given() or self.recipe.baseline.epochs:
            return
        first = next(self.recipe.steps(), None)
        if first is None or not first.train.epochs or not isinstance(first.method, Gradual):
            raise RecipeError("baseline.epochs is 0 and the network has no weights: train it, or give weights")
        if self.recipe.budget.max_drop is not None:
            raise RecipeError("budget.max_drop compares with the baseline, which is not trained: give min_top1")

    def follow(self) -> Run:
        """What another process than the first does: it takes part in the trainings."""
        numbers, file = crew.following(self._take_part)
        return Run(self.out, numbers, crew.opened(file, into=deepcopy(self.own)), self.data)

    def _take_part(self, told: crew.Order) -> None:
        facts = told.facts
        if facts["data"] != self.data.fingerprint:
            raise DataError(f"{self.data.name}: process {processes.place()[0]} has other data than the first one")
        context = replace(self._context(self.out, ""), step=facts["step"], scratch=None, progress=silent)
        source = crew.opened(told.candidate, into=deepcopy(self.own))
        teacher = crew.opened(told.teacher, into=deepcopy(self.own)).net if told.teacher else None
        subject: Candidate | Acting = source
        if facts["acting"]:
            method: Any = next(s for s in self.recipe.steps() if s.number == facts["step"]).method
            subject = method.gradually(source, context)
        fit(subject, Training.model_validate(facts["train"]), context, teacher=teacher, key=facts["key"])

    def run(self) -> Run:
        """All stages."""
        names = [BASELINE, *(step.name for step in self.recipe.steps())]
        arch = self.start.arch
        identity = {"network": f"{arch.source}:{arch.name}", "data": f"{self.data.name} {self.data.fingerprint[:16]}"}
        folders.claim(self.out, identity, fresh=self.options.fresh)
        folders.drop_stale(self.out, names)
        atomic.write(self.out / "recipe.toml", self.recipe.to_toml())
        numbers = [self._baseline()]
        for step in self.recipe.steps():
            numbers.append(self._step(step, numbers[-1], self.out / names[step.number - 1]))
        return self._finish(numbers, self.out / names[-1])

    def _network(self, net: str | nn.Module | None, data: Data) -> tuple[Named, Known | None, Mapping[str, Form]]:
        """The network with its first weights, a function of the seed alone; what is known of them, their forms."""
        with torch.random.fork_rng():
            torch.manual_seed(draw(self.options.seed, 0))
            if isinstance(net, nn.Module):
                return open_network(net), None, {}
            spec = self.recipe.network
            if spec is None:
                raise RecipeError("the recipe names no network: give one, or use compress MODEL")
            named = open_network(spec.name, spec.settings, shape=data.shape, classes=len(data.classes))
        if spec.weights is None:
            return named, None, {}
        return named, *open_weights(named.net, named.arch, spec.weights, self.options.data_root)

    def _given(self) -> bool:
        """Whether the network came with its weights."""
        return self.recipe.network is None or self.recipe.network.weights is not None

    def _baseline(self) -> dict[str, Any]:
        """Train the baseline, or take it as it came with its weights."""
        train = self._training(self.recipe.baseline)
        if self._given():
            train = train.model_copy(update={"epochs": 0})
        key = self._key("baseline", 1, {}, train, state_digest(self.start))
        return self._stage(BASELINE, key, lambda context: _Prepared(self.start, self.start, train, context))

    def _step(self, step: Step, before: Mapping[str, Any], previous: Path) -> dict[str, Any]:
        train = self._training(step.train)
        method: Any = step.method
        key = self._key(method.name, method.revision, asdict(method), train, before["sha256"])

        def prepare(context: Context) -> _Prepared:
            # read back also where nothing was interrupted: both are the same run
            source, here = self._load(previous), replace(context, step=step.number)
            teacher = self._load(self.out / BASELINE) if train.taught else None
            if train.epochs and isinstance(method, Gradual):
                return _Prepared(source, method.gradually(source, here), train, here, teacher)
            made = method.apply(source, here)
            return _Prepared(made, made, train, here, teacher)

        return self._stage(step.name, key, prepare)

    def _stage(self, name: str, key: str, prepare: Callable[[Context], _Prepared]) -> dict[str, Any]:
        """One baseline or step: nothing to do if it is finished, else do it, save it, measure it."""
        folder = self.out / name
        if (done := folders.finished(folder, key)) is not None:
            self.options.say(f"{name}: finished before")
            (folder / CHECKPOINT).unlink(missing_ok=True)  # killed between the last two lines of a stage
            return done
        if (folder / "metrics.json").is_file():
            self.options.say(f"{name}: settings or input changed, redone")
        folders.start_step(folder)
        folders.log(self.out, "start", step=name)
        start = time.perf_counter()
        made = prepare(self._context(folder, name))
        train, fitted = made.train, self._train(name, key, made)
        path = folder / "candidate.press"
        saved = store.save(fitted.candidate, path)
        back = self._load(folder)
        numbers = {
            "name": name,
            "version": netpress.__version__,
            "key": key,
            "sha256": folders.file_digest(path),
            **metrics(back, saved, validation=self.data.validation, test=self.data.test, device=self.device),
            "coded": {codec: store.recoded_bytes(path, codec=codec) for codec in CODERS},
            "seconds": time.perf_counter() - start,
            "train": train.model_dump(mode="json"),
            "records": [asdict(record) for record in fitted.candidate.history],
            "history": list(fitted.history),
        }
        folders.write_history(folder / "history.csv", fitted.history)
        folders.write_json(folder / "metrics.json", numbers)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        folders.log(self.out, "done", step=name, top1=numbers["top1"], file_bytes=numbers["file_bytes"])
        self.options.say(
            f"{name}: {numbers['file_bytes']:,} bytes, top-1 {numbers['top1']:.2%} "
            f"(validation {numbers['validation']['top1']:.2%}), {numbers['seconds']:.0f} s"
        )
        return numbers

    def _train(self, name: str, key: str, made: _Prepared) -> Fitted:
        if made.train.epochs:
            facts = {
                "step": made.context.step,
                "acting": made.subject is not made.source,
                "train": made.train.model_dump(mode="json"),
                "key": key,
                "data": self.data.fingerprint,
            }
            crew.order(lambda: crew.Order(facts, crew.packed(made.source), crew.packed(made.teacher)))
        teacher = None if made.teacher is None else made.teacher.net
        with self._epoch_log(name) as on_epoch:
            return fit(made.subject, made.train, made.context, teacher=teacher, key=key, on_epoch=on_epoch)

    def _finish(self, stages: list[dict[str, Any]], last: Path) -> Run:
        """model.press, model.onnx, parity, timing, budget, report."""
        final = self._load(last)
        result = folders.read_json(self.out / "metrics.json")
        key = folders.digest([stage["key"] for stage in stages] + [self.recipe.budget.model_dump(mode="json")])
        if result is None or result.get("key") != key or not self._complete(stages[-1]["sha256"]):
            (self.out / "metrics.json").unlink(missing_ok=True)
            atomic.write(self.out / "model.press", (last / "candidate.press").read_bytes())
            found = summarise(self.out, stages, self._load(self.out / BASELINE), final, data=self.data)
            result = {
                "schema": 1,
                "key": key,
                "title": self.recipe.title,
                **found,
                **self._verdicts(found["baseline"], found["final"]),
                "seed": self.options.seed,
                "machine": machine(self.device),
                "date": time.strftime("%Y-%m-%d"),
            }
            folders.write_json(self.out / "metrics.json", result)
            result = folders.read_json(self.out / "metrics.json")  # the same types as after a later call
            assert result is not None
        write_report(self.out)
        folders.log(self.out, "finished", ratio=result["ratio"])
        return Run(self.out, result, final, self.data)

    def _verdicts(self, baseline: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, Any]:
        verdicts = [asdict(verdict) for verdict in judge(self.recipe.budget, baseline, final)]
        limits = self.recipe.budget.model_dump(exclude_none=True)
        return {"budget": verdicts, "unmeasured": sorted(limits.keys() - {v["limit"] for v in verdicts})}

    def _complete(self, sha256: str) -> bool:
        """Whether the final files are there and are those of the last step."""
        model, onnx = self.out / "model.press", self.out / "model.onnx"
        return model.is_file() and folders.file_digest(model) == sha256 and (onnx.is_file() or not self._has_graph())

    def _has_graph(self) -> bool:
        return bool(container.read(self.out / "model.press").graph)

    def _context(self, folder: Path, name: str) -> Context:
        def progress(what: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
            self.options.progress(f"{name} {what}", done, total, numbers)

        first = normalise(self.data.train.images[:1], self.data.mean, self.data.std)
        return Context(
            example=first,
            train=self.data.train,
            validation=self.data.validation,
            seed=self.options.seed,
            step=0,
            device=self.device,
            scratch=folder,
            progress=progress,
        )

    @contextmanager
    def _epoch_log(self, name: str) -> Iterator[Callable[[dict[str, float]], None]]:
        facts = {"recipe": self.recipe.resolved(), "seed": self.options.seed, "stage": name}
        with open_trackers(self.options.trackers, self.out, name, facts) as tracker:

            def note(row: dict[str, float]) -> None:
                folders.log(self.out, "epoch", step=name, **row)
                tracker.log(row, int(row["epoch"]))

            yield note

    def _load(self, folder: Path) -> Candidate:
        return store.load(folder / "candidate.press", into=deepcopy(self.own))

    def _training(self, train: Training) -> Training:
        precision = self.options.precision
        return train if precision is None else Training.model_validate({**train.model_dump(), "precision": precision})

    def _key(self, name: str, revision: int, settings: Mapping[str, Any], train: Training, source: str) -> str:
        """Hash of everything that a step's result depends on; not of the code's version."""
        return folders.digest(
            {
                "method": name,
                "revision": revision,
                "settings": dict(settings),
                "train": train.model_dump(mode="json"),
                "input": source,
                "data": [self.data.fingerprint, self.data.mean, self.data.std],
                "seed": self.options.seed,
                "threads": torch.get_num_threads(),
                "device": self.device.type,
                "processes": processes.place()[1],
            }
        )
