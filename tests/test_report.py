"""The report: complete, self-contained, escaped, deterministic, and its bytes add up to the file."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from pages import EVIL, craft, page_of
from plotly import graph_objects as go
from torch import nn

from netpress import job
from netpress.errors import FileError
from netpress.report import figures, tables, words, write_report
from netpress.report.folder import read_run
from netpress.report.histograms import count, histograms
from netpress.report.page import embedded

SECTIONS = ("verdict", "way", "layers", "weights", "training", "answers", "time", "origin", "use")


class Small(nn.Module):
    """Has buffers (of the normalisation), which are no parameters but lie in the file."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Linear(144, 10)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().flatten(1))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run of the real job: one round of pruning with one epoch."""
    folder = tmp_path_factory.mktemp("real") / "run"
    small = {"step.0.train.epochs": "1", "step.0.sparsity": "0.8", "budget.max_size": "1kB"}
    job.run("prune", net=Small(), data="digits", out=folder, overrides=small)
    return folder


def test_real_run_has_every_section_in_order(real):
    page = page_of(real)
    assert [attrs["id"] for attrs in page.all("section")] == list(SECTIONS)
    final = json.loads((real / "metrics.json").read_text())["final"]
    assert f"{final['file_bytes']:,}" in page.text
    assert f"{100 * final['top1']:.2f} %" in page.text
    for fact in (
        "✗ missed",
        "01-weight_prune",
        "norm.running_var",
        "largest difference of a logit",
        "into=YourNetwork",
    ):
        assert fact in page.text, fact


def test_real_bytes_add_up_to_the_file_and_come_from_its_parts(real):
    run = read_run(real)
    rows = tables.byte_rows(run)
    file_bytes = (real / "model.press").stat().st_size
    assert sum(row.total for row in rows) == file_bytes
    assert rows[-1].parts["header and graph"] > 0
    assert {"norm.running_mean", "norm.running_var"} <= {row.name for row in rows}
    drawn = figures.bytes_figure(rows)
    assert sum(sum(trace.x) for trace in drawn.data) == file_bytes
    folded = figures.bytes_figure(rows, most=2)
    assert sum(sum(trace.x) for trace in folded.data) == file_bytes
    assert "6 smaller tensors" in folded.layout.yaxis.ticktext
    table = tables.layers(run)
    assert sum(row[1].sort for row in [*table.rows, *table.foot[:-1]]) == file_bytes == table.foot[-1][1].sort


def test_same_folder_gives_same_bytes_also_in_another_process(real):
    first = hashlib.sha256(write_report(real).read_bytes()).hexdigest()
    code = "import sys; from pathlib import Path; from netpress.report import write_report; "
    code += "write_report(Path(sys.argv[1])); assert not {'torch', 'onnxruntime', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(real)], check=True)
    assert hashlib.sha256((real / "report.html").read_bytes()).hexdigest() == first


def test_page_loads_nothing_and_is_well_labelled(real):
    page = page_of(real)
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "background", "poster", "action", "onload", "onclick"} & set(attrs), (tag, attrs)
        assert attrs.get("href", "#").startswith("#"), (tag, attrs)
        assert tag not in ("link", "iframe", "object", "embed", "base", "img"), tag
    style = (real / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert any("default-src 'none'" in attrs.get("content", "") for attrs in page.all("meta"))
    ids = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert max(ids.values()) == 1
    for _, attrs in page.tags:
        for key in ("aria-labelledby", "aria-describedby", "for", "data-figure", "data-filters", "data-chooses"):
            assert attrs.get(key) is None or attrs[key] in ids, attrs
    assert len(page.all("table")) == len(page.all("caption")) > 4
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.all("th"))
    assert (
        len(page.all("figure"))
        == len(page.all("figcaption"))
        == len([a for a in page.all("div") if "data-figure" in a])
    )
    assert all(attrs["aria-label"] for attrs in page.all("div") if attrs.get("role") == "img")


def test_hostile_names_are_text(tmp_path):
    folder = craft(tmp_path, layers=(EVIL, f"{EVIL}2"), classes=(EVIL, "b"), title=EVIL, network=f"own:{EVIL}")
    (folder / "recipe.toml").write_text(f"title = '''</code></pre>{EVIL}'''\n")
    page = page_of(folder)
    assert not any("alert" in attrs.get("src", "") for attrs in page.all("script"))
    plain = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    assert len(plain) == 2, "plotly's and ours"
    assert not any("alert('x')" in "".join(text) for text in plain)
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            data = json.loads("".join(text))
            assert "<script" not in json.dumps(data), "plotly reads markup in names: it must be escaped for it too"
    assert page.text.count("alert('x')") >= 8
    assert "{{ 7*7 }}" in page.text


def test_embedded_json_cannot_end_its_script():
    figure = go.Figure(layout={"title": {"text": "</script><!--&"}, "template": go.layout.Template()})
    text = str(embedded(figure))
    assert not set("<&") & set(text)
    assert json.loads(text)["layout"]["title"]["text"] == "</script><!--&"


def test_limits_that_were_not_measured_are_named(tmp_path):
    missed, unknown = tables.limits(read_run(craft(tmp_path)))
    assert (missed.met, unknown.met) == (False, None)
    assert unknown.measured == "not measured"
    assert missed.decided_on.startswith("validation (on test: top-1 94.00")


def test_without_optional_parts(tmp_path):
    folder = craft(tmp_path, speedup={}, parity={}, budget=[])
    numbers = json.loads((folder / "metrics.json").read_text())
    for part in (numbers["baseline"], numbers["final"], *numbers["steps"]):
        for key in ("history", "records", "train", "coded", "seconds", "validation"):
            del part[key]
    numbers["final"]["note"] = "no operator for it"
    numbers["steps"], numbers["changed"]["examples"] = [], []
    (folder / "metrics.json").write_text(json.dumps(numbers))
    (folder / "recipe.toml").unlink()
    for stage_folder in ("00-baseline", "01-share"):
        (folder / stage_folder / "candidate.press").unlink()
    page = page_of(folder)
    assert [attrs["id"] for attrs in page.all("section")] == list(SECTIONS)
    for fact in (
        "The recipe sets no budget",
        "no operator for it",
        "No stage of this run was trained",
        "01-share/candidate.press",
        "no histograms",
    ):
        assert fact in page.text, fact
    assert str(tmp_path) not in page.text
    rows = tables.byte_rows(read_run(folder))
    assert sum(row.total for row in rows) == numbers["final"]["file_bytes"]


def test_bare_numbers_are_enough(tmp_path):
    folder = craft(tmp_path)
    numbers = json.loads((folder / "metrics.json").read_text())
    bare = {key: numbers[key] for key in ("baseline", "final", "ratio")} | {"steps": []}
    (folder / "metrics.json").write_text(json.dumps(bare))
    assert "This run did not compare answers" in page_of(folder).text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda numbers: None, "metrics.json is missing or damaged"),
        (lambda numbers: numbers.pop("ratio") and numbers, "lacks ratio"),
        (lambda numbers: numbers["baseline"].pop("top1") and numbers, "lacks baseline.top1"),
        (lambda numbers: numbers["final"].update(file_bytes=5) or numbers, "says 5 bytes"),
    ],
)
def test_unfinished_or_changed_folder_is_refused(tmp_path, damage, said):
    folder = craft(tmp_path)
    numbers = damage(json.loads((folder / "metrics.json").read_text()))
    (folder / "metrics.json").write_text("{" if numbers is None else json.dumps(numbers))
    with pytest.raises(FileError, match=said) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_many_layers_get_a_chooser_and_a_cap(tmp_path):
    run = read_run(craft(tmp_path, layers=tuple(f"block{i}.weight" for i in range(30))))
    shown, layers = histograms(run)
    assert (len(shown), layers) == (24, 30)
    assert [one.name for one in shown] == [f"block{i}.weight" for i in range(6, 30)], "the largest, in file order"
    page = page_of(tmp_path)
    assert len(page.all("option")) == 24
    assert "The 24 largest of 30 layers" in page.text
    assert sum("hidden" in attrs for attrs in page.all("figure")) == 23


def test_many_classes_get_no_matrix(tmp_path):
    n = 51
    changed = {"images": 0, "lost": 0, "won": 0, "confusion": np.eye(n, dtype=int).tolist(), "examples": []}
    page = page_of(craft(tmp_path, classes=[str(i) for i in range(n)], changed=changed))
    assert "More than 50 classes" in page.text
    assert not any(attrs.get("id") == "confusion" for attrs in page.all("div"))


def test_histogram_counts_every_weight_once():
    rng = np.random.default_rng(1)
    before = rng.normal(size=1000).astype(np.float32)
    after = np.where(rng.random(1000) < 0.3, before, np.float32(0))
    found = count("w", before, after, [0.5, -0.5])
    assert sum(found.before) == 1000
    assert sum(found.after) == np.count_nonzero(after) == round(1000 * (1 - found.zeros))
    assert found.table == (-0.5, 0.5)
    assert count("w", None, np.zeros(4, np.float32)).zeros == 1.0


@pytest.mark.parametrize(
    ("speedup", "macs", "start"),
    [
        ((1.8, 1.7, 1.9), 500, "Faster: median 1.80x"),
        ((1.01, 1.001, 1.02), 1000, "No speed-up"),
        ((0.8, 0.7, 0.9), 1000, "Slower"),
        ((1.1, 0.9, 1.2), 500, "No speed-up: median 1.10x, quartiles 0.90x to 1.20x of the baseline's speed, although"),
    ],
)
def test_speed_is_claimed_only_where_the_quartiles_agree(speedup, macs, start):
    median, q1, q3 = speedup
    text = words.speed({"median": median, "q1": q1, "q3": q3}, {"macs": 1000}, {"macs": macs})
    assert text.startswith(start)
    assert ("dense tensors" in text) == (macs == 1000)


def test_verdict_says_ratio_bytes_and_both_accuracies():
    numbers = {"baseline": {"params": 266610, "top1": 0.984}, "final": {"file_bytes": 26590, "top1": 0.985}}
    text = words.verdict({**numbers, "ratio": 40.106}).replace("\u00a0", " ")
    assert text == "40.1x smaller: 1,066,440 → 26,590 bytes; top-1 98.50 % (baseline 98.40 %, +0.10 points) on test"
    assert words.points(-0.012).replace("\u00a0", " ") == "−1.20 points"
    assert words.points(-0.00001).replace("\u00a0", " ") == "±0.00 points"


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_in_light_and_dark(real):
    html = write_report(real).read_text()
    light, dark = (
        [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL)]
    )[:2]
    for theme in (light, dark):
        for name in ("text", "quiet", "accent", "good", "bad"):
            for back in ("back", "soft"):
                assert contrast(theme[name], theme[back]) >= 4.5, (name, back)
        for colour in figures.PART_COLOURS.values():
            assert contrast(colour, theme["back"]) >= 3, colour


def test_a_teachers_term_in_the_training_loss_is_told(tmp_path):
    note, told = "stages with a teacher", "x the distance of the layers' outputs from the baseline's"
    for setting, teacher in (({}, False), ({"distill": 0.5}, True), ({"distill_layers": 0.25}, True)):
        folder = craft(tmp_path / "-".join(["run", *setting]))
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["steps"][-1]["train"] |= setting
        (folder / "metrics.json").write_text(json.dumps(metrics))
        text = page_of(folder).text
        assert (note in text) is teacher
        assert (f"0.25 {told}" in text) is ("distill_layers" in setting)
