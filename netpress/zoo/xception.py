"""Xception: Inception taken to its end, residual blocks of depthwise separable convolutions.

Source: Chollet 2017, Xception, figure 5. Sizes are rounded as in the published PyTorch ports: the two convolutions of
the stem are unpadded, pools are padded by 1 on every side.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from netpress.zoo.checks import check_count, check_image
from netpress.zoo.convolutions import plain_separable
from netpress.zoo.variant import Variant

VARIANTS = {
    "xception": Variant(
        settings={"middle": 8},
        shape=(3, 299, 299),
        num_classes=1000,
        params=22_855_952,
        macs=8_357_403_496,
        source="Chollet 2017, Xception, table 3 (22,855,952 parameters)",
        status="EXACT",
    )
}

TIMM = (  # of `legacy_xception`
    (r"^(conv[12])\.", r"\1.conv."),
    (r"^bn([12])\.", r"conv\1.norm."),
    (r"^(conv[34])\.conv1\.", r"\1.conv.depthwise."),
    (r"^(conv[34])\.pointwise\.", r"\1.conv.pointwise."),
    (r"^bn([34])\.", r"conv\1.conv.norm."),
    (r"\.skip\.", ".shortcut.conv."),
    (r"\.skipbn\.", ".shortcut.norm."),
    # the first block has no ReLU in front: its parts stand one place earlier
    (r"^block1\.rep\.0\.", "block1.body.conv1."),
    (r"^block1\.rep\.1\.", "block1.body.conv1.norm."),
    (r"^block1\.rep\.3\.", "block1.body.conv2."),
    (r"^block1\.rep\.4\.", "block1.body.conv2.norm."),
    (r"\.rep\.1\.", ".body.conv1."),
    (r"\.rep\.2\.", ".body.conv1.norm."),
    (r"\.rep\.4\.", ".body.conv2."),
    (r"\.rep\.5\.", ".body.conv2.norm."),
    (r"\.rep\.7\.", ".body.conv3."),
    (r"\.rep\.8\.", ".body.conv3.norm."),
    (r"\.body\.(conv\d)\.conv1\.", r".body.\1.depthwise."),
)
"""timm's tensor names -> ours."""


class XceptionBlock(nn.Module):
    """ReLU and separable convolution, some times over, with a shortcut around them.

    Args:
        widths: channels in, and out of each separable convolution.
        shrink: "pool" ends the block in a 3×3 max pool of stride 2 and projects the shortcut (1×1, stride 2);
            "none" adds x itself.
        first_relu: "relu" or "none": what comes before the first convolution.

    >>> import torch
    >>> XceptionBlock((4, 8, 8), shrink="pool", first_relu="none")(torch.zeros(1, 4, 9, 9)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(self, widths: tuple[int, ...], *, shrink: str, first_relu: str = "relu") -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            if number > 1 or first_relu == "relu":
                layers[f"relu{number}"] = nn.ReLU()
            layers[f"conv{number}"] = plain_separable(inputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if shrink == "pool":
            layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(widths[0], widths[-1], 1, stride=2, bias=False), norm=nn.BatchNorm2d(widths[-1])
                )
            )
        self.body = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x) + shortcut(x)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


def build(*, middle: int = 8, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0) -> nn.Sequential:
    """Build `conv1 conv2 block1 ... conv3 conv4 pool flatten drop fc`: entry, middle and exit flow.

    Args:
        middle: blocks of three separable convolutions at 728 channels, between the three that shrink and the last.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes); both sizes at least 7.

    Raises:
        ModelError: a value is out of range.

    >>> [name for name, _ in build(middle=1).named_children()][2:7]
    ['block1', 'block2', 'block3', 'block4', 'block5']
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_count("middle", middle, most=1000)
    blocks: list[nn.Module] = [
        XceptionBlock((64, 128, 128), shrink="pool", first_relu="none"),
        XceptionBlock((128, 256, 256), shrink="pool"),
        XceptionBlock((256, 728, 728), shrink="pool"),
        *(XceptionBlock((728, 728, 728, 728), shrink="none") for _ in range(middle)),
        XceptionBlock((728, 728, 1024), shrink="pool"),
    ]
    return nn.Sequential(
        OrderedDict(
            conv1=_stem(in_channels, 32, stride=2),
            conv2=_stem(32, 64, stride=1),
            **{f"block{number}": block for number, block in enumerate(blocks, start=1)},
            conv3=_last(1024, 1536),
            conv4=_last(1536, 2048),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            drop=nn.Dropout(dropout),
            fc=nn.Linear(2048, num_classes),
        )
    )


def _stem(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


def _last(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=plain_separable(inputs, outputs), relu=nn.ReLU()))
