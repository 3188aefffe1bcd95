"""Networks by name: the zoo, torchvision, timm, own factories, and structure edits."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import netpress as nxp
from netpress import arch, store
from netpress.arch import build, open_network
from netpress.candidate import Candidate, Inputs, edited
from netpress.codec.header import Arch
from netpress.errors import ModelError


class Library:
    """Stands in for torchvision.models and timm: builds one small network."""

    def __init__(self):
        self.calls = []

    def make(self, name, **settings):
        self.calls.append((name, settings))
        if name != "tiny":
            raise ValueError(f"Unknown model {name}\nand more lines")
        channels = settings.get("in_chans", 3)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, settings["num_classes"])
        )


@pytest.fixture
def library(monkeypatch):
    found = Library()
    modules = {
        "torchvision.models": SimpleNamespace(get_model=found.make),
        "timm": SimpleNamespace(create_model=found.make),
    }
    real = arch.optional
    monkeypatch.setattr(arch, "optional", lambda name: modules[name] if name in modules else real(name))
    return found


@pytest.mark.parametrize(
    ("spec", "shape", "asked"),
    [
        ("torchvision:tiny", (3, 8, 8), {"weights": None, "num_classes": 7}),
        ("timm:tiny", (3, 8, 8), {"pretrained": False, "num_classes": 7}),
        ("timm:tiny", (1, 8, 8), {"pretrained": False, "num_classes": 7, "in_chans": 1}),
    ],
)
def test_networks_of_libraries_are_built_and_load_again(library, tmp_path, spec, shape, asked):
    named = open_network(spec, shape=shape, classes=7)
    assert library.calls == [("tiny", asked)]
    candidate = Candidate(named.net.eval(), arch=named.arch, inputs=Inputs(shape))
    nxp.save(candidate, tmp_path / "a.press")
    again = nxp.load(tmp_path / "a.press")
    assert (again.arch.source, again.arch.name) == tuple(spec.split(":"))
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), candidate.net.parameters(), strict=True))


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_an_unknown_name_is_one_line(library, source):
    with pytest.raises(ModelError, match=rf"^{source}:huge: Unknown model huge$"):
        build(Arch(source, "huge"))


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ModuleNotFoundError("no"), "timm is not installed: pip install timm"),
        (RuntimeError("operator x does not exist\nmore"), "timm cannot be imported: operator x does not exist"),
    ],
)
def test_a_library_that_is_missing_or_broken_is_one_line(monkeypatch, raised, said):
    def fail(_name):
        raise raised

    monkeypatch.setattr(arch.importlib, "import_module", fail)
    with pytest.raises(ModelError) as caught:
        build(Arch("timm", "resnet18"))
    assert str(caught.value) == said


def test_the_users_own_network_must_be_given():
    with pytest.raises(ModelError, match=r"Mine is a network of your own: .* into=net"):
        build(Arch("own", "Mine"))


def test_a_factory_that_makes_something_else_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("def make(): return 3\n")
    with pytest.raises(ModelError, match=r"expected an nn\.Module, got int"):
        open_network(f"{tmp_path / 'a.py'}:make")


def test_edits_are_applied_in_order():
    described = edited(
        edited(Arch("zoo", "lenet5", {"dropout": 0.5}), "dropout", "drop1", 0.4), "dropout", "drop1", 0.2
    )
    rates = [m.p for m in build(described).modules() if isinstance(m, nn.Dropout)]
    assert rates[0] == 0.2


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("widen", "fc1", 3), "written by a newer version"),
        (("dropout", "fc1", 0.3), "expected a dropout layer, got Linear"),
        (("dropout", "nowhere", 0.3), "does not fit 'nowhere'"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit, said):
    with pytest.raises(ModelError, match=said):
        build(Arch("zoo", "lenet5", {}, (edit,)))


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (Arch("timm", "resnet18", {"checkpoint_path": "secret.pt"}), "'checkpoint_path' opens files"),
        (Arch("timm", "resnet18", {"pretrained": True}), "'pretrained' opens files"),
        (Arch("torchvision", "resnet18", {"weights": "DEFAULT"}), "'weights' opens files"),
        (Arch("torchvision", "deeplab", {"weights_backbone": "DEFAULT"}), "'weights_backbone' opens files"),
        (Arch("timm", "hf-hub:net"), "not the name of a network"),
        (Arch("timm", "local-dir:folder"), "not the name of a network"),
    ],
)
def test_a_file_cannot_make_a_library_fetch_or_open_anything(described, said, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    store.save(Candidate(net, arch=described, inputs=Inputs((1, 8, 8))), tmp_path / "a.press")
    with pytest.raises(ModelError, match=said):
        store.load(tmp_path / "a.press")
