"""What several families share: range checks of settings, and blocks."""

import torch
from torch import Tensor, nn

from netpress.errors import ModelError


def check_count(name: str, value: object, *, most: int = 65_536) -> None:
    """Refuse a setting that is no integer of 1 to `most`.

    Args:
        name: the setting, for the message.
        value: what the user gave.
        most: largest value that makes sense; bounds what a hostile file can make us allocate.

    Raises:
        ModelError: the value is out of range or of another type.

    >>> check_count("classes", 10)
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ModelError(f"zoo: setting {name} must be an integer from 1 to {most}, got {value!r}")


def check_counts(name: str, values: object) -> tuple[int, ...]:
    """Return a list of positive integers as a tuple, or refuse it.

    Raises:
        ModelError: no list or tuple, or an entry is out of range.

    >>> check_counts("hidden", [300, 100])
    (300, 100)
    """
    if not isinstance(values, list | tuple):
        raise ModelError(f"zoo: setting {name} must be a list of integers, got {values!r}")
    for value in values:
        check_count(name, value)
    return tuple(values)


def check_image(*, classes: object, channels: object, size: object, dropout: object) -> None:
    """Refuse image and classifier settings that are out of range.

    Args:
        classes: outputs of the classifier.
        channels: channels of the image.
        size: height and width of the image, pixels.
        dropout: probability of zeroing, 0 <= dropout < 1.

    Raises:
        ModelError: a value is out of range or of another type.

    >>> check_image(classes=10, channels=1, size=28, dropout=0.1)
    """
    check_count("classes", classes)
    check_count("channels", channels)
    check_count("size", size, most=4096)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ModelError(f"zoo: setting dropout must be a number from 0 up to below 1, got {dropout!r}")


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
