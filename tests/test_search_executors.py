"""Executors: the same tasks give the same numbers; crashes, lost workers and Ctrl-C end neither search nor machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import executor_work
import pytest
from executor_work import Fake, Unmakeable, Unpicklable, alive, starts, until

from netpress.errors import ModelError, RecipeError
from netpress.search.executors import NAMES, Done, Executor, Task, open_executor
from netpress.search.executors.inline import Inline
from netpress.search.executors.local import Local

TESTS = Path(__file__).parent


def ends(executor: Executor, tasks: list[Task]) -> dict[int, Done]:
    """Run tasks, as many at a time as there are workers; by number."""
    waiting, found, flying = list(reversed(tasks)), {}, 0
    while waiting or flying:
        while waiting and flying < executor.workers:
            executor.submit(waiting.pop())
            flying += 1
        done = executor.wait()
        flying -= 1
        assert done.task.number not in found
        found[done.task.number] = done
    return found


def two_rungs(executor: Executor) -> list[tuple[float, float]]:
    """What four trials of two rungs measured."""
    first = ends(executor, [Task(n, {"x": n}) for n in range(4)])
    second = ends(executor, [Task(n, {"x": n}, rung=1, state=first[n].state) for n in range(4)])
    assert [done.error for done in (*first.values(), *second.values())] == [""] * 8
    return [(first[n].numbers["total"], second[n].numbers["total"]) for n in range(4)]


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """Two processes and the folder in which they note what they begin."""
    folder = tmp_path_factory.mktemp("team")
    executor = Local(Fake(str(folder)), workers=2)
    yield executor, folder
    executor.close()


def test_local_gives_the_numbers_of_inline(team, tmp_path):
    executor, folder = team
    inline = open_executor("inline", Fake(str(tmp_path)), workers=1)
    expected = two_rungs(inline)
    assert len({round(value, 6) for pair in expected for value in pair}) == 8  # states do count
    assert two_rungs(executor) == expected
    assert len({pid for n in range(4) for pid in starts(folder, f"{n}-0")}) == 2
    assert os.getpid() not in starts(folder, "0-0")


def test_workers_have_the_threads_of_the_work(team, monkeypatch, tmp_path):
    assert ends(team[0], [Task(10, {"x": 10})])[10].numbers["threads"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    executor = Local(Fake(str(tmp_path), threads=3), workers=1)
    assert (os.environ["OMP_NUM_THREADS"], "MKL_NUM_THREADS" in os.environ) == ("2", False)
    assert ends(executor, [Task(0, {"x": 10})])[0].numbers["threads"] == "3"
    executor.close()


def test_inline_runs_torch_with_the_threads_of_the_work(tmp_path):
    import torch

    class Threads(Fake):
        def run(self, policy, rung, state):
            return {"threads": torch.get_num_threads()}, b""

    before = torch.get_num_threads()
    executor = Inline(Threads(str(tmp_path), threads=before + 1))
    assert ends(executor, [Task(0, {"x": 0})])[0].numbers == {"threads": before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["inline", "local"])
def test_a_task_that_crashes_is_a_result(name, team, tmp_path):
    executor = team[0] if name == "local" else Inline(Fake(str(tmp_path)))
    found = ends(executor, [Task(20, {"x": 20, "fail": 1}), Task(21, {"x": 21})])
    assert (found[20].error, found[20].numbers) == ("BudgetError: no channel is left", {})
    assert found[21].error == ""
    assert found[21].numbers["total"] != 0


def test_ctrl_c_is_no_result(tmp_path):
    class Interrupted(Fake):
        def run(self, policy, rung, state):
            raise KeyboardInterrupt

    executor = Inline(Interrupted(str(tmp_path)))
    executor.submit(Task(0, {"x": 0}))
    with pytest.raises(KeyboardInterrupt):
        executor.wait()


def test_a_worker_that_is_killed_is_replaced_and_its_task_run_again(team):
    executor, folder = team
    for number in (30, 31):
        executor.submit(Task(number, {"x": number, "sleep": 0.5}))
    (first,) = until(lambda: starts(folder, "30-0"))
    os.kill(first, signal.SIGKILL)
    found = {done.task.number: done for done in (executor.wait(), executor.wait())}
    assert sorted(found) == [30, 31]
    assert [done.error for done in found.values()] == ["", ""]
    again = starts(folder, "30-0")
    assert len(set(again)) == 2
    assert len(starts(folder, "31-0")) == 1
    # the new one goes on working
    assert len(ends(executor, [Task(n, {"x": n}) for n in range(32, 36)])) == 4


def test_a_worker_that_is_killed_while_it_is_idle_is_replaced(team):
    executor, folder = team
    ends(executor, [Task(n, {"x": n, "sleep": 0.1}) for n in (40, 41)])
    (idle,) = starts(folder, "40-0")
    os.kill(idle, signal.SIGKILL)
    until(lambda: not alive(idle))
    found = ends(executor, [Task(n, {"x": n}) for n in range(42, 46)])
    assert [found[n].error for n in range(42, 46)] == [""] * 4


def test_a_task_that_takes_its_worker_with_it_is_given_up(team):
    executor, folder = team
    found = ends(executor, [Task(50, {"x": 50, "die": 2}), Task(51, {"x": 51, "die": 9}), Task(52, {"x": 52})])
    assert [found[n].error for n in (50, 51, 52)] == ["", "the worker was lost 3 times", ""]
    assert [len(starts(folder, f"{n}-0")) for n in (50, 51, 52)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("kind", "words"), [(Unpicklable, "TypeError: this holds an open file"), (Unmakeable, "made for one process")]
)
def test_a_work_that_cannot_leave_its_process_is_refused(kind, words, tmp_path):
    with pytest.raises(ModelError, match=f"{words}; use one process") as caught:
        Local(kind(str(tmp_path)), workers=1)
    assert "\n" not in str(caught.value)


def begun(folder: Path) -> list[int]:
    """Workers of the script, as soon as both have begun."""
    found = [pid for n in range(2) for pid in starts(folder, f"{n}-0")]
    return found if len(found) == 2 else []


def script(folder: Path, name: str) -> subprocess.Popen[str]:
    """A search in a process group of its own, as a terminal has it."""
    words = [sys.executable, executor_work.__file__, str(folder), name]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def test_ctrl_c_leaves_no_processes(tmp_path):
    search = script(tmp_path, "local")
    workers = until(lambda: begun(tmp_path))
    os.killpg(search.pid, signal.SIGINT)  # a terminal tells the whole group
    out, err = search.communicate(timeout=20)
    assert (search.returncode, out, err) == (0, "interrupted\n", "")
    assert not any(alive(pid) for pid in workers)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    search = script(tmp_path, "local")
    workers = until(lambda: begun(tmp_path))
    assert all(alive(pid) for pid in workers)
    search.kill()
    search.communicate(timeout=20)
    until(lambda: not any(alive(pid) for pid in workers), within=10)


@pytest.mark.parametrize(
    ("name", "workers", "words"),
    [
        ("slurm", 1, f"unknown 'slurm'; there are {', '.join(NAMES)}"),
        ("ray:/host", 1, "unknown 'ray:/host'"),
        ("inline", 2, "inline has one, got 2"),
        ("local", 0, "got 0, expected at least 1"),
    ],
)
def test_what_cannot_be_opened_is_refused(name, workers, words, tmp_path):
    with pytest.raises(RecipeError) as caught:
        open_executor(name, Fake(str(tmp_path)), workers=workers)
    assert words in str(caught.value)
