"""The report's sections on integers and sign patterns, and its table of settings: what is told, capped and escaped."""

import json

import numpy as np
import pytest
import toy_nets
from pages import EVIL, craft, page_of

import netpress as nxp
from netpress import export, summary
from netpress.measure.latency import MIN_ROUNDS, chance
from netpress.methods.quantize import Quantize
from netpress.report import integers, patterns, tables, words
from netpress.report.folder import read_run


def crafted(folder, *facts, **changes):
    """A run folder by hand whose steps record these facts."""
    craft(folder, **changes)
    numbers = json.loads((folder / "metrics.json").read_text())
    last = numbers["steps"][-1]
    numbers["steps"] = []
    for k, told in enumerate(facts, 1):
        record = {"method": "quantize", "settings": {"bits": 8}, "notes": ["a note"], "facts": told}
        numbers["steps"].append({**last, "name": f"{k:02d}-quantize", "records": [record]})
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def row(path, **more):
    return {"path": path, "bits": 7, "steps": 4, "form": "affine", "error": 0.0123} | more


def whole(**more):
    return {"integers": {"layers": [row("conv"), row("fc", bits=4, steps=1)], "kept": {}} | more}


VALUES = [
    {"value": "input", "scale": 0.0123456, "zero": 128, "low": -1.5, "high": 1.6},
    {"value": "conv:conv2d", "scale": 0.02, "zero": 0, "low": 0.0, "high": 5.1},
]
FLOATS = {"act:silu": "silu", "head:linear": "linear", "norm:batch_norm:1": "batch_norm"}
PATTERN = {"path": "conv", "weights": 288, "kernels": 32, "scales": 32, "error": 0.5, "branch": True}
EFFECTIVE = {"params": 1000, "binary": 320, "kernels": 32, "rule_n": 690, "rule_s": 722}


def texts(table):
    return [[cell.text.replace("\u00a0", " ") for cell in cells] for cells in (*table.rows, *table.foot)]


def square(table):
    assert {len(line) for line in (*table.rows, *table.foot)} == {len(table.columns)}


# --- integers ---


def test_layers_grids_and_what_stayed_float_are_told(tmp_path):
    kept = {"head": "frozen by 'h*'", "norm2": "why not"}
    (step,) = integers.quantized(read_run(crafted(tmp_path, whole(kept=kept, values=VALUES, floats=FLOATS))))
    sizes = [str(sum(one["bytes"].values())) for one in read_run(tmp_path).metrics["steps"][0]["layers"]]
    table = integers.layer_table(step)
    assert texts(table) == [["conv", "7", "4", "1.2 %", sizes[0]], ["fc", "4", "1", "1.2 %", sizes[1]]]
    square(table)
    assert texts(integers.kept_table(step)) == [[path, reason] for path, reason in kept.items()]
    assert texts(integers.float_table(step)) == [["act:silu", "silu"], ["norm:batch_norm:1", "batch_norm"]], (
        "head is a layer that was kept: it has a reason already"
    )
    assert texts(integers.value_table(step)) == [
        ["input", "−1.5", "1.6", "0.01235", "128"],
        ["conv:conv2d", "0", "5.1", "0.02", "0"],
    ]
    page = page_of(tmp_path)
    assert (
        "Weights of 2 layers are integers of 4 to 7 bits, activations are UINT8 in 2 places; 2 layers stay float; "
        "2 other operations compute in floats." in page.text
    )
    ids = [attrs.get("id") for attrs in page.all("table")]
    assert {f"integers-1-{part}" for part in ("table", "kept", "floats", "values")} <= set(ids)
    assert len(ids) == len(set(ids))
    assert [attrs["id"] for attrs in page.all("section")][1:4] == ["way", "integers", "layers"]
    assert "#integers" in [attrs.get("href") for attrs in page.all("a")]


def test_integers_of_weights_alone_promise_no_time(tmp_path):
    page = page_of(crafted(tmp_path, whole()))
    assert "activations are floats: the file is smaller, the time is not." in page.text
    ids = [attrs.get("id") for attrs in page.all("table")]
    assert not {"integers-1-kept", "integers-1-floats", "integers-1-values"} & set(ids)


def test_forms_are_a_column_where_they_differ_and_unknown_sizes_a_dash(tmp_path):
    layers = [row("conv", form="shared"), row("gone"), row("signs", form="signs", bits=None)]
    (step,) = integers.quantized(read_run(crafted(tmp_path, whole(layers=layers))))
    table = integers.layer_table(step)
    square(table)
    assert [line[1] for line in texts(table)] == ["shared", "affine", "signs"]
    assert [line[-1] for line in texts(table)][1:] == ["–", "–"]
    assert texts(table)[2][2] == "–"


def test_a_network_that_is_one_layer_and_a_step_that_kept_all_have_words(tmp_path):
    page = page_of(crafted(tmp_path, whole(layers=[row("")]), whole(layers=[], kept={"": "why"}, values=[])))
    assert page.text.count("the network") >= 2
    assert "Weights of 0 layers are integers of no bits, activations are UINT8 in 0 places" in page.text
    assert "integers-2-table" not in [attrs.get("id") for attrs in page.all("table")]


@pytest.mark.parametrize("facts", [{}, {"layers": []}, {"filters": []}], ids=["none", "no rows", "other facts"])
def test_without_facts_there_is_no_section(tmp_path, facts):
    page = page_of(crafted(tmp_path, facts))
    assert not {"integers", "patterns"} & {attrs["id"] for attrs in page.all("section")}
    assert not {"#integers", "#patterns"} & {attrs.get("href") for attrs in page.all("a")}


def test_large_networks_get_caps_that_are_told(tmp_path):
    names = [f"block{i}.conv" for i in range(310)]
    facts = whole(
        layers=[row(name) for name in names],
        kept=dict.fromkeys((f"{name}2" for name in names), "why"),
        floats={f"{name}3:silu": "silu" for name in names},
        values=[VALUES[0] | {"value": name} for name in names],
    )
    facts["patterns"] = [PATTERN | {"path": name, "weights": 9 + i} for i, name in enumerate(names)]
    page = page_of(crafted(tmp_path, facts))
    for fact in (
        "Only the first 300 of 310 layers have rows",
        "Only the first 300 of 310 operations have rows",
        "The first 300 of 310 grids",
        "Only the 300 largest of 310 layers have rows",
        "10 smaller layers",
        "300 layers",
    ):
        assert fact in page.text, fact
    (step,) = patterns.binarized(read_run(tmp_path))
    table = patterns.layer_table(step)
    assert (len(table.rows), table.rows[0][0].text) == (300, "block10.conv")
    for column in (1, 2, 3):
        assert sum(line[column].sort for line in (*table.rows, table.foot[0])) == table.foot[1][column].sort


def test_hostile_names_are_text(tmp_path):
    facts = whole(
        layers=[row(f"{EVIL}{i}", form=EVIL) for i in range(14)],
        kept={EVIL: EVIL},
        floats={f"{EVIL}2:{EVIL}": EVIL},
        values=[VALUES[0] | {"value": EVIL}],
    )
    facts |= {"patterns": [PATTERN | {"path": EVIL}], "effective": EFFECTIVE}
    page = page_of(crafted(tmp_path, facts))
    plain = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    assert len(plain) == 2
    assert not any("alert('x')" in "".join(text) for text in plain)
    assert page.text.count("alert('x')") >= 32
    labels = {attrs.get("id") for _, attrs in page.tags}
    assert all(attrs["aria-describedby"] in labels for attrs in page.all("input"))


# --- sign patterns ---


def test_both_rules_stand_beside_the_real_file(tmp_path):
    layers = [PATTERN, PATTERN | {"path": "mix", "weights": 32, "kernels": 4, "scales": 0, "branch": False}]
    facts = {"patterns": layers, "effective": EFFECTIVE}
    (step,) = patterns.binarized(read_run(crafted(tmp_path, facts)))
    assert texts(patterns.layer_table(step)) == [
        ["conv", "288", "32", "32", "50.0 %", "1 × 1"],
        ["mix", "32", "4", "0", "50.0 %", "–"],
        ["All of these", "320", "36", "32", "", ""],
    ]
    square(patterns.layer_table(step))
    size = read_run(tmp_path).metrics["steps"][0]["file_bytes"]
    assert texts(patterns.size_table(step.effective)) == [
        ["All in 32 bits", "1,000", "0.004"],
        ["Rule N: 680 others, and n/32 for n = 320 signs", "690", "0.00276"],
        ["Rule S: the same, and one scale for each filter", "722", "0.00289"],
        ["The real file of this step", f"{size / 4:,.0f}", words.megabytes(size)],
    ]
    page = page_of(tmp_path)
    assert "320 weights of 2 layers are signs, in 36 filters; 1 layer has a 1 × 1 convolution beside it." in page.text
    assert [attrs["id"] for attrs in page.all("section")][1:4] == ["way", "patterns", "layers"]


def test_runs_that_did_not_count_it_have_no_table_of_sizes(tmp_path):
    page = page_of(crafted(tmp_path, {"patterns": [PATTERN]}, {"patterns": [PATTERN], "effective": EFFECTIVE}))
    ids = [attrs.get("id") for attrs in page.all("table")]
    assert "patterns-1-sizes" not in ids
    assert {"patterns-1-table", "patterns-2-sizes", "patterns-2-table"} <= set(ids)


# --- settings ---


def setting(median, q1, q3, **more):
    row = {"batch": 1, "threads": 1, "baseline_ms": 2.0, "final_ms": 1.0, "median": median, "q1": q1, "q3": q3}
    return row | {"rounds": 31, "verdict": "", "chance": chance(31)} | more


def test_every_setting_has_a_line_and_a_verdict_only_where_it_leans(tmp_path):
    rows = [
        setting(1.8, 1.7, 1.9, verdict="faster"),
        setting(0.5, 0.4, 0.6, verdict="slower", threads=2),
        setting(1.1, 0.9, 1.2, rounds=9, chance=chance(9)),
        {"batch": 32, "threads": 1, "skipped": "one call would take about 4 seconds"},
    ]
    table = tables.settings(rows)
    square(table)
    assert texts(table) == [
        ["1", "1", "2.00", "1.00", "1.80x", "1.70 to 1.90", "31", "1.80x faster"],
        ["1", "2", "2.00", "1.00", "0.50x", "0.40 to 0.60", "31", "2.00x slower"],
        ["1", "1", "2.00", "1.00", "1.10x", "0.90 to 1.20", "9", "none"],
        ["32", "1", *["–"] * 5, "not timed: one call would take about 4 seconds"],
    ]
    craft(tmp_path)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    numbers["speedup"]["settings"] = rows
    (tmp_path / "metrics.json").write_text(json.dumps(numbers))
    page = page_of(tmp_path)
    assert "settings" in [attrs.get("id") for attrs in page.all("table")]
    assert "chance alone gives one in 18.0 % of the lines with the fewest rounds" in page.text


def test_runs_without_settings_have_no_such_table(tmp_path):
    assert "settings" not in [attrs.get("id") for attrs in page_of(craft(tmp_path)).all("table")]


def timed(monkeypatch, image_ms, *, rounds_seen):
    """`summary`'s rows for two networks that take so long, on a machine of two cores."""

    def latency(models, x, *, threads, rounds, min_round_s):
        rounds_seen.append(rounds)
        times = [image_ms * len(x)] * rounds
        turns = [tuple(range(i, 2 * rounds, 2)) for i in (0, 1)]
        return {
            name: summary.Timing(tuple(times), turns[i], 1, threads, len(x), "none") for i, name in enumerate(models)
        }

    monkeypatch.setattr(summary, "latency", latency)
    monkeypatch.setattr(summary, "usable_cores", lambda: 2)
    models = {"baseline": b"", "final": b""}
    images = np.zeros((32, 1, 8, 8), "float32")
    first = summary._turns(models, images[:1], 1, image_ms / 1e3)
    return summary._settings(models, images, first)


def test_settings_are_batch_1_and_32_with_one_thread_and_all_cores(monkeypatch):
    seen = []
    rows = timed(monkeypatch, 0.5, rounds_seen=seen)
    assert [(row["batch"], row["threads"]) for row in rows] == [(1, 1), (1, 2), (32, 1), (32, 2)]
    assert all(row["baseline_ms"] == row["final_ms"] == 0.5 for row in rows), "per image"
    assert all((row["median"], row["verdict"]) == (1, "") for row in rows)
    assert seen == [31] * 4, "the first setting is not timed twice"


@pytest.mark.parametrize(("image_ms", "rows", "few"), [(80, 2, 31), (1000, 2, 10), (3000, 1, summary.FEWEST)])
def test_slow_networks_get_fewer_rounds_and_no_calls_that_take_too_long(monkeypatch, image_ms, rows, few):
    seen = []
    found = timed(monkeypatch, image_ms, rounds_seen=seen)
    assert seen == [few] * rows
    assert few >= MIN_ROUNDS
    skipped = [row for row in found if "skipped" in row]
    assert len(skipped) == 4 - rows
    assert f"about {32 * image_ms / 1e3:.0f} seconds" in skipped[-1]["skipped"]
    json.dumps(found)


# --- words ---


def test_parity_of_integers_says_that_levels_may_differ():
    found = {"images": 10, "same_top1": 1.0, "largest": 0.1, "scale": 9.0}
    assert words.LEVELS not in words.parity(found)
    assert words.parity(found | {"integers": True}).endswith(words.LEVELS)


@pytest.mark.parametrize("whole", [True, False])
def test_the_check_of_a_file_knows_whether_activations_are_integers(tmp_path, whole):
    before, context = toy_nets.toy_candidate("residual"), toy_nets.toy_context()
    method = Quantize(samples=32, kernels="reduced", activations="uint8" if whole else "float")
    small = method.apply(before, context)
    nxp.save(small, tmp_path / "small.press")
    assert export.check(tmp_path / "small.press", small, toy_nets.toy_data().test).integers is whole


def test_integers_that_are_not_faster_are_not_taken_for_floats():
    ratio = {"median": 1.0, "q1": 0.9, "q3": 1.1}
    said = words.speed(ratio, {"macs": 10}, {"macs": 10}, integers=True)
    assert "although it computes with integers: at this size" in said
    assert words.DENSE not in said
    both = words.speed(ratio, {"macs": 10}, {"macs": 5}, integers=True)
    assert "although it has 2.00x fewer multiply-adds and computes with integers" in both
