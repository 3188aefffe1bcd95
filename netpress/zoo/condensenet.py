"""CondenseNet for CIFAR: dense layers whose 1×1 convolutions learn which inputs each of their groups reads.

Dense layer, I -> k: BN - ReLU - learned group convolution 1×1 (I -> 4 k) - BN - ReLU - 3×3 in 4 groups (4 k -> k). The
connections run on across the blocks, as the transitions only pool.

Two forms of one network, by the same names where they hold the same thing:

- `form="training"`: `conv1` is a dense 1×1 convolution; output o belongs to group o mod G. Training drops inputs of its
  groups (a mask is a form of the weight, not a buffer here).
- `form="converted"`: `index - norm1 - relu1 - conv1 - interleave`, where `conv1` is a grouped convolution of the I / C
  kept inputs per group; `norm1` holds the dense form's statistics at the index. `classifier_keep` does the same to the
  last linear layer: it reads that share of its inputs, chosen by `index`.

Source: Huang et al. 2018, CondenseNet: An Efficient DenseNet using Learned Group Convolutions, sections 3 and 4.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_count, check_image, check_number
from netpress.zoo.dense_blocks import check_condensable, check_stages, condensed, dense_network, grouped_half
from netpress.zoo.variant import Variant

_FORMS = ("training", "converted")


def _variant(depth: int, *, params: int, macs: int, operations: int, training: int, printed: str) -> Variant:
    return Variant(
        settings={"stages": (depth,) * 3, "growth": (8, 16, 32), "form": "converted", "classifier_keep": 1.0},
        shape=(3, 32, 32),
        num_classes=10,
        params=params,
        macs=macs,
        operations=operations,
        source=f"Huang et al. 2018, CondenseNet, CIFAR table ({printed})",
        status="EXACT",
        recipe="condensenet-cifar10",
        note=(
            f"The printed numbers are those of the converted form. Train form='training' ({training:,} parameters), "
            "which learns the groups, then convert; a fresh converted form has fixed, evenly spread groups."
        ),
    )


VARIANTS = {
    "condensenet-50": _variant(
        8, params=216_506, macs=27_185_696, operations=28_641_834, training=522_938, printed="28.6M, 0.22M"
    ),
    "condensenet-74": _variant(
        12, params=405_466, macs=49_208_032, operations=51_897_066, training=1_090_906, printed="51.9M, 0.41M"
    ),
    "condensenet-86": _variant(
        14, params=520_202, macs=62_381_888, operations=65_816_394, training=1_451_594, printed="65.8M, 0.52M"
    ),
    "condensenet-98": _variant(
        16, params=648_442, macs=76_997_536, operations=81_263_530, training=1_863_418, printed="81.3M, 0.65M"
    ),
    "condensenet-110": _variant(
        18, params=790_186, macs=93_054_976, operations=98_238_474, training=2_326_378, printed="98.2M, 0.79M"
    ),
    "condensenet-122": _variant(
        20, params=945_434, macs=110_554_208, operations=116_741_226, training=2_840_474, printed="116.7M, 0.95M"
    ),
}


def build(
    *,
    stages: tuple[int, ...],
    growth: tuple[int, ...],
    form: str,
    classifier_keep: float,
    groups: int = 4,
    condense_factor: int = 4,
    bottleneck: int = 4,
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build `conv1 block1 pool1 block2 ... norm relu pool flatten [index] fc`, fully convolutional.

    Args:
        stages: dense layers in each block; between two blocks an average pool 2×2.
        growth: k of each block, channels that each of its layers adds; conv1 has 2 k of the first.
        form: "training" or "converted".
        classifier_keep: share of the classifier's inputs that it reads, above 0 up to 1; below 1 only when converted.
        groups: G, of the 1×1 and of the 3×3 convolutions; divides growth.
        condense_factor: C; a converted group reads I / C inputs; divides the inputs of every layer.
        bottleneck: the 1×1 convolution has bottleneck * k outputs.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before each 1×1 convolution.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes), sides at least 2 per pool.

    Raises:
        ModelError: a value is out of range, or groups or condense factor do not divide.

    >>> net = build(stages=(1, 1), growth=(8, 16), form="converted", classifier_keep=0.5)
    >>> [name for name, _ in net.block1.layer1.named_children()][:5], net.fc.in_features
    (['index', 'norm1', 'relu1', 'drop', 'conv1'], 20)
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_choice("form", form, _FORMS)
    check_count("groups", groups, most=256)
    check_count("condense_factor", condense_factor, most=256)
    check_count("bottleneck", bottleneck, most=64)
    check_number("classifier_keep", classifier_keep, low=0, high=1)
    if form == "training" and classifier_keep != 1:
        raise ModelError(f"zoo: classifier_keep {classifier_keep} needs form='converted'; the training form keeps all")

    def layer(inputs: int, k: int) -> OrderedDict[str, nn.Module]:
        middle = bottleneck * k
        second = grouped_half(middle, k, groups, nn.ReLU())
        if form == "training":
            check_condensable(inputs, middle, groups=groups, factor=condense_factor)
            return _first_half(nn.Conv2d(inputs, middle, 1, bias=False), dropout) | second
        index, conv, interleave = condensed(inputs, middle, groups=groups, factor=condense_factor)
        first = OrderedDict(index=index) | _first_half(conv, dropout) | OrderedDict(interleave=interleave)
        return first | second

    return dense_network(
        in_channels,
        num_classes,
        check_stages(stages, growth),
        layer,
        relu=nn.ReLU(),
        classifier_keep=classifier_keep,
    )


def _first_half(conv: nn.Conv2d, dropout: float) -> OrderedDict[str, nn.Module]:
    norm = nn.BatchNorm2d(conv.in_channels)
    return OrderedDict(norm1=norm, relu1=nn.ReLU(), drop=nn.Dropout(dropout), conv1=conv)
