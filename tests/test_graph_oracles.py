"""Pruning against networks that were written by hand at the smaller width, and against permuted channels."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from netpress import graph


class Plain(nn.Module):
    def __init__(self, a=6, b=8):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, a, 3), nn.BatchNorm2d(a), nn.Conv2d(a, b, 3)
        self.fc = nn.Linear(b * 4, 5)

    def forward(self, x):
        return self.fc(F.relu(self.two(F.relu(self.norm(self.one(x))))).flatten(1))


class Residual(nn.Module):
    def __init__(self, a=8, b=6):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, a, 1), nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, a, 3, padding=1)
        self.fc = nn.Linear(a, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(F.relu(x + self.two(F.relu(self.one(x)))).mean((2, 3)))


class Dense(nn.Module):
    def __init__(self, a=6, b=4, c=5):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, a, 1), nn.Conv2d(a, b, 1), nn.Conv2d(a + b, c, 1)
        self.fc = nn.Linear(a + b + c, 5)

    def forward(self, x):
        x = F.relu(self.one(x))
        x = torch.cat([x, F.relu(self.two(x))], 1)
        return self.fc(torch.cat([x, F.relu(self.three(x))], 1).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self, a=6, multiplier=2):
        super().__init__()
        self.one = nn.Conv2d(3, a, 1)
        self.depth = nn.Conv2d(a, a * multiplier, 3, padding=1, groups=a)
        self.fc = nn.Linear(a * multiplier, 5)

    def forward(self, x):
        return self.fc(F.relu6(self.depth(F.relu(self.one(x)))).mean((2, 3)))


class Shuffle(nn.Module):
    def __init__(self, a=8):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, a, 1), nn.Conv2d(a, a, 1), nn.Conv2d(a // 2, a // 2, 1)
        self.fc = nn.Linear(a, 5)

    def forward(self, x):
        x = F.relu(self.two(F.relu(self.one(x))))
        n, c, h, w = x.shape
        left, right = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).chunk(2, 1)
        return self.fc(torch.cat([left, F.relu(self.three(right))], 1).mean((2, 3)))


class Excite(nn.Module):
    def __init__(self, a=8, b=4):
        super().__init__()
        self.one, self.down, self.up = nn.Conv2d(3, a, 1), nn.Conv2d(a, b, 1), nn.Conv2d(b, a, 1)
        self.fc = nn.Linear(a, 5)

    def forward(self, x):
        x = F.silu(self.one(x))
        return self.fc((x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self, a=8, b=12):
        super().__init__()
        self.one, self.group = nn.Conv2d(3, a, 1), nn.Conv2d(a, b, 3, groups=2)
        self.fc = nn.Linear(b, 5)

    def forward(self, x):
        return self.fc(F.relu(self.group(F.relu(self.one(x)))).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self, a=6, b=8):
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 2, stride=2)
        self.up, self.out = nn.ConvTranspose2d(b, a, 2, stride=2), nn.Conv2d(2 * a, 2, 1)

    def forward(self, x):
        x = F.relu(self.down(x))
        return self.out(torch.cat([x, self.up(F.relu(self.deep(x)))], 1))


class Normed(nn.Module):
    """As in ConvNeXt: channels last, layer norm over those kept, layer scale."""

    def __init__(self, a=6, b=12):
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, a, 1), nn.Conv2d(a, a, 3, padding=1, groups=a)
        self.norm, self.one, self.two = nn.LayerNorm(a), nn.Linear(a, b), nn.Linear(b, a)
        self.gamma = nn.Parameter(torch.rand(a))
        self.fc = nn.Linear(a, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.two(F.gelu(self.one(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return self.fc((x + (self.gamma * y).permute(0, 3, 1, 2)).mean((2, 3)))


def spread(index, size):
    """Positions in a flattened axis where every channel holds `size` places."""
    return [i * size + k for i in index for k in range(size)]


A, B = [0, 2, 5], [1, 4, 6, 7]
# network, groups and members kept, the smaller network, and by hand: tensor, positions kept on each axis
CASES = {
    "plain": (Plain, {"one": A, "two": B}, lambda: Plain(3, 4), {
        "one.weight": (A,), "one.bias": (A,), "norm.weight": (A,), "norm.bias": (A,), "norm.running_mean": (A,),
        "norm.running_var": (A,), "two.weight": (B, A), "two.bias": (B,), "fc.weight": (None, spread(B, 4)),
    }),
    "residual": (Residual, {"stem": B, "one": A}, lambda: Residual(4, 3), {
        "stem.weight": (B,), "stem.bias": (B,), "one.weight": (A, B), "one.bias": (A,), "two.weight": (B, A),
        "two.bias": (B,), "fc.weight": (None, B),
    }),
    "dense": (Dense, {"one": A, "two": [3], "three": [0, 4]}, lambda: Dense(3, 1, 2), {
        "one.weight": (A,), "one.bias": (A,), "two.weight": ([3], A), "two.bias": ([3],),
        "three.weight": ([0, 4], [*A, 9]), "three.bias": ([0, 4],), "fc.weight": (None, [*A, 9, 10, 14]),
    }),
    "depthwise": (Depthwise, {"one": A}, lambda: Depthwise(3), {
        "one.weight": (A,), "one.bias": (A,), "depth.weight": (spread(A, 2),), "depth.bias": (spread(A, 2),),
        "fc.weight": (None, spread(A, 2)),
    }),
    # 2 x 4 transposed: 0 4 1 5 | 2 6 3 7; halves together: {0, 4, 2, 6} and {1, 5, 3, 7}
    "shuffle": (Shuffle, {"one": B, "two": [1, 3]}, None, {}),
    "excite": (Excite, {"one": B, "down": [2, 3]}, lambda: Excite(4, 2), {
        "one.weight": (B,), "one.bias": (B,), "down.weight": ([2, 3], B), "down.bias": ([2, 3],),
        "up.weight": (B, [2, 3]), "up.bias": (B,), "fc.weight": (None, B),
    }),
    # offsets 0, 3 of both groups of four; offsets 1, 4, 5 of both groups of six
    "grouped": (Grouped, {"one": [0, 3], "group": [1, 4, 5]}, lambda: Grouped(4, 6), {
        "one.weight": ([0, 3, 4, 7],), "one.bias": ([0, 3, 4, 7],), "group.weight": ([1, 4, 5, 7, 10, 11], [0, 3]),
        "group.bias": ([1, 4, 5, 7, 10, 11],), "fc.weight": (None, [1, 4, 5, 7, 10, 11]),
    }),
    "unet": (UNet, {"down": A, "deep": B, "up": [1, 3, 4]}, lambda: UNet(3, 4), {
        "down.weight": (A,), "down.bias": (A,), "deep.weight": (B, A), "deep.bias": (B,), "up.weight": (B, [1, 3, 4]),
        "up.bias": ([1, 3, 4],), "out.weight": (None, [*A, 7, 9, 10]),
    }),
    "normed": (Normed, {"stem": A, "one": [0, 1, 7, 11]}, lambda: Normed(3, 4), {
        "stem.weight": (A,), "stem.bias": (A,), "depth.weight": (A,), "depth.bias": (A,), "norm.weight": (A,),
        "norm.bias": (A,), "one.weight": ([0, 1, 7, 11], A), "one.bias": ([0, 1, 7, 11],),
        "two.weight": (A, [0, 1, 7, 11]), "two.bias": (A,), "gamma": (A,), "fc.weight": (None, A),
    }),
}  # fmt: skip
EXAMPLE = torch.zeros(1, 3, 6, 6)


def lively(net):
    torch.manual_seed(1)
    for x in [*net.parameters(), *net.buffers()]:
        if x.is_floating_point():
            x.data.uniform_(0.1, 1).mul_(torch.randn(x.shape).sign() if x.dim() > 1 else 1)
    return net.eval()


def flags(group, members):
    return [k in members for k in range(len(group))]


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[2]])
def test_as_written_by_hand(name):
    build, kept, small, index = CASES[name]
    net = lively(build())
    coupling = graph.couple(net, EXAMPLE)
    ours = graph.keep(net, coupling, {g: flags(coupling.by_name[g], m) for g, m in kept.items()})
    hand = small().eval()
    state = dict(net.state_dict())
    for tensor, axes in index.items():
        for axis, positions in enumerate(axes):
            if positions is not None:
                state[tensor] = state[tensor].index_select(axis, torch.tensor(positions))
    hand.load_state_dict(state, strict=True)
    assert {n: x.tolist() for n, x in ours.state_dict().items()} == {
        n: x.tolist() for n, x in hand.state_dict().items()
    }
    assert str(ours) == str(hand)  # the numbers that modules hold
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(ours(x), hand(x))


def test_shuffle_as_written_by_hand():
    net = lively(Shuffle())
    coupling = graph.couple(net, EXAMPLE)
    two = coupling.by_name["two"]
    positions = next(s.positions for s in two.slots if (s.tensor, s.axis) == ("two.weight", 0))
    assert sorted(map(sorted, positions.tolist())) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    ours = graph.keep(net, coupling, {"two": [False, True], "one": flags(coupling.by_name["one"], B)})
    hand, odd = Shuffle(4).eval(), [1, 3, 5, 7]
    hand.three, hand.fc = nn.Conv2d(2, 4, 1), nn.Linear(6, 5)  # its four outputs are nobody else's
    state = dict(net.state_dict())
    picks = {"one.weight": (B,), "one.bias": (B,), "two.weight": (odd, B), "two.bias": (odd,)}
    # `three` reads 2 6 3 7, of which 3 and 7 stay; the last layer 0 4 1 5, of which 1 and 5 stay, and all of `three`
    picks |= {"three.weight": (None, [2, 3]), "fc.weight": (None, [2, 3, 4, 5, 6, 7])}
    for tensor, axes in picks.items():
        for axis, index in enumerate(axes):
            if index is not None:
                state[tensor] = state[tensor].index_select(axis, torch.tensor(index))
    hand.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 6, 6)
    assert torch.allclose(ours(x), hand(x), rtol=0, atol=1e-6)
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in hand.parameters()]


@pytest.mark.parametrize("name", CASES)
def test_permuting_a_class_changes_nothing(name):
    """Channels of a group in another order, on every axis that carries them: the same function."""
    net = lively(CASES[name][0]()).double()
    coupling = graph.couple(net, EXAMPLE.double())
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        want = net(x)
        moved = 0
        for group in coupling.free:
            order = torch.randperm(len(group), generator=torch.Generator().manual_seed(2))
            held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
            for slot in group.slots:
                index = torch.arange(held[slot.tensor].shape[slot.axis])
                where = torch.from_numpy(slot.positions)
                index[where.flatten()] = where[order].flatten()
                held[slot.tensor].copy_(held[slot.tensor].index_select(slot.axis, index))
            moved += int((order != torch.arange(len(group))).sum())
        assert moved
        assert torch.allclose(net(x), want, rtol=1e-12, atol=1e-12)
