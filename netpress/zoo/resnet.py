"""ResNet-18 to ResNet-152 for ImageNet. Layers have torchvision's names, so its weights fit as they are."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_counts, check_image
from netpress.zoo.convolutions import he_initial
from netpress.zoo.variant import Variant


def _variant(block: str, depths: tuple[int, ...], *, params: int, macs: int) -> Variant:
    return Variant(
        settings={"block": block, "depths": depths},
        shape=(3, 224, 224),
        num_classes=1000,
        params=params,
        macs=macs,
        source="He et al. 2016, Deep Residual Learning, table 1",
        status="EXACT",
        note="" if block == "basic" else "Stride on the 3x3 convolution, as torchvision; stride_on='1x1' as the paper.",
    )


VARIANTS = {
    "resnet18": _variant("basic", (2, 2, 2, 2), params=11_689_512, macs=1_814_073_344),
    "resnet34": _variant("basic", (3, 4, 6, 3), params=21_797_672, macs=3_663_761_408),
    "resnet50": _variant("bottleneck", (3, 4, 6, 3), params=25_557_032, macs=4_089_184_256),
    "resnet101": _variant("bottleneck", (3, 4, 23, 3), params=44_549_160, macs=7_801_405_440),
    "resnet152": _variant("bottleneck", (3, 8, 36, 3), params=60_192_808, macs=11_513_626_624),
}

TORCHVISION: tuple[tuple[str, str], ...] = ()


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: ReLU(BN(conv2(ReLU(BN(conv1 x)))) + shortcut(x)).

    Args:
        inputs: input channels.
        width: output channels.
        stride: of the first convolution, and of the shortcut.

    Source: He et al. 2016, figure 5, left.

    >>> BasicBlock(8, 16, stride=2)(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 16, 3, 3])
    """

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of x's size over the stride."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the last of four times the width, and a shortcut.

    Args:
        inputs: input channels.
        width: channels of the first two convolutions.
        stride: of one of them, and of the shortcut.
        stride_on: "3x3" (torchvision) or "1x1" (the paper): which of the first two has the stride.

    Source: He et al. 2016, figure 5, right.

    >>> Bottleneck(8, 4, stride=2, stride_on="1x1")(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 16, 3, 3])
    """

    def __init__(self, inputs: int, width: int, *, stride: int, stride_on: str) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _projection(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of x's size over the stride."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut: x itself, or a 1×1 convolution where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def build(
    *,
    block: str,
    depths: tuple[int, ...],
    widths: tuple[int, ...] = (64, 128, 256, 512),
    stride_on: str = "3x3",
    num_classes: int = 1000,
    in_channels: int = 3,
) -> nn.Sequential:
    """Build `conv1 bn1 relu maxpool layer1 ... layer4 avgpool flatten fc`; convolutions start from He et al.'s weights.

    Args:
        block: "basic" (two 3×3 convolutions) or "bottleneck" (1×1, 3×3, 1×1).
        depths: blocks of each stage.
        widths: channels of each stage's 3×3 convolutions; the first stage keeps the size, each other halves it.
        stride_on: the convolution of a bottleneck that halves the size: "3x3" or "1x1".
        num_classes: outputs.
        in_channels: channels of the image.

    Returns:
        The network: (n, in_channels, any height, any width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> build(block="bottleneck", depths=(1, 1), widths=(4, 8)).fc.in_features
    32
    """
    check_image(num_classes=num_classes, in_channels=in_channels)
    check_choice("block", block, ("basic", "bottleneck"))
    check_choice("stride_on", stride_on, ("3x3", "1x1"))
    if len(check_counts("depths", depths)) != len(check_counts("widths", widths)) or not depths:
        raise ModelError(f"zoo: depths and widths must name the same stages, got {depths!r} and {widths!r}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inputs = widths[0]
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        strides = (1 if number == 1 else 2, *[1] * (depth - 1))
        layers[f"layer{number}"], inputs = _stage(inputs, width, strides, block=block, stride_on=stride_on)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["fc"] = nn.Linear(inputs, num_classes)
    net = nn.Sequential(layers)
    he_initial(net)
    return net


def _stage(inputs: int, width: int, strides: Sequence[int], *, block: str, stride_on: str) -> tuple[nn.Sequential, int]:
    """One stage, a block per stride, and its output channels."""
    blocks: list[nn.Module] = []
    for stride in strides:
        if block == "basic":
            blocks.append(BasicBlock(inputs, width, stride=stride))
            inputs = width
        else:
            blocks.append(Bottleneck(inputs, width, stride=stride, stride_on=stride_on))
            inputs = 4 * width
    return nn.Sequential(*blocks), inputs
