"""The benchmark of the filter pruning paper: its predictor finds the amount; rows are kept; tables and claims."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from netpress import methods, store, zoo
from netpress.candidate import Candidate, Inputs
from netpress.codec.header import Arch
from netpress.recipe import parse, read

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = {"sample": 128, "judged": 60, "trials": 5, "epochs": 1}


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield import_module("filter_mlp"), import_module("filter_mlp_work")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """A run folder as far as the benchmark reads it; the network has random weights."""
    run = tmp_path_factory.mktemp("run")
    (run / "00-baseline").mkdir()
    settings = {"width": 0.25, "in_channels": 1, "num_classes": 10}
    plain = {"network": {"name": "mobilenet-v1", "settings": settings}, "data": {"name": "digits"}}
    plain["baseline"] = {"epochs": 1, "optimizer": "sgd", "lr": 0.1, "batch": 64}
    (run / "recipe.toml").write_text(parse(plain).to_toml())
    torch.manual_seed(0)
    net = zoo.create("mobilenet-v1", **settings).eval()
    candidate = Candidate(
        net, arch=Arch("zoo", "mobilenet-v1", settings), inputs=Inputs((1, 28, 28), (0.5,), (0.3,)), classes=("0",) * 10
    )
    store.save(candidate, run / "00-baseline" / "candidate.press", graph=False)
    return run


@pytest.fixture
def work(bench, baseline, tmp_path, monkeypatch):
    """The benchmark's work without exports and clocks."""
    _, module = bench
    monkeypatch.setattr(module.Work, "_speedup", lambda *_: 1.25)
    monkeypatch.setattr(module.Work, "milliseconds", lambda _: 2.0)
    monkeypatch.setattr(module.common, "graph", lambda _: b"")
    monkeypatch.setattr(store, "_graph", lambda *_: (b"", [], "no graph in this test"))
    return lambda: module.Work(baseline, None, tmp_path / "out", module.Sizes(**SMALL))


class Curve:
    """A layer of 1024 filters that loses 0.1 (share removed)^4 of its accuracy, and a little noise."""

    def __init__(self, sizes):
        self.sizes, self.conv = sizes, nn.Conv2d(1, 1024, 1)

    def before(self):
        return {"top1": 0.9, "params": 3_000_000, "latency_ms": 2.0}

    def trial(self, removed):
        noise = [(removed * prime % 17 / 17 - 0.5) for prime in (7919, 104729)]
        costs = {
            "params": 3_000_000 - 1029 * removed,
            "latency_ms": 2 - removed / 4000 + 0.02 * noise[0],
            "batch": 128,
            "ratio": removed / 1024,
            "filters": 1024 - removed,
        }
        top1 = 0.9 - 0.1 * (removed / 1024) ** 4 + 0.004 * noise[1]
        return {"removed": removed, "bare": 0.5, "top1": top1, "costs": costs}


def test_the_recipe_is_the_papers_network_and_says_how_to_run_it():
    path = BENCHMARKS / "filter_mlp_baseline.toml"
    recipe = read(path)
    assert (recipe.network.name, recipe.network.settings) == ("mobilenet-v1", {"stem_stride": 1})
    assert path.read_text().splitlines()[1].startswith(f"# netpress run benchmarks/{path.name} ")


@pytest.mark.parametrize("filters", [2, 10, 64, 100, 256, 1024])
def test_amounts_go_from_all_but_one_filter_to_none(bench, filters):
    values = bench[0].space_of(filters).dimensions[0].values
    assert (values[0], values[-1]) == (filters - 1, 0)
    assert list(values) == sorted(set(values), reverse=True)


@pytest.mark.parametrize("columns", ["paper", "all"])
def test_the_predictor_comes_nearer_to_the_wanted_accuracy_than_the_amounts_by_hand(bench, columns):
    sizes = bench[1].Sizes()
    trials = bench[0].automatic(Curve(sizes), columns)
    assert [t["removed"] for t in trials[:3]] == [512, 768, 256]
    assert [t["by"] for t in trials] == ["hand"] * 3 + ["MLP"] * (sizes.trials - 3)
    (best,) = (t for t in trials if t["best"])
    assert best["by"] == "MLP"
    assert best["top1"] >= 0.89
    assert 512 < best["removed"] <= 608, "without noise, 575 are as many as may go"
    assert trials == bench[0].automatic(Curve(sizes), columns)


def test_where_no_trial_is_good_enough_the_nearest_wins(bench):
    curve = Curve(bench[1].Sizes(trials=3))
    curve.before = lambda: {"top1": 0.99, "params": 3_000_000, "latency_ms": 2.0}
    trials = bench[0].automatic(curve, "paper")
    assert [t["removed"] for t in trials if t["best"]] == [256]


def test_a_trial_prunes_the_largest_layer_of_the_original_and_is_kept(bench, work, monkeypatch):
    first = work()
    assert first.layer == "block13.pointwise.conv"
    before, found = first.before(), first.trial(64)
    assert before["params"] - found["costs"]["params"] == 64 * (256 + 2 + 10), "weights, batch norm, classifier"
    assert found["costs"]["latency_ms"] == pytest.approx(2.0 / 1.25)
    assert (found["costs"]["ratio"], found["costs"]["filters"], found["costs"]["batch"]) == (0.25, 192, 64)
    assert found["top1"] != found["bare"], "it was retrained"
    monkeypatch.setattr(bench[1], "fit", None)
    assert work().trial(64) == found
    with pytest.raises(TypeError):
        work().trial(65)


def test_other_settings_have_their_own_rows(bench, work, baseline, tmp_path):
    first = work()
    first.before()
    other = bench[1].Work(baseline, None, tmp_path / "out", bench[1].Sizes(**{**SMALL, "sample": 100}))
    assert other.out != first.out
    assert not other._rows


def test_layers_go_one_after_another_until_a_quarter_is_gone_and_a_second_call_goes_on(bench, work, monkeypatch):
    steps = []
    applied = methods.FilterPrune.apply

    def counted(self, candidate, context):
        if len(steps) == 2 and not broken:
            broken.append(True)
            raise KeyboardInterrupt
        steps.append(self.turn)
        return applied(self, candidate, context)

    broken = []
    monkeypatch.setattr(methods.FilterPrune, "apply", counted)
    with pytest.raises(KeyboardInterrupt):
        bench[0].layer_after_layer(work())
    *rows, final = bench[0].layer_after_layer(work())
    assert steps == list(range(len(rows))), "no step was made twice"
    assert rows[0]["layer"] == "block13.pointwise.conv"
    assert len({row["layer"] for row in rows}) == len(rows) >= 3
    assert [row["less"] >= 0.25 for row in rows] == [False] * (len(rows) - 1) + [True]
    assert final["params"] == rows[-1]["params"]
    assert final["epochs"] == 1
    assert Path(final["file"]).is_file()


def facts(bench, top1):
    """Facts of a benchmark in which automatic pruning ends at such an accuracy."""
    common = {"validation": 0.9, "latency_ms": 2.0, "times_before": [1, 1, 1], "times_manual": [1, 1, 1], "epochs": 2}
    common |= {"test_seconds": 1.0, "train_seconds": 60.0, "macs": 9}
    before = {**common, "top1": 0.9, "file_bytes": 100, "params": 100, "removed": 0}
    other = {**common, "top1": top1, "file_bytes": 80, "params": 75, "removed": 512}
    sizes = bench[1].Sizes()
    trials = {columns: bench[0].automatic(Curve(sizes), columns) for columns in bench[0].VARIANTS}
    for found in trials.values():
        for trial in found:
            trial["seconds"] = 20.0
    left = {"less": 0.25, "params": 75}
    return {
        "network": "n",
        "data": "d",
        "settings": {"sample": 1, "judged": 1, "share": 0.25},
        "layer": {"path": "a", "filters": 1024, "weights": 25},
        "baseline": {"top1": 0.9, "params": 100, "macs": 9},
        "retrained_whole": {"top1": 0.9},
        "manual": {"removed": 512, "top1": 0.89},
        "trials": trials,
        "finals": {
            "before": before,
            "manual": other,
            "automatic, paper columns": other,
            "automatic, all columns": other,
            "layer after layer": {**other, **left},
        },
        "layers": [{**left, "layer": "a", "bare": 0.5, "top1": 0.8}],
    }


@pytest.mark.parametrize(("top1", "holds"), [(0.91, True), (0.89, True), (0.8899, False)])
def test_one_point_may_be_lost_and_no_more(bench, top1, holds):
    found = bench[0].claims(facts(bench, top1))
    lost = [claim for claim in found if "points" in claim.name]
    assert [claim.holds for claim in lost] == [holds] * 2
    assert all(claim.holds for claim in found if claim not in lost)


def test_tables_have_all_columns_and_say_which_amount_was_had_before(bench, capsys):
    module, given = bench[0], facts(bench, 0.9)
    module.show(given)
    printed = capsys.readouterr().out
    for lines, bars in (
        (module.trial_lines(given), 10),
        (module.final_lines(given), 14),
        (module.layer_lines(given), 7),
    ):
        assert {line.count("|") for line in lines} == {bars}
        assert all(line in printed for line in lines)
    for columns, trials in given["trials"].items():
        lines = [line for line in module.trial_lines(given) if line.startswith(f"| {columns} |")]
        assert sum("had before" in line for line in lines) == len(trials) - len({t["removed"] for t in trials})
        assert sum(", wins" in line for line in lines) == 1


def test_what_is_published_holds_what_its_numbers_say(bench):
    if not bench[0].RESULTS.is_file():
        pytest.skip("not run yet")
    found = json.loads(bench[0].RESULTS.read_text())
    printed = bench[0].RESULTS.with_suffix(".txt").read_text()
    lines = [*bench[0].trial_lines(found), *bench[0].final_lines(found), *bench[0].layer_lines(found)]
    assert all(line in printed for line in lines)


@pytest.mark.slow
def test_from_end_to_end(bench, baseline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench[0], "RESULTS", tmp_path / "facts.json")
    words = ["filter_mlp.py", "--baseline", str(baseline), "--out", str(tmp_path / "out"), "--control"]
    words += [f"--{name}={value}" for name, value in (SMALL | {"trials": 4}).items()]
    monkeypatch.setattr(sys, "argv", words)
    assert bench[0].main() == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["benchmark"] == "filter-mlp"
    assert told["settings"]["sample"] == SMALL["sample"]
    found = json.loads((tmp_path / "facts.json").read_text())
    assert list(found["finals"])[:2] == ["before", "manual"]
    assert all(row["latency_ms"] > 0 and row["file_bytes"] > 0 for row in found["finals"].values())
