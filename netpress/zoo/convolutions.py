"""Convolutions that several families share: in groups, with batch norm, depthwise separable; He's initial weights."""

from collections import OrderedDict

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from netpress.errors import ModelError


def group_conv(inputs: int, outputs: int, kernel: int, *, groups: int, padding: int = 0) -> nn.Conv2d:
    """Build a convolution in which each of `groups` parts of the channels sees its own part only, with bias.

    inputs / groups * kernel² * outputs weights: the dense convolution's over `groups`.

    Raises:
        ModelError: the groups do not divide the channels.

    Source: Krizhevsky et al. 2012, section 3.5.

    >>> group_conv(16, 32, 3, groups=4).weight.numel(), nn.Conv2d(16, 32, 3).weight.numel()
    (1152, 4608)
    """
    if inputs % groups or outputs % groups:
        raise ModelError(f"zoo: setting groups: {groups} must divide a layer's {inputs} inputs and {outputs} outputs")
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, groups=groups)


def conv_norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """Build `conv norm relu`: a convolution without bias, padded by kernel // 2, batch norm, and an activation.

    Args:
        inputs, outputs: channels.
        kernel: side of the filters, odd.
        stride: of the convolution.
        groups: of the convolution; as many as inputs and outputs makes it depthwise.
        activation: the layer called `relu`; None leaves it out.

    >>> [name for name, _ in conv_norm(3, 8, 3, activation=nn.ReLU()).named_children()]
    ['conv', 'norm', 'relu']
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs))
    if activation is not None:
        layers["relu"] = activation
    return nn.Sequential(layers)


def mobile_separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Build MobileNet's separable convolution: depthwise 3×3, batch norm, ReLU, then 1×1, batch norm, ReLU.

    9 * inputs + inputs * outputs weights of convolutions: 1 / outputs + 1 / 9 of the dense 3×3 convolution's.

    Source: Howard et al. 2017, MobileNets, figure 3.

    >>> sum(p.numel() for p in mobile_separable(32, 64).parameters() if p.ndim == 4) == 9 * 32 + 32 * 64
    True
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_norm(inputs, inputs, 3, stride=stride, groups=inputs, activation=nn.ReLU()),
            pointwise=conv_norm(inputs, outputs, 1, activation=nn.ReLU()),
        )
    )


def plain_separable(inputs: int, outputs: int) -> nn.Sequential:
    """Build Xception's separable convolution: depthwise 3×3, then 1×1 with nothing between, then batch norm.

    The paper's text has the 1×1 first; the network it measures, and its published weights, have the depthwise
    convolution first, as here ("unimportant" between stacked ones, section 2).

    Source: Chollet 2017, Xception.

    >>> [name for name, _ in plain_separable(8, 16).named_children()]
    ['depthwise', 'pointwise', 'norm']
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            pointwise=nn.Conv2d(inputs, outputs, 1, bias=False),
            norm=nn.BatchNorm2d(outputs),
        )
    )


class SamePad(nn.Module):
    """Zeros around an image for what Keras and TensorFlow call "same" padding of a convolution without padding.

    ceil(n / stride) outputs per axis; an odd number of zeros has one more below and on the right. For a 3×3 filter at
    stride 2 that is 0 and 1 where n is even, 1 and 1 where it is odd.

    Args:
        kernel: side of the filters behind.
        stride: of the convolution behind.

    >>> import torch
    >>> SamePad(3, 2)(torch.ones(1, 1, 4, 5)).shape
    torch.Size([1, 1, 5, 7])
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the padded image."""
        rows, columns = (max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0) for n in x.shape[2:])
        return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def keras_conv(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """Build `pad conv norm relu` as Keras does: "same" padding, a bias, batch norm with 1e-3 under the root.

    Args:
        inputs, outputs: channels.
        kernel: side of the filters.
        stride: of the convolution.
        groups: of the convolution; as many as inputs and outputs makes it depthwise.
        activation: the layer called `relu`; None leaves it out.

    >>> import torch
    >>> keras_conv(3, 8, 3, stride=2)(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 8, 48, 48])
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        pad=SamePad(kernel, stride),
        conv=nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups),
        norm=nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    )
    if activation is not None:
        layers["relu"] = activation
    return nn.Sequential(layers)


def he_initial(net: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (kernel² * outputs / groups)), in place; biases become 0.

    Without it, or batch norm, signals die out in a deep network before training has begun.

    Source: He et al. 2015, Delving Deep into Rectifiers, with the fan counted over the outputs as ResNets do.

    >>> conv = nn.Conv2d(64, 64, 3)
    >>> he_initial(conv)
    >>> abs(conv.weight.std().item() - (2 / (9 * 64)) ** 0.5) < 1e-3
    True
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
