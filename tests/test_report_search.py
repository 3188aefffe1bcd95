"""The report of a search: verdict first, every number of the folder, escaped, small, also where it is unfinished."""

import hashlib
import json
import math
import re

import numpy as np
import pytest
from pages import EVIL, Page

from netpress.errors import FileError
from netpress.report import search_figures, search_strips, search_tables, search_words
from netpress.report.search import write_search_report
from netpress.report.search_folder import read_search

BASELINE = {
    "top1": 0.9912,
    "test_top1": 0.9906,
    "file_bytes": 1_724_900,
    "params": 431_080,
    "nonzero": 431_080,
    "macs": 2_293_000,
    "peak_activation_bytes": 46_080,
    "latency_ms": 0.081,
}
LIMITS = {"file_bytes": 60_000.0, "macs": 1_375_800.0}
LEAST = 0.98
SHARES = [0.1, 0.2, 0.35, 0.5, 0.7, 1.0]
BITS = [3, 4, 5, 6, 8, None]


def dimensions(layers):
    found = [
        {"name": f"filter_prune:{one}", "method": "filter_prune", "values": SHARES, "paths": [one]} for one in layers
    ]
    return [*found, *({**d, "name": d["name"].replace("filter_prune", "weight_share"), "method": "weight_share",
                       "values": BITS} for d in found)]  # fmt: skip


def row(number, dims, rng):
    """A made-up trial: stronger compression costs accuracy, more so in the first layers."""
    places = rng.integers(0, 6, len(dims))
    strength = 1 - places / 5
    top1 = 0.992 - sum(0.02 * s**3 / (i + 1) for i, s in enumerate(strength.tolist())) - 0.001 * rng.random()
    kept = float(np.prod(0.25 + 0.75 * places / 5) ** (2 / len(dims)))
    costs = {"macs": round(2_293_000 * kept), "file_bytes": round(200_000 * kept**1.5), "nonzero": round(9e4 * kept)}
    load = max(costs[name] / most for name, most in LIMITS.items())
    state = "failed" if number % 9 == 8 else "halved" if number % 4 == 3 else "complete"
    missing = 100 * (max(0, load - 1) + max(0, LEAST - top1))
    found = {
        "number": number,
        "policy": {d["name"]: d["values"][place] for d, place in zip(dims, places.tolist(), strict=True)},
        "state": state,
        "rung": {"failed": -1, "halved": 0, "complete": 2}[state],
        "top1": 0 if state == "failed" else top1,
        "costs": {} if state == "failed" else costs,
        "foreseen": {**costs, "file_bytes": costs["file_bytes"] * (0.9 + 0.2 * rng.random())},
        "seconds": 3 + 20 * rng.random(),
        "error": "ModelError: conv1: NaN in its weights" if state == "failed" else "",
        "where": f"worker {number % 2}",
    }
    return found if state == "failed" else {**found, "missing": missing, "load": load}


def final(number, trial, **changes):
    return {
        "trial": trial["number"],
        "folder": f"final-{number}",
        "met": True,
        "validation_top1": trial["top1"] + 0.001,
        "top1": trial["top1"],
        "seconds": 120.5,
        "params": 120_000,
        "latency_ms": 0.055,
        **trial["costs"],
        "budget": [
            {"limit": "max_drop", "allowed": 0.5, "measured": 0.21, "met": True},
            {"limit": "max_size", "allowed": 60_000, "measured": trial["costs"]["file_bytes"], "met": True},
            {"limit": "max_activation_memory", "allowed": 46_080, "measured": None, "met": False},
        ],
        **changes,
    }


def craft(folder, *, trials=60, layers=("conv1", "conv2", "fc1", "fc2"), **changes):
    """A folder of a search made by hand; its `search.json` as a dictionary."""
    rng = np.random.default_rng(0)
    dims = dimensions(layers)
    rows = [row(number, dims, rng) for number in range(trials)]
    measured = [r for r in rows if r["state"] != "failed"]
    front = []
    for one in sorted(measured, key=lambda r: (r["load"], -r["top1"])):
        if not front or one["top1"] > front[-1]["top1"]:
            front.append(one)
    best = sorted(measured, key=lambda r: (max(r["missing"], 0), -r["top1"]))[:2]
    facts = {
        "schema": 1,
        "title": "LeNet-5 on MNIST",
        "network": "zoo:lenet5",
        "data": {"name": "mnist", "fingerprint": "ab" * 32, "note": "55,000 train, 5,000 validation, 10,000 test"},
        "classes": 10,
        "sampler": "mlp",
        "seed": 0,
        "executor": "inline",
        "workers": 1,
        "command": "netpress search zoo:lenet5 --data mnist --max-drop 0.5 --max-size 60kB --trials 60 --out found",
        "machine": {"processor": "a processor", "cores": 2, "threads": 1, "versions": {"numpy": "2"}},
        "date": "2026-11-27",
        "seconds": 1234.5,
        "baseline": BASELINE,
        "goal": {
            "limits": LIMITS,
            "least": LEAST,
            "unit": "file_bytes",
            "asked": {"max_drop": 0.5, "max_size": "60kB", "max_macs": "60%"},
        },
        "dimensions": dims,
        "rows": rows,
        "front": [one["number"] for one in front],
        "importance": {d["name"]: 0.6 / 2**i for i, d in enumerate(dims)},
        "finals": [final(i + 1, one, met=not i) for i, one in enumerate(best)],
        "winner": 0 if best else None,
        "verdict": "met",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for one in facts.get("finals") or ():
        (folder / str(one["folder"]).replace("/", "_")).mkdir(exist_ok=True)
    (folder / "final-1").mkdir(exist_ok=True)
    (folder / "final-1" / "report.html").write_text("<!doctype html>")
    (folder / "search.json").write_text(json.dumps(facts))
    return facts


UNFINISHED = {"finals": [], "importance": {}, "winner": None, "verdict": "unfinished"}


def page_of(folder):
    return Page(write_search_report(folder).read_text())


def test_it_has_every_section_and_the_numbers(tmp_path):
    facts = craft(tmp_path)
    page = page_of(tmp_path)
    ids = [attrs["id"] for attrs in page.all("section")]
    assert ids == ["verdict", "costs", "choices", "progress", "trials", "foreseen", "origin"]
    best = facts["finals"][0]
    assert page.text.split("Skip to the result")[1].split("Budget met")[0].strip() == "LeNet-5 on MNIST"
    assert f"Budget met: trial {best['trial']}, " in page.text
    assert f"{best['file_bytes']:,}" in page.text
    assert f"{100 * best['top1']:.2f} %" in page.text
    assert f"{100 * best['validation_top1']:.2f} %" in page.text
    assert f"{4 * BASELINE['params'] / best['file_bytes']:.1f}x smaller: 1,724,320 → " in page.text
    for fact in ("0.50 points0.21 points ✓ met", "max drop: 0.5; max size: 60kB; max macs: 60%", facts["command"],
                 "Activations held at the same time, at most", "not measured", "conv1: NaN in its weights", "worker 1",
                 "60 trials: 40 complete, 14 stopped early, 6 failed", "2,293,000"):  # fmt: skip
        assert fact in page.text, fact


def test_finals_link_to_their_own_reports_only(tmp_path):
    facts = craft(tmp_path)
    for folder, expected in (("final-1", ["final-1/report.html"]), ("javascript:alert(1)//", []), ("../final-1", [])):
        facts["finals"][0]["folder"] = folder
        (tmp_path / "search.json").write_text(json.dumps(facts))
        links = [a["href"] for a in page_of(tmp_path).all("a")]
        assert [href for href in links if not href.startswith("#")] == expected


def test_nothing_that_comes_from_data_becomes_markup(tmp_path):
    facts = craft(tmp_path, trials=30)
    evil = json.loads(
        json.dumps(facts).replace("conv1", json.dumps(EVIL)[1:-1]).replace("worker 1", json.dumps(EVIL)[1:-1])
    )
    for name in ("title", "network", "command", "sampler", "executor", "date"):
        evil[name] = EVIL
    evil["goal"]["asked"] = {EVIL: EVIL}
    evil["finals"][0]["folder"] = EVIL
    evil["finals"][0]["budget"][0]["limit"] = EVIL
    evil["machine"] = {"processor": EVIL, "versions": {EVIL: EVIL}}
    evil["rows"][0]["costs"][EVIL] = 3
    (tmp_path / "search.json").write_text(json.dumps(evil))
    text = write_search_report(tmp_path).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    page = Page(text)
    plain = Page((craft(tmp_path / "plain", trials=30) and write_search_report(tmp_path / "plain")).read_text())
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in plain.tags].count("script")
    for attrs, parts in page.scripts:
        if attrs.get("type") == "application/json":
            assert "<" not in "".join(parts)
            drawn = json.dumps(json.loads("".join(parts)))
            assert "<script" not in drawn  # plotly's own markup is off too


def test_it_is_self_contained_deterministic_and_under_five_megabytes(tmp_path):
    craft(tmp_path, trials=1000, layers=[f"features.block{i}.conv" for i in range(60)])
    raw = write_search_report(tmp_path).read_bytes()
    assert len(raw) < 5_000_000
    assert hashlib.sha256(raw).digest() == hashlib.sha256(write_search_report(tmp_path).read_bytes()).digest()
    page = Page(raw.decode())
    assert not [a for a in page.all("script") + page.all("img") + page.all("link") if "src" in a or "href" in a]
    assert str(tmp_path) not in raw.decode()
    assert "trials are drawn: the front and the best" in page.text
    assert re.search(r"\d+ of 1,000 trials: the best", page.text)


@pytest.mark.parametrize("trials", [0, 1, 2, 12])
def test_an_unfinished_search_renders(tmp_path, trials):
    facts = craft(tmp_path, trials=trials, **UNFINISHED)
    if trials == 12:
        facts["rows"][-1] |= {"state": "running", "costs": {}, "top1": 0, "error": "", "rung": -1}
        for name in ("finals", "importance", "winner", "front"):
            del facts[name]
        (tmp_path / "search.json").write_text(json.dumps(facts))
    page = page_of(tmp_path)
    assert "Unfinished: " in page.text
    assert "Decided on" in page.text
    expected = {0: "0 trials ended, none has an accuracy yet.", 1: "1 trial ended; the best so far is trial 0, "}
    assert expected.get(trials, "the best so far is trial ") in page.text
    if trials == 12:
        assert "1 running" in page.text


def test_an_impossible_budget_names_the_nearest(tmp_path):
    facts = craft(tmp_path)
    for one in facts["finals"]:
        one["met"] = one["budget"][0]["met"] = False
    facts |= {"verdict": "missed", "winner": None}
    (tmp_path / "search.json").write_text(json.dumps(facts))
    page = page_of(tmp_path)
    assert "Budget missed; the nearest result is trial " in page.text
    assert "not every limit is kept" in page.text
    assert "✗ missed" in page.text


def test_a_final_that_failed_is_told_with_its_error(tmp_path):
    facts = craft(tmp_path)
    facts["finals"].insert(0, {"trial": 3, "folder": "final-1", "met": False, "error": f"ModelError: {EVIL}"})
    facts["winner"] = 1
    (tmp_path / "search.json").write_text(json.dumps(facts))
    page = page_of(tmp_path)
    assert f"Budget met: trial {facts['finals'][1]['trial']}, " in page.text
    assert "Trial 3 could not be retrained in full: ModelError: <script>alert" in page.text
    assert "✗ failed" in page.text
    facts |= {"finals": facts["finals"][:1], "winner": None, "verdict": "unfinished"}
    (tmp_path / "search.json").write_text(json.dumps(facts))
    assert "Trial 3 could not be retrained in full" in page_of(tmp_path).text


def test_a_search_of_accuracy_alone_minimises_bytes(tmp_path):
    facts = craft(tmp_path)
    facts["goal"]["limits"] = {}
    for one in facts["rows"]:
        if one["state"] != "failed":
            one["load"] = one["costs"]["file_bytes"] / BASELINE["file_bytes"]
            one["missing"] = 100 * max(0, LEAST - one["top1"])
    (tmp_path / "search.json").write_text(json.dumps(facts))
    search = read_search(tmp_path)
    best = search.ranked()[0]
    assert best.inside
    assert best.load == min(trial.load for trial in search.trials if trial.inside)
    figure = search_strips.progress_figure(search)
    assert min(value for value in figure.data[-1].y if value is not None) == pytest.approx(100 * best.load)
    assert "Unfinished" not in page_of(tmp_path).text


def test_figures_show_every_trial_the_front_the_budget_and_the_policy(tmp_path):
    facts = craft(tmp_path)
    search = read_search(tmp_path)
    figure = search_figures.pareto_figure(search, "file_bytes")
    by = {trace.name: trace for trace in figure.data}
    assert set(by) == {"complete", "stopped early", "front", "baseline", "retrained in full"}
    states = [one["state"] for one in facts["rows"]]
    assert len(by["complete"].x) == states.count("complete")
    assert len(by["stopped early"].x) == states.count("halved")
    first = next(one for one in facts["rows"] if one["state"] == "complete")
    told = search_figures.spots(search)[str(by["complete"].customdata[0])].replace("<br>", " ").replace("\u00a0", " ")
    assert told.startswith(f"trial {first['number']}")
    assert "filter prune: conv2 0.5, fc1 0.5, fc2 0.2; weight share: conv1 4" in told
    assert f"{first['costs']['file_bytes']:,} bytes" in told
    assert by["complete"].y[0] == pytest.approx(100 - 100 * first["top1"], abs=1e-3)
    assert list(by["front"].x) == sorted(by["front"].x)
    assert list(by["front"].y) == sorted(by["front"].y, reverse=True)
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert [line.x0 for line in lines if line.x0 == line.x1] == [LIMITS["file_bytes"]]
    assert [line.y0 for line in lines if line.y0 == line.y1] == [pytest.approx(100 - 100 * LEAST)]
    assert search_figures.costs(search) == ["file_bytes", "macs"]
    heat = search_figures.choices_figure(search.dimensions, search_figures.columns(search)).data[0]
    chosen = facts["rows"][facts["finals"][0]["trial"]]["policy"]
    for line, one in zip(heat.z, facts["dimensions"], strict=True):
        assert line[0] == pytest.approx(1 - one["values"].index(chosen[one["name"]]) / 5, abs=1e-3)


def test_the_best_so_far_never_gets_worse(tmp_path):
    craft(tmp_path)
    best = [v for v in search_strips.progress_figure(read_search(tmp_path)).data[-1].y if v is not None]
    assert best == sorted(best, reverse=True)
    assert len(set(best)) > 1


def test_foreseen_costs_are_compared(tmp_path):
    facts = craft(tmp_path)
    table = search_tables.foreseen(read_search(tmp_path))
    cells = {line[0].text: [cell.text for cell in line[1:]] for line in table.rows}
    assert cells["Multiply-adds"] == ["54", "none", "none", "1.000"]
    errors = [abs(r["foreseen"]["file_bytes"] / r["costs"]["file_bytes"] - 1) for r in facts["rows"] if r["costs"]]
    assert cells["File, bytes"][2] == f"{100 * max(errors):.1f}\u00a0%"


def test_accuracy_ticks_are_inside_and_named_right():
    for tops in ([0.1, 0.99], [0.5], [0.9912, 0.9915], [1.0, 1.0], [0.0], [0.97, 0.98, 1.0], [0.3, 0.34]):
        axis = search_figures.accuracy_axis(tops)
        high, low = axis["range"]
        assert axis["tickvals"], tops
        assert len(axis["tickvals"]) <= 8
        for tick, text in zip(axis["tickvals"], axis["ticktext"], strict=True):
            assert low <= math.log10(tick) <= high
            assert float(text) == pytest.approx(100 - tick)


def damage(**changes):
    return lambda facts: {**facts, **changes}


def without(name):
    return lambda facts: {key: value for key, value in facts.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage(schema=2), "has schema 2, expected 1"),
        (damage(rows=3), "'rows' is a int"),
        (damage(rows=[[]]), "'rows' holds something"),
        (damage(rows=[{"number": 0, "state": "odd", "policy": {}}]), "'state' is 'odd'"),
        (damage(rows=[{"number": "0", "state": "running", "policy": {}}]), "'number' is a str"),
        (damage(winner=9), "'winner' is 9"),
        (damage(finals=[{"trial": 1, "error": "gone"}], winner=0), "'winner' is 0, whose retraining failed"),
        (damage(verdict="perhaps"), "'verdict' is 'perhaps'"),
        (damage(baseline={"top1": 0.5}), "'baseline' lacks file_bytes, params, macs"),
        (damage(finals=[{"trial": 1}]), "one of 'finals' lacks"),
        (damage(dimensions=[{"name": "a", "values": []}]), "'values' is empty"),
        (damage(machine=3), "'machine' is a int"),
        (without("goal"), "'goal' is a NoneType"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, change, said):
    facts = change(craft(tmp_path, trials=3))
    (tmp_path / "search.json").write_text(json.dumps(facts))
    with pytest.raises(FileError, match=re.escape(said)) as caught:
        write_search_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(FileError, match=r"no search: search\.json is missing or damaged"):
        write_search_report(tmp_path)
    (tmp_path / "search.json").write_text('{"schema": 1, ')
    with pytest.raises(FileError, match=r"no search: search\.json is missing or damaged"):
        write_search_report(tmp_path)


def test_policies_in_words_name_what_is_done_and_count_the_rest(tmp_path):
    craft(tmp_path)
    dims = read_search(tmp_path).dimensions
    policy = {one.name: one.values[-1] for one in dims} | {"filter_prune:fc1": 0.1, "weight_share:conv2": 4}
    told = search_words.policy(policy, dims).replace("\u00a0", " ")
    assert told == "filter prune: fc1 0.1; weight share: conv2 4; 6 of 8 left as they were"
