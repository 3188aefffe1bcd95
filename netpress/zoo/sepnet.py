"""SEP-Net: three stages of SEP modules, whose 3×3 filters (named `pattern`) can be one bit each.

A reconstruction. The slides print parameters and megabytes, and a public fragment gives the first layers and one
module; the number of modules per stage was searched until the totals fit. That they fit is no evidence that the
original looked like this. R is the real-valued network; B and BQ are the same one with other forms of its weights.

Source: Li et al. 2017, SEP-Nets: Small and Effective Pattern Networks; Compressing Neural Networks Structures (2018).
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.blocks import Sep
from netpress.zoo.checks import check_count, check_counts, check_image
from netpress.zoo.convolutions import conv_norm
from netpress.zoo.variant import Variant

_STAGES = ((64, 5), (128, 3), (256, 3))  # channels, kernel of the convolution of stride 2 that opens the stage


def _variant(modules: tuple[int, int, int], *, params: int, macs: int, printed: str) -> Variant:
    return Variant(
        settings={"modules": modules, "groups": 4},
        shape=(3, 224, 224),
        num_classes=1000,
        params=params,
        macs=macs,
        source=f"Li et al. 2018, Compressing Neural Networks Structures, SEP-Net table ({printed})",
        status="RECON",
        note=(
            "A reconstruction on a published fragment: the source prints totals and no layer table; modules per stage "
            f"were searched to fit {printed}, so the match is no evidence about the original."
        ),
    )


VARIANTS = {
    "sepnet-r-small": _variant((2, 2, 4), params=1_300_712, macs=1_422_043_136, printed="1.3M, 5.2 MB"),
    "sepnet-r-large": _variant((3, 4, 6), params=1_671_816, macs=1_984_014_336, printed="1.7M, 6.7 MB"),
}


def build(
    *, modules: tuple[int, int, int], groups: int, num_classes: int = 1000, in_channels: int = 3
) -> nn.Sequential:
    """Build `conv1 sep1_1 ... conv2 sep2_1 ... conv3 sep3_1 ... pool flatten fc`, fully convolutional.

    Args:
        modules: SEP modules in each of the three stages of 64, 128 and 256 channels.
        groups: of the convolutions inside the pattern residual blocks; divides 16.
        num_classes: outputs.
        in_channels: channels of the image.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes), images of any size.

    Raises:
        ModelError: a value is out of range.

    >>> build(modules=(1, 1, 1), groups=4).sep3_1.wide.pattern.weight.shape
    torch.Size([128, 32, 3, 3])
    """
    check_image(num_classes=num_classes, in_channels=in_channels)
    check_count("groups", groups, most=16)
    counts = check_counts("modules", modules)
    if len(counts) != len(_STAGES) or max(counts) > 64:
        raise ModelError(f"zoo: setting modules must be three integers from 1 to 64, got {modules!r}")
    if 16 % groups:
        raise ModelError(f"zoo: setting groups must divide 16 (1, 2, 4, 8 or 16), got {groups}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = in_channels
    for stage, ((channels, kernel), count) in enumerate(zip(_STAGES, counts, strict=True), start=1):
        layers[f"conv{stage}"] = conv_norm(width, channels, kernel, stride=2, activation=nn.ReLU())
        for number in range(1, count + 1):
            layers[f"sep{stage}_{number}"] = Sep(channels, groups=groups)
        width = channels
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1), "fc": nn.Linear(width, num_classes)}
    return nn.Sequential(layers)
