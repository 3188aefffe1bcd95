"""A CIFAR network of stacked condense modules: the next step that the report on MNIST announces, made here.

Ours: no table of any source describes it. It keeps the report's proportions: each module squeezes to an eighth of its
outputs without activation, and expands to three quarters 1×1 and one quarter 3×3 filters.

Source of the module: Gulati 2017, CondenseNet: Reducing Parameters of CNN.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.blocks import condense, he_uniform
from netpress.zoo.checks import check_choice, check_count, check_image
from netpress.zoo.variant import Variant

VARIANTS = {
    "condensenet-cifar": Variant(
        settings={"modules": 4, "width": 128},
        shape=(3, 32, 32),
        num_classes=10,
        params=82_026,
        macs=9_636_352,
        source="ours, after Gulati 2017, CondenseNet: Reducing Parameters of CNN, conclusion",
        status="NEAR",
        note="Ours: the report announces stacked condense modules for CIFAR and prints no table to compare with.",
    )
}


def build(
    *,
    modules: int,
    width: int,
    module: str = "condense",
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.1,
) -> nn.Sequential:
    """Build `conv1 relu1 pool1 module1 module2 pool2 module3 ... pool flatten drop fc`, fully convolutional.

    Modules come in pairs of equal width; between two pairs a 2×2 max pool, behind it twice the width. Module of C
    outputs: 1×1 to C / 8, no activation; 1×1 to 3 C / 4 and 3×3 to C / 4, ReLU. Initial weights: He et al. 2015,
    uniform.

    Args:
        modules: condense modules, 1 to 10.
        width: outputs C of the first pair, a multiple of 8; conv1 has half as many.
        module: "condense", or "plain": one 3×3 convolution and ReLU, what the condense module is compared with.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes), images of any size.

    Raises:
        ModelError: a value is out of range.

    >>> net = build(modules=4, width=128)
    >>> net.module1.condense.out_channels, net.module4.expand.conv3x3.out_channels
    (16, 64)
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_count("modules", modules, most=10)
    check_count("width", width, most=4096)
    check_choice("module", module, ("condense", "plain"))
    if width % 8:
        raise ModelError(f"zoo: setting width must be a multiple of 8, got {width}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, width // 2, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2, ceil_mode=True),
    )
    inputs = width // 2
    for i in range(modules):
        outputs = width * 2 ** (i // 2)
        if i > 0 and i % 2 == 0:
            layers[f"pool{i // 2 + 1}"] = nn.MaxPool2d(2, ceil_mode=True)
        layers[f"module{i + 1}"] = (
            condense(inputs, outputs // 8, 3 * outputs // 4, outputs // 4)
            if module == "condense"
            else nn.Sequential(OrderedDict(conv3x3=nn.Conv2d(inputs, outputs, 3, padding=1), relu=nn.ReLU()))
        )
        inputs = outputs
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1)}
    layers |= {"drop": nn.Dropout(dropout), "fc": nn.Linear(inputs, num_classes)}
    net = nn.Sequential(layers)
    he_uniform(net)
    return net
