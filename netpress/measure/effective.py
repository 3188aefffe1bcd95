"""How many float32 parameters a network with binarized filters amounts to.

Pattern binarization keeps only the sign of each weight of a k×k convolution (k > 1): one bit. Counted in units of 32
bits, n binarized weights in f filters k×k (one for each pair of input and output channel) are

    n/32          without scales: one global constant, rule (N)
    n/32 + f      with one float32 scale for each k×k filter, rule (S)

and everything else stays as it is. The slides "Compressing Neural Networks Structures" (Li 2018) print such counts
without saying which rule they follow: their GoogLeNet (4.43M) fits the rule with scales only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from netpress.errors import ModelError

WORD_BITS, WORD_BYTES = 32, 4
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Effective:
    """A network whose spatial filters are binarized, counted; all sizes follow from these four numbers.

    Args:
        params: parameters of the network before, all of them.
        binary: weights that become one bit each.
        kernels: k×k filters that hold them.
        biases: of `params`, those that are biases of convolutions and linear layers.

    >>> one = Effective(params=1_300_712, binary=255_744, kernels=28_416, biases=1000)  # SEP-Net-R small
    >>> one.params_without_scales, one.params_with_scales
    (1052960, 1081376)
    >>> one.bytes_quantized, one.bytes_unpacked
    (1076936, 1300712)
    """

    params: int
    binary: int
    kernels: int
    biases: int

    @property
    def others(self) -> int:
        """Parameters that stay float32."""
        return self.params - self.binary

    @property
    def params_without_scales(self) -> int:
        """Rule (N): the others and the bits, in words of 32 (the last one may be partly filled)."""
        return self.others + -(-self.binary // WORD_BITS)

    @property
    def params_with_scales(self) -> int:
        """Rule (S): one float32 more for each k×k filter."""
        return self.params_without_scales + self.kernels

    @property
    def bytes_quantized(self) -> int:
        """The others in 8 bits each, binary weights packed in bits, no scales."""
        return self.others + -(-self.binary // 8)

    @property
    def bytes_unpacked(self) -> int:
        """One byte for every parameter, binary ones too."""
        return self.params


def effective(net: nn.Module, pattern: str) -> Effective:
    """Count a network as if the k×k convolutions (k > 1) of some of its modules were binarized.

    Args:
        net: any network, also on the meta device; nothing is changed.
        pattern: regular expression that a convolution's whole module path must match; 1×1 convolutions never count.

    Returns:
        The counts.

    Raises:
        ModelError: the pattern is no regular expression, or no k×k convolution matches it.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, groups=4))
    >>> effective(net, "[12]")
    Effective(params=960, binary=576, kernels=64, biases=40)
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ModelError(f"effective: {pattern!r} is no regular expression: {error}") from error
    spatial = {path: m for path, m in net.named_modules() if isinstance(m, _CONVOLUTIONS) and max(m.kernel_size) > 1}
    chosen = [m.weight for path, m in spatial.items() if wanted.fullmatch(path)]
    if not chosen:
        some = ", ".join(list(spatial)[:3]) or "none"
        raise ModelError(f"effective: no k×k convolution has a path that matches {pattern!r}; there is: {some} ...")
    return counted(net, chosen)


def counted(net: nn.Module, weights: Sequence[Tensor]) -> Effective:
    """Count a network of which some weights of convolutions, (O, I, ...), are binary.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 16, 1))
    >>> counted(net, [net[0].weight])
    Effective(params=360, binary=216, kernels=24, biases=16)
    """
    layers = [m for m in net.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))]
    return Effective(
        params=sum(p.numel() for p in net.parameters()),
        binary=sum(w.numel() for w in weights),
        kernels=sum(w.shape[0] * w.shape[1] for w in weights),
        biases=sum(m.bias.numel() for m in layers if m.bias is not None),
    )
