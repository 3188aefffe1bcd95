"""The report's section on filters: it adds up, follows groups through rounds, stays readable on large networks."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pages import EVIL, craft, page_of
from torch import nn

from netpress import graph, job
from netpress.errors import ModelError
from netpress.methods.filter_facts import facts, histogram
from netpress.methods.filter_scores import Scores
from netpress.recipe import parse
from netpress.report import figures, filters, tables
from netpress.report.folder import read_run
from netpress.show import channels, channels_text


def row(name, before, after, *, tied=(), pinned="", frozen=False, at_once=1, scored=True):
    """One group as filter pruning records it."""
    found = {"name": name, "makers": [name.partition("#")[0], *tied], "before": before, "after": after}
    found |= {"at_once": at_once, "pinned": pinned, "frozen": frozen}
    if scored and not pinned and not frozen:
        chosen = np.arange(before // at_once) >= (before - after) // at_once
        found["scores"] = {"relative": False, **histogram(np.arange(before // at_once, dtype=float), chosen)}
    return found


def crafted(folder, *steps):
    """A run folder by hand whose steps are rounds of filter pruning with these rows."""
    craft(folder)
    numbers = json.loads((folder / "metrics.json").read_text())
    last = numbers["steps"][-1]
    numbers["steps"] = []
    for k, rows in enumerate(steps, 1):
        record = {"method": "filter_prune", "settings": {"keep": 0.5, "score": "l1"}, "notes": ["a note"]}
        records = [{**record, "facts": {"filters": rows}}] if rows is not None else [{**record, "facts": {}}]
        numbers["steps"].append({**last, "name": f"{k:02d}-filter_prune", "records": records})
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def table_of(folder, **limits):
    found = filters.groups(filters.followed(filters.rounds(read_run(folder))))
    return filters.group_table(found, **limits)


def texts(table):
    return [[cell.text.replace("\u00a0", " ") for cell in cells] for cells in (*table.rows, *table.foot)]


def labels(table):
    return [column.label for column in table.columns]


TWO = (
    [
        row("stem", 16, 12, tied=["b1", "b2", "b3", "b4", "b5"]),
        row("wide", 64, 32, at_once=32),
        row("fc", 10, 10, pinned="network output"),
    ],
    [
        row("stem", 12, 8, tied=["b1", "b2", "b3", "b4", "b5"]),
        row("wide", 32, 32, at_once=32),
        row("fc", 10, 10, pinned="network output"),
    ],
)


def test_groups_are_followed_through_the_rounds(tmp_path):
    table = table_of(crafted(tmp_path, *TWO))
    assert labels(table) == ["Layer", "Before", "After", "Kept", "Round by round", "Tied to", "Remark"]
    assert texts(table) == [
        ["stem", "16", "8", "50.0 %", "16 → 12 → 8", "b1, b2, b3, b4 and 1 more", ""],
        ["wide", "64", "32", "50.0 %", "", "", "all 32 only together, and some must stay"],
        ["fc", "10", "10", "100.0 %", "", "", "cannot go: network output"],
        ["All, tied ones once", "90", "50", "55.6 %", "", "", ""],
    ]
    page = page_of(tmp_path)
    assert "40 of 90 filters went, those of tied layers counted once; 10 cannot go." in page.text
    assert [attrs["id"] for attrs in page.all("section")][1:3] == ["way", "filters"]
    assert "#filters" in [attrs.get("href") for attrs in page.all("a")]
    rounds = filters.round_table(filters.rounds(read_run(tmp_path)))
    assert [line[:5] for line in texts(rounds)] == [
        ["01-filter_prune", "90", "54", "60.0 %", "2 groups"],
        ["02-filter_prune", "54", "50", "92.6 %", "stem"],
    ]


def test_bars_are_as_long_as_what_there_was(tmp_path):
    found = filters.groups(filters.rounds(read_run(crafted(tmp_path, *TWO))))
    figure = figures.filters_figure(found)
    bars = {trace.name: list(trace.x) for trace in figure.data}
    assert bars == {"stayed": [8, 32, 0], "went": [8, 32, 0], "cannot go, or frozen": [0, 0, 10]}
    assert [sum(part) for part in zip(*bars.values(), strict=True)] == [16, 64, 10]


def test_a_step_between_that_changed_the_channels_starts_anew(tmp_path):
    table = table_of(crafted(tmp_path, [row("a", 8, 4)], [row("a", 6, 3), row("b", 4, 4)]))
    assert texts(table)[0][:3] == ["a", "6", "3"]
    assert "Another step changed the channels" in page_of(tmp_path).text
    assert "before is what 02-filter_prune found" in page_of(tmp_path).text


def test_why_filters_stayed_is_said(tmp_path):
    rows = [
        row("frozen", 8, 8, frozen=True),
        row("left", 8, 8),
        row("later", 8, 8, scored=False),
        row("one", 1, 1),
        row("gone", 8, 4, at_once=4),
    ]
    table = table_of(crafted(tmp_path, rows))
    assert {line[0]: line[-1] for line in texts(table)[:-1]} == {
        "frozen": "frozen by the recipe",
        "left": "the recipe's settings leave all of them",
        "later": "no round reached it",
        "one": "the last one stays",
        "gone": "4 go at a time",
    }
    assert "8 are frozen" in page_of(tmp_path).text


def test_scores_are_drawn_with_the_cut(tmp_path):
    found = filters.groups(filters.rounds(read_run(crafted(tmp_path, *TWO))))
    drawn, of = filters.scored(found)
    assert ([group.name for group in drawn], of) == (["stem", "wide"], 2)
    scores = drawn[0].scores
    assert (scores.step, sum(scores.go), sum(scores.stay), scores.cut) == ("02-filter_prune", 4, 8, 3.5)
    stayed, went, cut = figures.scores_figure(scores).data
    left = [went.x0 + i * went.dx + went.width / 2 for i, n in enumerate(went.y) if n]
    right = [stayed.x0 + i * stayed.dx - stayed.width / 2 for i, n in enumerate(stayed.y) if n]
    assert max(left) == pytest.approx(cut.x[0], abs=1e-3) == pytest.approx(3.5)
    assert min(right) >= cut.x[0] - 1e-3
    assert "4 of 12 went: those below the line." in page_of(tmp_path).text


def test_nothing_went(tmp_path):
    page = page_of(crafted(tmp_path, [row("a", 4, 4), row("fc", 2, 2, pinned="network output")]))
    assert "0 of 6 filters went" in page.text
    assert "All 4 stayed." in page.text


@pytest.mark.parametrize("rows", [None, []], ids=["no facts", "no rows"])
def test_without_facts_there_is_no_section(tmp_path, rows):
    page = page_of(crafted(tmp_path, rows))
    assert "filters" not in [attrs["id"] for attrs in page.all("section")]
    assert "#filters" not in [attrs.get("href") for attrs in page.all("a")]


def test_hostile_names_are_text(tmp_path):
    rows = [row(f"{EVIL}{i}", 8, 4, tied=[f"tied {EVIL}"]) for i in range(6)]
    rows.append(row(f"fc{EVIL}", 2, 2, pinned=EVIL))
    page = page_of(crafted(tmp_path, rows))
    plain = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    assert len(plain) == 2
    assert not any("alert('x')" in "".join(text) for text in plain)
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            assert "<script" not in json.dumps(json.loads("".join(text)))
    assert page.text.count("alert('x')") >= 20


def test_large_networks_get_caps_that_are_told(tmp_path):
    rows = [row(f"block{i}.conv", 4 + i % 7, 3) for i in range(340)]
    page = page_of(crafted(tmp_path, rows))
    for fact in (
        "The 24 largest of 340 groups of channels",
        "Only the 300 largest of 340 groups have rows",
        "300 groups",
    ):
        assert fact in page.text, fact
    assert "The 24 largest of 340 groups." in page.text
    assert sum(attrs.get("id", "").startswith("scores-") for attrs in page.all("div")) == 24
    assert sum("hidden" in attrs for attrs in page.all("figure")) == 23
    table = table_of(tmp_path)
    assert (len(table.rows), table.foot[0][0].text) == (300, "40 smaller groups")
    for column in (1, 2):
        assert sum(line[column].sort for line in (*table.rows, table.foot[0])) == table.foot[1][column].sort


@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=80), st.data())
def test_every_score_is_counted_once_on_its_side_of_the_cut(values, data):
    found = np.array(values)
    gone = data.draw(st.integers(0, len(values) - 1))
    chosen = np.ones(len(values), np.bool_)
    chosen[np.argsort(found, kind="stable")[:gone]] = False
    counted = histogram(found, chosen)
    assert (sum(counted["stay"]), sum(counted["go"])) == (len(values) - gone, gone)
    assert (counted["cut"] is None) == (gone == 0)
    if gone:
        slack = (counted["high"] - counted["low"]) / 1000
        assert found[~chosen].max() - slack <= counted["cut"] <= found[chosen].min() + slack
        assert counted["low"] - slack <= found.min() <= found.max() <= counted["high"] + slack
    assert json.loads(json.dumps(counted, allow_nan=False)) == counted


def test_scores_that_differ_by_a_rounding_only_are_counted():
    counted = histogram(np.array([1.0, np.nextafter(1.0, 2)]), np.array([False, True]))
    assert (sum(counted["stay"]), sum(counted["go"]), counted["cut"]) == (1, 1, 1.0)


def test_scores_that_are_not_finite_are_left_out():
    counted = histogram(np.array([np.nan, 1.0, np.inf]), np.array([False, True, True]))
    assert (sum(counted["stay"]), sum(counted["go"]), counted["cut"]) == (1, 0, None)


def test_facts_count_filters_of_layers_with_groups_and_draw_what_decided():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    coupling = graph.couple(net, torch.zeros(1, 3, 8, 8))
    free = {group.name: group for group in coupling.free}
    raw = {name: np.linspace(1, 2, len(group)) for name, group in free.items()}
    rank = {name: values[::-1].copy() for name, values in raw.items()}
    kept = {name: np.arange(len(group)) < len(group) / 2 for name, group in free.items()}
    told = facts(coupling, kept, Scores(raw, rank), frozen=())
    rows = {one["name"]: one for one in told["filters"]}
    assert [(one["before"], one["after"]) for one in rows.values()] == [(8, 4), (8, 4), (2, 2)]
    assert rows["0"]["at_once"] == 4
    assert rows["3"]["pinned"] == "network output"
    assert rows["0"]["scores"]["relative"], "the raw scores that went are the higher ones: not they decided"
    assert rows["0"]["scores"]["cut"] is not None


class Residual(nn.Module):
    """A block whose sum ties two convolutions."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 5, stride=4), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 36, 10)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.fc((x + self.outer(self.inner(x).relu())).flatten(1))


def test_real_run_tells_what_became_of_every_layer(tmp_path):
    steps = [
        {"method": "filter_prune", "keep": 0.5, "rounds": 2, "train": {"epochs": 0}},
        {"method": "fold_batch_norm"},
        {"method": "weight_prune", "sparsity": 0.5},
    ]
    recipe = parse({"baseline": {"epochs": 1}, "step": steps})
    done = job.run(recipe, net=Residual(), data="digits", out=tmp_path / "run")
    table = table_of(tmp_path / "run")
    assert [line[:3] for line in texts(table)] == [
        ["stem", "8", "4"],
        ["inner", "12", "6"],
        ["fc", "10", "10"],
        ["All, tied ones once", "30", "20"],
    ]
    assert texts(table)[0][labels(table).index("Tied to")] == "outer"
    assert (done.candidate.net.stem.out_channels, done.candidate.net.inner.out_channels) == (4, 6)
    page = page_of(tmp_path / "run")
    for fact in (
        "10 of 30 filters went",
        "01-filter_prune",
        "equals the zeroed twin",
        "Fold batch norm (rest: keep); then no",
    ):
        assert fact in page.text, fact
    assert "NaN" not in (tmp_path / "run" / "metrics.json").read_text()
    assert sum(line[1].sort for line in table.rows) == table.foot[-1][1].sort
    assert isinstance(table, tables.Table)


def test_show_tells_the_channels_of_a_network():
    rows = channels("mlperf-tiny-resnet8", (1, 28, 28))
    stem = next(one for one in rows if one["name"] == "stem.conv")
    assert (stem["layers"], stem["channels"]) == (["stem.conv", "block1.second.conv"], 16)
    assert json.loads(json.dumps(rows)) == rows
    text = channels_text(rows)
    assert "stays: network output" in text
    assert text.splitlines()[-1] == "224 of 234 channels can go, 6 of 7 groups"


def test_show_needs_to_know_the_image(tmp_path):
    factory = "import torch\ndef build():\n    return torch.nn.Conv2d(3, 4, 3)\n"
    (tmp_path / "own.py").write_text(factory)
    spec = f"{tmp_path / 'own.py'}:build"
    with pytest.raises(ModelError, match=r"say the shape of one image, for instance --input 3x224x224"):
        channels(spec)
    assert channels(spec, (3, 8, 8))[-1]["stays"]
