"""GoogLeNet in both forms, C-Inception and SEP-Net: the integers of the reference, heads, torchvision's weights."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode
from zoo_weights import filled

from netpress import zoo
from netpress.errors import ModelError
from netpress.measure import cost
from netpress.zoo import googlenet
from netpress.zoo.blocks import PatternResidual, Sep, naive_inception

SIZES = {
    "googlenet": (6_998_552, 1_582_671_872),
    "c-inception": (5_097_976, 1_421_697_024),
    "sepnet-r-small": (1_300_712, 1_422_043_136),
    "sepnet-r-large": (1_671_816, 1_984_014_336),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    found = cost(zoo.create(name, device="meta"), (3, 224, 224))
    assert (found.params, found.macs) == SIZES[name]


def test_googlenets_weights_without_biases():
    net = zoo.create("googlenet", device="meta")
    assert sum(p.numel() for p in net.parameters() if p.ndim > 1) == 6_990_272
    inside = [p.numel() for name, p in net.named_parameters() if name.endswith("conv3x3.wide.conv.weight")]
    assert (len(inside), sum(inside)) == (9, 2_990_592)


@pytest.mark.parametrize(("name", "weights"), [("sepnet-r-small", 255_744), ("sepnet-r-large", 397_440)])
def test_sepnets_pattern_weights(name, weights):
    net = zoo.create(name, device="meta")
    assert sum(p.numel() for path, p in net.named_parameters() if path.endswith(".pattern.weight")) == weights


def test_c_inceptions_module_weights():
    net = zoo.create("c-inception", device="meta")
    modules = [p for path, p in net.named_parameters() if path.startswith("stage") and p.ndim == 4]
    assert sum(p.numel() for p in modules if p.shape[-1] == 3) == 3_105_792


@pytest.mark.parametrize("name", ["c-inception", "sepnet-r-small", "sepnet-r-large"])
def test_reconstructions_say_so(name):
    variant = zoo.describe(name)
    assert variant.status == "RECON"
    assert "reconstruction" in variant.note


@pytest.mark.parametrize(("name", "params"), [("googlenet", 13_378_280), ("googlenet-bn", 13_004_888)])
def test_heads_are_counted_and_kept_apart(name, params):
    net = zoo.create(name, aux="train").eval()
    assert sum(p.numel() for p in net.parameters()) == params
    assert f"{params:,}" in zoo.describe(name).note
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        main, *aux = net.with_heads(x)
        assert torch.equal(main, net(x))
    assert [a.shape for a in aux] == [(1, 1000), (1, 1000)]


def test_heads_train_through_with_heads():
    net = zoo.create("googlenet-bn", aux="train", num_classes=3).train()
    main, *aux = net.with_heads(torch.randn(2, 3, 64, 64))
    (main.sum() + 0.3 * sum(a.sum() for a in aux)).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_torchvisions_googlenet_gives_the_same_answers_and_costs_the_same():
    other = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    net, other = filled(zoo.create("googlenet-bn", aux="train"), other, googlenet.TORCHVISION)
    x = torch.randn(2, 3, 97, 64)
    torch.testing.assert_close(net(x), other(x), atol=1e-5, rtol=1e-5)
    for place, head, channels in (("inception4a", other.aux1, 512), ("inception4d", other.aux2, 528)):
        hidden = torch.randn(2, channels, 9, 7)
        torch.testing.assert_close(net.heads[place](hidden), head(hidden), atol=1e-5, rtol=1e-5)
    with FlopCounterMode(display=False) as counter:
        other(torch.randn(1, 3, 224, 224))
    assert counter.get_total_flops() // 2 == zoo.describe("googlenet-bn").macs


@pytest.mark.parametrize("name", ["googlenet", "googlenet-bn", "c-inception", "sepnet-r-small"])
def test_odd_images_grey_images_and_other_classes(name):
    net = zoo.create(name, in_channels=1, num_classes=7).eval()
    assert net(torch.randn(2, 1, 33, 47)).shape == (2, 7)


def test_naive_inception_joins_in_order_and_keeps_the_pooled_input():
    module, x = naive_inception(8, 3, 5, 2), torch.randn(1, 8, 7, 6)
    y = module(x)
    assert y.shape == (1, 3 + 5 + 2 + 8, 7, 6)
    assert torch.equal(y[:, 10:], torch.nn.functional.max_pool2d(x, 3, 1, 1))
    assert torch.equal(y[:, :3], module.conv1x1(x))


def test_inception_joins_in_the_papers_order():
    net, x = zoo.create("googlenet"), torch.randn(1, 192, 5, 5)
    module = net.inception3a
    y = module(x)
    for branch, part in zip(("conv1x1", "conv3x3", "conv5x5", "pool"), y.split([64, 128, 32, 32], dim=1), strict=True):
        assert torch.equal(part, module.get_submodule(branch)(x))


def test_a_pattern_block_is_the_sum_of_both_convolutions():
    block, x = PatternResidual(8, 4).eval(), torch.randn(1, 8, 5, 5)
    block.conv.weight.data.zero_()
    torch.testing.assert_close(block(x), torch.relu(block.norm(block.pattern(x))))
    module, y = Sep(16).eval(), torch.randn(1, 16, 5, 5)
    module.restore.weight.data.zero_()
    assert torch.equal(module(y), torch.relu(y))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("googlenet", {"aux": True}, ["aux", "'none'", "'train'"]),
        ("googlenet", {"form": "caffe"}, ["form", "'bvlc'", "'caffe'"]),
        ("sepnet-r-small", {"modules": (1, 2)}, ["modules", "three", "(1, 2)"]),
        ("sepnet-r-small", {"modules": (0, 2, 2)}, ["modules", "got 0"]),
        ("sepnet-r-small", {"groups": 3}, ["groups", "16", "got 3"]),
        ("c-inception", {"dropout": 1}, ["dropout", "1"]),
    ],
)
def test_refusals_are_one_line(name, settings, words):
    with pytest.raises(ModelError) as caught:
        zoo.create(name, **settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
