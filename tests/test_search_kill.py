"""Real processes of `netpress search`: killed and started again, and two at once on one folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
WORDS = [
    "search",
    "lenet-300-100",
    "--data",
    "digits",
    "--max-size",
    "12%",
    "--max-drop",
    "30",
    "--trials",
    "8",
    "--quiet",
]
QUICK = ["sample=600", "train.epochs=2", "values_epochs=1", "baseline.epochs=3", "finalists=1"]
SET = [word for pair in QUICK for word in ("--set", pair)]


def start(out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "netpress", *WORDS, *SET, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def trials(out: Path) -> list[tuple[str, ...]]:
    rows = json.loads((out / "search.json").read_text())["rows"]
    return [tuple(map(str, (r["number"], r["policy"], r["state"], r["top1"]))) for r in rows]


def finished(out: Path) -> int:
    """Lines of the journal that close a trial."""
    log = out / "study.log"
    return log.read_text().count('"op_code":6') if log.is_file() else 0


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


def test_killed_and_started_again_it_ends_in_the_same_file(tmp_path):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    ended(start(whole))
    for count in (0, 3):
        process = start(disturbed)
        wait_for(lambda: (disturbed / "study.log").is_file() and finished(disturbed) >= count)  # noqa: B023
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    ended(start(disturbed))
    assert trials(disturbed) == trials(whole)
    assert (disturbed / "model.press").read_bytes() == (whole / "model.press").read_bytes()


def test_two_processes_share_one_folder(tmp_path):
    both = [start(tmp_path / "x"), start(tmp_path / "x")]
    for process in both:
        ended(process)
    found = trials(tmp_path / "x")
    assert 8 <= len(found) <= 9  # both may begin the last one at the same moment
    assert len({policy for _, policy, *_ in found}) == len(found)
    log = (tmp_path / "x" / "study.log").read_text().splitlines()
    assert len({line for line in log if '"owner"' in line for line in [json.loads(line)["user_attr"]["owner"]]}) == 2
    assert (tmp_path / "x" / "model.press").is_file()
