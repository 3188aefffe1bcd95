"""Which batch norms follow which layer: found by following tensors, whatever names, order and classes say."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from folding import candidate_of, fold, norms_of, notes, relative
from torch import nn

import netpress as nxp
from netpress.methods.norms import norm_pairs


class Tricky(nn.Module):
    """Names and order of definition say nothing; each norm but `good` must stay, for another reason."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn_after_relu = nn.BatchNorm2d(4)
        self.good = nn.BatchNorm2d(4)
        self.conv_twice_read, self.bn_twice_read = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv_reused, self.bn_reused_conv = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv_a, self.bn_reused = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv_b, self.bn_batch = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.conv_out, self.bn_out = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.kernel, self.bn_kernel = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.BatchNorm2d(4)
        self.conv_c, self.bn_never = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv_d, self.bn_inplace = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = F.relu(self.conv1(self.first(x)))
        x = self.bn_after_relu(x)
        twice = self.conv_twice_read(x)
        x = self.bn_twice_read(twice) + twice
        x = self.conv_reused(self.bn_reused_conv(self.conv_reused(x)))
        x = self.bn_reused(self.conv_a(self.bn_reused(x)))
        x = self.bn_batch(self.conv_b(x))
        x = self.bn_kernel(F.conv2d(x, self.kernel))
        x = self.bn_inplace(self.conv_d(x).mul_(2))
        out = self.conv_out(x)
        x = self.good(self.conv_c(self.bn_out(out)))
        return x, out


def test_a_norm_that_cannot_be_folded_stays_with_its_reason():
    before = candidate_of(Tricky(), (3, 8, 8))
    after = fold(before)
    assert notes(after)[0] == "folded 1 of 11 batch norms"
    nothing = "no convolution or linear layer comes directly before it"
    assert set(notes(after)[2:]) == {
        f"first stays: {nothing}",
        f"bn_after_relu stays: {nothing}",
        "bn_twice_read stays: the output of conv_twice_read is used elsewhere too",
        "bn_reused_conv stays: conv_reused is called more than once",
        "bn_reused stays: it is called more than once",
        "bn_batch stays: it has no running statistics",
        "bn_kernel stays: the weights of the layer before it are computed, or shared by several layers",
        "bn_never stays: it is not called in evaluation mode",
        "bn_inplace stays: the output of conv_d is used elsewhere too",
        "bn_out stays: the output of conv_out is used elsewhere too",
    }
    assert isinstance(after.net.good, nn.Identity)
    x = torch.randn(2, 3, 8, 8)
    for a, b in zip(before.net(x), after.net(x), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


class Views(nn.Module):
    """Norms that see a layer's output in another shape."""

    def __init__(self):
        super().__init__()
        self.linear, self.same = nn.Linear(5, 4), nn.BatchNorm1d(4)
        self.rows, self.columns = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.turned, self.square = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):  # (n, 4, 5)
        x = self.same(self.linear(x).flatten(0, 1)).unflatten(0, (-1, 4))  # a row is what the layer made: the same
        x = self.columns(self.rows(x))  # channels are axis 1, the layer's features are axis 2
        x = self.turned(x.unsqueeze(3).expand(-1, -1, -1, 4))
        return self.square(x.transpose(1, 2))


def test_views_are_followed():
    before = candidate_of(Views(), (4, 5))
    found = norm_pairs(before.net, (4, 5))
    assert [(p.layer, p.norms) for p in found.pairs] == [("linear", ("same",))]
    assert set(found.stay) == {"columns", "square"}
    assert relative(before.net, fold(before).net, (4, 5)) < 1e-5


class Standardised(nn.Conv2d):
    """Weight standardisation: scaling the weights changes nothing."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class Twice(nn.BatchNorm2d):
    """A norm that does something of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class LooksAtValues(nn.Module):
    """Cannot run on shapes alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x if float(x.sum()) > 1e9 else -x


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(Standardised(2, 3, 3), nn.BatchNorm2d(3)), "are computed"),
        (nn.Sequential(nn.Conv2d(2, 3, 3), Twice(3)), "Twice may do more than normalise"),
    ],
)
def test_layers_that_only_look_like_a_pair_stay(net, reason):
    after = fold(candidate_of(net, (2, 8, 8)))
    assert norms_of(after.net) == ["1"]
    assert reason in notes(after)[1]


def test_tied_weights_stay():
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    net[2].weight = net[0].weight
    assert "shared by several layers" in notes(fold(candidate_of(net, (2, 4, 4))))[1]


def test_a_network_that_looks_at_values_is_run_for_real():
    before = candidate_of(LooksAtValues(), (1, 8, 8))
    after = fold(before)
    assert norms_of(after.net) == []
    assert relative(before.net, after.net, (1, 8, 8)) < 1e-5


class TwoNames(nn.Module):
    """Holds its layers twice, calls them once."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)
        self.body = nn.Sequential(self.conv, self.bn)

    def forward(self, x):
        return self.body(x)


def test_a_norm_under_two_names_is_taken_out_under_both(tmp_path):
    before = candidate_of(TwoNames(), (1, 8, 8))
    after = fold(before)
    assert after.arch.edits == (("bias", "conv"), ("identity", "bn"), ("identity", "body.1"))
    assert norms_of(after.net) == []
    assert relative(before.net, after.net, (1, 8, 8)) < 1e-5
    nxp.save(after, tmp_path / "a.press")
    assert relative(nxp.load(tmp_path / "a.press", into=TwoNames()).net, after.net, (1, 8, 8)) == 0
