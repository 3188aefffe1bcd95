"""Statistics of activations: batch norm measured again after surgery, and how strongly each channel answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.candidate import Images, Inputs
from netpress.data.batches import batches
from netpress.shadow import evaluating


def recalibrate(net: nn.Module, split: Images, inputs: Inputs, *, samples: int = 2048, seed: int = 0) -> int:
    """Measure the running statistics of every batch norm again, in place; weights stay.

    Removing filters changes what the layers behind see, so the old means and variances no longer fit (Li et al. 2017,
    "Revisiting batch normalization", use the same step for new data). All batches weigh the same.

    Args:
        net: its training flags and the norms' momentum are put back.
        split: images; a random sample of them is used.
        inputs: the network's normalisation.
        samples: how many images; the last batch is left out where it is smaller than half of the others.
        seed: of the sample.

    Returns:
        Number of batch norms measured; without any, nothing is run.

    >>> from netpress.data import Split
    >>> net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    >>> images = Split(torch.full((8, 1, 2, 2), 255, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    >>> recalibrate(net, images, Inputs((1, 2, 2), (0.0,), (0.5,))), net[0].running_mean.item()
    (1, 2.0)
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    size = min(256, samples, len(split))
    momenta = [norm.momentum for norm in norms]
    try:
        with torch.no_grad(), evaluating(net):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            seen = 0
            for x, _ in batches(split, size=size, mean=inputs.mean, std=inputs.std, seed=seed):
                if seen >= samples or (seen and len(x) < size / 2):
                    break
                net(x)
                seen += len(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return len(norms)


def mean_activation(
    net: nn.Module, paths: Sequence[str], split: Images, inputs: Inputs, *, samples: int = 512, seed: int = 0
) -> dict[str, Tensor]:
    """How strongly each channel of some modules answers: mean of |output| over images and places.

    Args:
        net: evaluated with its running statistics, left untouched.
        paths: of modules whose output has its channels on axis 1, of linear layers on the last.
        split: images; a random sample of them is used.
        inputs: the network's normalisation.
        samples: how many images.
        seed: of the sample.

    Returns:
        By path, float64 (channels,); a module that is called more than once counts every call, one that is never
        called is left out.
    """
    total: dict[str, Tensor] = {}
    calls = dict.fromkeys(paths, 0)

    def listen(path: str) -> Any:
        def hook(module: nn.Module, _args: Any, out: Tensor) -> None:
            channels = out.ndim - 1 if isinstance(module, nn.Linear) else 1
            axes = [axis for axis in range(out.ndim) if axis != channels]
            total[path] = total.get(path, torch.zeros(())) + out.double().abs().mean(axes) * len(out)
            calls[path] += len(out)

        return hook

    handles = [net.get_submodule(path).register_forward_hook(listen(path)) for path in paths]
    try:
        with torch.no_grad(), evaluating(net):
            seen = 0
            for x, _ in batches(split, size=64, mean=inputs.mean, std=inputs.std, seed=seed):
                net(x[: samples - seen])
                seen += len(x)
                if seen >= samples:
                    break
    finally:
        for handle in handles:
            handle.remove()
    return {path: total[path] / calls[path] for path in paths if calls[path]}
