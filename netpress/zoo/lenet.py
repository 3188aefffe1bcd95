"""LeNet-300-100 and LeNet-5: the two small networks every compression paper starts with.

Source: LeCun et al. 1998; layer table of LeNet-5 as in Caffe's MNIST example, which the tables of Han et al. (2015,
2016) use: 20 and 50 unpadded 5×5 filters, no activation after the convolutions, a hidden layer of 500.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_counts, check_image
from netpress.zoo.variant import Variant

VARIANTS = {
    "lenet-300-100": Variant(
        settings={"convs": (), "hidden": (300, 100)},
        shape=(1, 28, 28),
        num_classes=10,
        params=266_610,
        macs=266_200,
        activation_floats=1_194,
        source="LeCun et al. 1998; Han et al. 2015, table 3 (267K)",
        status="EXACT",
    ),
    "lenet5": Variant(
        settings={"convs": (20, 50), "hidden": (500,)},
        shape=(1, 28, 28),
        num_classes=10,
        params=431_080,
        macs=2_293_000,
        activation_floats=19_694,
        source="Caffe's LeNet; Han et al. 2015, table 4 (431K)",
        status="EXACT",
    ),
}

CAFFE = ((r"^ip1\.", "fc1."), (r"^ip2\.", "fc2."))
"""Names of Caffe's MNIST example -> ours."""


def build(
    *,
    convs: tuple[int, ...],
    hidden: tuple[int, ...],
    num_classes: int = 10,
    in_channels: int = 1,
    size: int = 28,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build `conv1 pool1 conv2 pool2 ... flatten fc1 relu1 drop1 ... fcN`.

    Args:
        convs: filters of each 5×5 convolution (no padding), each followed by a 2×2 max pool.
        hidden: width of each hidden linear layer, each followed by ReLU and dropout.
        num_classes: outputs.
        in_channels: channels of the image.
        size: height and width of the image, pixels.
        dropout: probability of zeroing after each hidden layer.

    Returns:
        The network: (n, in_channels, size, size) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range, or the image is too small for the convolutions.

    >>> [name for name, _ in build(convs=(20, 50), hidden=(500,)).named_children()]
    ['conv1', 'pool1', 'conv2', 'pool2', 'flatten', 'fc1', 'relu1', 'drop1', 'fc2']
    """
    check_image(num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width, side = in_channels, size
    for number, filters in enumerate(check_counts("convs", convs), start=1):
        layers[f"conv{number}"] = nn.Conv2d(width, filters, 5)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        width, side = filters, (side - 4) // 2
        if side < 1:
            least = 6 * 2 ** (len(convs) - 1) + 4 * (2 ** (len(convs) - 1) - 1)
            raise ModelError(
                f"zoo: an image of size {size} is too small for {len(convs)} convolutions 5×5 with pools; "
                f"the smallest size is {least}"
            )
    layers["flatten"] = nn.Flatten(1)
    features = width * side * side
    for number, units in enumerate(check_counts("hidden", hidden), start=1):
        layers[f"fc{number}"] = nn.Linear(features, units)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"drop{number}"] = nn.Dropout(dropout)
        features = units
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)
