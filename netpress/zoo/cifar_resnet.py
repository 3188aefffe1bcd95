"""ResNets for CIFAR of depth 6n + 2, and the same without shortcuts (the plain nets that get worse with depth).

Layers are named as in the published weights of `akamaster/pytorch_resnet_cifar10`, which load as they are. The shortcut
has no weights (option A): where a stage halves the size it takes every second pixel and pads zero channels on both
sides. Convolutions start from He et al.'s weights, as in the paper.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_count, check_counts, check_image
from netpress.zoo.convolutions import he_initial
from netpress.zoo.variant import Variant


def _variant(shortcut: str, blocks: int, *, params: int, macs: int, note: str = "") -> Variant:
    return Variant(
        settings={"shortcut": shortcut, "blocks": blocks},
        shape=(3, 32, 32),
        num_classes=10,
        params=params,
        macs=macs,
        source="He et al. 2016, Deep Residual Learning, section 4.2 and table 6",
        status="EXACT",
        note=note,
    )


_PLAIN = "Without shortcuts: the deeper of the two is the worse one."

VARIANTS = {
    "cifar-resnet20": _variant("pad", 3, params=269_722, macs=40_551_040),
    "cifar-resnet32": _variant("pad", 5, params=464_154, macs=68_862_592),
    "cifar-resnet44": _variant("pad", 7, params=658_586, macs=97_174_144),
    "cifar-resnet56": _variant("pad", 9, params=853_018, macs=125_485_696),
    "cifar-resnet110": _variant("pad", 18, params=1_727_962, macs=252_887_680),
    "cifar-plain20": _variant("none", 3, params=269_722, macs=40_551_040, note=_PLAIN),
    "cifar-plain56": _variant("none", 9, params=853_018, macs=125_485_696, note=_PLAIN),
}


class PadShortcut(nn.Module):
    """Every second pixel (for stride 2) and zero channels on both sides: a shortcut without weights.

    Args:
        inputs, outputs: channels; (outputs - inputs) // 2 zero channels go before the image's, the rest behind.
        stride: step in both directions.

    >>> PadShortcut(1, 4, stride=2)(torch.ones(1, 1, 3, 3)).sum(dim=(2, 3))
    tensor([[0., 4., 0., 0.]])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return the image, smaller and with more channels."""
        if x.requires_grad and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            # the same pixels; a slice's gradient would leave the layout, and all layers before it would pay
            few = F.avg_pool2d(x, 1, self.stride)
        else:
            few = x[:, :, :: self.stride, :: self.stride]
        return F.pad(few, (0, 0, 0, 0, self.before, self.behind))


class CifarBlock(nn.Module):
    """Two 3×3 convolutions, with or without a shortcut: ReLU(BN(conv2(ReLU(BN(conv1 x)))) [+ shortcut(x)]).

    Args:
        inputs, outputs: channels.
        stride: of the first convolution, and of the shortcut.
        shortcut: "pad" or "none".

    >>> CifarBlock(4, 8, stride=2, shortcut="pad")(torch.zeros(1, 4, 7, 7)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module | None = None
        if shortcut == "pad":
            same = inputs == outputs and stride == 1
            self.shortcut = nn.Identity() if same else PadShortcut(inputs, outputs, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of x's size over the stride, rounded up."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y if self.shortcut is None else y + self.shortcut(x))


def build(
    *,
    blocks: int,
    shortcut: str = "pad",
    widths: tuple[int, ...] = (16, 32, 64),
    num_classes: int = 10,
    in_channels: int = 3,
) -> nn.Sequential:
    """Build `conv1 bn1 relu layer1 layer2 layer3 pool flatten linear`.

    Args:
        blocks: in each stage; the depth is 2 * 3 * blocks + 2 layers with weights.
        shortcut: "pad" (identity, zero channels where it widens) or "none".
        widths: channels of each stage, not falling; the first keeps the size, each other halves it.
        num_classes: outputs.
        in_channels: channels of the image.

    Returns:
        The network: (n, in_channels, any height, any width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in build(blocks=3).modules())
    20
    """
    check_image(num_classes=num_classes, in_channels=in_channels)
    check_count("blocks", blocks, most=1000)
    check_choice("shortcut", shortcut, ("pad", "none"))
    if not check_counts("widths", widths) or sorted(widths) != list(widths):
        raise ModelError(f"zoo: setting widths must be a list of integers that do not fall, got {widths!r}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
    )
    inputs = widths[0]
    for stage, width in enumerate(widths, start=1):
        strides = (1 if stage == 1 else 2, *[1] * (blocks - 1))
        made = []
        for stride in strides:
            made.append(CifarBlock(inputs, width, stride=stride, shortcut=shortcut))
            inputs = width
        layers[f"layer{stage}"] = nn.Sequential(*made)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["linear"] = nn.Linear(inputs, num_classes)
    net = nn.Sequential(layers)
    he_initial(net)
    return net
