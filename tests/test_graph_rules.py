"""Rules, one operation at a time: pruned at random the network equals its zeroed twin, and as much can go as should."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from netpress import graph


class Net(nn.Module):
    """Two convolutions of 8 channels, an operation between them, and a head that reads whatever comes out."""

    def __init__(self, operation, *, inner=8, outer=8, classes=3, parts=None, after=None):
        super().__init__()
        self.first = nn.Conv2d(3, inner, 3, padding=1)
        self.parts = nn.ModuleDict(parts or {})
        self.operation = operation
        self.second = nn.Conv2d(outer, 6, 1)
        self.head = nn.Linear(6, classes)
        self.after = after

    def forward(self, x):
        x = F.silu(self.first(x))
        x = self.second(self.operation(x, **self.parts))
        return self.head(x.mean((2, 3)))


def prune(net, *examples, keep=0.5, seed=0):
    example = examples if len(examples) > 1 else examples[0]
    coupling = graph.couple(net, example)
    kept = graph.choose(coupling, graph.random_scores(coupling, seed), keep=keep)
    small = graph.keep(net, coupling, kept)
    return coupling, kept, small, graph.check(net, small, coupling, kept)


def classes_of(coupling, tensor, axis=0):
    """Classes that can go on an axis of a tensor."""
    return sum(len(g) for g in coupling.free if any((s.tensor, s.axis) == (tensor, axis) for s in g.slots))


def weight_standardised(x, conv):
    w = conv.weight
    mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
    return F.conv2d(x, (w - mean) / (std + 1e-5), conv.bias, padding=1)


def standardised_as_norm(x, conv):
    w = F.batch_norm(conv.weight.reshape(1, conv.out_channels, -1), None, None, training=True).reshape_as(conv.weight)
    return F.conv2d(x, w, conv.bias, padding=1)


def squeeze_excite(x, a, b):
    return x * torch.sigmoid(b(F.relu(a(x.mean((2, 3), keepdim=True)))))


def efficient_attention(x, conv):
    return x * torch.sigmoid(conv(x.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(-1)


def selective(x, a, b):
    left, right = a(x), b(x)
    weights = torch.softmax(torch.stack([left.mean((2, 3)), right.mean((2, 3))], 1), 1)
    return (torch.stack([left, right], 1) * weights[..., None, None]).sum(1)


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def coordinates(x):
    ramp = torch.linspace(0, 1, x.shape[-1], device=x.device, dtype=x.dtype).expand(x.shape[0], 1, *x.shape[2:])
    return torch.cat([x, ramp], 1)


def looped(x, conv):
    return torch.stack([conv(part) for part in x.unbind(2)], 2)


def conv(*args, **kwargs):
    return nn.Conv2d(*args, **kwargs)


# name: network, channels of the first convolution that can go (classes, where some go together)
CASES = {
    "identity": (lambda: Net(lambda x: x), 8),
    "pointwise": (lambda: Net(lambda x: F.hardtanh(x).clamp(min=-0.5).abs() * 2 - 1), 8),
    "add": (lambda: Net(lambda x, a: x + a(x), parts={"a": conv(8, 8, 1)}), 8),
    "cat": (lambda: Net(lambda x, a: torch.cat([x, a(x)], 1), outer=13, parts={"a": conv(8, 5, 1)}), 8),
    "cat_twice": (lambda: Net(lambda x: torch.cat([x, x], 1), outer=16), 8),
    "coordinates": (lambda: Net(coordinates, outer=9), 8),
    "chunk": (lambda: Net(lambda x: torch.mul(*x.chunk(2, 1)), outer=4), 4),
    "split": (lambda: Net(lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1)), 0),
    "slice_half": (lambda: Net(lambda x: x[:, : x.shape[1] // 2], outer=4), 4),
    "slice_constant": (lambda: Net(lambda x: x[:, 3:], outer=5), 5),
    "slice_negative": (lambda: Net(lambda x: torch.cat([x[:, :-3], x[:, -3:]], 1)), 5),
    "every_other": (lambda: Net(lambda x: x[:, ::2] + x[:, 1::2], outer=4), 4),
    "select": (lambda: Net(lambda x: x[:, 2:3] * x), 5),
    "flip": (lambda: Net(lambda x: x.flip(1)), 8),
    "flip_add": (lambda: Net(lambda x: x + x.flip(1)), 4),
    "roll": (lambda: Net(lambda x: x.roll(2, 1)), 6),
    "roll_constant": (lambda: Net(lambda x: x.roll(3, 1)), 5),
    "roll_back": (lambda: Net(lambda x: x.roll(-3, 1)), 5),
    "pad_channels": (lambda: Net(lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)), outer=13), 8),
    "pad_shortcut": (
        lambda: Net(lambda x, a: F.pad(x, (0, 0, 0, 0, 2, 2)) + a(x), outer=12, parts={"a": conv(8, 12, 1)}),
        8,
    ),
    "pad_negative": (lambda: Net(lambda x: F.pad(x, (0, 0, 0, 0, -1, 0)), outer=7), 7),
    "permute_flatten": (lambda: Net(lambda x: x.permute(0, 2, 3, 1).flatten(1)[:, :, None, None], outer=128), 8),
    "shuffle": (lambda: Net(shuffle), 4),
    "native_shuffle": (lambda: Net(lambda x: F.channel_shuffle(x, 2)), 4),
    "pixel_shuffle": (lambda: Net(lambda x: F.pixel_shuffle(x, 2), outer=2), 2),
    "pixel_unshuffle": (lambda: Net(lambda x: F.pixel_unshuffle(x, 2), outer=32), 8),
    "space_to_depth": (lambda: Net(space_to_depth, outer=32), 8),
    "depth_to_space": (lambda: Net(depth_to_space, outer=2), 2),
    "glu": (lambda: Net(lambda x: F.glu(x, 1), outer=4), 4),
    "repeat": (lambda: Net(lambda x: x.repeat(1, 3, 1, 1), outer=24), 8),
    "repeat_interleave": (lambda: Net(lambda x: x.repeat_interleave(2, 1), outer=16), 8),
    "expand": (lambda: Net(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)), 8),
    "expand_channels": (lambda: Net(lambda x: x * x.mean(1, keepdim=True).expand_as(x)), 8),
    "stack": (
        lambda: Net(lambda x, a: torch.stack([x, a(x)], 2).flatten(1, 2), outer=16, parts={"a": conv(8, 8, 1)}),
        8,
    ),
    "stack_sum": (lambda: Net(lambda x, a: torch.stack([x, a(x)], 1).sum(1), parts={"a": conv(8, 8, 1)}), 8),
    "unfold": (lambda: Net(lambda x: F.unfold(x, 3, padding=1).unflatten(2, x.shape[2:]), outer=72), 8),
    "fold": (lambda: Net(lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2)), 8),
    "tensor_index": (lambda: Net(lambda x: x[:, torch.tensor([1, 0, 2])], outer=3), 0),
    "interpolate": (lambda: Net(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), 8),
    "pools": (lambda: Net(lambda x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2) + F.adaptive_max_pool2d(x, 2)), 8),
    "reflection": (lambda: Net(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), 8),
    "batch_norm": (lambda: Net(lambda x, a: a(x), parts={"a": nn.BatchNorm2d(8)}), 8),
    "instance_norm": (lambda: Net(lambda x, a: a(x), parts={"a": nn.InstanceNorm2d(8, affine=True)}), 8),
    "group_norm": (lambda: Net(lambda x, a: a(x), parts={"a": nn.GroupNorm(2, 8)}), 4),
    "group_norm_one": (lambda: Net(lambda x, a: a(x), parts={"a": nn.GroupNorm(1, 8)}), 8),
    "group_norm_each": (lambda: Net(lambda x, a: a(x), parts={"a": nn.GroupNorm(8, 8)}), 8),
    "layer_norm": (
        lambda: Net(lambda x, a: a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), parts={"a": nn.LayerNorm(8)}),
        8,
    ),
    "layer_norm_plain": (
        lambda: Net(
            lambda x, a: a(x.movedim(1, -1)).movedim(-1, 1), parts={"a": nn.LayerNorm(8, elementwise_affine=False)}
        ),
        8,
    ),
    "rms_norm": (lambda: Net(lambda x, a: a(x.movedim(1, -1)).movedim(-1, 1), parts={"a": nn.RMSNorm(8)}), 8),
    "normalize": (lambda: Net(lambda x: F.normalize(x, dim=1)), 8),
    "softmax": (lambda: Net(lambda x: x * x.softmax(1)), 8),
    "channel_mean": (lambda: Net(lambda x: x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True))), 8),
    "channel_variance": (lambda: Net(lambda x: x / (x.var(1, keepdim=True) + 1)), 8),
    "prelu": (lambda: Net(lambda x, a: a(x), parts={"a": nn.PReLU(8)}), 8),
    "linear_last": (lambda: Net(lambda x, a: a(x.movedim(1, -1)).movedim(-1, 1), parts={"a": nn.Linear(8, 8)}), 8),
    "bilinear_gate": (lambda: Net(lambda x: torch.einsum("bchw,bc->bchw", x, x.mean((2, 3)))), 8),
    "einsum_gram": (lambda: Net(lambda x: x * torch.einsum("bchw,bchw->bhw", x, x)[:, None]), 8),
    "depthwise": (lambda: Net(lambda x, a: a(x), parts={"a": conv(8, 8, 3, groups=8)}), 8),
    "depth_multiplier": (lambda: Net(lambda x, a: a(x), outer=24, parts={"a": conv(8, 24, 3, groups=8)}), 8),
    "depth_gather": (lambda: Net(lambda x, a: a(x), outer=4, parts={"a": conv(8, 4, 3, groups=4)}), 4),
    "grouped": (lambda: Net(lambda x, a: a(x), outer=12, parts={"a": conv(8, 12, 3, groups=2)}), 4),
    "transposed": (lambda: Net(lambda x, a: a(x), outer=5, parts={"a": nn.ConvTranspose2d(8, 5, 2, stride=2)}), 8),
    "transposed_groups": (
        lambda: Net(lambda x, a: a(x), outer=12, parts={"a": nn.ConvTranspose2d(8, 12, 2, groups=2)}),
        4,
    ),
    "transposed_depthwise": (
        lambda: Net(lambda x, a: a(x), outer=16, parts={"a": nn.ConvTranspose2d(8, 16, 2, groups=8)}),
        8,
    ),
    "twice": (lambda: Net(lambda x, a: a(F.relu(a(x))), parts={"a": conv(8, 8, 1)}), 8),
    "looped": (
        lambda: Net(
            lambda x, a: torch.stack([a(p.unsqueeze(-1)) for p in x.unbind(2)], 2).flatten(3),
            parts={"a": conv(8, 8, 1)},
        ),
        8,
    ),
    "weight_standardised": (lambda: Net(weight_standardised, parts={"conv": conv(8, 8, 3, padding=1)}), 8),
    "standardised_as_norm": (lambda: Net(standardised_as_norm, parts={"conv": conv(8, 8, 3, padding=1)}), 8),
    "squeeze_excite": (lambda: Net(squeeze_excite, parts={"a": conv(8, 4, 1), "b": conv(4, 8, 1)}), 8),
    "efficient_attention": (lambda: Net(efficient_attention, parts={"conv": nn.Conv1d(1, 1, 3, padding=1)}), 8),
    "selective": (lambda: Net(selective, parts={"a": conv(8, 8, 1), "b": conv(8, 8, 3, padding=1)}), 8),
    "weight_norm": (
        lambda: Net(lambda x, a: a(x), parts={"a": nn.utils.parametrizations.weight_norm(conv(8, 8, 1))}),
        8,
    ),
    "in_place": (lambda: Net(lambda x, a: a(x).add_(x).relu_().mul_(2), parts={"a": conv(8, 8, 1)}), 8),
    "written_into": (lambda: Net(written_into), 4),
    "new_zeros": (lambda: Net(lambda x: torch.cat([x, x.new_zeros(x.shape)], 1) + 1, outer=16), 8),
    "written_sizes": (lambda: Net(lambda x: x.view(x.shape[0], 4, 2, *x.shape[2:]).sum(2), outer=4), 0),
    "no_rule": (lambda: Net(lambda x: x.sort(1).values), 0),
}


def space_to_depth(x):
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 4, h // 2, w // 2)


def depth_to_space(x):
    n, c, h, w = x.shape
    return x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, h * 2, w * 2)


def written_into(x):
    out = torch.zeros_like(x)
    half = x.shape[1] // 2
    out[:, :half] = x[:, half:]
    out[:, half:] = x[:, :half]
    return out


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_zeroed(name):
    build, free = CASES[name]
    torch.manual_seed(0)
    net = build().eval()
    coupling, _, small, error = prune(net, torch.zeros(1, 3, 4, 4))
    assert error < 1e-12
    assert classes_of(coupling, "first.weight") == free
    if free:
        assert small.first.out_channels < 8
    for seed in (1, 2):
        assert prune(net, torch.zeros(2, 3, 4, 4), keep=0.4 + 0.2 * seed, seed=seed)[3] < 1e-12
