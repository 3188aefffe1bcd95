"""The search from end to end: baseline, space, trials, the winner retrained in full and judged, the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netpress import atomic, crew, html_table, run_folder
from netpress.budget import Budget
from netpress.candidate import Context
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.errors import BudgetError, NetpressError, RecipeError
from netpress.job import Run, beginning, run
from netpress.measure.metrics import machine
from netpress.methods.searching import estimate
from netpress.opening import Options, device_of
from netpress.recipe import DataSpec, NetworkSpec, Recipe
from netpress.report.search import write_search_report
from netpress.search import finals as last
from netpress.search import folder as folders
from netpress.search.clock import Clock
from netpress.search.drawing import Drawn, draw_space
from netpress.search.executors import check_executor, open_executor, probe_executor
from netpress.search.goal import Costs, Goal, Row
from netpress.search.loop import Loop, Watcher
from netpress.search.plan import Plan, full_recipe, planned
from netpress.search.reach import check_reach, filled, goal_of
from netpress.search.samplers import sampler
from netpress.search.space import Policy
from netpress.search.study import Study, forget, open_storage
from netpress.search.trial import Trials, sampled


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is to be compressed, on which data, into which budget.

    Attributes:
        network: by name; None where `module` is the user's own.
        module: the user's own.
        data: a name, or an opened data set.
        budget: at least one limit.
    """

    network: NetworkSpec | None
    module: nn.Module | None
    data: str | Data
    budget: Budget

    @classmethod
    def of(cls, net: str | nn.Module | NetworkSpec, data: str | Data, budget: Budget) -> Asked:
        """From what callers write.

        Raises:
            RecipeError: the budget has no limit.
        """
        if not budget.limits:
            raise RecipeError(
                "a search needs a limit: --max-drop, --min-top1, --max-size, --max-macs, --max-latency, ..."
            )
        if isinstance(net, nn.Module):
            return cls(None, net, data, budget)
        return cls(NetworkSpec(name=net) if isinstance(net, str) else net, None, data, budget)

    @property
    def data_name(self) -> str:
        """What the data set is called."""
        return self.data if isinstance(self.data, str) else self.data.name

    @property
    def title(self) -> str:
        """Of the report."""
        name = type(self.module).__name__ if self.network is None else self.network.name
        return f"{name} on {self.data_name}"


class _Nobody:
    """A watcher that looks away."""

    def began(self, row: Row) -> None:
        """A trial began."""

    def rung(self, number: int, rung: int, top1: float) -> None:
        """A trial finished a rung."""

    def ended(self, row: Row) -> None:
        """A trial ended."""

    def close(self) -> None:
        """No more trials."""


@dataclass(frozen=True, slots=True)
class Searching:
    """How a search is executed.

    Attributes:
        plan: dotted keys of `Plan` -> plain values.
        minutes: for trials and full retraining; a baseline that has to be trained comes before. None: all trials.
        executor: `inline`, `local`, `ray`, or an address of a Ray cluster; None: inline, or local for several workers.
        workers: trials at the same time.
        storage: a database that Optuna takes; None: a journal in the folder.
        command: what the report says was typed.
        watch: given the goal and the number of trials, who is told how it goes.
    """

    plan: Mapping[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    executor: str | None = None
    workers: int = 1
    storage: str | None = None
    command: str = ""
    watch: Callable[[Goal, int], Watcher] = lambda _goal, _trials: _Nobody()

    def __post_init__(self) -> None:
        """Check what does not need the network."""
        if self.minutes is not None and not self.minutes > 0:
            raise RecipeError(f"minutes: got {self.minutes:g}, expected more than 0")
        check_executor(self.where, workers=self.workers)

    @property
    def where(self) -> str:
        """The executor's name."""
        return self.executor or ("inline" if self.workers == 1 else "local")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search gives.

    Attributes:
        folder: where it lies.
        facts: what `search.json` holds.
        run: of the winner; None where no policy could be retrained.
    """

    folder: Path
    facts: Mapping[str, Any]
    run: Run | None

    @property
    def met(self) -> bool:
        """Whether the winner is inside the budget."""
        return self.run is not None and self.run.met

    def _repr_html_(self) -> str:
        return html_table.found_card(self.folder, self.facts)


def search(
    net: str | nn.Module | NetworkSpec,
    data: str | Data,
    *,
    budget: Budget,
    out: str | Path,
    how: Searching | None = None,
    options: Options | None = None,
) -> Found:
    """Find the best policy inside a budget, retrain it in full, and judge it; goes on where an earlier call ended.

    Args:
        net: a name, a module of yours with its weights, or a `NetworkSpec` with settings and weights.
        data: a name, or an opened data set.
        budget: at least one limit.
        out: folder of the search.
        how: plan, minutes, executor.
        options: seed, device and so on.

    Returns:
        The winner, met or nearest, and all trials.

    Raises:
        BudgetError: no policy can reach the budget; nothing was tried.
        RecipeError, ModelError, DataError: one line each; finished trials stay.
    """
    asked = Asked.of(net, data, budget)
    return _Search(asked, Path(out), how or Searching(), options or Options()).run()


def compress(
    net: str | nn.Module | NetworkSpec,
    data: str | Data,
    *,
    budget: Budget,
    out: str | Path = "runs/compressed",
    minutes: float | None = 20,
    options: Options | None = None,
) -> Found:
    """Compress a network into a budget: `search` with a limit on time.

    Args:
        net: a name, a module of yours with its weights, or a `NetworkSpec`.
        data: a name, or an opened data set.
        budget: at least one limit.
        out: folder of the search.
        minutes: for trials and full retraining; None: all trials of the plan.
        options: seed, device and so on.

    Returns:
        `met`, `run.candidate`, and `facts`, what `search.json` holds.

    Raises:
        BudgetError: no policy can reach the budget.
        RecipeError, ModelError, DataError: one line each.
    """
    return search(net, data, budget=budget, out=out, how=Searching(minutes=minutes), options=options)


@dataclass(frozen=True, slots=True, eq=False)
class _Setting:
    """What trials and finals of one search have in common."""

    baseline: Run
    goal: Goal
    drawn: Drawn
    study: Study
    clock: Clock

    def facts(self, finals: Sequence[last.Final]) -> dict[str, Any]:
        """What is found so far, as `search.json` holds it."""
        tried = self.study.counted()
        numbers = self.baseline.metrics["baseline"]
        winner = last.best_of(finals, self.goal)
        return {
            "network": self.baseline.metrics["network"],
            "data": self.baseline.metrics["data"],
            "classes": len(self.baseline.data.classes),
            "baseline": {**self.goal.baseline, "test_top1": numbers["top1"]},
            "goal": {"limits": dict(self.goal.limits), "least": self.goal.least, "unit": self.goal.unit},
            "dimensions": folders.dimensions(self.drawn),
            "rows": folders.rows(tried, self.goal),
            "front": [row.number for row in self.goal.front([one.row for one in tried])],
            "importance": folders.importance(self.study),
            "finals": [final.plain() for final in finals],
            "winner": winner,
            "verdict": "unfinished" if winner is None else "met" if finals[winner].met else "missed",
        }


class _Search:
    """What the stages of one search share."""

    def __init__(self, asked: Asked, out: Path, how: Searching, options: Options) -> None:
        self.asked, self.out, self.how = asked, out, how
        self.options, self.fresh = replace(options, fresh=False), options.fresh
        self.plan = planned(asked.data_name, asked.budget, how.plan, precision=options.precision)
        self.sampler = sampler(self.plan.sampler)
        probe_executor(how.where)
        recipe = Recipe(network=asked.network, data=DataSpec(name=asked.data_name), baseline=self.plan.baseline)
        start, _ = beginning(recipe, net=asked.module, data=asked.data, options=options)  # refuses, writes nothing
        self.own = start.net if start.arch.source == "own" else None
        self.lock, known = folders.lock(out), "own" if asked.network is None else asked.network.name
        with folders.held(self.lock, options.say):
            folders.claim(out, {"network": f"search of {known}", "data": asked.data_name}, fresh=options.fresh)

    def run(self) -> Found:
        """All stages."""
        with folders.held(self.lock, self.options.say):
            baseline = self._run(Recipe(title="Baseline", baseline=self.plan.baseline), folders.BASELINE)
        clock = Clock(self.how.minutes, self.plan, len(baseline.data.train))
        goal = goal_of(self.asked.budget, baseline.metrics["baseline"])
        drawn = self._drawn(baseline)
        foresee = filled(drawn.foresee, goal.baseline)
        check_reach(goal, self.asked.budget, drawn.space, foresee)
        setting = _Setting(baseline, goal, drawn, self._study(baseline, drawn, goal), clock)
        self._try(setting, foresee)
        with folders.held(self.lock, self.options.say):
            return self._close(setting, self._finals(setting))

    def _close(self, setting: _Setting, finals: Sequence[last.Final]) -> Found:
        """The winner's files and the report."""
        facts = self._write(setting, finals)
        place = facts["winner"]
        if place is not None:
            folders.keep_winner(self.out, self.out / finals[place].folder)
        write_search_report(self.out)
        return Found(self.out, facts, None if place is None else finals[place].run)

    def _run(self, recipe: Recipe, folder: str) -> Run:
        """A recipe on this network and data, in a folder of the search."""
        asked = self.asked
        named = recipe.model_copy(update={"network": asked.network, "data": DataSpec(name=asked.data_name)})
        return run(named, net=asked.module, data=asked.data, out=self.out / folder, options=self.options)

    def _drawn(self, baseline: Run) -> Drawn:
        start, plan = baseline.candidate, self.plan
        first = normalise(baseline.data.train.images[:1], start.inputs.mean, start.inputs.std)
        context = Context(example=first, seed=self.options.seed)
        before = estimate(start, baseline.metrics["baseline"]["overhead_bytes"])
        return draw_space(plan.methods or (), start, context, before, settings=plan.settings, groups=plan.groups)

    def _study(self, baseline: Run, drawn: Drawn, goal: Goal) -> Study:
        digest = run_folder.digest
        identity = {
            "network": digest(baseline.metrics["baseline"]["sha256"])[:16],
            "data set": baseline.data.fingerprint[:16],
            "space": digest(folders.dimensions(drawn))[:16],
            "way of training and judging trials": digest([self.plan.evaluation(), self.options.seed])[:16],
        }
        with folders.held(self.lock, self.options.say):
            atomic.write(self.out / "plan.json", json.dumps(self.plan.model_dump(mode="json"), indent=1) + "\n")
        storage = open_storage(self.how.storage, self.out)
        if self.fresh:  # a database lies outside the folder that was cleared
            forget(storage)
        return Study(storage, drawn.space, goal, identity)

    def _work(self, baseline: Run) -> Trials:
        data, plan, seed = baseline.data, self.plan, self.options.seed
        return Trials(
            baseline=crew.packed(baseline.candidate),
            own=self.own,
            train=sampled(data.train, plan.sample, seed=seed),
            judged=sampled(data.validation, plan.judged, seed=seed),
            plan=plan,
            seed=seed,
            around=baseline.metrics["baseline"]["file_bytes"] - folders.size_of(baseline.candidate),
            timed=self.asked.budget.max_latency is not None,
            threads=max(1, torch.get_num_threads() // self.how.workers),
            device=str(device_of(self.options.device)),
        )

    def _try(self, setting: _Setting, foresee: Callable[[Policy], Costs]) -> None:
        """Trials, until there are enough of them or the time is up."""
        executor = open_executor(self.how.where, self._work(setting.baseline), workers=self.how.workers)
        loop = Loop(
            study=setting.study,
            sampler=self.sampler,
            executor=executor,
            space=setting.drawn.space,
            goal=setting.goal,
            plan=self.plan,
            seed=self.options.seed,
            foresee=foresee,
            watcher=self.how.watch(setting.goal, self.plan.trials),
            late=lambda: setting.clock.late(setting.study.counted()),
        )
        try:
            loop.run()
        finally:
            loop.watcher.close()
            executor.close()
            self._write(setting, [])

    def _finals(self, setting: _Setting) -> list[last.Final]:
        """The best policies in full, until one is inside the budget."""
        tried = setting.study.counted()
        plan = setting.clock.affordable(tried)
        finals: list[last.Final] = []
        while len(finals) < self.plan.finalists:
            row = last.next_row([one.row for one in tried], finals, setting.goal)
            if row is None or (finals and setting.clock.over(tried, plan)):
                break
            folder = f"final-{len(finals) + 1}"
            self.options.say(f"{folder}: trial {row.number} in full, {plan.train.epochs} epochs a step")
            finals.append(self._final(setting, row, plan, folder))
            self._write(setting, finals)
        return finals

    def _final(self, setting: _Setting, row: Row, plan: Plan, folder: str) -> last.Final:
        folders.with_baseline(self.out, self.out / folder)
        recipe = full_recipe(plan, setting.drawn.methods(row.policy), budget=self.asked.budget)
        try:
            return last.Final(row, folder, self._run(recipe, folder))
        except BudgetError:
            raise
        except NetpressError as error:
            return last.Final(row, folder, None, " ".join(str(error).split()))

    def _write(self, setting: _Setting, finals: Sequence[last.Final]) -> dict[str, Any]:
        """`search.json`."""
        facts = {
            "schema": 1,
            "title": f"Search: {self.asked.title}",
            "sampler": self.plan.sampler,
            "seed": self.options.seed,
            "executor": self.how.where,
            "workers": self.how.workers,
            "command": self.how.command,
            "machine": machine(device_of(self.options.device)),
            "date": time.strftime("%Y-%m-%d"),
            "seconds": setting.clock.seconds,
            **setting.facts(finals),
        }
        facts["goal"]["asked"] = self.asked.budget.limits
        with folders.held(self.lock, self.options.say):
            run_folder.write_json(self.out / "search.json", facts)
        return facts
