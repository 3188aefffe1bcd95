"""Blocks that several families share."""

import torch
from torch import Tensor, nn


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
