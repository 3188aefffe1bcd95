"""Known weights, and `pretrained`: fetched from a local server or by the libraries' own code, refused when wrong."""

# ruff: noqa: F811  (fixtures are imported by name)
from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.error
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from jobs import DATA, quick, recipe  # noqa: F401
from safetensors.torch import save_file

from netpress import job, pack, store, zoo
from netpress.arch import open_network
from netpress.data import decide_on_test
from netpress.data.download import Remote
from netpress.errors import ModelError
from netpress.weights import Known, known, load_weights, open_weights, pretrained, recognise, suited
from netpress.weights.pretrained import ELSEWHERE


def opened(name, weights="pretrained", root=None, **settings):
    named = open_network(name, settings)
    return named.net.eval(), open_weights(named.net, named.arch, str(weights), root).known


def entry(path, mirrors=(), **changes):
    """What would be known about a file."""
    content = path.read_bytes()
    facts = {
        "network": "lenet-300-100",
        "mean": (0.25,),
        "std": (0.5,),
        "data": DATA.name,
        "trained_on": "train+validation",
        "top1": 0.5,
        "licence": "none",
        "source": "somebody/somewhere at 123",
        "file": Remote("weights/toy/w.npz", len(content), hashlib.sha256(content).hexdigest(), mirrors),
    }
    return Known(**{**facts, **changes})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A file of weights of a small lenet-300-100 for the toy data, and its entry as the only known one."""
    torch.manual_seed(0)
    folder = tmp_path / "server"
    folder.mkdir()
    net = zoo.create("lenet-300-100", num_classes=4, size=8)
    np.savez(folder / "w.npz", **{key: tensor.numpy() for key, tensor in net.state_dict().items()})
    made = entry(folder / "w.npz")
    monkeypatch.setattr(known, "KNOWN", (made,))
    monkeypatch.setattr(pretrained, "KNOWN", (made,))
    monkeypatch.delenv("NETPRESS_MIRROR", raising=False)
    return folder / "w.npz", made, net


# --- the table ---


@pytest.mark.parametrize("one", known.KNOWN, ids=lambda one: one.network)
def test_entries_fit_their_networks(one):
    channels = zoo.describe(one.network).shape[0]
    assert len(one.mean) == len(one.std) == channels
    assert one.file is not None
    assert len(one.file.sha256) == 64
    assert one.trained_on in {"train", "train+validation"}
    assert one.note.startswith(f"weights of {one.network} from {one.source}")


def test_networks_of_other_libraries_are_in_the_zoo():
    assert set(ELSEWHERE) <= set(zoo.names())
    for name, (library, theirs) in ELSEWHERE.items():
        names = torchvision.models.list_models() if library == "torchvision" else timm.list_models()
        assert theirs in names, name
        assert hasattr(_family(name), library.upper()), name


def _family(name):
    return getattr(zoo, zoo.family(name))


# --- recognising ---


def test_a_file_is_recognised_by_its_content(toy, tmp_path):
    path, made, _ = toy
    renamed = tmp_path / "other.npz"
    renamed.write_bytes(path.read_bytes())
    assert recognise(renamed) is made
    changed = bytearray(path.read_bytes())
    changed[100] ^= 1
    renamed.write_bytes(changed)
    assert recognise(renamed) is None
    assert recognise(tmp_path / "none.npz") is None


def test_known_weights_of_another_network_are_refused(toy):
    path, *_ = toy
    with pytest.raises(ModelError, match="weights of lenet-300-100, not of lenet5"):
        opened("lenet5", path)


def test_a_file_that_is_not_known_only_fills(tmp_path):
    net = zoo.create("lenet-300-100")
    np.savez(tmp_path / "w.npz", **{key: tensor.numpy() for key, tensor in net.state_dict().items()})
    filled, facts = opened("lenet-300-100", tmp_path / "w.npz")
    assert facts is None
    assert torch.equal(filled.fc1.weight, net.fc1.weight)
    assert suited(DATA, None) is DATA


# --- files of our own table ---


@pytest.fixture
def server(toy, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=toy[0].parent))
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_pretrained_is_fetched_once_and_checked(toy, server, tmp_path, monkeypatch):
    path, _, net = toy
    made = entry(path, (server,))
    monkeypatch.setattr(known, "KNOWN", (made,))
    monkeypatch.setattr(pretrained, "KNOWN", (made,))
    for _ in range(2):  # the second time it lies there, and nothing is asked for
        found, facts = opened("lenet-300-100", root=tmp_path / "root", num_classes=4, size=8)
        assert facts is made
        assert torch.equal(found.fc3.weight, net.fc3.weight)
        path.unlink(missing_ok=True)
    assert (tmp_path / "root" / "weights" / "toy" / "w.npz").is_file()


def test_a_mirror_that_lacks_it_is_one_line(toy, server, tmp_path, monkeypatch):
    monkeypatch.setenv("NETPRESS_MIRROR", f"{server}/elsewhere")
    with pytest.raises(ModelError, match=r"w\.npz is missing and could not be fetched .*404") as caught:
        opened("lenet-300-100", root=tmp_path, num_classes=4, size=8)
    assert "\n" not in str(caught.value)


def test_what_is_nowhere_to_be_fetched_says_so(toy, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere to be fetched \(somebody/somewhere at 123\); put it there"):
        opened("lenet-300-100", root=tmp_path, num_classes=4, size=8)


def test_another_file_in_its_place_is_refused(toy, tmp_path):
    place = tmp_path / "weights" / "toy" / "w.npz"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(ModelError, match="not the published file: expected SHA-256"):
        opened("lenet-300-100", root=tmp_path, num_classes=4, size=8)


def test_networks_without_pretrained_weights_name_those_that_have_some():
    with pytest.raises(ModelError, match=r"no pretrained weights of cifar-plain20.*resnet18.*torchvision:, timm:"):
        opened("cifar-plain20")
    own = open_network(torch.nn.Sequential())
    with pytest.raises(ModelError, match="no pretrained weights of Sequential"):
        open_weights(own.net, own.arch, "pretrained")


# --- what the libraries fetch themselves: only the bytes are made here ---


@pytest.fixture
def torchvision_fetches(monkeypatch, tmp_path):
    """Put torchvision's download into our hands: a state dict to be fetched, and the addresses asked for."""
    state, asked = {}, []

    def download(url, target, hash_prefix=None, progress=True):
        asked.append(url)
        torch.save(state, target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return state, asked


def test_torchvisions_weights_fill_networks_of_the_zoo(torchvision_fetches):
    state, asked = torchvision_fetches
    theirs = torchvision.models.mobilenet_v2().eval()
    state.update(theirs.state_dict())
    net, facts = opened("mobilenet-v2")
    assert asked == ["https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth"]
    assert (facts.mean, facts.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (facts.network, facts.data) == ("torchvision:mobilenet_v2", "imagenet")
    assert "stated top-1 72.15 %" in facts.note
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x))


def test_torchvisions_own_networks_too(torchvision_fetches):
    state, _ = torchvision_fetches
    state.update(torchvision.models.squeezenet1_1().state_dict())
    net, facts = opened("torchvision:squeezenet1_1")
    assert torch.equal(net.features[0].weight, state["features.0.weight"])
    assert facts.source == "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"


def test_googlenets_own_change_of_the_input_becomes_its_normalisation(torchvision_fetches):
    state, _ = torchvision_fetches
    theirs = torchvision.models.googlenet(init_weights=False, transform_input=True).eval()
    state.update(theirs.state_dict())
    net, facts = opened("googlenet-bn")
    pixels = torch.rand(1, 3, 64, 64)
    imagenet = torchvision.models.GoogLeNet_Weights.DEFAULT.transforms()

    def normal(mean, std):
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.no_grad():
        expected = theirs(normal(imagenet.mean, imagenet.std))
        torch.testing.assert_close(net(normal(facts.mean, facts.std)), expected, atol=1e-4, rtol=1e-4)


def test_other_classes_than_the_weights_have_are_refused(torchvision_fetches):
    state, _ = torchvision_fetches
    state.update(torchvision.models.mobilenet_v2().state_dict())
    with pytest.raises(ModelError, match=r"fc\.weight has shape \(1000, 1280\), the network's has \(10, 1280\)"):
        opened("mobilenet-v2", num_classes=10)


def test_timms_weights_with_its_normalisation(monkeypatch, tmp_path):
    theirs = timm.create_model("test_resnet")
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repo_id, filename, **_):
        asked.append((repo_id, filename))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    net, facts = opened("timm:test_resnet")
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert torch.equal(net.conv1[0].weight, theirs.conv1[0].weight)
    assert facts.mean == tuple(theirs.pretrained_cfg["mean"])
    assert facts.std == tuple(theirs.pretrained_cfg["std"])


def test_timms_xception_fills_ours(torchvision_fetches):
    state, asked = torchvision_fetches  # timm fetches this one by the same function of PyTorch
    theirs = timm.create_model("legacy_xception").eval()
    state.update(theirs.state_dict())
    net, facts = opened("xception")
    assert asked[0].endswith("/xception-43020ad28.pth")
    assert facts.mean == facts.std == (0.5,) * 3
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18", "timm:test_resnet", "xception"])
def test_no_network_is_one_line(name, monkeypatch, tmp_path):
    def nothing(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", nothing)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", nothing)
    with pytest.raises(ModelError, match=r"could not fetch the weights \(.*no route to host.*give a file") as caught:
        opened(name)
    assert "\n" not in str(caught.value)


# --- what weights bring along ---


def test_data_takes_the_weights_normalisation_and_decides_on_test(toy):
    _, made, _ = toy
    data = suited(DATA, made)
    half = len(DATA.test) // 2
    expected = decide_on_test(DATA, count=half)
    assert (data.mean, data.std) == (made.mean, made.std)
    assert data.fingerprint == expected.fingerprint
    assert torch.equal(data.test.images, expected.test.images)
    assert len(data.validation) == half
    assert data.train is DATA.train
    assert data.note == f"{expected.note}; {made.note}"


@pytest.mark.parametrize("changes", [{"data": "another"}, {"trained_on": "train"}])
def test_splits_stay_where_the_weights_have_not_seen_them(toy, changes):
    data = suited(DATA, entry(toy[0], **changes))
    assert data.validation is DATA.validation
    assert data.test is DATA.test
    assert data.mean == (0.25,)


def test_a_run_says_what_its_weights_brought(toy, quick, tmp_path):
    path, made, net = toy
    job.run(recipe(network={"name": "lenet-300-100", "weights": str(path)}), data=DATA, out=tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"]["note"] == suited(DATA, made).note
    back = store.load(tmp_path / "run" / "00-baseline" / "candidate.press")
    assert back.inputs.mean == pytest.approx(made.mean)
    assert back.inputs.std == pytest.approx(made.std)
    assert torch.equal(back.net.fc1.weight, net.fc1.weight)


def test_a_run_with_the_word_pretrained(toy, quick, tmp_path):
    path, made, _ = toy
    place = tmp_path / "data" / made.file.path
    place.parent.mkdir(parents=True)
    place.write_bytes(path.read_bytes())
    spec = recipe(network={"name": "lenet-300-100", "weights": "pretrained"})
    options = job.Options(data_root=str(tmp_path / "data"))
    run = job.run(spec, data=DATA, out=tmp_path / "run", options=options)
    assert made.note in run.metrics["data"]["note"]


def test_packing_takes_the_normalisation_along(toy, tmp_path, monkeypatch):
    path, *_ = toy
    np.savez(path, **{key: tensor.numpy() for key, tensor in zoo.create("lenet-300-100").state_dict().items()})
    made = entry(path)
    monkeypatch.setattr(known, "KNOWN", (made,))
    pack.pack("lenet-300-100", path, tmp_path / "a.press")
    assert store.load(tmp_path / "a.press").inputs.mean == pytest.approx(made.mean)
    pack.pack("lenet-300-100", path, tmp_path / "b.press", mean=(0.5,), std=(1.0,))
    assert store.load(tmp_path / "b.press").inputs.mean == (0.5,)


def test_the_real_files_are_recognised_and_fit(data_root):
    for one in known.KNOWN:
        path = data_root / one.file.path
        if not path.is_file():
            pytest.skip(f"no {path}")
        assert recognise(path) is one
        load_weights(zoo.create(one.network), path, name=one.network)
