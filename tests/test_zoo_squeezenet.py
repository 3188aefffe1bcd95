"""SqueezeNet: every row of the write-up's tables, its design space, bypasses, torchvision's weights."""

import random

import pytest
import torch
import torchvision
from zoo_weights import filled

from netpress import zoo
from netpress.errors import ModelError
from netpress.measure import cost
from netpress.zoo import squeezenet

# base, incr, pct_3x3, freq, sr: printed parameters, those of the network that runs, its multiply-adds; 200 classes.
ROWS = {
    (128, 128, 0.5, 2, 0.125): (838_024, 838_024, 749_702_176),
    (64, 128, 0.5, 2, 0.125): (620_104, 607_304, 531_479_072),
    (192, 128, 0.5, 2, 0.125): (1_104_072, 1_116_872, 1_037_641_248),
    (256, 128, 0.5, 2, 0.125): (1_418_248, 1_443_848, 1_395_296_288),
    (128, 64, 0.5, 2, 0.125): (443_944, 405_544, 482_220_064),
    (128, 192, 0.5, 2, 0.125): (1_397_992, 1_436_392, 1_118_348_320),
    (128, 256, 0.5, 2, 0.125): (2_123_848, 2_200_648, 1_588_158_496),
    (128, 128, 0.01, 2, 0.125): (354_184, 354_184, 363_420_448),
    (128, 128, 0.125, 2, 0.125): (469_384, 469_384, 455_392_288),
    (128, 128, 0.25, 2, 0.125): (592_264, 592_264, 553_495_584),
    (128, 128, 0.375, 2, 0.125): (715_144, 715_144, 651_598_880),
    (128, 128, 0.625, 2, 0.125): (960_904, 960_904, 847_805_472),
    (128, 128, 0.75, 2, 0.125): (1_083_784, 1_083_784, 945_908_768),
    (128, 128, 0.875, 2, 0.125): (1_206_664, 1_206_664, 1_044_012_064),
    (128, 128, 0.5, 1, 0.125): (2_556_552, 2_658_952, 1_898_562_592),
    (128, 128, 0.5, 3, 0.125): (513_720, 488_120, 485_988_384),
    (128, 128, 0.5, 4, 0.125): (359_688, 308_488, 404_093_984),
    (128, 128, 0.5, 2, 0.25): (1_556_680, 1_556_680, 1_314_434_080),
    (128, 128, 0.5, 2, 0.5): (2_993_992, 2_993_992, 2_443_897_888),
    (128, 128, 0.5, 2, 0.75): (4_431_304, 4_431_304, 3_573_361_696),
    (128, 128, 0.5, 2, 1.0): (5_868_616, 5_868_616, 4_702_825_504),
}
POOLS = {(3, 7): 749_702_176, (1, 3): 370_830_368, (1, 2): 345_599_008, (6, 7): 1_327_490_080}
NAMES = ("base", "incr", "pct_3x3", "freq", "sr")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_row_of_the_write_up(row):
    settings, (printed, params, macs) = dict(zip(NAMES, row, strict=True)), ROWS[row]
    found = cost(zoo.create("squeezenet", device="meta", num_classes=200, **settings), (3, 224, 224))
    assert (found.params, found.macs) == (params, macs)
    assert squeezenet.count_params(settings) == printed
    last = sum(squeezenet.fires(*row)[-1][1:])
    assert squeezenet.count_params(settings, classifier_inputs=last) == params
    assert all(value in squeezenet.SPACE[name] for name, value in settings.items())


def test_the_original_on_imagenet():
    found = cost(zoo.create("squeezenet", device="meta"), (3, 224, 224))
    assert (found.params, found.macs) == (1_248_424, 818_924_576)


@pytest.mark.parametrize("pools", POOLS)
def test_pooling_positions(pools):
    found = cost(zoo.create("squeezenet", device="meta", num_classes=200, pools=pools), (3, 224, 224))
    assert (found.params, found.macs) == (838_024, POOLS[pools])
    assert pools in squeezenet.SPACE["pools"]


def test_draws_from_the_space_run_or_are_refused_in_words():
    drawn, built, refused = random.Random(0), 0, []
    space = zoo.space("squeezenet")
    assert set(space) == {*NAMES, "pools", "bypass"}
    for _ in range(200):
        settings = {name: drawn.choice(choice.values()) for name, choice in space.items()}
        try:
            net = zoo.create("squeezenet", device="meta", num_classes=200, **settings)
        except ModelError as error:
            refused.append(str(error))
            continue
        built += 1
        assert net(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 200)
        if settings["bypass"] != "complex":
            last = net.conv10.in_channels
            assert sum(p.numel() for p in net.parameters()) == squeezenet.count_params(settings, classifier_inputs=last)
    assert built + len(refused) == 200 > built > 150
    assert all("would have no 3×3 filter" in words for words in refused)


def test_simple_bypass_is_free_and_sits_where_widths_agree():
    net = zoo.create("squeezenet", device="meta", bypass="simple")
    assert cost(net, (3, 224, 224)).params == 1_248_424
    assert [name for name, fire in net.named_children() if getattr(fire, "bypass", None)] == [
        "fire3",
        "fire5",
        "fire7",
        "fire9",
    ]


def test_complex_bypass_adds_a_convolution_to_the_others():
    net = zoo.create("squeezenet", device="meta", bypass="complex")
    extra = sum(i * o + o for i, o in ((96, 128), (128, 256), (256, 384), (384, 512)))
    assert cost(net, (3, 224, 224)).params == 1_248_424 + extra


def test_bypass_adds_the_input():
    net = zoo.create("squeezenet", bypass="simple")
    for p in net.fire3.parameters():
        p.data.zero_()
    x = torch.randn(1, 128, 5, 5)
    assert torch.equal(net.fire3(x), x)


@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
def test_odd_images_grey_images_and_other_classes(bypass):
    net = zoo.create("squeezenet", bypass=bypass, in_channels=1, num_classes=7).eval()
    assert net(torch.randn(2, 1, 21, 35)).shape == (2, 7)


def test_torchvisions_weights_give_the_same_answers():
    net, other = filled(zoo.create("squeezenet"), torchvision.models.squeezenet1_0(), squeezenet.TORCHVISION)
    x = torch.randn(2, 3, 97, 64)
    torch.testing.assert_close(net(x), other(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sr": 0.001}, ["fire2", "squeeze", "sr 0.001"]),
        ({"pct_3x3": 0.0}, ["fire2", "3×3", "pct_3x3 0.0"]),
        ({"pct_3x3": 1.0}, ["fire2", "1×1", "below 1"]),
        ({"base": 8, "sr": 0.125, "pct_3x3": 0.1}, ["fire2", "3×3", "base 8"]),
        ({"pct_3x3": 50}, ["pct_3x3", "0 to 1", "50"]),
        ({"sr": "0.5"}, ["sr", "'0.5'"]),
        ({"freq": 9}, ["freq", "1 to 8"]),
        ({"pools": (7, 3)}, ["pools", "ascending", "(7, 3)"]),
        ({"pools": (3, 9)}, ["pools", "1 to 8"]),
        ({"bypass": True}, ["bypass", "'simple'", "True"]),
        ({"fires": 3}, ["'fires'", "pct_3x3"]),
    ],
)
def test_refusals_are_one_line(settings, words):
    with pytest.raises(ModelError) as caught:
        zoo.create("squeezenet", **settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_shares_are_rounded_down_in_decimals():
    assert squeezenet.fires(100, 100, 0.29, 2, 0.29)[0] == (29, 71, 29)


def test_the_authors_network_has_a_frame_around_the_classifiers_input():
    net = zoo.create("squeezenet").eval()
    framed = zoo.create("squeezenet-caffe").eval()
    framed.load_state_dict(net.state_dict())
    net.conv10.bias.data.normal_()
    framed.conv10.bias.data.copy_(net.conv10.bias.data)
    x = torch.randn(1, 3, 227, 227)
    inside, frame = 13 * 13, 15 * 15 - 13 * 13
    with torch.no_grad():
        expected = (inside * net(x) + frame * net.conv10.bias.relu()) / (inside + frame)
        torch.testing.assert_close(framed(x), expected, atol=1e-5, rtol=1e-5)
    found = cost(zoo.create("squeezenet-caffe", device="meta"), (3, 227, 227))
    assert (found.params, found.macs) == (1_248_424, 861_339_936)
