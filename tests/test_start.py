"""docs/start.md: its commands, one after the other, as somebody copies them; sybil runs its Python."""

import re
import shlex
from pathlib import Path

import pytest
from jobs import quick  # noqa: F401  the fixture: files without graphs

from netpress.cli import _parser, main

PAGE = (Path(__file__).parent.parent / "docs" / "start.md").read_text()
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("netpress ")
]
ONE = ["--set=step.0.train.epochs=1", "--set=step.1.train.epochs=1"]
QUICK = {  # the same commands with less training and, for the demo, a smaller network
    "demo": [
        "--set=network.name=lenet-300-100",
        "--set=budget.max_drop=100",
        "--set=step.0.sparsity=0.8",
        *ONE,
        "--set=baseline.epochs=1",
    ],
    "compress": ["--set=baseline.epochs=2", *ONE],
    "search": [
        *("--trials=2", "--set=baseline.epochs=2", "--set=train.epochs=1", "--set=rungs=[1]", "--set=sample=200"),
        *("--set=finalists=1", "--max-drop=100", "--max-size=90%"),
    ],
}


def follow(commands, tmp_path, monkeypatch):
    """Run them in an empty folder that has the page's model.py."""
    monkeypatch.chdir(tmp_path)
    found = re.search(r"`model\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    (tmp_path / "model.py").write_text(found[1])
    for words in commands:
        quiet = ["--quiet"] if words[0] in QUICK else []
        assert main([*words, *quiet]) == 0, words


def test_the_page_has_commands_that_parse():
    assert [words[0] for words in COMMANDS[:2]] == ["doctor", "demo"]
    assert len(COMMANDS) >= 9
    for words in COMMANDS:
        _parser().parse_args(words)


@pytest.mark.usefixtures("quick")
def test_the_commands_run_with_less_training(tmp_path, monkeypatch, capsys):
    follow([[*words, *QUICK.get(words[0], [])] for words in COMMANDS], tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert "all that is needed works" in out
    assert "A  runs/mine: own:" in out
    assert (tmp_path / "runs" / "found" / "final-1" / "report.html").is_file()


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path, monkeypatch):
    follow(COMMANDS, tmp_path, monkeypatch)
