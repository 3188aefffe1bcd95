"""The study: no policy twice, nothing lost, nothing mixed up, whoever holds it and however it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest

from netpress.errors import RecipeError
from netpress.search.goal import Goal
from netpress.search.space import Dimension, Space
from netpress.search.study import Study, forget, open_storage

SPACE = Space(tuple(Dimension(f"m:{n}", (0.25, 0.5, 0.75, None), "m", (n,)) for n in "ab"))
GOAL = Goal({"top1": 0.9, "macs": 100.0, "file_bytes": 1000.0}, {"macs": 50.0})
IDENTITY = {"network": "n", "data set": "d", "space": "s"}
RUNG = {"top1": 0.8, "costs": {"macs": 40.0}}


def study(folder: Path, **identity: str) -> Study:
    return Study(open_storage(None, folder), SPACE, GOAL, {**IDENTITY, **identity})


def same(_tried):
    return {"m:a": 0.5, "m:b": 0.5}


def foresee(_policy):
    return {"macs": 41.0}


def finish(one: Study, stored: int, state="complete"):
    one.note(stored, [RUNG])
    one.end(stored, state, seconds=1.0, where="here")


def test_what_was_measured_comes_back(tmp_path):
    one = study(tmp_path)
    first = one.ask(same, foresee)
    assert first.row.state == "running"
    finish(one, first.stored)
    failed = one.ask(same, foresee)
    one.end(failed.stored, "failed", seconds=2.0, where="there", error="ModelError: no")
    halved = one.ask(same, foresee)
    finish(one, halved.stored, "halved")
    rows = study(tmp_path).tried()
    assert [r.row.state for r in rows] == ["complete", "failed", "halved"]
    assert (rows[0].row.top1, rows[0].row.costs, rows[0].row.rung) == (0.8, {"macs": 40.0}, 0)
    assert (rows[1].error, rows[1].seconds, rows[1].where) == ("ModelError: no", 2.0, "there")
    assert rows[2].foreseen == {"macs": 41.0}
    assert not any(r.interrupted for r in rows)


def test_a_policy_is_tried_once_until_all_are_tried(tmp_path):
    one = study(tmp_path)
    seen = []
    for _ in range(len(SPACE)):
        tried = one.ask(same, foresee)
        seen.append(tuple(tried.row.policy.values()))
        finish(one, tried.stored)
    assert len(set(seen)) == len(SPACE) == 16


def test_an_interrupted_trial_is_tried_again_under_its_own_number(tmp_path):
    one = study(tmp_path)
    finish(one, one.ask(same, foresee).stored)
    lost = one.ask(same, foresee)
    one.give_up()
    other = study(tmp_path)
    again = other.ask(lambda _tried: pytest.fail("nobody is asked"), foresee)
    assert again.row.policy == lost.row.policy
    assert again.row.number == lost.row.number == 1
    assert [t.interrupted for t in other.tried()] == [False, True, False]
    assert [t.row.number for t in other.counted()] == [0, 1]


@pytest.mark.parametrize("what", ["network", "data set", "space"])
def test_a_study_of_something_else_is_refused(tmp_path, what):
    study(tmp_path)
    with pytest.raises(RecipeError, match=rf"made for another {what} \(.*, now other\): choose another --out"):
        study(tmp_path, **{what: "other"})


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match="--storage nosuch://x: cannot be opened"):
        open_storage("nosuch://x", tmp_path)


def test_a_database_holds_a_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    one = Study(open_storage(url, tmp_path), SPACE, GOAL, IDENTITY)
    finish(one, one.ask(same, foresee).stored)
    assert len(Study(open_storage(url, tmp_path), SPACE, GOAL, IDENTITY).counted()) == 1


def test_a_study_in_a_database_is_forgotten_where_that_is_asked(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'trials.db'}", tmp_path)
    forget(storage)  # there is none
    one = Study(storage, SPACE, GOAL, IDENTITY)
    finish(one, one.ask(same, foresee).stored)
    forget(storage)
    assert Study(storage, SPACE, GOAL, {**IDENTITY, "network": "other"}).counted() == []


def test_optuna_reads_it_alone(tmp_path):
    one = study(tmp_path)
    finish(one, one.ask(same, foresee).stored)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    (trial,) = optuna.load_study(study_name="netpress", storage=storage).get_trials()
    assert trial.params == {"m:a": 0.5, "m:b": 0.5}
    assert trial.values == [0.8, 0.8]


def ask_often(folder: str, count: int) -> None:
    one = study(Path(folder))
    for _ in range(count):
        finish(one, one.ask(same, foresee).stored)


def test_two_processes_never_do_the_same_trial(tmp_path):
    study(tmp_path)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=ask_often, args=(str(tmp_path), 7)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    tried = study(tmp_path).counted()
    assert len(tried) == 14
    assert len({tuple(t.row.policy.values()) for t in tried}) == 14


def test_a_killed_process_leaves_its_trial_to_others(tmp_path):
    code = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_search_study import study, same, foresee, finish
        one = study(Path({str(tmp_path)!r}))
        finish(one, one.ask(same, foresee).stored)
        one.ask(same, foresee)
        print("asked", flush=True)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    running = study(tmp_path)
    assert [t.row.state for t in running.counted()] == ["complete", "running"]  # it lives: nobody takes its trial
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    after = study(tmp_path)
    assert [t.interrupted for t in after.tried()] == [False, True]
    assert after.ask(same, foresee).row.number == 1
