"""A network whose filters are numbered, for the tests of filter pruning. Plain functions."""

import torch
from torch import nn

import netpress as nxp
from netpress.methods.filter_prune import FilterPrune

X = torch.zeros(1, 1, 8, 8)


def ladder(*widths, inputs=1):
    """1×1 convolutions whose filter j has the norm j + 1, all of it on one input."""
    layers = []
    for width in widths:
        layer = nn.Conv2d(inputs, width, 1)
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[:, 0, 0, 0] = torch.arange(1.0, width + 1)
            layer.bias.copy_(torch.arange(width) / 1000)  # tells who stayed
        layers += [layer, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Conv2d(inputs, 2, 1))


def pruned(net, **amount):
    return nxp.apply(FilterPrune(recalibrate=0, **amount), net, example=X).net
