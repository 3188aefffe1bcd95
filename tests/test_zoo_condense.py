"""DenseNet, CondenseNet, CondenseNeXt and the stacked condense modules: the reference's integers, and both forms."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode
from zoo_weights import filled

from netpress import zoo
from netpress.errors import ModelError
from netpress.measure import cost
from netpress.zoo import densenet
from netpress.zoo.dense_blocks import GroupSum, Index, Interleave, KernelSums, condensed

# Converted parameters and operations, as published for CIFAR (Huang et al. 2018), and the dense form's parameters.
CONDENSENETS = {
    "condensenet-50": (216_506, 28_641_834, 522_938),
    "condensenet-74": (405_466, 51_897_066, 1_090_906),
    "condensenet-86": (520_202, 65_816_394, 1_451_594),
    "condensenet-98": (648_442, 81_263_530, 1_863_418),
    "condensenet-110": (790_186, 98_238_474, 2_326_378),
    "condensenet-122": (945_434, 116_741_226, 2_840_474),
}
DENSENETS = {"densenet121": 7_978_856, "densenet169": 14_149_480, "densenet201": 20_013_928}
# Stages, growth, p: parameters and multiply-adds of the literal construction.
LITERAL = {
    ((14, 14, 14), (8, 16, 32), 4): (643_178, 108_314_432),
    ((14, 14, 14), (8, 16, 32), 2): (426_458, 66_768_704),
    ((14, 14, 14), (8, 16, 32), 1): (318_098, 45_995_840),
    ((4, 4, 4), (8, 8, 8), 4): (36_826, 10_728_544),
    ((4, 4, 4), (8, 8, 8), 2): (23_866, 7_134_304),
}
GROUPS = FACTOR = 4


def _cost(name, **settings):
    return cost(zoo.create(name, device="meta", **settings), (3, 32, 32))


@pytest.mark.parametrize("name", CONDENSENETS)
def test_condensenet_in_both_forms(name):
    converted, training = _cost(name), _cost(name, form="training")
    assert (converted.params, converted.operations, training.params) == CONDENSENETS[name]
    assert zoo.describe(name).operations == converted.operations
    assert f"{training.params:,}" in zoo.describe(name).note


def test_condensenet_86_with_half_the_classifier():
    found = _cost("condensenet-86", classifier_keep=0.5)
    assert (found.params, found.operations) == (516_202, 65_812_394)
    assert _cost("condensenet-86").macs == 62_381_888


def test_condensenext_in_between():
    found = _cost("condensenext")
    assert (found.params, found.operations) == (459_218, 61_013_834)
    note = zoo.describe("condensenext").note
    assert all(number in note for number in ("23.80M", "0.16M", "2.9 MB", "do not belong to one network"))


def test_condensenext_grouped():
    found = _cost("condensenext", variant="grouped")
    convolutions = sum(layer.macs for layer in found.layers if layer.kind == "Conv2d")
    assert (found.params, convolutions, found.operations) == (142_482, 21_215_232, 23_854_922)


@pytest.mark.parametrize(("stages", "growth", "p"), LITERAL)
def test_condensenext_by_its_equations(stages, growth, p):
    found = _cost("condensenext", variant="paper", stages=stages, growth=growth, p=p)
    assert (found.params, found.macs) == LITERAL[stages, growth, p]


def test_condensenext_by_its_equations_has_dense_kernels_in_training():
    found = _cost("condensenext", variant="paper", form="training")
    inputs = 2 * sum((*range(16, 128, 8), *range(128, 352, 16), *range(352, 800, 32)))
    kernels = 9 * sum(i * 4 * 8 for i in range(16, 128, 8))
    kernels += 9 * sum(i * 4 * 16 for i in range(128, 352, 16)) + 9 * sum(i * 4 * 32 for i in range(352, 800, 32))
    assert found.params == 432 + inputs + kernels + 6_272 + 169_344 + 1_600 + 8_010


@pytest.mark.parametrize("name", DENSENETS)
def test_densenets_cost_what_torchvisions_do(name):
    found = cost(zoo.create(name, device="meta"), (3, 224, 224))
    with torch.device("meta"):
        other = torchvision.models.get_model(name)
    with FlopCounterMode(display=False) as counter:
        other(torch.zeros(1, 3, 224, 224, device="meta"))
    assert (found.params, found.macs) == (DENSENETS[name], counter.get_total_flops() // 2)


def test_densenet_for_cifar():
    found = _cost("cifar-densenet-bc-100")
    assert (found.params, found.macs) == (769_162, 287_929_692)


@pytest.mark.parametrize("name", DENSENETS)
def test_torchvisions_weights_give_the_same_answers(name):
    net, other = filled(zoo.create(name), torchvision.models.get_model(name), densenet.TORCHVISION)
    x = torch.randn(2, 3, 64, 41)
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(x), atol=1e-5, rtol=1e-5)


def test_condensenet_cifar_keeps_the_reports_rules():
    net = zoo.create("condensenet-cifar", modules=5)
    assert cost(zoo.create("condensenet-cifar"), (3, 32, 32)).params == 82_026
    for number in range(1, 6):
        module = net.get_submodule(f"module{number}")
        squeezed = module.condense.out_channels
        ones, threes = module.expand.conv1x1.out_channels, module.expand.conv3x3.out_channels
        assert squeezed < ones + threes
        assert threes < ones
    assert (squeezed, ones, threes) == (64, 384, 128)


def _learned(net):
    """Random groups for every learned 1×1 convolution of the dense form: layer -> kept inputs of each group."""
    kept = {}
    for path, layer in net.named_modules():
        if path.startswith("block") and path.endswith("conv1"):
            few = layer.in_channels // FACTOR
            groups = [torch.randperm(layer.in_channels)[:few].sort().values for _ in range(GROUPS)]
            mask = torch.zeros_like(layer.weight)
            for group, inputs in enumerate(groups):
                mask[group::GROUPS, inputs] = 1
            layer.weight.data *= mask
            kept[path.removesuffix("conv1")] = groups
    return kept


def _random_statistics(net):
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()


@pytest.mark.parametrize("name", ["condensenet-50", "condensenext"])
def test_a_masked_training_form_has_the_same_answers_converted(name):
    torch.manual_seed(0)
    dense, small = zoo.create(name, form="training").eval(), zoo.create(name).eval()
    _random_statistics(dense)
    kept, state = _learned(dense), dense.state_dict()
    for layer, groups in kept.items():
        index = torch.cat(groups)
        weight = state[f"{layer}conv1.weight"]
        state[f"{layer}index.index"] = index
        state[f"{layer}conv1.weight"] = torch.cat([weight[g::GROUPS, i] for g, i in enumerate(groups)])
        if name == "condensenet-50":  # there the index stands before the batch norm
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{layer}norm1.{part}"] = state[f"{layer}norm1.{part}"][index]
    small.load_state_dict(state)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(small(x), dense(x), atol=1e-5, rtol=1e-5)


def test_single_kernels_are_the_masked_dense_convolution():
    torch.manual_seed(0)
    dense, small = torch.nn.Conv2d(6, 8, 3, padding=1, bias=False), KernelSums(6, 8, 12)
    chosen = torch.randperm(48)[:12].sort().values  # output * 6 + input
    mask = torch.zeros(48).index_fill(0, chosen, 1).reshape(8, 6, 1, 1)
    small.outputs, small.index.index = chosen // 6, chosen % 6
    small.conv.weight.data = (dense.weight.data.reshape(48, 1, 3, 3))[chosen]
    x = torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(small(x), torch.nn.functional.conv2d(x, dense.weight * mask, padding=1))


@pytest.mark.parametrize(("inputs", "outputs", "kernels"), [(16, 32, 64), (24, 32, 24), (16, 32, 16), (8, 4, 8)])
def test_unlearned_kernels_are_spread_evenly(inputs, outputs, kernels):
    module = KernelSums(inputs, outputs, kernels)
    pairs = set(zip(module.outputs.tolist(), module.index.index.tolist(), strict=True))
    assert len(pairs) == kernels
    used = torch.bincount(module.outputs, minlength=outputs)
    assert used.max() - used.min() <= 1


def test_an_unlearned_condensed_convolution_reads_every_input_once():
    index, conv, interleave = condensed(16, 8, groups=4, factor=4)
    assert sorted(index.index.tolist()) == list(range(16))
    x = torch.randn(1, 16, 3, 3)
    y = interleave(conv(index(x)))
    for output in range(8):
        group = output % 4
        row = conv.weight[group * 2 + output // 4].reshape(1, 4, 1, 1)
        torch.testing.assert_close(y[:, output : output + 1], torch.nn.functional.conv2d(x[:, group::4], row))


def test_indices_are_integers_in_the_state():
    state = zoo.create("condensenet-50", classifier_keep=0.5).state_dict()
    indices = [tensor for name, tensor in state.items() if name.endswith("index")]
    assert len(indices) == 24 + 1
    assert {tensor.dtype for tensor in indices} == {torch.int64}


def test_channel_moves():
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(Index([5, 0, 0])(x), x[:, [5, 0, 0]])
    assert torch.equal(Interleave(3)(x), x[:, [0, 2, 4, 1, 3, 5]])
    torch.testing.assert_close(GroupSum(3)(x), torch.stack([x[:, :3].sum(1), x[:, 3:].sum(1)], dim=1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("densenet121", {}),
        ("cifar-densenet-bc-100", {}),
        ("condensenet-50", {}),
        ("condensenet-50", {"form": "training"}),
        ("condensenet-50", {"groups": 2, "condense_factor": 8}),
        ("condensenext", {"form": "training"}),
        ("condensenext", {"variant": "paper", "stages": (2, 2), "growth": (8, 16)}),
        ("condensenext", {"variant": "grouped"}),
        ("condensenet-cifar", {"modules": 7}),
    ],
)
def test_odd_images_grey_images_and_other_classes(name, settings):
    net = zoo.create(name, in_channels=1, num_classes=7, dropout=0.1, **settings)
    assert net(torch.randn(2, 1, 33, 47)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("condensenet-86", {"form": "dense"}, ["form", "'training'", "'converted'"]),
        ("condensenet-86", {"stages": (14, 14)}, ["stages", "growth", "(14, 14)"]),
        ("condensenet-86", {"stages": (14, 0, 14)}, ["stages", "got 0"]),
        ("condensenet-86", {"condense_factor": 5}, ["condense_factor 5", "16 inputs"]),
        ("condensenet-86", {"condense_factor": 5, "form": "training"}, ["condense_factor 5", "16 inputs"]),
        ("condensenet-86", {"groups": 3}, ["groups", "3", "32"]),
        ("condensenet-86", {"classifier_keep": 0.0}, ["classifier_keep 0.0", "800"]),
        ("condensenet-86", {"classifier_keep": 2}, ["classifier_keep", "0 to 1"]),
        ("condensenet-86", {"classifier_keep": 0.5, "form": "training"}, ["classifier_keep 0.5", "form='converted'"]),
        ("condensenext", {"variant": "d"}, ["variant", "'D'", "'grouped'"]),
        ("condensenext", {"p": 0}, ["p", "got 0"]),
        ("condensenext", {"variant": "paper", "p": 33}, ["p 33", "32 kernels"]),
        ("condensenext", {"variant": "grouped", "growth": (8, 12, 32)}, ["grouped", "12"]),
        ("densenet121", {"stem": "mnist"}, ["stem", "'cifar'"]),
        ("densenet121", {"blocks": ()}, ["blocks", "1 to 8"]),
        ("condensenet-cifar", {"modules": 11}, ["modules", "1 to 10"]),
        ("condensenet-cifar", {"width": 100}, ["width", "multiple of 8"]),
    ],
)
def test_refusals_are_one_line(name, settings, words):
    with pytest.raises(ModelError) as caught:
        zoo.create(name, **settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
