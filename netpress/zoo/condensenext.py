"""CondenseNeXt: CondenseNet with depthwise separable convolutions, in three readings of a paper that fits none of them.

The paper prints 23.80M FLOPs, 0.16M parameters and 2.9 MB; no network that runs has all three. Its percentages name a
network between CondenseNet-86 and the final one with 61.01M and 0.46M. The readings, by `variant`:

- "D", that network in between: BN - ReLU6 - depthwise 3×3 - learned group convolution 1×1 (I -> 4 k) - BN. The printed
  totals leave 4 k maps where k are joined; here the 4 maps of each output, one per group, are added.
- "paper", its equations: BN - ReLU6 - 3×3 (I -> 4 k) of which training keeps p * I kernels - BN - ReLU6 - 3×3 in 4
  groups. Converted, each kept kernel is one filter of a depthwise convolution. With the paper's p = 4 it is larger
  than the network it is compared with.
- "grouped", a network of about the printed cost: BN - ReLU6 - 3×3 in k groups (I -> k).

Source: Kalgaonkar and El-Sharkawy 2021, CondenseNeXt: An Ultra-Efficient Deep Neural Network for Embedded Systems.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_count, check_image
from netpress.zoo.dense_blocks import (
    GroupSum,
    KernelSums,
    check_condensable,
    check_stages,
    condensed,
    dense_network,
    grouped_half,
)
from netpress.zoo.variant import Variant

_FORMS = ("training", "converted")
_READINGS = ("D", "paper", "grouped")
_ACTIVATIONS = ("relu6", "relu")
_BOTTLENECK = 4
_GROUPS = 4
_FACTOR = 4

VARIANTS = {
    "condensenext": Variant(
        settings={"stages": (14, 14, 14), "growth": (8, 16, 32), "variant": "D", "form": "converted", "p": 4},
        shape=(3, 32, 32),
        num_classes=10,
        params=459_218,
        macs=58_382_144,
        operations=61_013_834,
        source="Kalgaonkar and El-Sharkawy 2021, CondenseNeXt, table 1 (61.01M, 0.46M by its percentages)",
        status="NEAR",
        recipe="condensenext-cifar10",
        note=(
            "The paper's 23.80M FLOPs, 0.16M parameters and 2.9 MB do not belong to one network that runs: its size "
            "fits stages of 4 layers, its FLOPs stages of 14. variant='D' has the 61.01M and 0.46M that its "
            "percentages give for the network in between (a fit made afterwards); 'grouped' runs at 23.85M operations "
            "and 0.142M parameters; 'paper' follows its equations and costs more."
        ),
    )
}


def build(
    *,
    stages: tuple[int, ...],
    growth: tuple[int, ...],
    variant: str,
    form: str,
    p: int,
    activation: str = "relu6",
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build `conv1 block1 pool1 block2 ... norm relu pool flatten fc`, fully convolutional.

    Both forms hold the same things by the same names; `condensenet` says how they correspond. In the variant "paper"
    `conv1` is a dense 3×3 convolution or, converted, `conv1.index`, `conv1.conv` and `conv1.outputs`.

    Args:
        stages: dense layers in each block; between two blocks an average pool 2×2.
        growth: k of each block, multiples of 4.
        variant: "D", "paper" or "grouped".
        form: "training" or "converted"; the variant "grouped" learns no groups, so both are the same.
        p: kernels that the converted variant "paper" has per input of a layer; the other variants do not use it.
        activation: "relu6", or "relu": what the paper's gain by ReLU6 is compared with.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing behind the first ReLU6 of each layer; the paper trains with 0.1.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes), sides at least 2 per pool.

    Raises:
        ModelError: a value is out of range.

    >>> net = build(stages=(1,), growth=(8,), variant="D", form="converted", p=4)
    >>> [name for name, _ in net.block1.layer1.named_children()]
    ['norm1', 'relu1', 'drop', 'depthwise', 'index', 'conv1', 'interleave', 'norm2', 'sum']
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_choice("variant", variant, _READINGS)
    check_choice("form", form, _FORMS)
    check_choice("activation", activation, _ACTIVATIONS)
    check_count("p", p, most=64)
    relu = nn.ReLU6 if activation == "relu6" else nn.ReLU

    def layer(inputs: int, k: int) -> OrderedDict[str, nn.Module]:
        first: OrderedDict[str, nn.Module] = OrderedDict(norm1=nn.BatchNorm2d(inputs), relu1=relu())
        first["drop"] = nn.Dropout(dropout)
        match variant:
            case "D":
                return first | _in_between(inputs, k, form=form)
            case "paper":
                return first | _paper(inputs, k, form=form, p=p, relu=relu())
            case _:
                return first | _grouped(inputs, k)

    return dense_network(in_channels, num_classes, check_stages(stages, growth), layer, relu=relu())


def _in_between(inputs: int, k: int, *, form: str) -> OrderedDict[str, nn.Module]:
    middle = _BOTTLENECK * k
    check_condensable(inputs, middle, groups=_GROUPS, factor=_FACTOR)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["depthwise"] = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    if form == "training":
        layers["conv1"] = nn.Conv2d(inputs, middle, 1, bias=False)
    else:
        index, conv, interleave = condensed(inputs, middle, groups=_GROUPS, factor=_FACTOR)
        layers |= {"index": index, "conv1": conv, "interleave": interleave}
    return layers | {"norm2": nn.BatchNorm2d(middle), "sum": GroupSum(_BOTTLENECK)}


def _paper(inputs: int, k: int, *, form: str, p: int, relu: nn.Module) -> OrderedDict[str, nn.Module]:
    middle = _BOTTLENECK * k
    first: OrderedDict[str, nn.Module] = OrderedDict()
    if p > middle:
        raise ModelError(f"zoo: p {p} is more than the {middle} kernels that an input of a layer has")
    if form == "training":
        first["conv1"] = nn.Conv2d(inputs, middle, 3, padding=1, bias=False)
    else:
        first["conv1"] = KernelSums(inputs, middle, p * inputs)
    return first | grouped_half(middle, k, _GROUPS, relu)


def _grouped(inputs: int, k: int) -> OrderedDict[str, nn.Module]:
    if inputs % k:
        raise ModelError(f"zoo: variant 'grouped': the growth {k} must divide the {inputs} inputs of every layer")
    return OrderedDict(conv1=nn.Conv2d(inputs, k, 3, padding=1, groups=k, bias=False))
