"""Statistics of the loss's gradient: how much the loss cares about each weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from netpress.candidate import Images, Inputs
from netpress.data.batches import batches
from netpress.shadow import evaluating


def diagonal_fisher(
    net: nn.Module, names: Sequence[str], split: Images, inputs: Inputs, *, samples: int = 2048, seed: int = 0
) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher matrix, the usual stand-in for the Hessian of the loss.

        F_i = mean over images of (d loss / d w_i)^2

    Args:
        net: evaluated with its running statistics, left untouched.
        names: of the parameters to differentiate by.
        split: images and labels; a random sample of them is used.
        inputs: the network's normalisation.
        samples: how many images.
        seed: of the sample.

    Returns:
        By name, a tensor of the parameter's shape, >= 0.

    Source: LeCun, Denker, Solla 1990 (Optimal Brain Damage) uses the diagonal Hessian; the Fisher needs no second
    derivatives and is never negative.
    """
    trained = {n: net.get_parameter(n).detach() for n in names}
    fixed = {n: t.detach() for n, t in net.state_dict().items() if n not in trained}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        answers = functional_call(net, {**fixed, **weights}, (x[None],))
        return F.cross_entropy(answers, y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    total, seen = {n: torch.zeros_like(t) for n, t in trained.items()}, 0
    # per-image gradients are as large as the network: 32 at a time bounds memory
    with evaluating(net):
        for x, y in batches(split, size=32, mean=inputs.mean, std=inputs.std, seed=seed):
            few = min(len(y), samples - seen)
            for name, per_image in each(trained, x[:few], y[:few]).items():
                total[name] += per_image.square().sum(0)
            seen += few
            if seen == samples:
                break
    return {n: t / seen for n, t in total.items()}


def first_order(
    net: nn.Module, names: Sequence[str], split: Images, inputs: Inputs, *, samples: int = 512, seed: int = 0
) -> Iterator[dict[str, Tensor]]:
    """What the loss of one batch would change by, to first order, if an entry were zero: w dL/dw, batch by batch.

    Args:
        net: evaluated with its running statistics, left untouched.
        names: of the parameters.
        split: images and labels; a random sample of them is used.
        inputs: the network's normalisation.
        samples: how many images, in batches of 32.
        seed: of the sample.

    Yields:
        By name, a tensor of the parameter's shape.

    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, equation 8: the importance of a
    filter is the square of the sum of these over its entries, averaged over batches.
    """
    trained = {n: net.get_parameter(n).detach() for n in names}
    fixed = {n: t.detach() for n, t in net.state_dict().items() if n not in trained}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, {**fixed, **weights}, (x,)), y)

    slope, seen = grad(loss), 0
    with evaluating(net):
        for x, y in batches(split, size=32, mean=inputs.mean, std=inputs.std, seed=seed):
            found = slope(trained, x, y)
            yield {n: (trained[n] * found[n]).detach() for n in names}
            seen += len(y)
            if seen >= samples:
                break
