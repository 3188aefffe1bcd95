"""The command line: each verb once, and each mistake as one line with its exit code and nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from netpress.cli import main

QUICK = [
    "--set=baseline.epochs=2",
    "--set=step.0.train.epochs=1",
    "--set=step.1.train.epochs=1",
    "--set=step.0.sparsity=0.8",
    "--set=network.name=lenet-300-100",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", "demo", "--out", str(out), "--quiet", "--set=budget.max_drop=100", *QUICK]) == 0
    return out


def test_a_run_leaves_what_it_promises(folder):
    names = {p.name for p in folder.iterdir()}
    assert names >= {"recipe.toml", "model.press", "model.onnx", "metrics.json", "report.html", "log.jsonl"}
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["final"]["file_bytes"] == (folder / "model.press").stat().st_size
    assert numbers["ratio"] == 4 * numbers["baseline"]["params"] / numbers["final"]["file_bytes"] > 5


def test_a_second_run_does_nothing_again(folder, capsys):
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/candidate.press")}
    assert main(["run", "demo", "--out", str(folder), "--set=budget.max_drop=100", *QUICK]) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/candidate.press")} == before
    assert capsys.readouterr().err.count("finished before") == 3


def test_a_missed_budget_is_exit_code_1(folder, capsys):
    assert main(["run", "demo", "--out", str(folder), "--set=budget.max_size=9B", *QUICK]) == 1
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "{press}"], "header and graph"),
        (["check", "{press}"], "graph: runs"),
        (["check", "{press}", "--data", "digits"], "same_top1: 1.0"),
        (["measure", "{press}", "--data", "digits"], "top1"),
        (["measure", "lenet5"], "2,293,000"),
        (["unpack", "{press}", "--out", "{tmp}/t.npz"], "6 tensors"),
        (["unpack", "{press}", "--out", "{tmp}/t.safetensors"], "6 tensors"),
        (["export", "{press}", "--out", "{tmp}/m.onnx"], "bytes"),
        (["list"], "condensenet-mnist-vanilla"),
        (["list", "recipes"], "deep-compression-lenet-5"),
        (["show", "demo"], "weight_prune"),
        (["show", "weight_share"], "2^bits"),
        (["show", "lenet5"], "431,080"),
        (["list", "models"], "condensenet-mnist-1"),
        (["measure", "lenet5", "--set", "hidden=[50]"], "params: 66,130"),
        (["measure", "lenet5", "--input", "3x32x32", "--json"], '"params": 657080'),
        (["show", "lenet5", "--channels"], "network output"),
        (["check", "demo"], "01-weight_prune"),
        (["report", "{run}"], "report.html"),
        (["reproduce", "sizes", "--out", "{tmp}/sizes"], "sizes.html"),
        (["diff", "{run}/00-baseline/candidate.press", "{press}"], "free -> shared"),
        (["diff", "{run}", "{run}"], "final validation top-1 %"),
        (["doctor"], "all that is needed works"),
        (["completion", "bash"], "complete -o bashdefault"),
    ],
)
def test_each_verb(folder, tmp_path, capsys, words, said):
    places = {"press": folder / "model.press", "run": folder, "tmp": tmp_path}
    assert main([w.format(**places) for w in words]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "{press}"],
        ["check", "{press}"],
        ["measure", "lenet5"],
        ["list"],
        ["show", "demo"],
        ["show", "lenet5"],
        ["diff", "{press}", "{press}"],
        ["doctor"],
    ],
)
def test_json_is_one_object(folder, capsys, words):
    assert main([*(w.format(press=folder / "model.press") for w in words), "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_inspect_accounts_for_every_byte(folder, capsys):
    main(["inspect", str(folder / "model.press"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    parts = [sum(t["parts"].values()) for t in facts["tensors"]]
    assert parts == [t["bytes"] for t in facts["tensors"]]
    assert sum(parts) + facts["overhead_bytes"] == (folder / "model.press").stat().st_size


def test_packing_what_was_unpacked_gives_the_same_network(folder, tmp_path, capsys):
    main(["unpack", str(folder / "model.press"), "--out", str(tmp_path / "w.npz")])
    assert (
        main(["pack", "lenet-300-100", "--weights", str(tmp_path / "w.npz"), "--out", str(tmp_path / "a.press")]) == 0
    )
    main(["unpack", str(tmp_path / "a.press"), "--out", str(tmp_path / "again.npz")])
    with np.load(tmp_path / "w.npz") as a, np.load(tmp_path / "again.npz") as b:
        assert sorted(a.files) == sorted(b.files)
        assert all(a[n].tobytes() == b[n].tobytes() for n in a.files)


def test_train_and_compress_an_own_network(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))\n"
    )
    spec = f"{tmp_path / 'mine.py'}:make"
    train = ["train", spec, "--data", "digits", "--out", str(tmp_path / "t"), "--set=baseline.epochs=3", "--quiet"]
    assert main(train) == 0
    main(["unpack", str(tmp_path / "t" / "model.press"), "--out", str(tmp_path / "w.npz")])
    words = ["compress", spec, "--data", "digits", "--weights", str(tmp_path / "w.npz"), "--recipe", "share"]
    words += ["--out", str(tmp_path / "c"), "--set=step.0.train.epochs=1", "--quiet", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    numbers = json.loads(capsys.readouterr().out)
    trained = json.loads((tmp_path / "t" / "metrics.json").read_text())
    assert numbers["baseline"]["top1"] == trained["final"]["top1"]
    assert numbers["final"]["file_bytes"] < numbers["baseline"]["file_bytes"] / 4


def test_more_classes_or_other_images_than_the_zoo_network_was_made_for(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), np.uint8)
    y = np.arange(60) % 12
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = [
        "train",
        "lenet5",
        "--data",
        f"npz:{tmp_path / 'd.npz'}",
        "--out",
        str(tmp_path / "t"),
        "--quiet",
        "--json",
    ]
    assert main([*words, "--set=baseline.epochs=1"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"]["layers"][-1]["shape"] == [12]


BAD = [
    (["run", "nope", "--out", "{tmp}/x"], 2, "unknown recipe 'nope'"),
    (["run", "deep-compresion", "--out", "{tmp}/x"], 2, "did you mean 'deep-compression'"),
    (["run", "deep-compression", "--data", "digits", "--out", "{tmp}/x"], 2, "no network"),
    (["compress", "lenet6", "--data", "digits", "--out", "{tmp}/x"], 2, "did you mean 'lenet5'"),
    (["compress", "lenet5", "--data", "digit", "--out", "{tmp}/x"], 2, "did you mean 'digits'"),
    (["compress", "torchvision:nothing", "--data", "digits", "--out", "{tmp}/x"], 2, "torchvision"),
    (["compress", "{tmp}/no.py:make", "--data", "digits", "--out", "{tmp}/x"], 2, "no such file"),
    (["compress", "elsewhere:lenet5", "--data", "digits", "--out", "{tmp}/x"], 2, "path.py:factory"),
    (["compress", "lenet5", "--data", "digits", "--weights", "{tmp}/w.npz", "--out", "{tmp}/x"], 2, "no such file"),
    (["compress", "lenet5", "--data", "digits", "--max-size", "3 cows", "--out", "{tmp}/x"], 2, "unit 'cows'"),
    (["compress", "lenet5", "--data", "digits", "--max-drop", "-1", "--out", "{tmp}/x"], 2, "greater than or equal"),
    (["search", "lenet5", "--data", "digits", "--out", "{tmp}/x"], 2, "a search needs a limit"),
    (["search", "lenet5", "--data", "digits", "--max-macs", "5 cows", "--out", "{tmp}/x"], 2, "unit 'cows'"),
    (["search", "lenet5", "--data", "digits", "--max-macs", "half", "--out", "{tmp}/x"], 2, "budget.max_macs"),
    (["search", "lenet5", "--data", "digits", "--max-drop", "1", "--sampler", "tep", "--out", "{tmp}/x"], 2, "tpe"),
    (["search", "lenet5", "--data", "digits", "--max-drop", "1", "--trials", "0", "--out", "{tmp}/x"], 2, "trials"),
    (["search", "lenet5", "--data", "digits", "--max-drop", "1", "--minutes", "0", "--out", "{tmp}/x"], 2, "minutes"),
    (["search", "lenet5", "--data", "digits", "--max-drop", "1", "--workers", "0", "--out", "{tmp}/x"], 2, "workers"),
    (
        ["search", "lenet5", "--data", "digits", "--max-drop", "1", "--set", "rung=[1]", "--out", "{tmp}/x"],
        2,
        "'rungs'",
    ),
    (["search", "lenet5", "--data", "digits", "--max-drop", "1", "--executor", "rai", "--out", "{tmp}/x"], 2, "inline"),
    (["search", "lenet5", "--data", "digits", "--max-drop", "1", "--nproc", "2", "--out", "{tmp}/x"], 2, "--workers"),
    (["search", "lenet5", "--data", "digits", "--max-macs", "1%", "--out", "{tmp}/x", "--dry-run"], 1, "out of reach"),
    (
        [
            "search",
            "lenet5",
            "--data",
            "digits",
            "--max-drop",
            "1",
            "--executor",
            "ray://localhost:1",
            "--out",
            "{tmp}/x",
        ],
        2,
        "no Ray cluster answers at ray://localhost:1",
    ),
    (["run", "demo", "--out", "{tmp}/x", "--set", "step.0.sparsity=1.5"], 2, "less than 1"),
    (["run", "demo", "--out", "{tmp}/x", "--set", "step.0.sparcity=0.5"], 2, "did you mean 'sparsity'"),
    (["run", "demo", "--out", "{tmp}/x", "--set", "step.9.sparsity=0.5"], 2, "no place"),
    (["run", "demo", "--out", "{tmp}/x", "--set", "nonsense"], 2, "key=value"),
    (["run", "demo", "--out", "{tmp}/x", "--device", "cuda"], 2, "GPU"),
    (["run", "demo"], 2, "--out"),
    (["frobnicate"], 2, "invalid choice"),
    (["inspect", "{tmp}/none.press"], 2, "none.press"),
    (["inspect", "{readme}"], 2, "not a .press file"),
    (["check", "{cut}"], 2, "cut"),
    (["unpack", "{press}", "--out", "{tmp}/t.pkl"], 2, ".safetensors"),
    (["show", "nothing"], 2, "no recipe, method or network"),
    (["report", "{tmp}/none"], 2, "none"),
    (["pack", "lenet5", "--weights", "{readme}", "--out", "{tmp}/a.press"], 2, "weights must be one of"),
    (["measure", "{readme}"], 2, "unknown network"),
    (["diff", "{tmp}/none.press", "{press}"], 2, "no such file or folder"),
    (["diff", "{press}", "{readme}"], 2, "not a .press file"),
    (["diff", "{cut}", "{press}"], 2, "cut"),
    (["diff", "{press}", "{newer}"], 2, "newer version"),
    (["diff", "{tmp}", "{run}"], 2, "no run folder"),
    (["diff", "{run}", "{press}"], 2, "name two of one kind"),
    (["diff", "{press}"], 2, "B"),
    (["completion", "tcsh"], 2, "invalid choice"),
    (["completion"], 2, "shell"),
    (["doctor", "now"], 2, "unrecognized"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_a_mistake_is_one_line_and_leaves_nothing(folder, tmp_path, capsys, words, code, said):
    press = folder / "model.press"
    cut = tmp_path.parent / f"{tmp_path.name}-cut.press"
    cut.write_bytes(press.read_bytes()[:-7])
    newer = cut.with_name(f"{tmp_path.name}-newer.press")
    newer.write_bytes(press.read_bytes()[:8] + b"\x63" + press.read_bytes()[9:])
    places = {"tmp": tmp_path, "press": press, "run": folder, "cut": cut, "newer": newer}
    places["readme"] = Path(__file__).parent.parent / "README.md"
    try:
        got = main([w.format(**places) for w in words])
    except SystemExit as error:  # argparse's own complaints
        got = error.code
    streams = capsys.readouterr()
    assert (got, streams.out) == (code, "")
    assert said in streams.err
    assert streams.err.count("\n") == 1, streams.err
    assert list(tmp_path.iterdir()) == []


def test_another_network_in_the_same_folder_is_refused_and_nothing_is_lost(folder, capsys):
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file())
    assert main(["run", "demo", "--out", str(folder), "--quiet"]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()) == before


def test_a_folder_of_somebody_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["run", "demo", "--out", str(tmp_path), "--quiet", "--fresh"]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_interrupted_it_says_how_to_go_on(tmp_path):
    words = [
        sys.executable,
        "-m",
        "netpress.cli",
        "run",
        "demo",
        "--out",
        str(tmp_path / "r"),
        "--set=baseline.epochs=500",
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for _ in range(600):
        if list(tmp_path.glob("r/00-baseline/checkpoint.safetensors")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().endswith("the same command goes on where this one ended")
    assert "Traceback" not in err


def test_a_bare_install_names_what_is_missing():
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'pydantic', 'rich', 'safetensors', 'onnx'):\n"
        "            raise ModuleNotFoundError('no', name=name.split('.')[0])\n"
        "sys.meta_path.insert(0, Block())\n"
        "from netpress.cli import main\n"
        "sys.exit(main(['demo']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'netpress[compress]'" in done.stderr
    assert done.stderr.count("\n") == 1
