"""The main job on real MNIST, short; and the runtime without PyTorch on all 10,000 test images."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

import netpress as nxp
from netpress.train import logits

SHORT = {
    "baseline.epochs": "3",
    "step.0.sparsity": "{ fc1 = [0.8, 0.93], fc2 = [0.7, 0.9], fc3 = [0.3, 0.5] }",
    "step.0.train.epochs": "2",
    "step.1.train.epochs": "1",
}

CLASSIFY = """
import gzip, sys
import numpy as np
{block}
from netpress.runtime import Session
raw = gzip.decompress(open(sys.argv[2], "rb").read())
x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
session = Session(sys.argv[1])
found = np.concatenate([session.run(x[i : i + 500]).argmax(1) for i in range(0, len(x), 500)])
assert "torch" not in sys.modules
print(" ".join(map(str, found.tolist())))
"""
BLOCK = """
class Block:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "onnx", "pydantic", "lightning_fabric"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module")
def mnist(data_root):
    if not (data_root / "mnist").is_dir():
        pytest.skip("no MNIST below the data root")
    return data_root


@pytest.fixture(scope="module")
def run(mnist, tmp_path_factory):
    out = tmp_path_factory.mktemp("mnist") / "run"
    options = nxp.Options(data_root=str(mnist))
    return nxp.run("deep-compression-lenet-300-100", out=out, options=options, overrides=SHORT)


def test_a_short_run_is_forty_times_smaller_and_almost_as_good(run):
    baseline, final = run.metrics["baseline"], run.metrics["final"]
    assert final["file_bytes"] == (run.folder / "model.press").stat().st_size <= 26_600
    assert run.metrics["ratio"] >= 40
    assert baseline["top1"] >= 0.965
    assert final["top1"] >= baseline["top1"] - 0.01
    assert final["overhead_bytes"] < 600


def test_each_stage_is_smaller_and_each_coder_in_its_place(run):
    sizes = [s["file_bytes"] for s in [run.metrics["baseline"], *run.metrics["steps"]]]
    assert sizes == sorted(sizes, reverse=True)
    coded = run.metrics["final"]["coded"]
    # the smallest payload per tensor; the names of mixed chains take a few bytes of the header
    assert run.metrics["final"]["file_bytes"] <= min(coded.values()) + 8
    assert coded["huffman"] < coded["bits"]


def classified(python, script, run, mnist):
    pixels = mnist / "mnist" / "t10k-images-idx3-ubyte.gz"
    words = [str(python), "-c", script, str(run.folder / "model.press"), str(pixels)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.tensor([int(word) for word in done.stdout.split()])


def test_the_runtime_without_torch_names_the_same_classes(run, mnist):
    data = nxp.data.open("mnist", mnist)
    mine = logits(run.candidate.net, data.test, run.candidate.inputs).argmax(1)
    assert len(mine) == 10_000
    assert torch.equal(classified(sys.executable, CLASSIFY.format(block=BLOCK), run, mnist), mine)


@pytest.mark.slow
def test_in_an_environment_that_never_had_torch(run, mnist, tmp_path):
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    source = Path(__file__).parent.parent
    subprocess.run([python, "-m", "pip", "install", "-q", str(source)], check=True, capture_output=True)
    listing = [python, "-m", "pip", "list", "--format=json"]
    packages = subprocess.run(listing, check=True, capture_output=True, text=True)
    names = {package["name"] for package in json.loads(packages.stdout)}
    assert "onnxruntime" in names
    assert not names & {"torch", "onnx", "pydantic", "scipy"}
    data = nxp.data.open("mnist", mnist)
    mine = logits(run.candidate.net, data.test, run.candidate.inputs).argmax(1)
    assert torch.equal(classified(python, CLASSIFY.format(block=""), run, mnist), mine)
