"""The effective size of binarized networks, by both rules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from netpress import zoo
from netpress.errors import ModelError
from netpress.measure.effective import Effective, effective


def test_googlenet_fits_the_rule_with_scales():
    net = zoo.create("googlenet", device="meta")
    counted = effective(net, r"inception\w+\.conv3x3\..*")
    assert (counted.binary, counted.kernels, counted.params, counted.biases) == (2_990_592, 332_288, 6_998_552, 8_280)
    assert counted.params_with_scales == 4_433_704
    assert counted.params_with_scales - counted.biases == 4_425_424
    assert counted.params_without_scales == 4_101_416


def test_c_inception_was_searched_under_the_rule_with_scales():
    counted = effective(zoo.create("c-inception", device="meta"), r"stage\d\..*")
    assert (counted.params, counted.binary) == (5_097_976, 3_105_792)
    assert counted.params_with_scales == 2_434_328


def test_sepnet_was_searched_under_the_rule_without_scales():
    counted = effective(zoo.create("sepnet-r-small", device="meta"), r"sep\w+\..*")
    assert (counted.params, counted.binary) == (1_300_712, 255_744)
    assert counted.params_without_scales == 1_052_960
    assert counted.params_with_scales == 1_081_376
    assert f"{4 * counted.params_without_scales / 1e6:.3f}" == "4.212"
    assert f"{counted.bytes_quantized / 1e6:.3f}" == "1.077"
    assert f"{counted.bytes_unpacked / 1e6:.3f}" == "1.301"


def test_the_large_sepnet_binarizes_397440_weights():
    assert effective(zoo.create("sepnet-r-large", device="meta"), r"sep\w+\..*").binary == 397_440


def test_a_filter_of_the_slides_takes_nine_bits():
    counted = effective(nn.Sequential(nn.Conv2d(1, 1, 3, bias=False)), "0")
    assert counted == Effective(params=9, binary=9, kernels=1, biases=0)
    assert (counted.params_without_scales, counted.bytes_quantized) == (1, 2)  # a partly filled word, two bytes


def test_pointwise_convolutions_and_other_layers_never_count():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    counted = effective(net, ".*")
    assert counted.binary == 144
    assert counted.kernels == 16
    assert counted.biases == 4 + 4 + 2  # not batch norm's
    assert counted.others == sum(p.numel() for p in net.parameters()) - 144


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 3, 5]))
def test_the_rules_add_up(groups, inputs, outputs, kernel):
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(groups * inputs, groups * outputs, kernel, groups=groups))
    counted = effective(net, "0")
    assert counted.binary == counted.kernels * kernel**2 == groups * inputs * outputs * kernel**2
    assert 0 <= 32 * (counted.params_without_scales - counted.others) - counted.binary < 32
    assert counted.params_with_scales - counted.params_without_scales == counted.kernels
    assert counted.bytes_quantized <= counted.bytes_unpacked


@pytest.mark.parametrize("pattern", ["nothing", "fc.*", "onv1"])  # a path must match as a whole
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ModelError, match=r"no k×k convolution has a path that matches .* conv1, conv2"):
        effective(zoo.create("lenet5", device="meta"), pattern)


def test_a_broken_pattern_is_refused():
    with pytest.raises(ModelError, match=r"'\(' is no regular expression"):
        effective(zoo.create("lenet5", device="meta"), "(")
