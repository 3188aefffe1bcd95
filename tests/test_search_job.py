"""The search from end to end on toy data: verdicts, folders, resuming, and everything that is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import DATA, no_graph
from toy_nets import KINDS

from netpress import store
from netpress.budget import Budget
from netpress.errors import BudgetError, RecipeError
from netpress.job import run
from netpress.opening import Options
from netpress.recipe import read
from netpress.search import Found, Searching, compress, search
from netpress.search.trial import Trials

PLAN = {
    "trials": 5,
    "sample": 48,
    "rungs": [1, 1],
    "train.epochs": 2,
    "train.batch": 16,
    "values_epochs": 1,
    "baseline.epochs": 6,
    "baseline.batch": 16,
    "baseline.lr": 0.01,
    "sampler": "random",
}
BUDGET = Budget(max_size="60%", max_drop=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Files without graphs: nothing is exported and timed."""
    monkeypatch.setattr(store, "_graph", no_graph)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return KINDS["plain"]()


def go(out: Path, budget: Budget = BUDGET, *, plan: dict[str, Any] | None = None, fresh=False, **how: Any) -> Found:
    settings = Searching(plan={**PLAN, **(plan or {})}, **how)
    what = how.pop("net", None) or net()
    return search(what, DATA, budget=budget, out=out, how=settings, options=Options(fresh=fresh))


@pytest.fixture(scope="module")
def found_once(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("search") / "found"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_graph", no_graph)
        assert go(out).met
    return out


@pytest.fixture
def found(found_once, tmp_path) -> Path:
    return Path(shutil.copytree(found_once, tmp_path / "found"))


def facts_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "search.json").read_text())


def test_the_winner_is_inside_the_budget_and_lies_in_the_folder(found):
    facts = facts_of(found)
    final = facts["finals"][facts["winner"]]
    assert facts["verdict"] == "met"
    assert final["met"]
    size = (found / "model.press").stat().st_size
    assert size == final["file_bytes"] <= 0.6 * facts["baseline"]["file_bytes"]
    assert (found / "report.html").is_file()
    assert len(facts["rows"]) == 5
    assert store.load(found / "model.press", into=net()).net is not None


def test_a_trial_is_measured_as_what_it_is(found):
    for row in facts_of(found)["rows"]:
        if row["state"] in ("complete", "halved"):
            assert row["costs"]["params"] == row["foreseen"]["params"]
            assert row["costs"]["macs"] == row["foreseen"]["macs"]
            assert row["costs"]["file_bytes"] == pytest.approx(row["foreseen"]["file_bytes"], rel=0.5)


def test_the_recipe_alone_gives_the_same_network(found, tmp_path):
    again = run(read(found / "recipe.toml"), net=net(), data=DATA, out=tmp_path / "again")
    assert (again.folder / "model.press").read_bytes() == (found / "model.press").read_bytes()


def test_a_second_call_trains_nothing(found, monkeypatch):
    before = (found / "model.press").read_bytes()
    monkeypatch.setattr(Trials, "run", lambda *_a: pytest.fail("a finished trial was repeated"))
    said: list[str] = []
    search(net(), DATA, budget=BUDGET, out=found, how=Searching(plan=PLAN), options=Options(say=said.append))
    assert (found / "model.press").read_bytes() == before
    assert not [line for line in said if " bytes, top-1 " in line]


def test_more_trials_go_on_in_the_same_study(found):
    first = facts_of(found)["rows"]
    go(found, plan={"trials": 7})
    rows = facts_of(found)["rows"]
    assert len(rows) == 7
    assert [r["policy"] for r in rows[:5]] == [r["policy"] for r in first]


@pytest.mark.parametrize("after", [0, 1, 4])
def test_killed_at_any_rung_it_ends_in_the_same_bytes(found, tmp_path, monkeypatch, after):
    real, ran = Trials.run, []

    def dying(self, policy, rung, state):
        if len(ran) == after:
            raise KeyboardInterrupt
        ran.append(rung)
        return real(self, policy, rung, state)

    out = tmp_path / "disturbed"
    monkeypatch.setattr(Trials, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        go(out)
    assert facts_of(out)["verdict"] == "unfinished"
    monkeypatch.setattr(Trials, "run", real)
    assert go(out).met
    assert (out / "model.press").read_bytes() == (found / "model.press").read_bytes()
    rows, other = facts_of(out)["rows"], facts_of(found)["rows"]
    assert [(r["policy"], r["top1"], r["state"]) for r in rows] == [(r["policy"], r["top1"], r["state"]) for r in other]


def test_a_budget_that_no_policy_reaches_says_the_nearest(tmp_path):
    with pytest.raises(BudgetError, match=r"max_macs = 1%: out of reach: .* can bring it to about [\d,.]+ \([\d.]+ %"):
        go(tmp_path / "x", Budget(max_macs="1%"))


def test_a_budget_that_is_missed_keeps_the_nearest(tmp_path):
    found = go(tmp_path / "x", Budget(max_size="12%", max_drop=0), plan={"finalists": 2, "trials": 3})
    assert not found.met
    facts = facts_of(tmp_path / "x")
    assert facts["verdict"] == "missed"
    assert len(facts["finals"]) == 2
    assert (tmp_path / "x" / "model.press").is_file()


def test_accuracy_alone_looks_for_the_smallest(tmp_path):
    found = go(tmp_path / "x", Budget(max_drop=50), plan={"trials": 6, "finalists": 3})
    assert found.met
    sizes = [final["file_bytes"] for final in found.facts["finals"] if final["met"]]
    assert sizes == sorted(sizes, reverse=True)  # each that followed was smaller


def test_accuracy_above_the_baseline_is_refused(tmp_path):
    with pytest.raises(BudgetError, match="the baseline itself has"):
        go(tmp_path / "x", Budget(min_top1=100, max_macs="50%"), plan={"baseline.epochs": 1})


def test_no_limit_at_all_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="a search needs a limit"):
        go(tmp_path / "x", Budget())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"sampler": "mpl"}, "mlp"),
        ({"trails": 5}, "trails: unknown key; did you mean 'trials'"),
        ({"methods": ["sort_channels"]}, "'sort_channels' declares no amounts to search"),
        ({"methods": ["filter_prun"]}, "did you mean 'filter_prune'"),
        ({"settings.low_rank.kind": "svd"}, "settings for 'low_rank', which is not among the methods"),
        ({"rungs": []}, "rungs"),
        ({"train.lr": -1}, "train.lr"),
    ],
)
def test_a_plan_that_makes_no_sense_is_one_line(tmp_path, plan, said):
    with pytest.raises(RecipeError, match=said):
        go(tmp_path / "x", plan=plan)


def test_another_network_data_set_or_plan_is_refused(found, tmp_path):
    with pytest.raises(RecipeError, match="another way of training and judging trials"):
        go(found, plan={"sample": 50})
    with pytest.raises(RecipeError, match=r"another network: own:|another network"):
        search(KINDS["residual"](), DATA, budget=BUDGET, out=found, how=Searching(plan=PLAN))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(Exception, match="not empty and not a run folder"):
        go(tmp_path / "mine")


def test_fresh_throws_the_earlier_search_away(found):
    assert len(go(found, plan={"sample": 32, "trials": 2}, fresh=True).facts["rows"]) == 2


def test_a_policy_whose_retraining_breaks_is_told_and_the_next_is_taken(tmp_path, monkeypatch):
    import netpress.search.job as module
    from netpress.errors import ModelError

    real, calls = module.run, []

    def breaking(recipe, **where):
        calls.append(where["out"].name)
        if where["out"].name == "final-1":
            raise ModelError("the loss is nan")
        return real(recipe, **where)

    monkeypatch.setattr(module, "run", breaking)
    found = go(tmp_path / "x")
    assert calls == ["baseline", "final-1", "final-2"]
    assert found.met
    assert found.facts["finals"][0]["error"] == "the loss is nan"
    assert found.facts["winner"] == 1


def test_two_processes_give_the_same_study_as_one_call_with_two(tmp_path):
    first = go(tmp_path / "a", executor="local", workers=2, plan={"trials": 4})
    again = go(tmp_path / "b", executor="local", workers=2, plan={"trials": 4})
    keys = ("policy", "state", "top1")
    rows = [[tuple(map(str, (r[k] for k in keys))) for r in f.facts["rows"]] for f in (first, again)]
    assert rows[0] == rows[1]


def test_compress_is_a_search_with_a_limit_on_time(tmp_path, monkeypatch):
    import netpress.search.job as module

    seen = {}
    monkeypatch.setattr(module, "search", lambda *args, **named: seen.update(named, args=args))
    compress("lenet5", "digits", budget=BUDGET, out=tmp_path)
    assert (seen["how"].minutes, seen["budget"]) == (20, BUDGET)


def test_a_network_of_a_python_file_is_built_again_for_every_trial(tmp_path):
    source = "from toy_nets import KINDS\n\n\ndef make():\n    return KINDS['plain']()\n"
    (tmp_path / "mine.py").write_text(source)
    plan = {**PLAN, "trials": 2, "baseline.epochs": 1}
    found = search(f"{tmp_path / 'mine.py'}:make", DATA, budget=BUDGET, out=tmp_path / "out", how=Searching(plan=plan))
    assert [row["state"] for row in found.facts["rows"] if row["state"] == "failed"] == []
    assert found.run is not None
