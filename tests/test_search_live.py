"""What is shown while a search runs: a line per trial without a terminal, a table with one, and never a crash."""

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from netpress.search import live
from netpress.search.goal import Goal, Row
from netpress.search.live import Live

GOAL = Goal({"top1": 0.99, "macs": 1000.0, "file_bytes": 4000.0}, {"macs": 500.0, "file_bytes": 1000.0}, least=0.95)


def row(number, top1=0.97, macs=400.0, state="complete", **costs):
    return Row(number, {"rank:a": 0.5}, state, top1, {"macs": macs, "file_bytes": 900.0, **costs}, rung=1)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(live, "monotonic", lambda: now[0])
    return now


def plain(lines):
    return [line.replace("\u00a0", " ") for line in lines]


def terminal(width=100):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False)


def drawn(shown, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown.view())
    return console.file.getvalue().replace("\u00a0", " ")


def test_without_a_terminal_every_trial_is_one_line():
    said = []
    shown = Live(GOAL, trials=4, minutes=None, say=said.append)
    for number, told in enumerate([row(0, 0.96), row(1, 0.98, 600.0), row(2, 0.97), Row(3, {}, "failed")]):
        shown.began(Row(number, {}, "running"))
        shown.rung(number, 0, 0.9)
        shown.ended(told)
    shown.close()
    costs = "multiply-adds {} of the limit), file 900 bytes (90 % of the limit)"
    fits, over = costs.format("400 (80 %"), costs.format("600 (120 %")
    first = "best so far: trial 0, top-1 96.00 %"
    assert plain(said) == [
        f"trial 0: complete, top-1 96.00 %, {fits}, inside the budget; the best so far; 1 of 4",
        f"trial 1: complete, top-1 98.00 %, {over}, outside the budget; {first}; 2 of 4",
        f"trial 2: complete, top-1 97.00 %, {fits}, inside the budget; the best so far; 3 of 4",
        "trial 3: failed; best so far: trial 2, top-1 97.00 %; 4 of 4",
    ]


def test_a_console_that_is_no_terminal_gets_lines_too():
    said = []
    console = Console(file=io.StringIO(), force_terminal=False)
    shown = Live(GOAL, trials=1, minutes=None, say=said.append, console=console)
    shown.began(Row(0, {}, "running"))
    shown.ended(row(0))
    shown.close()
    assert len(said) == 1
    assert console.file.getvalue() == ""


def test_on_a_terminal_a_table_stays_and_nothing_is_said():
    said, console, stdout = [], terminal(), sys.stdout
    shown = Live(GOAL, trials=9, minutes=None, say=said.append, console=console)
    for number in range(7):
        shown.began(Row(number, {}, "running"))
        shown.ended(row(number, 0.96 + number / 1000))
    shown.began(Row(7, {}, "running"))
    shown.close()
    shown.close()
    assert said == []
    assert sys.stdout is stdout
    last = console.file.getvalue().replace("\u00a0", " ").rpartition("Best trials so far")[2]
    assert "7 of 9 trials" in last
    assert "96.60 %" in last
    assert "96.10 %" not in last  # the sixth best
    assert "400 (80 %)" in last


def test_it_shares_the_console_with_a_bar_that_is_there_already():
    console = terminal()
    with Progress(console=console) as bars:
        shown = Live(GOAL, trials=2, minutes=None, say=print, console=console)
        shown.began(Row(0, {}, "running"))
        task = bars.add_task("baseline", total=2)
        shown.ended(row(0))
        bars.update(task, completed=2)
        console.print("a line that stays")
        bars.refresh()
        shown.close()
    assert "a line that stays" in console.file.getvalue()
    assert "1 of 2 trials" in console.file.getvalue()


def test_what_runs_is_named_with_its_last_rung():
    shown = Live(GOAL, trials=9, minutes=None, say=print)
    assert "running: nothing" in drawn(shown)
    for number in range(6):
        shown.began(Row(number, {}, "running"))
    shown.rung(1, 0, 0.875)
    assert "running: trial 0, trial 1 (rung 0: 87.50 %), trial 2, trial 3, 2 more" in drawn(shown)


def test_time_left_follows_the_trials_or_the_minutes_whichever_end_first(clock):
    shown = Live(GOAL, trials=10, minutes=None, say=lambda _line: None)
    assert shown.left() is None
    clock[0] += 30
    shown.ended(row(0))
    shown.ended(row(1))
    assert shown.left() == pytest.approx(8 * 15)
    assert "2 of 10 trials, about 2 min left" in drawn(shown)
    shown.minutes = 1.0
    assert shown.left() == pytest.approx(30)
    clock[0] += 1000
    assert shown.left() == 0


def test_a_search_that_goes_on_counts_the_trials_before_it(clock):
    shown = Live(GOAL, trials=40, minutes=None, say=lambda _line: None)
    shown.began(Row(30, {}, "running"))
    clock[0] += 12
    shown.ended(row(30))
    assert shown.done == 31
    assert shown.left() == pytest.approx(9 * 12)


def test_costs_that_are_not_known_yet_do_no_harm():
    said = []
    shown = Live(GOAL, trials=3, minutes=5.0, say=said.append)
    shown.ended(Row(0, {}, "halved", 0.5, {}, rung=0))
    shown.ended(Row(1, {}, "halved", 0.5, {"macs": 400.0}, rung=0))
    assert plain(said)[0] == "trial 0: stopped early, top-1 50.00 %; 1 of 3"
    assert "outside" in said[1]
    assert "outside" in drawn(shown)


def test_without_limits_on_costs_the_unit_is_shown_against_the_baseline():
    said = []
    goal = Goal({"top1": 0.99, "file_bytes": 4000.0}, {}, least=0.95)
    shown = Live(goal, trials=3, minutes=None, say=said.append)
    shown.ended(row(0))
    assert "file 900 bytes (22 % of the baseline), inside the budget; the best so far" in plain(said)[0]
    assert "900 (22 %)" in drawn(shown)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_view_fits_the_terminal(width):
    shown = Live(GOAL, trials=9, minutes=9.0, say=lambda _line: None)
    for number in range(9):
        shown.ended(row(number))
        shown.began(Row(number, {}, "running"))
    assert max(map(len, drawn(shown, width).splitlines())) <= width
