"""What notebooks, pipes and terminals are shown."""

import builtins
import io
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import netpress as nxp
from netpress import html_table
from netpress.candidate import Candidate, Inputs
from netpress.data import Data
from netpress.forms import Affine, Form, Shared, Signs
from netpress.job import Run
from netpress.search.job import Found
from netpress.terminal import Terminal

STAGE = {"file_bytes": 2000, "nonzero": 400, "macs": 9000, "top1": 0.9, "validation": {"top1": 0.91}, "params": 1000}
NUMBERS = {
    "title": "Mine <script>",
    "network": "own:Net",
    "data": {"name": "digits"},
    "baseline": {**STAGE, "name": "00-baseline"},
    "steps": [{**STAGE, "name": "01-weight_prune", "file_bytes": 500}],
    "final": {**STAGE, "name": "01-weight_prune", "file_bytes": 500},
    "ratio": 8.0,
    "budget": [{"limit": "max_drop", "allowed": 1, "measured": 0, "met": True}],
    "unmeasured": [],
}


class Reader(HTMLParser):
    """The cells of all tables, row by row; complains of tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "strong", "table", "thead", "tbody", "tr", "th", "td"), tag
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def rows(shown: object) -> list[list[str]]:
    return Reader(shown._repr_html_()).rows  # type: ignore[attr-defined]


def test_a_candidate_shows_its_tensors_and_forms():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 3), nn.Linear(2, 2))
    nn.init.constant_(net[0].weight, 1.0)
    support = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    support[0] = True
    forms = {
        "0.weight": Form(support, Shared(torch.zeros(9, dtype=torch.int64), 1)),
        "1.weight": Form(values=Affine.symmetric(torch.ones(1, 1), 4)),
        "2.weight": Form(values=Signs(torch.ones(2, 2, dtype=torch.bool))),
    }
    shown = rows(Candidate(net, forms, inputs=Inputs((1, 9, 9)), classes=("a<b", "c")))
    assert ["input", "1x9x9"] in shown
    assert ["parameters", "41"] in shown
    assert ["0.weight", "2x1x3x3", "1 shared values", "50"] in shown
    assert ["1.weight", "3x4", "4-bit integers", "100"] in shown
    assert ["2.weight", "2x2", "signs", "100"] in shown
    assert ["2.bias", "2", "free", "100"] in shown
    assert ["not zero", "-"] not in shown


def test_a_network_on_the_meta_device_is_shown_too():
    with torch.device("meta"):
        net = nn.Linear(3, 2)
    names = [row[0] for row in rows(Candidate(net))]
    assert "parameters" in names
    assert "not zero" not in names
    assert "not zero" in [cell for row in rows(nxp.measure.cost(net, (3,))) for cell in row]  # a column


def test_a_cost_shows_its_layers_and_adds_up():
    cost = nxp.measure.cost(nxp.zoo.create("lenet5"), (1, 28, 28))
    shown = rows(cost)
    assert ["multiply-adds", "2,293,000"] in shown
    assert ["conv2", "Conv2d", "25,050", "25,050", "1,600,000", "50x8x8"] in shown
    assert len(shown) == 5 + 1 + len(cost.layers)


def test_many_layers_are_cut_and_counted():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    text = nxp.measure.cost(net, (2,))._repr_html_()
    assert len([row for row in Reader(text).rows if "Linear" in row]) == html_table.MOST
    assert f"and {50 - html_table.MOST} more" in text


def run_of(**changes) -> Run:
    data = object.__new__(Data)  # never looked at
    return Run(Path("runs/<b>x"), {**NUMBERS, **changes}, Candidate(nn.Linear(1, 1)), data)


def test_a_run_shows_its_verdict_and_is_escaped():
    text = run_of()._repr_html_()
    assert "<script>" not in text
    assert "Mine &lt;script&gt;" in text
    shown = Reader(text).rows
    assert ["smaller", "8.0x: 4,000 -> 500 bytes"] in shown
    assert ["budget", "met"] in shown
    assert ["folder", "runs/<b>x"] in shown  # the reader undoes the escapes
    assert ["01-weight_prune", "500", "8", "400", "9,000", "90", "91"] in shown
    missed = rows(run_of(budget=[], unmeasured=["max_latency"]))
    assert ["budget", "MISSED"] in missed
    assert "budget" not in [row[0] for row in rows(run_of(budget=[]))]


def test_a_search_shows_its_finals():
    final = {"trial": 3, "folder": "final-1", "met": True, "top1": 0.95, "validation_top1": 0.94, "error": ""}
    facts = {
        "title": "Search: net on digits",
        "network": "zoo:net",
        "data": {"name": "digits"},
        "goal": {"asked": {"max_drop": 1.0, "max_size": "10%"}},
        "verdict": "met",
        "rows": [{}, {}],
        "finals": [
            {**final, "file_bytes": 1234, "macs": 5, "nonzero": 6},
            {"trial": 4, "folder": "final-2", "error": "NaN <in> it"},
        ],
    }
    shown = rows(Found(Path("runs/s"), facts, None))
    assert ["budget", "max_drop 1.0, max_size 10%: met"] in shown
    assert ["trials", "2"] in shown
    assert ["final-1", "3", "1,234", "5", "6", "95", "94", "met"] in shown
    assert ["final-2", "4", "-", "-", "-", "-", "-", "NaN <in> it"] in shown


# --- terminals, pipes, notebooks ---

SAY = (
    "from netpress.terminal import Terminal\n"
    "with Terminal() as terminal:\n"
    "    for i in range(3): terminal.progress('training', i, 3, {'loss': 0.5})\n"
    "    terminal.say('done [bold]as it is[/bold]')\n"
)
COLOUR = re.compile(rb"\x1b\[[\d;]*m")


def in_terminal(**environment: str) -> bytes:
    """What a terminal of its own gets on stderr."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM", "PYTHONPATH")}
    env |= {"TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", SAY], stderr=theirs, stdout=theirs, env=env)
    os.close(theirs)
    got = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux says so that the other end was closed
            break
        if not part:
            break
        got += part
    os.close(ours)
    assert process.wait(60) == 0
    return got


def test_a_terminal_has_bars_and_colours_and_no_color_is_obeyed():
    coloured, plain = in_terminal(), in_terminal(NO_COLOR="1")
    for got in (coloured, plain):
        assert b"training" in got
        assert b"done [bold]as it is[/bold]" in got
    colours = {code for code in COLOUR.findall(coloured) if re.search(rb"3\d", code)}
    assert colours
    assert not {code for code in COLOUR.findall(plain) if re.search(rb"[34]\d", code)}


def test_a_pipe_gets_lines_only():
    env = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, check=True, env=env)
    assert (done.stdout, done.stderr) == (b"", b"done [bold]as it is[/bold]\n")


@pytest.mark.parametrize("words", [["doctor"], ["inspect", "--help"], []])
def test_tables_have_no_colours(words):
    env = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-m", "netpress", *words], capture_output=True, check=True, env=env)
    assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("widgets", [True, False])
def test_in_a_notebook_nothing_breaks(monkeypatch, capsys, widgets, recwarn):
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    monkeypatch.setattr("netpress.terminal.find_spec", lambda _name: object() if widgets else None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown: list[str] = []
    monkeypatch.setattr("rich.jupyter.display", lambda _segments, text: shown.append(text))
    assert Console().is_jupyter
    terminal = Terminal()
    assert terminal.bars.disable is not widgets
    if widgets:  # the widgets themselves are not installed here
        monkeypatch.setattr(terminal.bars.live, "refresh", lambda: shown.append("bar"))
    with terminal:
        terminal.progress("training", 1, 3, {"loss": 0.5})
        terminal.say("done [bold]as it is[/bold]")
    assert [text.strip() for text in shown if "done" in text] == ["done [bold]as it is[/bold]"]
    assert ("bar" in shown) is widgets
    assert not recwarn.list
