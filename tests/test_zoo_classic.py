"""AlexNet, VGG, ResNet, MobileNet, Xception and the MLPerf Tiny networks: numbers, layers, other libraries' answers."""

import importlib

import pytest
import timm
import torch
import torchvision
from torch import nn
from zoo_weights import filled

from netpress import zoo
from netpress.errors import ModelError
from netpress.measure import cost

# From the reference's tables, kept apart from the zoo's own so that a typing error in one shows.
SIZES = {
    "alexnet": (61_100_840, 714_188_480),
    "alexnet-227": (62_378_344, 1_135_256_096),
    "alexnet-caffe": (60_965_224, 724_406_816),
    "vgg16": (138_357_544, 15_470_264_320),
    "cifar-vgg16-bn": (14_991_946, 313_463_808),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "cifar-resnet20": (269_722, 40_551_040),
    "cifar-resnet32": (464_154, 68_862_592),
    "cifar-resnet44": (658_586, 97_174_144),
    "cifar-resnet56": (853_018, 125_485_696),
    "cifar-resnet110": (1_727_962, 252_887_680),
    "cifar-plain20": (269_722, 40_551_040),
    "cifar-plain56": (853_018, 125_485_696),
    "mobilenet-v1": (4_231_976, 568_740_352),
    "mobilenet-v2": (3_504_872, 300_774_272),
    "xception": (22_855_952, 8_357_403_496),
    "mlperf-tiny-resnet8": (78_186, 12_501_632),
    "mlperf-tiny-mobilenet": (216_322, 7_489_664),
}
SETTINGS = [
    ("mobilenet-v1", {"width": 0.25}, (470_072, 41_030_272)),
    ("mobilenet-v1", {"width": 0.5}, (1_331_592, 149_497_088)),
    ("mobilenet-v1", {"width": 0.75}, (2_585_560, 325_400_448)),
    ("resnet152", {"stride_on": "1x1"}, (60_192_808, 11_282_415_616)),
]


def sizes(name, **settings):
    found = cost(zoo.create(name, device="meta", **settings), zoo.describe(name).shape)
    return found.params, found.macs


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_multiply_adds_are_exact(name):
    variant = zoo.describe(name)
    assert sizes(name) == SIZES[name] == (variant.params, variant.macs)


@pytest.mark.parametrize(("name", "settings", "expected"), SETTINGS)
def test_so_are_those_of_settings(name, settings, expected):
    assert sizes(name, **settings) == expected


def test_alexnet_layer_by_layer():
    layers = cost(zoo.create("alexnet-227", device="meta"), (3, 227, 227)).layers
    assert [layer.params for layer in layers if layer.params] == [
        *(34_944, 614_656, 885_120, 1_327_488, 884_992),
        *(37_752_832, 16_781_312, 4_097_000),
    ]
    weights = [p.numel() for p in zoo.create("alexnet-caffe", device="meta").parameters() if p.ndim > 1]
    assert weights == [34_848, 307_200, 884_736, 663_552, 442_368, 37_748_736, 16_777_216, 4_096_000]


def test_alexnet_caffe_normalises_before_it_pools():
    names = [name for name, _ in zoo.create("alexnet-caffe", device="meta").named_children()]
    assert names[:8] == ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]
    norm = zoo.create("alexnet-caffe", device="meta").norm1
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 1.0)


def test_vgg_layer_by_layer():
    weights = {n: p.numel() for n, p in zoo.create("vgg16", device="meta").named_parameters() if p.ndim > 1}
    assert sum(weights.values()) == 138_344_128
    assert [
        weights[f"{name}.weight"] for name in ("conv1_1", "conv1_2", "conv2_1", "conv5_3", "fc6", "fc7", "fc8")
    ] == [
        *(1_728, 36_864, 73_728, 2_359_296),
        *(102_760_448, 16_777_216, 4_096_000),
    ]


def test_resnet152_has_155_convolutions_and_one_linear_layer():
    modules = list(zoo.create("resnet152", device="meta").modules())
    assert [sum(isinstance(m, kind) for m in modules) for kind in (nn.Conv2d, nn.Linear)] == [155, 1]


@pytest.mark.parametrize(("name", "depth"), [("cifar-resnet20", 20), ("cifar-resnet110", 110), ("cifar-plain56", 56)])
def test_cifar_nets_have_the_depth_of_their_name(name, depth):
    modules = zoo.create(name, device="meta").modules()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in modules) == depth


def test_the_shortcut_pads_both_sides_with_every_second_pixel():
    net = zoo.create("cifar-resnet20")
    x = torch.arange(16 * 5 * 5, dtype=torch.float32).reshape(1, 16, 5, 5)
    y = net.layer2[0].shortcut(x)
    assert y.shape == (1, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, [0, 2, 4]][:, :, :, [0, 2, 4]])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_plain_nets_have_the_same_weights_and_no_shortcut():
    plain, residual = zoo.create("cifar-plain20").eval(), zoo.create("cifar-resnet20").eval()
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(plain(x), residual(x))
    with torch.no_grad():  # a block whose second norm is zero passes x in one and nothing in the other
        for net in (plain, residual):
            net.layer1[0].bn2.weight.zero_()
    inner = torch.rand(1, 16, 8, 8)
    assert torch.equal(residual.layer1[0](inner), inner)
    assert not plain.layer1[0](inner).any()


def test_small_images_keep_their_size_in_the_stem():
    net = zoo.create("mobilenet-v1", stem_stride=1, width=0.25, num_classes=10)
    assert net.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 32, 32)


# --- the same answers as other libraries ---


ORACLES = [
    ("alexnet", torchvision.models.alexnet, "TORCHVISION", 224),
    ("vgg16", lambda: torchvision.models.vgg16(init_weights=False), "TORCHVISION", 224),
    ("resnet18", torchvision.models.resnet18, "TORCHVISION", 65),
    ("resnet34", torchvision.models.resnet34, "TORCHVISION", 65),
    ("resnet50", torchvision.models.resnet50, "TORCHVISION", 65),
    ("resnet101", torchvision.models.resnet101, "TORCHVISION", 65),
    ("resnet152", torchvision.models.resnet152, "TORCHVISION", 65),
    ("mobilenet-v2", torchvision.models.mobilenet_v2, "TORCHVISION", 65),
    ("xception", lambda: timm.create_model("legacy_xception"), "TIMM", 75),
]


@pytest.mark.parametrize(
    ("name", "make", "table", "side"),
    ORACLES,
)
def test_other_libraries_give_the_same_answers(name, make, table, side):
    rules = getattr(importlib.import_module(f"netpress.zoo.{zoo.family(name)}"), table)
    net, theirs = filled(zoo.create(name, device="meta").to_empty(device="cpu"), make(), rules)
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(net(x), expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "cifar-resnet20", "mobilenet-v1", "mobilenet-v2", "mlperf-tiny-resnet8"])
def test_odd_sizes_and_grey_images(name):
    net = zoo.create(name, num_classes=7, in_channels=1).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 1, 37, 53)).shape == (2, 7)


def test_sizes_that_change_the_first_linear_layer():
    assert zoo.create("alexnet", size=64, device="meta").fc6.in_features == 256
    assert zoo.create("vgg16", size=64, device="meta").fc6.in_features == 512 * 4
    for name, size in (("alexnet", 63), ("alexnet-caffe", 67), ("vgg16", 32)):
        net = zoo.create(name, size=size, device="meta")
        assert net(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 1000)


def test_deep_nets_start_with_signals_that_live():
    torch.manual_seed(0)
    net = zoo.create("vgg16", size=32, hidden=(64,)).eval()
    with torch.no_grad():
        assert 0.01 < net[:31](torch.randn(4, 3, 32, 32)).std() < 1  # PyTorch's own start gives 1e-5


WRONG = [
    ("alexnet", {"filters": (64, 192)}, ["filters", "5 integers"]),
    ("alexnet", {"filters": (64, 192, 384, 256, 0)}, ["filters", "got 0"]),
    ("alexnet", {"size": 62}, ["size 62", "smallest is 63"]),
    ("alexnet-caffe", {"size": 66}, ["size 66", "smallest is 67"]),
    ("alexnet-caffe", {"groups": 7}, ["groups", "7", "96"]),
    ("alexnet", {"groups": 0}, ["groups", "got 0"]),
    ("alexnet", {"norm": "batch"}, ["norm", "'none', 'lrn'"]),
    ("alexnet", {"padding": -1}, ["padding", "-1"]),
    ("vgg16", {"size": 31}, ["size 31", "smallest is 32"]),
    ("vgg16", {"norm": 1}, ["norm", "'batch'"]),
    ("vgg16", {"stages": ()}, ["stages", "()"]),
    ("vgg16", {"stages": ((8,), ())}, ["stages", "none empty"]),
    ("vgg16", {"stages": (8, 16)}, ["stages", "list of integers"]),
    ("resnet18", {"block": "wide"}, ["block", "'basic', 'bottleneck'"]),
    ("resnet50", {"stride_on": "2x2"}, ["stride_on", "'3x3', '1x1'"]),
    ("resnet18", {"depths": (2, 2)}, ["depths", "same stages"]),
    ("resnet18", {"depths": (2, 2, 0, 2)}, ["depths", "got 0"]),
    ("resnet18", {"depths": (), "widths": ()}, ["depths", "()"]),
    ("cifar-resnet20", {"blocks": 0}, ["blocks", "got 0"]),
    ("cifar-resnet20", {"shortcut": "conv"}, ["shortcut", "'pad', 'none'"]),
    ("cifar-resnet20", {"widths": (64, 32)}, ["widths", "do not fall"]),
    ("cifar-resnet20", {"widths": ()}, ["widths"]),
    ("mobilenet-v1", {"width": 0.01}, ["width 0.01", "stem", "0 filters"]),
    ("mobilenet-v1", {"width": -1}, ["width", "from 0 to 8", "-1"]),
    ("mobilenet-v1", {"width": float("nan")}, ["width", "nan"]),
    ("mobilenet-v1", {"stem_stride": 3}, ["stem_stride", "1, 2"]),
    ("mobilenet-v2", {"width": 0}, ["width", "from 0.01 to 8"]),
    ("xception", {"middle": 0}, ["middle", "got 0"]),
    ("mlperf-tiny-resnet8", {"widths": ()}, ["widths"]),
    ("mlperf-tiny-mobilenet", {"width": "1"}, ["width", "'1'"]),
    ("mlperf-tiny-mobilenet", {"width": 0.02}, ["stem", "0 filters"]),
]


@pytest.mark.parametrize(("name", "settings", "words"), WRONG)
def test_wrong_settings_are_one_line(name, settings, words):
    with pytest.raises(ModelError) as caught:
        zoo.create(name, device="meta", **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
