"""What the papers print against what is counted: the verdicts, the rows, the files."""

import csv
import io
import json
import re
import runpy
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netpress import reproduce
from netpress.errors import FileError, RecipeError
from netpress.reproduce import papers, tables
from netpress.reproduce.counting import UNITS
from netpress.reproduce.verdict import VERDICTS, Verdict, judge, read

EXACT = Verdict("exact")


# --- verdicts ---


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("3,423,498", "3423498"),
        ("61100840", "61100840"),
        ("5x5x1x64+64", "1664"),
        ("1x1x16x96+3x3x16x32+128", "6272"),
        ("28x28x64", "50176"),
        ("16/4x11x11x32", "15488"),
        ("9 x 4 Bytes", "36"),
        ("62.3M", "62.3"),
        ("0.375 MB", "0.375"),
        ("almost 45x", "45"),
        ("factor of 49", "49"),
        ("half", "0.5"),
        ("9 bits", "9"),
    ],
)
def test_printed_numbers_are_read(printed, value):
    assert read(printed).value == Decimal(value)


@pytest.mark.parametrize("printed", ["", "many", "1.2.3", "12 apples", "x12", "3,4M5", "-7%"])
def test_what_is_no_number_is_refused(printed):
    with pytest.raises(ValueError, match="no number is printed"):
        read(printed)


@pytest.mark.parametrize(
    ("printed", "ours", "verdict"),
    [
        ("3,423,498", 3_423_498, EXACT),
        ("3,423,498", 3_423_497, Verdict("differs", "-1")),
        ("3,423,500", 3_423_498, Verdict("differs", "-2")),  # nothing says that a plain number was rounded
        ("28x28x64", 50_176, EXACT),
        ("9 bits", 9, EXACT),
        ("4 times", 4.0, EXACT),
        ("62.3M", 62_378_344, Verdict("rounded", "truncated")),
        ("62.4M", 62_378_344, Verdict("rounded", "rounded")),
        ("62.2M", 62_378_344, Verdict("differs", "+0.29 %")),
        ("62.30M", 62_300_000, EXACT),
        ("34.9K", 34_944, Verdict("rounded", "rounded")),
        ("65.81 million", 65_816_394, Verdict("rounded", "truncated")),
        ("0.38 MB", 381_544, Verdict("rounded", "rounded")),
        ("0.368 MB", 369_512, Verdict("differs", "+0.41 %")),
        ("450MB", 553_430_176, Verdict("differs", "+22.98 %")),
        ("50MB", 53_513_120, Verdict("rounded", "to tens")),
        ("51MB", 53_513_120, Verdict("differs", "+4.93 %")),
        ("50.0MB", 53_513_120, Verdict("differs", "+7.03 %")),  # a digit after the point is a digit
        ("94%", 0.93993, Verdict("rounded", "rounded")),
        ("89.6%", 0.893647, Verdict("differs", "-0.26 %")),
        ("25 percent", 0.25, EXACT),
        ("45x", 45.704, Verdict("rounded", "truncated")),
        ("almost 45x", 45.704, Verdict("rounded", "truncated")),
        ("1.85 times", 1.85756, Verdict("rounded", "truncated")),
        ("half", 0.5297, Verdict("rounded", "rounded")),
        ("over 80%", 0.8885, Verdict("rounded", "the bound holds")),
        ("over 80%", 0.8, Verdict("differs", "the bound is missed")),
        ("less than 3.0 MB", 2_999_999, Verdict("rounded", "the bound holds")),
        ("less than 3.0 MB", 3_000_000, Verdict("differs", "the bound is missed")),
        ("25 percent", None, Verdict("differs", "no count of ours")),
    ],
)
def test_verdicts(printed, ours, verdict):
    assert judge(printed, ours) == verdict


@given(st.integers(0, 10**9))
def test_a_count_agrees_with_itself_however_it_is_printed(count):
    assert judge(f"{count:,}", count) == EXACT
    for text in (f"{count / 1e6:.2f}M", f"{count / 1e3:.0f}K", f"{count // 10**4 / 100:.2f}M"):
        assert judge(text, count).verdict in ("exact", "rounded"), text


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_two_counts_agree_only_where_they_are_one(a, b):
    assert (judge(f"{a:,}", b).verdict == "exact") == (a == b)
    assert judge(f"{a:,}", b).verdict in ("exact", "differs")


# --- the data file ---


def test_every_printed_number_can_be_read_and_has_its_place():
    every = papers.claims()
    assert len(every) == len({claim.key for claim in every}) > 200
    assert list(dict.fromkeys(claim.paper for claim in every)) == list(papers.titles())
    for claim in every:
        read(claim.printed)
        assert claim.where
        assert claim.what


def test_numbers_of_the_text_are_there():
    printed = {claim.key: claim.printed for claim in papers.claims()}
    text = {"94%", "89.6%", "72.9 times", "1.85 times", "45x", "32 times", "4.43M", "7.3%", "6.7M", "less than 3.0 MB"}
    assert text <= set(printed.values())
    assert printed["sep-net/pruning/alexnet/ref"] == "61M"
    assert printed["condensenext/condensenext/operations"] == "23.80 million"


def test_the_data_file_is_what_its_maker_makes(data_root):
    tables_of_the_papers = data_root.parent / "reference" / "seed_tables.json"
    if not tables_of_the_papers.is_file():
        pytest.skip(f"no {tables_of_the_papers}")
    root = Path(__file__).parent.parent
    maker = runpy.run_path(str(root / "benchmarks" / "paper_numbers.py"))
    made = maker["text"](json.loads(tables_of_the_papers.read_text()))
    assert made == (root / "netpress" / "reproduce" / "papers.json").read_text()


# --- the rows ---


@pytest.fixture(scope="module")
def rows():
    start = time.perf_counter()
    found = reproduce.sizes()
    assert time.perf_counter() - start < 60
    return found


@pytest.fixture(scope="module")
def by_key(rows):
    return {claim.key: row for claim, row in zip(papers.claims(), rows, strict=True)}


def test_every_row_has_the_verdict_of_its_numbers(rows):
    assert len(rows) == len(papers.claims())
    for row in rows:
        assert row.verdict in VERDICTS
        assert judge(row.printed, row.ours) == Verdict(row.verdict, row.how)
        assert row.unit in UNITS


def test_every_difference_has_a_reason(rows):
    assert [row.what for row in rows if row.verdict == "differs" and len(row.reason) < 20] == []


def test_how_many_rows_agree(rows):
    assert tables.counts(rows) == {"exact": 119, "rounded": 80, "differs": 25}


def test_which_rows_differ(by_key):
    differing = {key for key, row in by_key.items() if row.verdict == "differs"}
    mnist = {f"condensenet-mnist/{name}/memory" for name in ("vanilla-condensenet", "condensenet-2", "condensenet-3")}
    trio = {f"condensenext/condensenext/{what}" for what in ("operations", "params", "size")}
    shares = {f"condensenext/{key}" for key in ("depthwise/params", "pruning/flops", "pruning/params")}
    vgg = {f"sep-net/vgg/{key}" for key in ("fc14", "conv", "conv-share", "fc-share", "size")}
    quoted = {"squeezenet/510x", "squeezenet/pruned-macs", "filter-pruning/vgg16", "filter-pruning/smaller"}
    sizes = {f"sep-net/{net}/size" for net in ("mobilenet-1.3m", "mobilenet-2.6m", "squeezenet", "sep-net-bq-small")}
    others = {"sep-net/group/dense", "sep-net/group/grouped", "sep-net/pruning/vgg-16/pruned"}
    assert differing == mnist | trio | shares | vgg | quoted | sizes | others


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("condensenet-mnist/initial-model/params", 3_423_498),
        ("condensenet-mnist/condensenet-2/params", 74_906),
        ("condensenet-mnist/vanilla-condensenet/memory", 376_168),
        ("condensenet-mnist/condensenet-3/memory", 375_400),
        ("condensenet-mnist/condensenet-2/reduction", 45.7039),
        ("condensenet-mnist/filter", 9),
        ("squeezenet/alexnet", 61_100_840),
        ("squeezenet/pct_3x3=1.0", 354_184),
        ("squeezenet/50x", 48.9424),
        ("squeezenet/72.9", 72.9106),
        ("squeezenet/1.85", 1.85756),
        ("squeezenet/1.63", 1.63129),
        ("squeezenet/pruned-conv", 2.69722),
        ("squeezenet/pruned-fc", 9.88343),
        ("filter-pruning/vgg16", 52.6869),
        ("filter-pruning/mobilenet", 32.6934),
        ("condensenext/condensenet/operations", 65_816_394),
        ("condensenext/condensenet/params", 520_202),
        ("condensenext/condensenext/operations", 23_854_922),
        ("condensenext/condensenext/params", 142_482),
        ("condensenext/depthwise/flops", 0.0729691),
        ("sep-net/alexnet/total", 62_378_344),
        ("sep-net/alexnet/conv", 3_747_200),
        ("sep-net/alexnet/fc", 58_631_144),
        ("sep-net/alexnet/size", 249_513_376),
        ("sep-net/vgg/total", 138_357_544),
        ("sep-net/vgg/conv", 14_714_688),
        ("sep-net/vgg/fc14", 102_760_448),
        ("sep-net/googlenet/size", 53_513_120),
        ("sep-net/googlenet/params", 6_990_272),
        ("sep-net/googlenet/binarized", 4_425_424),
        ("sep-net/group/dense", 4_608),
        ("sep-net/group/grouped", 1_152),
        ("sep-net/pruning/lenet-300-100/pruned", 21_776),
        ("sep-net/pruning/lenet-5/pruned", 36_280),
        ("sep-net/pruning/alexnet/pruned", 6_796_192),
        ("sep-net/pruning/vgg-16/pruned", 10_532_392),
        ("sep-net/c-inception/binarized", 2_434_328),
        ("sep-net/mobilenet-1.3m/params", 1_331_592),
        ("sep-net/mobilenet-2.6m/params", 2_585_560),
        ("sep-net/sep-net-r-large/params", 1_671_816),
        ("sep-net/sep-net-b-small/params", 1_052_960),
        ("sep-net/sep-net-bq-small/size", 1_076_936),
    ],
)
def test_our_numbers(by_key, key, ours):
    assert by_key[key].ours == pytest.approx(ours, rel=1e-5 if isinstance(ours, float) else 0)


def test_what_cannot_run_has_the_network_that_runs_beside_it(by_key):
    assert {key.partition("/")[2]: row.runnable for key, row in by_key.items() if row.runnable is not None} == {
        "base_e=64": 607_304,
        "base_e=192": 1_116_872,
        "base_e=256": 1_443_848,
        "incr_e=64": 405_544,
        "incr_e=192": 1_436_392,
        "incr_e=256": 2_200_648,
        "freq=1": 2_658_952,
        "freq=3": 488_120,
        "freq=4": 308_488,
    }


def test_reconstructions_and_what_cannot_be_reproduced_are_named_so(by_key):
    for key, row in by_key.items():
        if re.match(r"sep-net/(c-inception|sep-net)", key):
            assert row.label == "reconstruction", key
            assert row.reason.startswith("reconstruction: the slides print totals"), key
        if re.match(r"condensenext/(condensenext|bound|pruning)", key):
            assert row.label == "not reproducible", key
            assert row.reason.startswith("not reproducible: "), key
    assert by_key["condensenext/depthwise/flops"].label == "fitted afterwards"
    labelled = [row for row in by_key.values() if row.label]
    page, text = tables.to_html(labelled), tables.text(labelled)
    for label in ("reconstruction", "not reproducible", "fitted afterwards"):  # in the row, not only in a note
        assert re.search(rf"^.* (exact|rounded|differs)\b.*, {label}", text, re.MULTILINE)
        assert re.search(rf"verdict-cell.*, {label}</td>", page)


# --- the result and its files ---


def test_run_writes_both_files_and_says_the_same_everywhere(tmp_path, rows):
    said = []
    result = reproduce.run("sizes", out=tmp_path / "new" / "folder", progress=lambda *what: said.append(what))
    assert result.rows == rows
    assert [path.name for path in result.paths] == ["sizes.csv", "sizes.html"]
    assert said[-1][1:3] == (5, 5)
    assert result.summary == "224 numbers: 119 exact, 80 rounded, 25 differ"
    assert result.text().splitlines()[-1] == result.summary
    plain = json.loads(json.dumps(result.plain()))
    assert len(plain["rows"]) == 224
    assert plain["counts"]["differs"] == 25
    assert json.loads(reproduce.to_json(rows))["rows"] == plain["rows"]


def test_the_csv_has_every_row_unrounded(rows):
    read_back = list(csv.DictReader(io.StringIO(tables.to_csv(rows))))
    assert [line["printed"] for line in read_back] == [row.printed for row in rows]
    assert [line["verdict"] for line in read_back] == [row.verdict for row in rows]
    assert [float(line["ours"]) if line["ours"] else None for line in read_back] == [row.ours for row in rows]


def test_the_page_has_every_row_and_loads_nothing(rows):
    page = tables.to_html(rows)
    assert page.count("<tr data-verdict=") == len(rows)
    assert page.count('class="missed verdict-cell"') == 25
    assert not re.search(r"(src|href)=[\"']?[^\"'#]|url\(|https?:", page)
    assert "1.2 &lt; 3" in tables.to_html([replace(rows[0], reason="1.2 < 3")])


def test_the_text_repeats_no_note(rows):
    text = tables.text(rows)
    assert text.count("1,116,872") == 1
    assert text.count("so that cannot run") == 1  # noted once for nine rows
    assert max(map(len, (line for line in text.splitlines() if not line.startswith("[")))) < 200


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(RecipeError, match="'speeds'; there is sizes"):
        reproduce.run("speeds")


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path, rows):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot make the folder") as caught:
        reproduce.write(rows, tmp_path / "file")
    assert "\n" not in str(caught.value)
