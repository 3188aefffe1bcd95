"""C-Inception: GoogLeNet made of modules whose 5×5 branch is two 3×3 in a row, at half the width.

A reconstruction. The slides that name it print two totals (5.10M parameters, 2.43M when the 3×3 filters of the modules
are one bit each) and no layer table; the widths here were searched until both totals fit. That they fit is therefore no
evidence that the original looked like this.

Source: Li et al., Compressing Neural Networks Structures (slides, 2018).
"""

from collections import OrderedDict

from torch import nn

from netpress.zoo.blocks import Join, conv_relu, he_uniform
from netpress.zoo.checks import check_image
from netpress.zoo.variant import Variant

# Outputs of the module, outputs of its 3×3's reduction; a pool ends each row.
_STAGES = (((256, 128),) * 2, ((512, 144),) * 5, ((512, 160),) * 2)

VARIANTS = {
    "c-inception": Variant(
        settings={},
        shape=(3, 224, 224),
        num_classes=1000,
        params=5_097_976,
        macs=1_421_697_024,
        source="Li et al. 2018, Compressing Neural Networks Structures, binarization table (5.10M)",
        status="RECON",
        note=(
            "A reconstruction: the source prints totals and no layer table; these widths were searched to fit 5.10M "
            "and 2.43M (1-bit 3×3 filters), so the match is no evidence about the original."
        ),
    )
}


def build(*, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.4) -> nn.Sequential:
    """Build `conv1 pool1 norm1 reduce2 conv2 norm2 pool2`, nine modules `stage1.module1 ...`, `pool5 flatten drop fc`.

    Initial weights: He et al. 2015, uniform, as there is no batch normalisation.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> build(num_classes=10).fc.in_features
    512
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv_relu(in_channels, 64, 7, stride=2),
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
        norm1=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        reduce2=conv_relu(64, 64, 1),
        conv2=conv_relu(64, 192, 3),
        norm2=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),
    )
    width = 192
    for number, stage in enumerate(_STAGES, start=1):
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for outputs, reduce in stage:
            modules[f"module{len(modules) + 1}"] = _module(width, outputs, reduce)
            width = outputs
        layers[f"stage{number}"] = nn.Sequential(modules)
        if number < len(_STAGES):
            layers[f"pool{number + 2}"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    layers |= {"pool5": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1)}
    layers |= {"drop": nn.Dropout(dropout), "fc": nn.Linear(width, num_classes)}
    net = nn.Sequential(layers)
    he_uniform(net)
    return net


def _module(inputs: int, outputs: int, reduce: int) -> Join:
    """[1×1 C/4, 1×1 - 3×3 C/2, 1×1 C/16 - 3×3 C/8 - 3×3 C/8, pool - 1×1 C/8] for C outputs."""
    eighth = outputs // 8
    return Join(
        OrderedDict(
            conv1x1=conv_relu(inputs, outputs // 4, 1),
            conv3x3=nn.Sequential(
                OrderedDict(reduce=conv_relu(inputs, reduce, 1), wide=conv_relu(reduce, outputs // 2, 3))
            ),
            conv5x5=nn.Sequential(
                OrderedDict(
                    reduce=conv_relu(inputs, outputs // 16, 1),
                    wide1=conv_relu(outputs // 16, eighth, 3),
                    wide2=conv_relu(eighth, eighth, 3),
                )
            ),
            pool=nn.Sequential(
                OrderedDict(pool=nn.MaxPool2d(3, stride=1, padding=1), project=conv_relu(inputs, eighth, 1))
            ),
        )
    )
