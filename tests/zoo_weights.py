"""Loads another library's weights into a network of the zoo, by its family's table of names."""

import re

import torch


def filled(net, other, rules):
    """The zoo's network with the other network's weights, and both in evaluation mode with random statistics."""
    torch.manual_seed(0)
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    state = {_ours(name, rules): tensor for name, tensor in other.state_dict().items()}
    net.load_state_dict(state)
    return net.eval(), other.eval()


def _ours(name, rules):
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
