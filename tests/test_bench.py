"""Networks and files side by side: what is measured is what was given, and equal ones are not told apart."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from netpress import bench as benching
from netpress.bench import Plan, bench, text, verdict
from netpress.cli import main
from netpress.errors import ModelError
from netpress.measure import Speedup, sides
from netpress.measure.latency import chance
from netpress.onnx_session import open_session
from netpress.peak import peak

PRESS = Path(__file__).parent / "golden" / "v1-small-network.press"  # images 1x8x8
FAST = Plan(batch=2, threads=1, rounds=7, turn_s=0)


def write(path: Path, inputs: str, body: str = "y = Relu(x)", output: str = "y") -> Path:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[n, a, b, c] {output}) {{ {body} }}""")
    onnx.save(model, path)
    return path


@pytest.fixture
def relu(tmp_path):
    return write(tmp_path / "relu.onnx", "float[n, 1, 8, 8] x")


def in_own_file(folder: Path) -> str:
    (folder / "mine.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())\n"
    )
    return f"{folder / 'mine.py'}:make"


def test_a_network_a_press_file_and_an_onnx_file_in_one_run(tmp_path, relu):
    specs = [in_own_file(tmp_path), str(PRESS), str(relu)]
    facts = bench(specs, FAST)  # the network does not know its shape: it takes the files'
    json.dumps(facts)
    own, press, other = facts["sides"]
    assert [side["name"] for side in facts["sides"]] == specs
    assert [side["kind"] for side in facts["sides"]] == ["network, as .onnx", ".press file", ".onnx file"]
    assert (press["file_bytes"], other["file_bytes"]) == (PRESS.stat().st_size, relu.stat().st_size)
    assert own["file_bytes"] > 4 * (2 * 9 + 2 + 8)
    assert (facts["input"], facts["type"], facts["rounds"]) == ([1, 8, 8], "float32", 7)
    assert [(part["batch"], part["threads"]) for part in facts["settings"]] == [(1, 1), (2, 1)]
    for part in facts["settings"]:
        assert [v["name"] for v in part["verdicts"]] == specs[1:]
        assert {v["against"] for v in part["verdicts"]} == {specs[0]}
        for timing in part["timings"].values():
            assert timing["min_ms"] <= timing["q1_ms"] <= timing["median_ms"] <= timing["q3_ms"]
            assert timing["images_per_s"] == pytest.approx(1000 * part["batch"] / timing["median_ms"])
            assert len(timing["samples_ms"]) == 7
    assert any("weights are those that it was built with" in note for note in facts["notes"])
    said = text(facts)
    for words in (*specs, "waiting threads sleep", "batch 2, 1 thread", "images/s", f"{facts['cores']} cores"):
        assert words in said


def test_one_side_alone_gets_no_verdict(relu):
    facts = bench([str(relu)], FAST)
    assert [part["verdicts"] for part in facts["settings"]] == [[], []]
    assert not re.search("faster|slower|difference", text(facts))


def test_both_numbers_of_threads_are_measured_and_named(relu, monkeypatch):
    monkeypatch.setattr(benching, "usable_cores", lambda: 2)
    facts = bench([str(relu)], Plan(batch=1, rounds=7, turn_s=0))
    assert [(part["batch"], part["threads"]) for part in facts["settings"]] == [(1, 1), (1, 2)]
    assert "batch 1, 2 threads" in text(facts)


def test_more_work_is_slower_and_the_same_file_twice_has_two_names(tmp_path, relu):
    chain = "\n".join(f"y{i} = Exp(y{i - 1})" for i in range(1, 200))
    long = write(tmp_path / "long.onnx", "float[n, 1, 8, 8] x", f"y0 = Relu(x)\n{chain}", "y199")
    facts = bench([str(relu), str(long), str(long)], Plan(batch=1, threads=1, rounds=7, turn_s=0.005))
    assert [side["name"] for side in facts["sides"]] == [str(relu), str(long), f"{long} (2)"]
    (part,) = facts["settings"]
    assert [f"is {1 / v['median']:.2f}x slower than {relu}" in v["text"] for v in part["verdicts"]] == [True, True]
    assert all(v["median"] < 0.5 for v in part["verdicts"])


@given(st.floats(0.02, 50), st.floats(1, 2), st.floats(1, 2))
def test_a_verdict_needs_both_quartiles_on_one_side(median, below, above):
    ratio = Speedup(median, median / below, median * above)
    said = verdict("a", "b", ratio)
    printed = [float(n) for n in re.findall(r"\d+\.\d\d", said)]
    if said.startswith("no difference"):
        assert ratio.q1 < 1.0051
        assert ratio.q3 > 0.9949
    else:
        assert min(printed) >= 1
        assert printed[1] <= printed[0] <= printed[2]
        assert ("faster" in said) == (median > 1)


def test_the_chance_of_a_false_verdict_is_that_of_coins():
    coins = np.random.default_rng(0).integers(0, 2, (20_000, 9)).astype(float)
    q1, q3 = np.quantile(coins, [0.25, 0.75], axis=1)
    assert ((q1 == 1) | (q3 == 0)).mean() == pytest.approx(chance(9), abs=0.01)
    assert chance(Plan().rounds) < benching.LIKELY < chance(9)


def test_few_rounds_are_named(relu):
    notes = bench([str(relu), str(relu)], FAST)["notes"]
    assert any("with 7 rounds, chance alone" in note for note in notes)
    assert not any("chance" in note for note in bench([str(relu)], FAST)["notes"])


def test_a_busy_machine_is_named(monkeypatch, relu):
    monkeypatch.setattr(benching.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert any("busy" in note and "99.0" in note for note in bench([str(relu)], FAST)["notes"])
    monkeypatch.setattr(benching.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert not any("busy" in note for note in bench([str(relu)], FAST)["notes"])


def test_a_fixed_batch_is_measured_alone_and_said(tmp_path):
    one = write(tmp_path / "one.onnx", "float[1, 1, 8, 8] x")
    facts = bench([str(one), str(PRESS)], FAST)
    assert [part["batch"] for part in facts["settings"]] == [1]
    assert f"{one} takes 1 images per call, not 2" in facts["notes"]


def test_bytes_beside_an_onnx_file_count(tmp_path, capsys):
    weights = onnx.numpy_helper.from_array(np.ones((1, 1, 8, 8), np.float32), "w")
    path = write(tmp_path / "outside.onnx", "float[n, 1, 8, 8] x", "y = Mul(x, w)")
    model = onnx.load(path)
    model.graph.initializer.append(weights)
    onnx.save(model, path, save_as_external_data=True, location="outside.data", size_threshold=0)
    (side,) = bench([str(path)], FAST)["sides"]
    assert side["file_bytes"] == path.stat().st_size + 4 * 64
    (tmp_path / "outside.data").unlink()
    assert_one_line([str(path)], ["outside.onnx", "outside.data", "not beside it"], capsys)


def test_open_sizes_are_taken_from_the_option_or_from_another_side(tmp_path):
    path = write(tmp_path / "open.onnx", "float[n, 1, h, w] x")
    assert bench([str(path)], Plan(shape=(1, 5, 7), batch=1, threads=1, rounds=7, turn_s=0))["input"] == [1, 5, 7]
    assert bench([str(PRESS), str(path)], FAST)["input"] == [1, 8, 8]


def test_pixels_are_fed_to_what_takes_pixels(tmp_path):
    path = write(tmp_path / "pixels.onnx", "uint8[n, 1, 8, 8] x", "y = Cast<to = 1>(x)")
    assert bench([str(path)], FAST)["type"] == "uint8"


def test_activations_of_fresh_networks_stay_normal_numbers():
    torch.manual_seed(0)
    layers = [part for _ in range(40) for part in (nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))]
    net = nn.Sequential(*layers).eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert net(x).abs().max() < 1e-5
        sides._settle(net, (4, 8, 8))
        assert 0.1 < net(x).std() < 10
    assert not any(module.training for module in net.modules())


# --- memory ---


def resident_bytes() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's memory")
def test_peak_memory_is_the_network_s_own(tmp_path, relu):
    width = 2000  # 16 MB of weights
    path = write(tmp_path / "large.onnx", "float[n, 1, 1, 2000] x", "y = MatMul(x, w)")
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((width, width), np.float32), "w"))
    onnx.save(model, path)
    ballast = np.ones(300_000_000 // 8)  # what this process holds is not counted
    large, small = peak(path, (1, 1, 1, width)), peak(relu, (1, 1, 8, 8))
    assert resident_bytes() > ballast.nbytes > large.process_bytes
    assert large.network_bytes - small.network_bytes > 4 * width**2
    assert small.process_bytes > 10 * 1000**2
    assert 4 * width**2 > small.network_bytes > 0  # a session of a tiny network takes about 10 MB, more or less


def test_where_the_system_does_not_tell_nothing_is_made_up(relu, monkeypatch):
    monkeypatch.setattr("netpress.peak._STATUS", Path("nowhere"))
    facts = bench([str(relu)], FAST)
    assert facts["sides"][0]["peaks"] == []
    assert re.search(r"relu.onnx +\.onnx file +\d+ +- +- +- +-", text(facts))


def test_a_process_that_fails_is_one_line(relu):
    with pytest.raises(ModelError, match=r"relu.onnx does not run on an input of shape \(1, 3\)") as caught:
        peak(relu, (1, 3))
    assert "\n" not in str(caught.value)


def test_a_file_beside_the_user_is_no_module(tmp_path, relu, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert peak(relu, (1, 1, 8, 8)) is not None


def test_waiting_threads_sleep(relu):
    options = open_session(relu, threads=1).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


# --- mistakes ---


def assert_one_line(words, said, capsys):
    assert main(["bench", "--quiet", *words]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    (line,) = streams.err.splitlines()
    assert line.startswith("netpress: ")
    assert [part for part in said if part not in line] == []


BAD = [
    (["{tmp}/none.onnx"], ["none.onnx", "no such file"]),
    (["{tmp}/none.press"], ["none.press", "no such file"]),
    (["{text}"], ["text.onnx", "not an ONNX model"]),
    (["{empty}"], ["empty.onnx", "not an ONNX model"]),
    (["{wrong}"], ["wrong.onnx", "ONNX Runtime does not open it"]),
    (["{cut}"], ["cut.press"]),
    (["{tmp}/weights.pt"], ["weights.pt", "pack weights first"]),
    (["lenet6"], ["did you mean 'lenet5'"]),
    (["torchvision:resnet18"], ["torchvision:resnet18", "--input 3x224x224"]),
    (["{open}"], ["open.onnx", "1x?x?", "--input"]),
    (["{two}"], ["two.onnx", "expected one input", "other"]),
    (["{words}"], ["words.onnx", "expected one input", "tensor(string)"]),
    (["{press}", "{wide}"], ["takes 1x8x8 float32", "takes 1x9x9 float32", "same input"]),
    (["{press}", "{pixels}"], ["takes 1x8x8 float32", "takes 1x8x8 uint8"]),
    (["{press}", "--input", "3x32x32"], ["takes images of 1x8x8", "--input says 3x32x32"]),
    (["{wide}", "--input", "1x8x8"], ["takes images of 1x9x9", "--input says 1x8x8"]),
    (["{wide}", "--input", "9x9"], ["takes images of 1x9x9", "--input says 9x9"]),
    (["{press}", "--input", "0x8x8"], ["--input 0x8x8", "at least 1"]),
    (["{press}", "--batch", "0"], ["--batch must be at least 1, got 0"]),
    (["{press}", "--threads", "0"], ["--threads must be at least 1, got 0"]),
    (["{press}", "--threads", "9999"], ["--threads 9999", "cores"]),
    (["{press}", "--rounds", "0"], ["--rounds must be at least 7, got 0"]),
    (["{three}", "--batch", "4"], ["three.onnx takes 3 images per call, not 1 or 4", "--batch"]),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_a_mistake_is_one_line(tmp_path, capsys, words, said):
    places = {"press": PRESS, "tmp": tmp_path, "cut": tmp_path / "cut.press"}
    places["cut"].write_bytes(PRESS.read_bytes()[:-7])
    for name, content in (("text", b"# no model\n"), ("empty", b"")):
        places[name] = tmp_path / f"{name}.onnx"
        places[name].write_bytes(content)
    for name, inputs, body in (
        ("open", "float[n, 1, h, w] x", "y = Relu(x)"),
        ("two", "float[n, 1, 8, 8] x, float[n, 1, 8, 8] other", "y = Add(x, other)"),
        ("words", "string[n, 1, 8, 8] x", "y = Cast<to = 1>(x)"),
        ("wide", "float[n, 1, 9, 9] x", "y = Relu(x)"),
        ("pixels", "uint8[n, 1, 8, 8] x", "y = Cast<to = 1>(x)"),
        ("three", "float[3, 1, 8, 8] x", "y = Relu(x)"),
        ("wrong", "float[n, 1, 8, 8] x", "y = NoSuchOperation(x)"),
    ):
        places[name] = write(tmp_path / f"{name}.onnx", inputs, body)
    assert_one_line([word.format(**places) for word in words], said, capsys)


def test_without_a_side_the_usage_is_said(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["bench"])
    assert caught.value.code == 2
    assert "SIDE" in capsys.readouterr().err


def test_the_verb(tmp_path, capsys, relu):
    copy = shutil.copy(PRESS, tmp_path / "small.press")
    words = ["bench", str(relu), str(copy), "--batch", "1", "--threads", "1", "--rounds", "7"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"][0]["verdicts"][0]["name"] == str(copy)
    assert main([*words, "--quiet"]) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    assert re.search(r"batch 1, 1 thread: (.*small\.press is \d|no difference)", streams.out)
