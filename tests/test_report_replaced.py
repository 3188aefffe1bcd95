"""The report's section on replaced layers: it adds up, marks what was chosen, and warns where no time was won."""

import json

import pytest
from pages import EVIL, craft, page_of

from netpress.factor.structure import CHILDREN
from netpress.report import figures, replaced, words
from netpress.report.folder import read_run
from netpress.report.page import legend


def row(path, operation=None, numbers=(), macs=(100, 100), **more):
    """One layer as a step records it; as many parameters as half its multiply-adds."""
    found = {"path": path, "operation": operation, "numbers": list(numbers), "macs": list(macs)}
    found |= {"params": [n // 2 for n in macs], "error": None, "output_error": None, "reason": None}
    return found | more


def point(path, numbers, macs, top1, **more):
    """One row of a scan; no numbers: the layer as it was."""
    operation = "tucker2" if numbers else None
    found = {"path": path, "operation": operation, "numbers": list(numbers), "macs": macs, "params": macs // 2}
    return found | {"top1": top1, "loss": 0.5} | more


def crafted(folder, *facts, **changes):
    """A run folder by hand whose steps record these facts."""
    craft(folder, **changes)
    numbers = json.loads((folder / "metrics.json").read_text())
    last = numbers["steps"][-1]
    numbers["steps"] = []
    for k, told in enumerate(facts, 1):
        record = {"method": "low_rank", "settings": {"kind": "tucker2"}, "notes": ["a note"], "facts": told}
        numbers["steps"].append({**last, "name": f"{k:02d}-low_rank", "records": [record]})
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def steps_of(folder):
    return replaced.replacements(read_run(folder))


def texts(table):
    return [[cell.text.replace("\u00a0", " ") for cell in cells] for cells in (*table.rows, *table.foot)]


LAYERS = [
    row("stem", reason="frozen"),
    row("a.conv", "tucker2", (4, 6), (1000, 400), error=0.123, output_error=0.0421),
    row("b.conv", "svd", (3,), (600, 300), error=3e-9),
    row("fc", reason="no saving: multiply-adds 100 -> 140"),
]
SCAN = [
    point("a.conv", (), 1000, 0.9),
    point("a.conv", (6, 8), 700, 0.88),
    point("a.conv", (4, 6), 400, 0.8),
    point("b.conv", (), 600, 0.9),
    point("b.conv", (2, 2), 200, 0.5, loss=None),
    point("fc", (), 100, 0.9),
]


def test_every_layer_is_told_with_what_it_costs_and_why_it_stayed(tmp_path):
    (step,) = steps_of(crafted(tmp_path, {"layers": LAYERS}))
    table = replaced.layer_table(step)
    assert texts(table) == [
        ["stem", "–", "100", "100", "50", "50", "–", "–", "frozen"],
        ["a.conv", "Tucker-2, ranks 4, 6", "1,000", "400", "500", "200", "12.3 %", "4.2 %", ""],
        ["b.conv", "SVD, rank 3", "600", "300", "300", "150", "< 0.01 %", "–", ""],
        ["fc", "–", "100", "100", "50", "50", "–", "–", "no saving: multiply-adds 100 -> 140"],
        ["All of these", "", "1,800", "900", "900", "450", "", "", ""],
    ]
    assert {len(line) for line in (*table.rows, *table.foot)} == {len(table.columns)}
    page = page_of(tmp_path)
    assert "2 of 4 layers were replaced: 1,800 → 900 multiply-adds, 900 → 450 parameters." in page.text
    assert [attrs["id"] for attrs in page.all("section")][1:4] == ["way", "replaced", "layers"]
    assert "#replaced" in [attrs.get("href") for attrs in page.all("a")]
    assert not any(attrs.get("id", "").startswith("replaced-1-scan") for attrs in page.all("div"))


def test_columns_that_say_nothing_are_left_out(tmp_path):
    (step,) = steps_of(crafted(tmp_path, {"layers": [row("a", "grouped", (2,), (100, 50))]}))
    labels = [column.label for column in replaced.layer_table(step).columns]
    assert labels == ["Layer", "In its place", "Multiply-adds before", "After", "Parameters before", "After"]
    assert "Errors are relative" not in page_of(tmp_path).text


def test_the_scan_is_drawn_with_what_was_chosen(tmp_path):
    (step,) = steps_of(crafted(tmp_path, {"layers": LAYERS, "sensitivity": SCAN}))
    assert [scan.path for scan in step.scans] == ["a.conv", "b.conv", "fc"]
    span = replaced.span(step.scans)
    assert span[0] < 50
    assert span[1] > 90
    drawn = {scan.path: figures.scan_figure(scan, span) for scan in step.scans}
    places = {
        path: {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
        for path, figure in drawn.items()
    }
    assert places["a.conv"] == {
        "tried": [(400, 80), (700, 88)],
        "as it was": [(1000, 90)],
        "chosen": [(400, 80)],
    }
    assert places["b.conv"]["chosen"] == [], "SVD of rank 3 was not among those tried"
    assert [shape.x0 for shape in drawn["b.conv"].layout.shapes] == [300], "so a line stands at what it costs"
    assert places["fc"]["chosen"] == [(100, 90)], "left alone is a choice too"
    assert not drawn["a.conv"].layout.shapes
    assert not drawn["fc"].layout.shapes
    assert {tuple(figure.layout.yaxis.range) for figure in drawn.values()} == {span}


def test_the_page_has_a_chart_per_layer_one_legend_and_every_point(tmp_path):
    page = page_of(crafted(tmp_path, {"layers": LAYERS, "sensitivity": SCAN}))
    charts = [attrs for attrs in page.all("div") if attrs.get("id", "").startswith("replaced-1-scan-")]
    assert len(charts) == 3
    assert page.text.count("as it was ◆ chosen") == 1
    assert "Tucker-2, ranks 4, 6 (chosen)" in page.text
    assert "not finite" in page.text
    (step,) = steps_of(tmp_path)
    assert len(replaced.scan_table(step.scans).rows) == len(SCAN)
    assert legend(figures.scan_figure(step.scans[0], (0, 100)))[0][0] == "tried"


def test_a_network_that_always_answers_alike_has_an_axis():
    scan = replaced.Scan("a", (replaced.Point("", 5, 5, 0.0, None, chosen=True),), 5)
    low, high = replaced.span([scan])
    assert low == 0 < high


def test_each_step_has_its_own_tables(tmp_path):
    facts = {"layers": LAYERS, "sensitivity": SCAN}
    page = page_of(crafted(tmp_path, facts, {"layers": [row("fc", "svd", (1,), (100, 20))]}))
    ids = [attrs["id"] for attrs in page.all("table")]
    assert {"replaced-1-table", "replaced-1-points", "replaced-2-table"} <= set(ids)
    assert len(ids) == len(set(ids))
    for fact in ("How accuracy depends on each layer, before 01-low_rank", "1 of 1 layers was replaced: 100 → 20"):
        assert fact in page.text, fact


@pytest.mark.parametrize("facts", [{}, {"layers": []}, {"filters": []}], ids=["none", "no rows", "other facts"])
def test_without_facts_there_is_no_section(tmp_path, facts):
    page = page_of(crafted(tmp_path, facts))
    assert "replaced" not in [attrs["id"] for attrs in page.all("section")]
    assert "#replaced" not in [attrs.get("href") for attrs in page.all("a")]


def test_large_networks_get_caps_that_are_told(tmp_path):
    layers = [row(f"block{i}.conv", "svd", (2,), (1000 + i, 500)) for i in range(340)]
    scan = [point(f"block{i}.conv", numbers, 500, 0.5) for i in range(340) for numbers in ((), (2, 2))]
    page = page_of(crafted(tmp_path, {"layers": layers, "sensitivity": scan}))
    for fact in (
        "Only the 300 largest of 340 layers have rows",
        "The 36 layers with most multiply-adds of 340",
        "The first 300 of 680 points",
        "300 layers",
    ):
        assert fact in page.text, fact
    assert sum(attrs.get("id", "").startswith("replaced-1-scan-") for attrs in page.all("div")) == 36
    (step,) = steps_of(tmp_path)
    table = replaced.layer_table(step)
    assert (len(table.rows), table.foot[0][0].text) == (300, "40 smaller layers")
    for column in (2, 3, 4, 5):
        assert sum(line[column].sort for line in (*table.rows, table.foot[0])) == table.foot[1][column].sort


def test_hostile_names_are_text(tmp_path):
    layers = [row(f"{EVIL}{i}", EVIL, (1, 2), (100, 50), reason=EVIL) for i in range(3)]
    scan = [point(f"{EVIL}{i}", (1,), 50, 0.5, operation=EVIL) for i in range(3)]
    page = page_of(crafted(tmp_path, {"layers": layers, "sensitivity": scan}))
    plain = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    assert len(plain) == 2
    assert not any("alert('x')" in "".join(text) for text in plain)
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            assert "<script" not in json.dumps(json.loads("".join(text)))
    assert page.text.count("alert('x')") >= 12


def test_every_structure_has_a_name():
    numbers = {"tucker2": (4, 6), "fire": (4, 6, 1)}
    named = {operation: words.structure(operation, numbers.get(operation, (4,))) for operation in CHILDREN}
    assert not any("_" in text or "{" in text for text in named.values())
    assert len(set(named.values())) == len(CHILDREN)
    assert all("4" in text for text in named.values())
    assert words.structure("of_tomorrow", (1, 2)) == "of tomorrow, 1, 2"


@pytest.mark.parametrize(
    ("macs", "speed", "word"),
    [
        (900, (1.0, 0.98, 1.02), "no"),
        (500, (0.8, 0.7, 0.9), "no"),
        (500, (1.2, 0.99, 1.4), "no"),
        (500, (1.03, 1.02, 1.04), "hardly"),
        (500, (1.06, 1.05, 1.07), None),
        (910, (1.0, 0.98, 1.02), None),
        (1000, (0.8, 0.7, 0.9), None),
    ],
)
def test_fewer_multiply_adds_without_fewer_milliseconds_are_warned_of(tmp_path, macs, speed, word):
    craft(tmp_path)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    numbers["final"] = {**numbers["final"], "macs": macs}
    numbers["speedup"] |= dict(zip(("median", "q1", "q3"), speed, strict=True))
    (tmp_path / "metrics.json").write_text(json.dumps(numbers))
    page = page_of(tmp_path)
    assert ("Fewer multiply-adds" in page.text) == (word is not None)
    assert any(attrs.get("class") == "warning" for attrs in page.all("p")) == (word is not None)
    if word is not None:
        assert f"Fewer multiply-adds, {word} fewer milliseconds: {100 - macs // 10} % of" in page.text
        assert f"at {speed[0]:.2f}x the baseline's speed (quartiles {speed[1]:.2f}x to {speed[2]:.2f}x)" in page.text


@pytest.mark.parametrize("speedup", [{}, None])
def test_what_was_not_timed_is_not_warned_of(speedup):
    assert words.unspeeded({"baseline": {"macs": 10}, "final": {"macs": 1}, "speedup": speedup}) == ""
