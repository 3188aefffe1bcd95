"""Six small networks and a small data set that the contract tests run every method on. Plain functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.data import Data, Split, build

CLASSES = 4
SIZE = 8


class Plain(nn.Module):
    """conv, norm, pool, conv, dropout, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.4)
        self.fc1, self.fc2 = nn.Linear(32, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = F.relu(self.conv2(x))
        return self.fc2(F.leaky_relu(self.fc1(self.drop(x.flatten(1))), 0.1))


class Residual(nn.Module):
    """A block whose output is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Concat(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
        self.mix = nn.Conv2d(8, 6, 3, stride=2)
        self.head = nn.Linear(6 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(F.relu(self.mix(x)).flatten(1))


class Depthwise(nn.Module):
    """A depthwise convolution between two pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(1, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm, self.project = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(F.relu6(self.norm(self.depthwise(F.relu6(self.expand(x))))))
        return self.head(x.mean((2, 3)))


class Shuffle(nn.Module):
    """Split, group convolution, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.group = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.group(F.relu(self.stem(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, F.relu(self.branch(right))], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeExcite(nn.Module):
    """Channels scaled by a small network that sees their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, CLASSES)
        for layer in (self.squeeze, self.excite):
            nn.init.normal_(layer.weight, std=2.0)  # or the gate says nothing, and is pruned away whole

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head((x * gate).mean((2, 3)))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "concat": Concat,
    "depthwise": Depthwise,
    "shuffle": Shuffle,
    "squeeze_excite": SqueezeExcite,
}


def toy_data(*, images: int = 96, seed: int = 0) -> Data:
    """Four classes of noisy 8x8 images: which quarter is bright."""
    rng = torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        labels = torch.arange(count) % CLASSES
        pixels = torch.randint(0, 90, (count, 1, SIZE, SIZE), generator=rng)
        for i, label in enumerate(labels.tolist()):
            row, column = divmod(label, 2)
            pixels[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 130
        return Split(pixels.to(torch.uint8), labels)

    parts = (split(images), split(32), split(32))
    return build("toy", parts, classes=("a", "b", "c", "d"), note="bright quarters")


def toy_candidate(kind: str, *, seed: int = 0) -> Candidate:
    """One of the six networks with weights and statistics drawn from `seed`; some modules train, some evaluate."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = KINDS[kind]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    # mixed flags: whoever puts one flag back for all modules is found out
    for i, module in enumerate(net.modules()):
        module.training = i % 3 != 1
    data = toy_data()
    inputs = Inputs(data.shape, data.mean, data.std)
    return Candidate(net, arch=Arch("own", KINDS[kind].__name__), inputs=inputs, classes=data.classes)


def toy_context(*, seed: int = 3, step: int = 1) -> Context:
    """What a method is told about the toy data."""
    data = toy_data()
    example = torch.zeros(1, *data.shape)
    return Context(example=example, train=data.train, validation=data.validation, seed=seed, step=step)
