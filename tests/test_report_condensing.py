"""The report's section on condensing: it adds up, marks the stages, shows what is read again; untrained baselines."""

import json
import re

import pytest
from pages import EVIL, craft, page_of

from netpress import job
from netpress.report import condensing, condensing_figures, tables, words
from netpress.report.folder import read_run

SOURCES = [
    {"path": "", "inputs": 1, "mean": 0.0},
    {"path": "stem", "inputs": 3, "mean": 0.2},
    {"path": "a.conv", "inputs": 4, "mean": 0.1},
]


def grouped(path="b.conv", inputs=8, sources=SOURCES, **more):
    found = {"path": path, "before": "b.norm", "inputs": inputs, "outputs": 4, "sources": sources}
    return found | {"kept": [[0, 1], [1, 5]], "connections": [inputs * 4, 8]} | more


KERNELS = {
    "path": "a.conv",
    "inputs": 4,
    "outputs": 3,
    "kernels": [12, 4],
    "per_output": [3, 0, 1],
    "per_input": [2, 1, 0, 1],
    "sources": SOURCES[:1],
}
LINEAR = {"path": "fc", "inputs": 6, "kept": [0, 2, 5]}


def history(*stages):
    """One epoch for each stage that it ends in."""
    row = {"train_loss": 0.5, "validation_loss": 0.6, "validation_top1": 0.5, "seconds": 2.0}
    rates = {"images_per_second": 100.0, "input_per_second": 9000.0}
    return [
        row | rates | {"epoch": i, "stage": stage, "images_per_second": 100.0 * i} for i, stage in enumerate(stages, 1)
    ]


def crafted(folder, *facts, stages=(1, 3, 3), **train):
    """A run folder by hand whose steps record these facts."""
    craft(folder)
    numbers = json.loads((folder / "metrics.json").read_text())
    last = numbers["steps"][-1]
    numbers["steps"] = []
    for k, told in enumerate(facts, 1):
        record = {"method": "condense", "settings": {"groups": 2}, "notes": ["a note"], "facts": told}
        step = {**last, "name": f"{k:02d}-condense", "records": [record], "history": history(*stages)}
        numbers["steps"].append(step | {"train": {"epochs": len(stages), "lr": 0.1}})
    numbers["baseline"]["train"] |= train
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def untrained(folder, text='[network]\nname = "toy"\n', *facts):
    """The same, of a network without weights that was first trained in the first step."""
    crafted(folder, *(facts or [{"condensed": [grouped()]}]), epochs=0)
    (folder / "recipe.toml").write_text(text)
    return folder


def texts(table):
    return [[cell.text.replace("\u00a0", " ") for cell in cells] for cells in (*table.rows, *table.foot)]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run of the real job: a small CondenseNet, condensed in the only two epochs that there are."""
    folder = tmp_path_factory.mktemp("real") / "run"
    recipe = folder.parent / "small.toml"
    recipe.write_text(
        '[network]\nname = "condensenet-50"\nsettings = { form = "training", stages = [2, 1], growth = [8, 8] }\n'
        '[data]\nname = "digits"\n[[step]]\nmethod = "condense"\nlinear_keep = 0.5\n'
        'train = { epochs = 2, optimizer = "sgd", lr = 0.05, batch = 128 }\n'
    )
    job.run(recipe, out=folder)
    return folder


# --- the section ---


def test_a_real_run_tells_what_it_dropped_and_that_nothing_was_trained_before(real):
    run = read_run(real)
    assert run.untrained
    (step,) = condensing.condensed(run)
    assert [layer.path for layer in step.layers] == [f"block{b}.layer{i}.conv1" for b, i in ((1, 1), (1, 2), (2, 1))]
    assert all(layer.connections[0] == 4 * layer.connections[1] for layer in step.layers)
    assert condensing.dropped(step.history) == [(1, 1, 2), (2, 3, 3)]
    assert condensing.reuse(step).sources == ("conv1", "block1.layer1.conv2", "block1.layer2.conv2")
    page = page_of(real)
    assert f"({words.UNTRAINED})" in page.text
    ids = [attrs.get("id") for _, attrs in page.tags if "id" in attrs]
    assert {"condensed-1-stages", "condensed-1-reuse", "condensed-1-table", "rates"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert len(page.all("figure")) == len(page.all("figcaption"))


def test_inputs_that_groups_kept_are_told_and_drawn(tmp_path):
    facts = {"condensed": [grouped(), grouped("c.conv", inputs=4, before="c.conv")], "linear": LINEAR}
    (step,) = condensing.condensed(read_run(crafted(tmp_path, facts)))
    table = condensing.layer_table(step)
    assert {len(line) for line in (*table.rows, *table.foot)} == {len(table.columns)}
    assert texts(table) == [
        ["b.conv", "8", "2", "2", "3", "32", "8", "25.0 %"],
        ["c.conv", "4", "2", "2", "3", "16", "8", "50.0 %"],
        ["All of these", "", "", "", "", "48", "16", "33.3 %"],
    ]
    page = page_of(tmp_path)
    assert "16 of 48 connections of 2 layers are left (33.3 %), chosen in 3 stages of a training" in page.text
    assert "of a training of 3 epochs, the last in epoch 2." in page.text
    assert "fc reads 3 of its 6 inputs." in page.text
    assert [attrs["id"] for attrs in page.all("section")][1:4] == ["way", "condensed", "layers"]
    assert "#condensed" in [attrs.get("href") for attrs in page.all("a")]
    ids = [attrs.get("id") for attrs in page.all("div")]
    assert {"condensed-1-stages", "condensed-1-reuse"} <= set(ids)
    assert "inside 3 epochs" in page.text


def test_single_kernels_count_what_is_left_of_inputs_and_outputs(tmp_path):
    (step,) = condensing.condensed(read_run(crafted(tmp_path, {"condensed_kernels": [KERNELS]})))
    assert texts(condensing.layer_table(step))[0] == ["a.conv", "4", "3", "3", "1", "12", "4", "33.3 %"]
    page = page_of(tmp_path)
    assert "4 of 12 kernels of 1 layer are left" in page.text
    assert "condensed-1-reuse" not in [attrs.get("id") for attrs in page.all("div")], "one source: nothing to compare"


def test_reuse_is_a_matrix_of_layers_and_what_they_could_read(tmp_path):
    facts = {"condensed": [grouped("a.conv", sources=SOURCES[:2]), grouped()]}
    (step,) = condensing.condensed(read_run(crafted(tmp_path, facts)))
    found = condensing.reuse(step)
    assert found.layers == ("a.conv", "b.conv")
    assert found.sources == (condensing.NOT_KNOWN, "stem", "a.conv")
    assert found.means == ((0.0, 0.2, None), (0.0, 0.2, 0.1))
    assert found.shares == ((0.0, 1.0, None), (0.0, 1.0, 0.5))
    assert found.pairs == (3, 5)
    (drawn,) = condensing_figures.reuse_figure(found).data
    assert [list(row) for row in drawn.z] == [[0.0, 1.0, None], [0.0, 1.0, 0.5]]
    few = condensing.reuse(step, most=1)
    assert (few.layers, few.sources, few.all) == (("b.conv",), (condensing.NOT_KNOWN,), (2, 3))
    assert "the last 2 of" not in page_of(tmp_path).text


def test_a_layer_of_zeros_has_a_row_of_zeros(tmp_path):
    none = [one | {"mean": 0.0} for one in SOURCES]
    (step,) = condensing.condensed(read_run(crafted(tmp_path, {"condensed": [grouped(sources=none)]})))
    assert condensing.reuse(step).shares == ((0.0, 0.0, 0.0),)


def test_epochs_that_dropped_connections_are_shaded():
    figure = condensing_figures.stages_figure(history(0, 2, 2, 3))
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(1, 2), (3, 4)]
    assert [note.text for note in figure.layout.annotations] == ["1–2", "3"]
    assert list(figure.data[0].x) == [1, 2, 3, 4]


def test_histories_that_do_not_tell_the_stage_are_said_not_to(tmp_path):
    folder = crafted(tmp_path, {"condensed": [grouped()]}, {"condensed": [grouped()]})
    numbers = json.loads((folder / "metrics.json").read_text())
    for row in numbers["steps"][0]["history"]:
        del row["stage"]
    numbers["steps"][1]["history"] = []
    (folder / "metrics.json").write_text(json.dumps(numbers))
    page = page_of(folder)
    assert "chosen in a training of 3 epochs." in page.text
    assert "The history of this step does not tell when connections were dropped." in page.text
    assert "chosen at once, without training." in page.text
    ids = [attrs.get("id") for attrs in page.all("div")]
    assert "condensed-1-stages" in ids
    assert "condensed-2-stages" not in ids


@pytest.mark.parametrize("facts", [{}, {"condensed": []}, {"layers": []}], ids=["none", "no rows", "other facts"])
def test_without_facts_there_is_no_section(tmp_path, facts):
    page = page_of(crafted(tmp_path, facts))
    assert "condensed" not in {attrs["id"] for attrs in page.all("section")}
    assert "#condensed" not in {attrs.get("href") for attrs in page.all("a")}


def test_large_networks_get_caps_that_are_told(tmp_path):
    before = [SOURCES[1] | {"path": f"block{i}.conv"} for i in range(70)]
    rows = [grouped(f"block{i}.conv", inputs=8 + i, sources=before[: i + 2]) for i in range(310)]
    page = page_of(crafted(tmp_path, {"condensed": rows}))
    for fact in (
        "Only the 300 largest of 310 layers have rows",
        "10 smaller layers",
        "the last 64 of 310. Columns: the layers whose outputs they could read, the first 64 of 70.",
    ):
        assert fact in page.text, fact
    (step,) = condensing.condensed(read_run(tmp_path))
    table = condensing.layer_table(step)
    for column in (5, 6):
        assert sum(line[column].sort for line in (*table.rows, table.foot[0])) == table.foot[1][column].sort


def test_hostile_names_are_text(tmp_path):
    sources = [SOURCES[1], SOURCES[2] | {"path": EVIL}]
    facts = {
        "condensed": [grouped(f"{EVIL}{i}", sources=sources) for i in range(14)],
        "linear": LINEAR | {"path": EVIL},
    }
    page = page_of(crafted(tmp_path, facts))
    plain = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    assert len(plain) == 2
    assert not any("alert('x')" in "".join(text) for text in plain)
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            assert "<script" not in json.dumps(json.loads("".join(text)))
    labels = {attrs.get("id") for _, attrs in page.tags}
    assert all(attrs["aria-describedby"] in labels for attrs in page.all("input"))


# --- an untrained baseline, and rates ---


def test_an_untrained_baseline_is_said_to_be_one_and_no_accuracy_is_compared_with_it(tmp_path):
    folder = untrained(tmp_path)
    assert read_run(folder).untrained
    page = page_of(folder)
    assert f"top-1 94.00 % on test ({words.UNTRAINED})" in page.text
    assert "Baseline: the untrained network" in page.text
    assert "Not compared with those of the baseline" in page.text
    assert not re.search(r"[+−±][\d.]+ points", page.text)
    assert "newly right" not in page.text
    assert "changed" not in [attrs.get("id") for attrs in page.all("table")]


@pytest.mark.parametrize(
    ("text", "epochs", "stages"),
    [
        ('[network]\nname = "toy"\nweights = "w.npz"\n', 0, (1, 3, 3)),
        ("", 0, (1, 3, 3)),
        ("[network", 0, (1, 3, 3)),
        ('[network]\nname = "toy"\n', 2, (1, 3, 3)),
        ('[network]\nname = "toy"\n', 0, ()),
    ],
    ids=["given weights", "own network", "damaged recipe", "trained", "all at once"],
)
def test_a_baseline_that_was_trained_is_compared_with(tmp_path, text, epochs, stages):
    folder = crafted(tmp_path, {"condensed": [grouped()]}, stages=stages, epochs=epochs)
    (folder / "recipe.toml").write_text(text)
    assert not read_run(folder).untrained
    assert words.UNTRAINED not in page_of(folder).text


def test_how_fast_training_went_stands_below_its_curves(tmp_path):
    folder = crafted(tmp_path, {"condensed": [grouped()]})
    assert texts(tables.rates(read_run(folder))) == [["01-condense", "3", "2.0", "200", "100 to 300", "9,000"]]
    assert "rates" in [attrs.get("id") for attrs in page_of(folder).all("table")]


def test_histories_of_earlier_versions_have_no_rates(tmp_path):
    assert tables.rates(read_run(craft(tmp_path))) is None
    assert "rates" not in [attrs.get("id") for attrs in page_of(tmp_path).all("table")]
