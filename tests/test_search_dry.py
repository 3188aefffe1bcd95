"""`--dry-run`: what can be reached and how long it takes, as it then turns out, with nothing written."""

from __future__ import annotations

import json

import pytest

from netpress.cli import main

WORDS = ["compress", "lenet-300-100", "--data", "digits"]


def foretold(words, tmp_path, capsys):
    assert main([*WORDS, *words, "--dry-run", "--json", "--out", str(tmp_path / "x")]) == 0
    assert list(tmp_path.iterdir()) == []
    return json.loads(capsys.readouterr().out)


def test_a_search_is_foretold(tmp_path, capsys):
    found = foretold(["--max-macs", "50%", "--trials", "7"], tmp_path, capsys)
    assert found["baseline"]["macs"] == 266_200
    assert found["limits"] == {"macs": 133_100}
    assert found["reachable"]["macs"] < found["guess"]["macs"] <= 133_100
    assert found["methods"] == ["filter_prune"]
    assert (found["dimensions"], found["policies"]) == (2, 19**2)
    assert 1 <= found["trials"] <= 7
    assert min(found["trial_minutes"], found["final_minutes"], found["baseline_minutes"]) > 0
    once = foretold(["--max-macs", "50%", "--set", "train.epochs=50000", "--minutes", "1"], tmp_path, capsys)
    assert once["trials"] == 1
    assert once["final_minutes"] > 3 * found["final_minutes"]


def test_a_recipe_is_foretold_step_by_step(tmp_path, capsys):
    stages = foretold(["--recipe", "deep-compression"], tmp_path, capsys)["stages"]
    assert [s["name"] for s in stages][-2:] == ["03-weight_prune", "04-weight_share"]
    assert stages[3]["costs"]["nonzero"] == 235_200 * 0.1 + 30_000 * 0.1 + 1000 * 0.1 + 410
    sizes = [s["costs"]["file_bytes"] for s in stages]
    assert sizes == sorted(sizes, reverse=True)
    assert all(s["minutes"] > 0 for s in stages)


def test_people_read_a_table(tmp_path, capsys):
    for words in (["--max-params", "40%"], ["--recipe", "share"]):
        assert main([*WORDS, *words, "--dry-run", "--out", str(tmp_path / "x")]) == 0
        out = capsys.readouterr().out
        assert "about " in out
        assert " minutes" in out
        assert "266,610" in out


@pytest.mark.parametrize("limit", ["--max-activation-memory=1kB", "--max-macs=1%", "--max-params=10"])
def test_what_cannot_be_reached_ends_before_it_begins(tmp_path, capsys, limit):
    assert main([*WORDS, limit, "--max-drop=1", "--dry-run", "--out", str(tmp_path / "x")]) == 1
    assert "out of reach" in capsys.readouterr().err
