"""Networks with masks of torch.nn.utils.prune: the same outputs, forms that hold, kept by what comes after."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from contract import one_thread, raw  # noqa: F401
from torch import nn
from torch.nn.utils import prune
from toy_nets import toy_candidate, toy_data

import netpress as nxp
from netpress.adopt import adopt, masked
from netpress.candidate import Candidate, Inputs
from netpress.errors import ModelError, RecipeError
from netpress.forms import holds
from netpress.methods import FoldBatchNorm, WeightPrune, WeightShare

SHAPE = (1, 8, 8)


def make():
    return toy_candidate("plain").net.eval()


def l1(net):
    prune.l1_unstructured(net.conv2, "weight", amount=0.5)
    prune.l1_unstructured(net.fc1, "weight", amount=0.8)
    prune.l1_unstructured(net.fc1, "bias", amount=3)


def ln(net):
    prune.ln_structured(net.conv2, "weight", amount=0.5, n=2, dim=0)


def everywhere(net):
    pairs = [(net.conv1, "weight"), (net.conv2, "weight"), (net.fc1, "weight")]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.6)


def one_on_the_other(net):
    prune.l1_unstructured(net.fc1, "weight", amount=0.3)
    prune.ln_structured(net.fc1, "weight", amount=2, n=1, dim=1)
    prune.random_unstructured(net.fc1, "weight", amount=0.2)


def of_my_own(net):
    mask = torch.ones(net.fc2.weight.shape)
    mask[1:3] = 0
    prune.custom_from_mask(net.fc2, "weight", mask)


KINDS = {f.__name__: f for f in (l1, ln, everywhere, one_on_the_other, of_my_own)}
FORMED = {
    "l1": {"conv2.weight", "fc1.weight", "fc1.bias"},
    "ln": {"conv2.weight"},
    "everywhere": {"conv1.weight", "conv2.weight", "fc1.weight"},
    "one_on_the_other": {"fc1.weight"},
    "of_my_own": {"fc2.weight"},
}


def pruned(kind):
    net = make()
    KINDS[kind](net)
    return net


def zeros(forms):
    return {name: int((~form.support).sum()) for name, form in forms.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_become_forms_of_a_plain_network(kind):
    net = pruned(kind)
    plain, forms = adopt(net)
    x = torch.randn(3, *SHAPE)
    assert torch.equal(plain(x), net(x))
    assert set(forms) == FORMED[kind]
    assert all(holds(form, plain.get_parameter(name)) for name, form in forms.items())
    for name, form in forms.items():
        assert torch.equal(form.support, net.get_buffer(f"{name}_mask").bool())
    assert list(plain.state_dict()) == list(make().state_dict())
    assert [(n, p.shape) for n, p in plain.named_parameters()] == [(n, p.shape) for n, p in make().named_parameters()]
    assert masked(plain) is None
    assert adopt(plain) == (plain, {})
    deepcopy(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_argument_is_left_as_it_was(kind):
    net = pruned(kind)
    net.conv2.train()
    before = {name: raw(t) for name, t in net.state_dict().items()}
    flags = [m.training for m in net.modules()]
    hooks = [list(m._forward_pre_hooks) for m in net.modules()]
    plain, _ = adopt(net)
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(1)
    assert {name: raw(t) for name, t in net.state_dict().items()} == before
    assert [m.training for m in net.modules()] == flags == [m.training for m in plain.modules()]
    assert [list(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert masked(net) is not None
    net.train()(torch.randn(2, *SHAPE)).sum().backward()  # still trains


def test_zeros_are_plus_zero_and_what_is_masked_may_be_anything():
    net = nn.Linear(3, 1)
    net.weight.data = torch.tensor([[-1.0, 2.0, -3.0]])
    prune.custom_from_mask(net, "weight", torch.tensor([[0.0, 1.0, 0.0]]))
    net.weight_orig.data[0, 2] = torch.nan
    plain, forms = adopt(net)
    assert raw(plain.weight) == raw(torch.tensor([0.0, 2.0, 0.0]))
    assert holds(forms["weight"], plain.weight)


def test_a_mask_of_ones_gives_no_form_and_a_frozen_tensor_stays_frozen():
    net = make()
    prune.identity(net.conv1, "weight")
    net.fc1.weight.requires_grad_(False)
    prune.l1_unstructured(net.fc1, "weight", amount=0.5)
    plain, forms = adopt(net)
    assert set(forms) == {"fc1.weight"}
    assert not plain.fc1.weight.requires_grad
    assert plain.conv1.weight.requires_grad


def test_a_tied_layer_goes_without_the_mask():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    x = torch.randn(2, 4)
    plain, _ = adopt(net)
    assert torch.equal(plain(x), net(x))


def test_a_hook_without_its_tensors_is_one_line():
    net = pruned("ln")
    del net.conv2.weight_mask
    with pytest.raises(ModelError, match=r"conv2\.weight has a pruning hook, but not its tensors"):
        adopt(net)


# --- what comes after ---


@pytest.mark.parametrize("kind", ["l1", "ln", "everywhere"])
@pytest.mark.parametrize(
    "method", [WeightPrune(sparsity=0.85), WeightShare(bits=3), FoldBatchNorm()], ids=lambda m: m.name
)
def test_methods_keep_the_masks(kind, method):
    net = pruned(kind)
    _, forms = adopt(net)
    after = nxp.apply(method, net, example=torch.zeros(1, *SHAPE))
    for name, form in forms.items():
        now, w = after.forms[name], after.net.get_parameter(name)
        assert not (now.support & ~form.support).any()
        assert not w[~form.support].any()
        assert holds(now, w)
    if method.name == "weight_prune":
        assert zeros(after.forms)["fc1.weight"] == round(0.85 * 384)
    if method.name == "fold_batch_norm":
        assert isinstance(after.net.norm, nn.Identity)
        assert torch.allclose(after.net(torch.ones(1, *SHAPE)), net(torch.ones(1, *SHAPE)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_the_masks_are_there(kind, tmp_path):
    plain, forms = adopt(pruned(kind))
    candidate = Candidate(plain, forms, inputs=Inputs(SHAPE))
    nxp.save(candidate, tmp_path / "a.press")
    back = nxp.load(tmp_path / "a.press", into=make())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(back.net(x), plain(x))
    assert zeros(back.forms) == zeros(forms)
    with nxp.bound(back) as net:
        torch.optim.SGD(net.parameters(), lr=0.1)
        net(x).sum().backward()
    assert all(holds(form, back.net.get_parameter(name)) for name, form in back.forms.items())


@pytest.mark.parametrize("method", [WeightPrune(sparsity=0.5), WeightShare(bits=2)], ids=lambda m: m.name)
def test_a_layer_that_is_masked_whole_is_left_alone(method, tmp_path):
    net = make()
    prune.custom_from_mask(net.fc1, "weight", torch.zeros(net.fc1.weight.shape))
    after = nxp.apply(method, net, example=torch.zeros(1, *SHAPE))
    assert not after.forms["fc1.weight"].support.any()
    assert after.forms["fc2.weight"].traits == method.gives
    nxp.save(after, tmp_path / "a.press")
    assert not nxp.load(tmp_path / "a.press", into=make()).net.fc1.weight.any()


def test_saving_a_network_with_masks_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"conv2\.weight has a mask of torch.*save what netpress\.adopt"):
        nxp.save(Candidate(pruned("ln"), inputs=Inputs(SHAPE)), tmp_path / "a.press")
    assert not any(tmp_path.iterdir())


@dataclass(frozen=True)
class Melt:
    """A method that keeps nothing."""

    name: ClassVar[str] = "melt"
    preserves: ClassVar[frozenset[str]] = frozenset()


def test_a_method_that_would_break_a_mask_is_refused():
    with pytest.raises(RecipeError, match="melt would break the 'support' form that the network came with"):
        nxp.apply(Melt(), pruned("l1"), example=torch.zeros(1, *SHAPE))


def test_the_main_job_takes_masks_over(tmp_path):
    recipe = nxp.Recipe.model_validate(
        {"step": [{"method": "weight_share", "bits": 3, "train": {"epochs": 1, "lr": 1e-3}}]}
    )
    net = pruned("everywhere")
    _, forms = adopt(net)
    run = nxp.run(recipe, net=net, data=toy_data(), out=tmp_path / "run")
    assert zeros({n: run.candidate.forms[n] for n in forms}) == zeros(forms)
    baseline = nxp.load(tmp_path / "run" / "00-baseline" / "candidate.press", into=make())
    assert set(baseline.forms) == set(forms)
    # the same weights without their masks are another start
    finished = (tmp_path / "run" / "00-baseline" / "metrics.json").read_text()
    nxp.run(recipe, net=adopt(net)[0], data=toy_data(), out=tmp_path / "run")
    assert (tmp_path / "run" / "00-baseline" / "metrics.json").read_text() != finished
