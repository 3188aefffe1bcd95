"""The loop of trials: rungs, halving, failures, interruptions; the same trials however many workers and calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netpress.errors import ModelError
from netpress.search.clock import Clock
from netpress.search.executors import open_executor
from netpress.search.executors.inline import Inline
from netpress.search.goal import Goal
from netpress.search.loop import Loop, corrected
from netpress.search.plan import Plan
from netpress.search.samplers import sampler
from netpress.search.space import Dimension, Space
from netpress.search.study import Study, open_storage

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
SPACE = Space(tuple(Dimension(f"m:{n}", SHARES, "m", (n,)) for n in "abc"))
SMALL = Space(tuple(Dimension(f"m:{n}", SHARES[::3], "m", (n,)) for n in "abc"))
GOAL = Goal({"top1": 0.9, "macs": 300.0, "file_bytes": 300.0}, {"macs": 150.0})
PLAN = Plan(methods=("filter_prune",), trials=12, rungs=(1, 2), promote=0.5)


def foresee(policy):
    return {"macs": 100.0 * sum(policy.values()), "file_bytes": 50.0 * sum(policy.values())}


@dataclass
class Formula:
    """A work whose accuracy is a formula."""

    threads: int = 1
    device: str = "cpu"
    bad: tuple[float, ...] = ()
    stop_at: int = 10**9
    ran: list[tuple[tuple[float, ...], int, bytes]] = field(default_factory=list)

    def run(self, policy: Any, rung: int, state: bytes) -> tuple[dict[str, Any], bytes]:
        values = tuple(policy.values())
        self.ran.append((values, rung, state))
        if len(self.ran) > self.stop_at:
            raise KeyboardInterrupt
        if values[0] in self.bad:
            raise ModelError("the loss\nis nan")
        top1 = 0.9 - 0.1 * sum(w * (1 - v) ** 2 for w, v in zip((5, 1, 1), values, strict=True)) - 0.05 * (rung == 0)
        costs = {**foresee(policy), "file_bytes": 60.0 * sum(values)}
        return {"top1": top1, "loss": 0.1, "costs": costs, "train_seconds": 0.5}, f"{values} {rung}".encode()


class Heard:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def began(self, row):
        self.lines.append(f"began {row.number}")

    def rung(self, number, rung, top1):
        self.lines.append(f"rung {number} {rung}")

    def ended(self, row):
        self.lines.append(f"ended {row.number} {row.state}")

    def close(self):
        pass


def loop(
    folder: Path,
    work: Any,
    *,
    plan: Plan = PLAN,
    name="random",
    workers=1,
    heard=None,
    executor=None,
    space=SPACE,
    **changes,
):
    study = Study(open_storage(None, folder), space, GOAL, {"network": "n"})
    return Loop(
        study=study,
        sampler=sampler(name),
        executor=executor or (Inline(work) if workers == 1 else open_executor("local", work, workers=workers)),
        space=space,
        goal=GOAL,
        plan=plan,
        seed=0,
        foresee=foresee,
        watcher=heard or Heard(),
        **changes,
    )


def policies(tried):
    return [tuple(t.row.policy.values()) for t in tried]


def numbers(tried):
    return [(t.row.number, t.row.state, t.row.top1, dict(t.row.costs), t.row.rung) for t in tried]


def test_rungs_go_on_from_what_the_rung_before_gave(tmp_path):
    work, heard = Formula(), Heard()
    tried = loop(tmp_path, work, heard=heard, plan=PLAN.model_copy(update={"trials": 1})).run()
    ((values, rung, state), (again, next_rung, passed)) = work.ran
    assert (rung, state, again, next_rung, passed) == (0, b"", values, 1, f"{values} 0".encode())
    assert heard.lines == ["began 0", "rung 0 0", "rung 0 1", "ended 0 complete"]
    assert (tried[0].row.state, tried[0].row.rung, len(tried[0].rungs)) == ("complete", 1, 2)
    assert tried[0].rungs[0]["top1"] < tried[0].row.top1


def test_what_lags_behind_stops_at_its_rung(tmp_path):
    tried = loop(tmp_path, Formula(), plan=PLAN.model_copy(update={"trials": 24})).run()
    halved = [t.row for t in tried if t.row.state == "halved"]
    complete = [t.row for t in tried if t.row.state == "complete"]
    assert 4 <= len(halved) <= 18
    assert all(row.rung == 0 for row in halved)
    for row in halved:  # each had others at its rung that were better, and one in both accuracy and load
        earlier = [t for t in tried if t.row.number < row.number]
        assert any(
            t.rungs[0]["top1"] >= row.top1 and GOAL.load(t.rungs[0]["costs"]) <= GOAL.load(row.costs) for t in earlier
        )
    best = GOAL.best([t.row for t in tried])[0]
    assert best in complete


def test_nothing_is_halved_where_all_go_on(tmp_path):
    tried = loop(tmp_path, Formula(), plan=PLAN.model_copy(update={"promote": 1.0})).run()
    assert {t.row.state for t in tried} == {"complete"}


def test_a_trial_that_breaks_is_recorded_and_the_search_goes_on(tmp_path):
    tried = loop(tmp_path, Formula(bad=(0.1, 0.25))).run()
    failed = [t for t in tried if t.row.state == "failed"]
    assert failed
    assert len(tried) == PLAN.trials
    assert all(t.row.policy["m:a"] in (0.1, 0.25) for t in failed)
    assert {t.error for t in failed} == {"ModelError: the loss is nan"}
    assert not any(t.row.measured for t in failed)


@pytest.mark.parametrize("name", ["random", "mlp", "tpe", "greedy"])
@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_interrupted_anywhere_it_ends_as_if_undisturbed(tmp_path, name, stop_at):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    whole = loop(tmp_path / "a", Formula(), name=name).run()
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "b", Formula(stop_at=stop_at), name=name).run()
    again = Formula()
    resumed = [t for t in loop(tmp_path / "b", again, name=name).run() if not t.interrupted]
    assert numbers(resumed) == numbers(whole)
    assert policies(resumed) == policies(whole)
    done_before = policies(resumed)[: (stop_at - 1) // 2]
    assert not {values for values, *_ in again.ran} & set(done_before)  # no finished trial is repeated
    final = Formula()
    loop(tmp_path / "b", final, name=name).run()
    assert final.ran == []


def test_a_choice_depends_on_the_same_trials_on_any_executor(tmp_path):
    class Two(Inline):
        workers = 2

        def __init__(self, work):
            super().__init__(work)
            self.queue = []

        def submit(self, task):
            self.queue.append(task)

        def wait(self):
            super().submit(self.queue.pop(np.argmax([t.number for t in self.queue])))  # the newest first
            return super().wait()

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    local = loop(tmp_path / "a", Formula(), name="tpe", workers=2)
    tried = local.run()
    local.executor.close()
    here = loop(tmp_path / "b", Formula(), name="tpe", executor=Two(Formula())).run()
    assert policies(tried) == policies(here)
    assert numbers(tried) == numbers(here)


def test_it_ends_when_it_is_late(tmp_path):
    heard = Heard()
    tried = loop(tmp_path, Formula(), heard=heard, late=lambda: len(heard.lines) > 8).run()
    assert 0 < len(tried) < PLAN.trials
    assert all(t.row.measured for t in tried)


def test_it_ends_when_everything_was_tried(tmp_path):
    plan = PLAN.model_copy(update={"trials": 10_000, "rungs": (1,)})
    tried = loop(tmp_path, Formula(), plan=plan, name="uniform", space=SMALL).run()
    assert len(set(policies(tried))) == len(tried) == len(SMALL) == 27


def test_estimates_are_corrected_by_what_was_measured(tmp_path):
    tried = loop(tmp_path, Formula()).run()
    policy = SPACE.whole()
    assert foresee(policy)["file_bytes"] == pytest.approx(150)
    assert corrected(foresee, tried)(policy)["file_bytes"] == pytest.approx(180)
    assert corrected(foresee, tried)(policy)["macs"] == pytest.approx(300)
    assert corrected(foresee, [])(policy) == foresee(policy)


def test_the_clock_keeps_time_for_full_retraining(tmp_path):
    plan = Plan(methods=("filter_prune",), sample=1000, rungs=(1, 2))  # 0.5 s for 1000 and for 2000 images
    tried = loop(tmp_path, Formula(), plan=plan.model_copy(update={"trials": 4})).run()
    seconds = Clock(None, plan, 10_000).full(tried, plan) - 45
    assert seconds == pytest.approx(10 * 10_000 * np.median([0.5 / 1000, 0.5 / 2000]), rel=0.35)
    assert not Clock(None, plan, 10_000).late(tried)
    assert not Clock(60, plan, 10_000).late(tried)
    assert Clock(60, plan, 10_000).affordable(tried).train.epochs == plan.train.epochs
    assert Clock(0.5, plan, 10_000).late(tried)
    short = Clock(2, plan, 10_000).affordable(tried)
    assert 1 <= short.train.epochs < plan.train.epochs
