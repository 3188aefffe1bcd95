"""Blocks that several families share: everything here branches, joins or moves channels."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn


def he_uniform(net: nn.Module) -> None:
    """Draw every convolution's weights from U(-b, b), b = sqrt(6 / fan_in); set its biases to 0.

    Deep networks without normalisation need it: PyTorch's own b = sqrt(1 / fan_in) shrinks the signal by about 2.4 in
    every layer. Layers named `condense`, which no activation follows, get half the variance. Source: He et al. 2015.

    >>> he_uniform(nn.Conv2d(3, 4, 1))
    """
    for path, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d):
            activation: Literal["linear", "relu"] = "linear" if path.endswith("condense") else "relu"
            nn.init.kaiming_uniform_(layer.weight, nonlinearity=activation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Expand(nn.Module):
    """Two parallel convolutions of one input, joined: [ReLU(1×1 x), ReLU(3×3 x)] along the channels.

    Args:
        inputs: input channels.
        ones: output channels of the 1×1 convolution, first in the join.
        threes: output channels of the 3×3 convolution (padding 1), second.

    Source: Iandola et al. 2016, SqueezeNet, section 3.2.

    >>> Expand(16, 96, 32)(torch.zeros(1, 16, 7, 7)).shape
    torch.Size([1, 128, 7, 7])
    """

    def __init__(self, inputs: int, ones: int, threes: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(inputs, ones, 1)
        self.conv3x3 = nn.Conv2d(inputs, threes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return both branches' outputs joined, of x's height and width."""
        return torch.relu(torch.cat([self.conv1x1(x), self.conv3x3(x)], dim=1))


class Fire(nn.Module):
    """SqueezeNet's module: y = expand(ReLU(1×1 x)), plus bypass(x) where there is one.

    Args:
        inputs: input channels.
        squeeze: output channels of the first 1×1 convolution.
        ones: output channels of the 1×1 half of the expand layer.
        threes: output channels of its 3×3 half.
        bypass: added to the output: nothing, the input ("identity", which needs inputs = ones + threes), or a 1×1
            convolution of it ("conv").

    Source: Iandola et al. 2016, SqueezeNet, section 3.2 and figure 2.

    >>> Fire(96, 16, 64, 64, bypass="conv")(torch.zeros(1, 96, 7, 7)).shape
    torch.Size([1, 128, 7, 7])
    """

    def __init__(self, inputs: int, squeeze: int, ones: int, threes: int, *, bypass: str = "none") -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand = Expand(squeeze, ones, threes)
        self.bypass: nn.Module | None = None
        if bypass != "none":
            self.bypass = nn.Identity() if bypass == "identity" else nn.Conv2d(inputs, ones + threes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ones + threes channels, of x's height and width."""
        y: Tensor = self.expand(torch.relu(self.squeeze(x)))
        return y if self.bypass is None else y + self.bypass(x)


def condense(inputs: int, squeeze: int, ones: int, threes: int) -> nn.Sequential:
    """Return a condense module: a 1×1 convolution without activation, then `Expand`.

    Source: Gulati 2017, CondenseNet: Reducing Parameters of CNN. The report's rule: squeeze < ones + threes, and
    threes < ones.

    >>> condense(64, 16, 96, 32)(torch.zeros(1, 64, 7, 7)).shape
    torch.Size([1, 128, 7, 7])
    """
    return nn.Sequential(OrderedDict(condense=nn.Conv2d(inputs, squeeze, 1), expand=Expand(squeeze, ones, threes)))


class Join(nn.Module):
    """Named branches of one input, joined along the channels in the order in which they were given.

    Args:
        branches: name -> layer; each becomes an attribute.

    >>> Join(OrderedDict(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 2, 1)))(torch.zeros(1, 3, 7, 7)).shape
    torch.Size([1, 6, 7, 7])
    """

    def __init__(self, branches: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return all branches' outputs joined; they must agree in height and width."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def conv_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, norm_eps: float | None = None
) -> nn.Sequential:
    """Return conv - ReLU with biases, or conv - batch norm - ReLU without; padding keeps the size (stride 1).

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: height and width of the filters, odd.
        stride: step of the filters, pixels.
        norm_eps: epsilon of a batch normalisation; None: there is none.

    >>> [name for name, _ in conv_relu(3, 4, 3, norm_eps=1e-3).named_children()]
    ['conv', 'norm', 'relu']
    """
    normal = norm_eps is not None
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=not normal)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if norm_eps is not None:
        layers["norm"] = nn.BatchNorm2d(outputs, eps=norm_eps)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def naive_inception(inputs: int, ones: int, threes: int, fives: int) -> Join:
    """Return an inception module without reductions: [1×1, 3×3, 5×5, max pool 3×3] of the input, joined.

    The pool keeps all input channels, so every such module is wider than the one before it.

    Args:
        inputs: input channels.
        ones: output channels of the 1×1 convolution; `threes` and `fives` of the 3×3 and the 5×5.

    Source: Szegedy et al. 2015, Going deeper with convolutions, figure 2 (a).

    >>> naive_inception(192, 64, 128, 32)(torch.zeros(1, 192, 7, 7)).shape
    torch.Size([1, 416, 7, 7])
    """
    return Join(
        OrderedDict(
            conv1x1=conv_relu(inputs, ones, 1),
            conv3x3=conv_relu(inputs, threes, 3),
            conv5x5=conv_relu(inputs, fives, 5),
            pool=nn.MaxPool2d(3, stride=1, padding=1),
        )
    )


def inception(inputs: int, widths: tuple[int, ...], *, last_kernel: int = 5, norm_eps: float | None = None) -> Join:
    """Return an inception module with reductions: [1×1, 1×1-3×3, 1×1-5×5, max pool-1×1] of the input, joined.

    Args:
        inputs: input channels.
        widths: output channels of 1×1, 3×3's reduction, 3×3, 5×5's reduction, 5×5, pool's projection.
        last_kernel: 3 in torchvision's form, where the 5×5 branch has a 3×3 filter.
        norm_eps: epsilon of a batch normalisation after each convolution; None: biases instead.

    Source: Szegedy et al. 2015, Going deeper with convolutions, figure 2 (b).

    >>> inception(192, (64, 96, 128, 16, 32, 32))(torch.zeros(1, 192, 7, 7)).shape
    torch.Size([1, 256, 7, 7])
    """
    ones, reduce_threes, threes, reduce_fives, fives, project = widths

    def chain(middle: int, outputs: int, kernel: int) -> nn.Sequential:
        first = conv_relu(inputs, middle, 1, norm_eps=norm_eps)
        return nn.Sequential(OrderedDict(reduce=first, wide=conv_relu(middle, outputs, kernel, norm_eps=norm_eps)))

    pool = nn.MaxPool2d(3, stride=1, padding=1)
    return Join(
        OrderedDict(
            conv1x1=conv_relu(inputs, ones, 1, norm_eps=norm_eps),
            conv3x3=chain(reduce_threes, threes, 3),
            conv5x5=chain(reduce_fives, fives, last_kernel),
            pool=nn.Sequential(OrderedDict(pool=pool, project=conv_relu(inputs, project, 1, norm_eps=norm_eps))),
        )
    )


class PatternResidual(nn.Module):
    """y = ReLU(BN(1×1 x + k×k x)), both convolutions in groups, without biases.

    The k×k filters (`pattern`) are those that SEP-Net binarizes; the 1×1 beside them stays real.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: height and width of the pattern's filters, odd.
        groups: of both convolutions.

    Source: Li et al. 2017, SEP-Nets: Small and Effective Pattern Networks.

    >>> PatternResidual(32, 16)(torch.zeros(1, 32, 7, 7)).shape
    torch.Size([1, 16, 7, 7])
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, groups: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)
        self.pattern = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return `outputs` channels, of x's height and width."""
        return torch.relu(self.norm(self.conv(x) + self.pattern(x)))


class Sep(nn.Module):
    """y = ReLU(x + BN(1×1 [PRB1(r), PRB2(r)])), r = ReLU(BN(1×1 x)): C -> C/2 -> [C/2, C/4] -> C channels.

    Args:
        channels: C, input and output channels.
        kernel: of the pattern filters.
        groups: of the two pattern residual blocks; must divide C/4.

    Source: Li et al. 2017, SEP-Nets, as reconstructed for this project: the paper prints no layer table.

    >>> Sep(64)(torch.zeros(1, 64, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(self, channels: int, *, kernel: int = 3, groups: int = 4) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.reduce = nn.Conv2d(channels, half, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(half)
        self.wide = PatternResidual(half, half, kernel=kernel, groups=groups)
        self.narrow = PatternResidual(half, quarter, kernel=kernel, groups=groups)
        self.restore = nn.Conv2d(half + quarter, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of x's shape."""
        r = torch.relu(self.norm1(self.reduce(x)))
        joined = torch.cat([self.wide(r), self.narrow(r)], dim=1)
        return torch.relu(x + self.norm2(self.restore(joined)))
