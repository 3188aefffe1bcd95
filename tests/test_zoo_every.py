"""Every network of the zoo: built in no time on meta, trained one step, exported, saved, loaded, run without PyTorch.

One network per family runs in CI (the family's smallest); all others are `slow`.
"""

import time

import numpy as np
import onnxruntime
import pytest
import torch

from netpress import store, zoo
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.data import Split
from netpress.runtime import Session, graph_bytes
from netpress.shadow import smallest_side
from netpress.train import Training, fit


def _smallest_of_each_family():
    families = {}
    for name in zoo.names():
        families.setdefault(zoo.family(name), []).append(name)
    return {min(members, key=lambda name: zoo.describe(name).params) for members in families.values()}


QUICK = _smallest_of_each_family()
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in zoo.names()]


def image_shape(name):
    """A smaller image than the network's own where it takes one: the same operations, less work."""
    channels, rows, columns = zoo.describe(name).shape
    if "size" in zoo.settings(name):
        return channels, rows, columns
    least = smallest_side(zoo.create(name, device="meta"), channels)
    side = min(rows, max(32, least))
    return channels, side, side


@pytest.mark.parametrize("name", zoo.names())
def test_built_on_meta_within_half_a_second(name):
    seconds = []
    for _ in range(3):  # a collection of garbage that other tests left would count
        start = time.process_time()
        net = zoo.create(name, device="meta")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"meta"}
    assert sum(p.numel() for p in net.parameters()) == zoo.describe(name).params


@pytest.mark.parametrize("name", zoo.names())
def test_takes_other_images_and_classes(name):
    changes = {"num_classes": 7, "in_channels": 2}
    shape = (2, *image_shape(name)[1:])
    with torch.no_grad():
        assert zoo.create(name, device="meta", **changes).eval()(torch.zeros(3, *shape, device="meta")).shape == (3, 7)


@pytest.mark.parametrize("name", zoo.names())
def test_says_what_it_is(name):
    variant = zoo.describe(name)
    assert variant.status in {"EXACT", "NEAR", "RECON"}
    assert variant.source
    assert variant.status == "EXACT" or variant.note, "what differs from the source must be said in words"
    assert set(variant.settings) <= set(zoo.settings(name))


@pytest.mark.parametrize("name", CASES)
def test_trains_exports_saves_loads_and_runs(name, tmp_path):
    torch.manual_seed(0)
    shape = image_shape(name)
    pixels = torch.randint(0, 256, (4, *shape), dtype=torch.uint8)
    split = Split(pixels, torch.arange(4) % zoo.describe(name).num_classes)
    before = Candidate(
        zoo.create(name), arch=Arch("zoo", name), inputs=Inputs(shape, (0.5,) * shape[0], (0.3,) * shape[0])
    )
    settings = Training(epochs=1, batch=4, lr=1e-4, optimizer="sgd")
    trained = fit(before, settings, Context(example=torch.zeros(1, *shape), train=split)).candidate
    assert any(not torch.equal(a, b) for a, b in zip(before.net.parameters(), trained.net.parameters(), strict=True))

    saved = store.save(trained, tmp_path / "net.press", codec="bits")
    assert saved.note == ""  # a graph is inside
    back = store.load(tmp_path / "net.press")
    for (key, mine), theirs in zip(trained.net.state_dict().items(), back.net.state_dict().values(), strict=True):
        assert key.endswith("num_batches_tracked") or torch.equal(mine, theirs), key

    x = ((pixels.float() / 255 - 0.5) / 0.3).numpy()
    with torch.no_grad():
        expected = back.net(torch.from_numpy(x)).numpy()
    exported = onnxruntime.InferenceSession(graph_bytes(tmp_path / "net.press"), providers=["CPUExecutionProvider"])
    answers = {
        "onnx": exported.run(None, {exported.get_inputs()[0].name: x})[0],
        "runtime": Session(tmp_path / "net.press").run(pixels.numpy()),
    }
    scale = np.abs(expected).max() + 1e-6
    for how, found in answers.items():
        assert np.abs(found - expected).max() < 1e-4 * scale, how
