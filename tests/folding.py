"""What the tests of folding share."""

import torch
from torch import nn

from netpress.candidate import Candidate, Context, Inputs
from netpress.methods import FoldBatchNorm

NORMS = nn.modules.batchnorm._BatchNorm


def shaken(net, seed=0):
    """Statistics and scales that a fold done wrongly cannot survive; some scales negative."""
    torch.manual_seed(seed)
    for norm in net.modules():
        if isinstance(norm, NORMS):
            if norm.running_mean is not None:
                nn.init.normal_(norm.running_mean, std=0.5)
                nn.init.uniform_(norm.running_var, 0.3, 2.0)
            if norm.weight is not None:
                nn.init.uniform_(norm.weight, -1.5, 1.5)
                nn.init.normal_(norm.bias, std=0.5)
    return net.eval()


def candidate_of(net, shape, **fields):
    return Candidate(shaken(net), inputs=Inputs(shape), **fields)


def fold(candidate, *frozen):
    return FoldBatchNorm(frozen=frozen).apply(candidate, Context(example=torch.zeros(1, *candidate.inputs.shape)))


def relative(net, other, shape):
    torch.manual_seed(1)
    x = torch.randn(2, *shape, dtype=next(net.parameters()).dtype)
    with torch.no_grad():
        a, b = net.eval()(x), other.eval()(x)
    return ((a - b).abs().max() / a.abs().max()).item()


def norms_of(net):
    return [path for path, m in net.named_modules() if isinstance(m, NORMS)]


def notes(candidate):
    return candidate.history[-1].notes
