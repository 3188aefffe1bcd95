"""What stands in the place of a layer: modules of the right sizes, without values.

| operation | numbers | children, in order |
|---|---|---|
| `svd` | rank | `reduce` (k x k, or linear), `expand` (1 x 1, or linear) |
| `spatial_svd` | rank | `vertical` (k x 1), `horizontal` (1 x k) |
| `cp` | rank | `reduce` (1 x 1), `vertical` (depthwise k x 1), `horizontal` (depthwise 1 x k), `expand` (1 x 1) |
| `tucker2` | rank of the inputs, of the outputs | `reduce` (1 x 1), `core` (k x k), `expand` (1 x 1) |
| `stacked` | channels between | `first` (3 x 3), `second` (3 x 3), for a 5 x 5 |
| `grouped` | groups | none: the convolution itself becomes grouped |
| `shuffled` | groups | `before` (channels put in order), `grouped`, `after` (and back) |
| `separable` | kernels per input | `depthwise` (k x k), `pointwise` (1 x 1) |
| `fire` | condensed channels, 1 x 1 channels, rectified (1 or 0) | `condense` (1 x 1), `ones` (1 x 1), `wide` (k x k) |
| `beside` | none | `pattern` (the layer itself), `point` (1 x 1), added up |

The last child has the bias if the layer had one. Stride, padding and dilation go to those children where the chain
computes the same function as one convolution would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netpress.zoo.dense_blocks import Index

Pair = tuple[int, int]


class Refused(TypeError):  # noqa: N818  an answer, not a failure: callers ask and list the reason
    """A layer cannot take this structure; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """What takes the place of a layer: an operation of `structure`, its numbers, and the weights.

    Attributes:
        operation, numbers: as in the table above.
        weights: by child's name, in float64, of the shape of that child's `weight`; for `shuffled` also the
            positions `before` and `after`, int64.
        biases: by child's name, where one is to be set; the last child's is the layer's own if not given.
    """

    operation: str
    numbers: tuple[int, ...]
    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor] = field(default_factory=dict)


class Condensed(nn.Module):
    """A condensing 1 x 1 convolution, then 1 x 1 and k x k filters side by side, joined: a fire module.

        y = [ones(a), wide(a)],   a = condense(x), rectified or not

    Args:
        condense, ones, wide: the convolutions.
        rectified: whether a ReLU follows the condensing convolution.

    Source: Iandola et al. 2016, SqueezeNet; there a ReLU also follows the joined outputs, which here is left to what
    follows the layer that this one replaces.

    >>> parts = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(2, 5, 3, padding=1)
    >>> Condensed(*parts, rectified=True)(torch.zeros(1, 8, 7, 7)).shape
    torch.Size([1, 8, 7, 7])
    """

    def __init__(self, condense: nn.Module, ones: nn.Module, wide: nn.Module, *, rectified: bool) -> None:
        super().__init__()
        self.condense, self.ones, self.wide = condense, ones, wide
        self.act = nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Join the 1 x 1 and the k x k outputs along the channels."""
        a = self.act(self.condense(x))
        return torch.cat([self.ones(a), self.wide(a)], dim=1)


class Beside(nn.Module):
    """A k x k convolution and a 1 x 1 one on the same input, added up: y = pattern(x) + point(x).

    Args:
        pattern, point: the convolutions.

    Source: Li et al. 2017, SEP-Nets, the pattern residual block, without its norm and ReLU.

    >>> Beside(nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1))(torch.zeros(1, 8, 7, 7)).shape
    torch.Size([1, 4, 7, 7])
    """

    def __init__(self, pattern: nn.Module, point: nn.Module) -> None:
        super().__init__()
        self.pattern, self.point = pattern, point

    def forward(self, x: Tensor) -> Tensor:
        """Add both outputs."""
        return torch.add(self.pattern(x), self.point(x))


CHILDREN: Mapping[str, tuple[str, ...]] = {
    "svd": ("reduce", "expand"),
    "spatial_svd": ("vertical", "horizontal"),
    "cp": ("reduce", "vertical", "horizontal", "expand"),
    "tucker2": ("reduce", "core", "expand"),
    "stacked": ("first", "second"),
    "grouped": (),
    "shuffled": ("before", "grouped", "after"),
    "separable": ("depthwise", "pointwise"),
    "fire": ("condense", "ones", "wide"),
    "beside": ("pattern", "point"),
}
"""By operation the names of the modules that take the layer's place."""
_ALL = frozenset(CHILDREN)


def refusal(layer: nn.Module, operation: str) -> str | None:
    """Why a layer cannot take a structure, or None where it can.

    >>> refusal(nn.Conv2d(4, 4, 3, groups=4), "svd")
    'it has 4 groups'
    >>> refusal(nn.Linear(4, 4), "cp")
    'it is no 2-d convolution'
    """
    if type(layer) is nn.Linear:
        return None if operation == "svd" else "it is no 2-d convolution"
    if type(layer) is not nn.Conv2d:
        return f"a {type(layer).__name__} cannot be decomposed"
    if operation not in _BUILDERS:
        return f"operation {operation!r} is unknown; expected one of {', '.join(_BUILDERS)}"
    high, wide = layer.kernel_size
    reasons: tuple[tuple[bool, Collection[str], str], ...] = (
        (layer.groups > 1, {"beside"}, f"it has {layer.groups} groups"),
        (layer.padding_mode != "zeros", {"svd"}, f"it pads with {layer.padding_mode!r} instead of zeros"),
        ((high, wide) == (1, 1), {"svd", "grouped", "shuffled"}, "its filters are 1 x 1"),
        ((high, wide) != (5, 5), _ALL - {"stacked"}, f"its filters are {high} x {wide}, not 5 x 5"),
        (layer.dilation != (1, 1), _ALL - {"stacked"}, "it is dilated"),
        (isinstance(layer.padding, str), _ALL - {"stacked", "fire", "beside"}, f"its padding is {layer.padding!r}"),
        (
            not _centred(layer),
            _ALL - {"fire", "beside"},
            "a 1 x 1 filter beside it would see other places: its padding is uneven",
        ),
    )
    return next((why for holds, but, why in reasons if holds and operation not in but), None)


def _centred(layer: nn.Conv2d) -> bool:
    if isinstance(layer.padding, str):
        return False
    sides = zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    return all(k % 2 == 1 and p == d * (k - 1) // 2 for k, p, d in sides)


def structure(layer: nn.Module, operation: str, *numbers: int) -> nn.Module:
    """The module that takes the place of a layer; its weights are zeros on the layer's device.

    Args:
        layer: a plain `nn.Conv2d` without groups, or an `nn.Linear`; left untouched.
        operation, numbers: as in the table above.

    Raises:
        Refused: the layer cannot take this structure, or the numbers do not fit it.

    >>> structure(nn.Conv2d(8, 16, 3, stride=2, padding=1), "tucker2", 4, 6)
    Sequential(
      (reduce): Conv2d(8, 4, kernel_size=(1, 1), stride=(1, 1), bias=False)
      (core): Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
      (expand): Conv2d(6, 16, kernel_size=(1, 1), stride=(1, 1))
    )
    """
    if (reason := refusal(layer, operation)) is not None:
        raise Refused(reason)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise Refused(f"expected whole numbers, got {numbers}")
    weight: Tensor = layer.weight  # type: ignore[assignment]
    with torch.device("meta"):  # draws nothing
        made = _BUILDERS[operation](layer, *numbers).to(weight.dtype)
    if not weight.is_meta:
        made = made.to_empty(device=weight.device)
        for parameter in made.parameters():
            nn.init.zeros_(parameter)
        for module in made.modules():
            if isinstance(module, Index):
                module.index.copy_(torch.arange(len(module.index)))
    made.requires_grad_(weight.requires_grad)
    return made.train(layer.training)


def rebuilt(layer: nn.Module, found: Rebuilt) -> nn.Module:
    """The module that takes the place of a layer, with its weights; the layer is left untouched.

    Raises:
        Refused: it does not fit the layer.
    """
    made: Any = structure(layer, found.operation, *found.numbers)
    with torch.no_grad():
        for name, weight in found.weights.items():
            child: Any = made.get_submodule(name)
            held: Tensor = child.index if isinstance(child, Index) else child.weight
            held.copy_(weight.reshape(held.shape))
        for name, bias in found.biases.items():
            made.get_submodule(name).bias.copy_(bias)
        if not found.biases and layer.bias is not None:
            _give_bias(made, found.operation, layer.bias)  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def _give_bias(made: Any, operation: str, bias: Tensor) -> None:
    if operation == "fire":
        made.ones.bias.copy_(bias[: made.ones.out_channels])
        made.wide.bias.copy_(bias[made.ones.out_channels :])
    elif operation == "shuffled":
        made.grouped.bias[made.after.index] = bias
    elif operation == "beside":
        made.pattern.bias.copy_(bias)
    else:
        made.get_submodule((CHILDREN[operation] or ("",))[-1]).bias.copy_(bias)


# --- one builder per operation; the layer's own numbers, as the operation divides them ---


def _conv(layer: nn.Conv2d, inputs: int, outputs: int, **changes: Any) -> nn.Conv2d:
    """A convolution with the layer's numbers but for the changes; without a bias unless told."""
    if not (inputs > 0 and outputs > 0):
        raise Refused(f"{inputs} inputs and {outputs} outputs are not a convolution")
    settings = {
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "padding_mode": layer.padding_mode,
        "bias": False,
    }
    return nn.Conv2d(inputs, outputs, **{**settings, **changes})


def _point(inputs: int, outputs: int, *, bias: bool, stride: Any = 1) -> nn.Conv2d:
    if not (inputs > 0 and outputs > 0):
        raise Refused(f"{inputs} inputs and {outputs} outputs are not a convolution")
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)


def _half(layer: nn.Conv2d, axis: int) -> dict[str, Any]:
    """The numbers of a k x 1 (axis 0) or 1 x k (axis 1) convolution: the layer's on that axis, none on the other."""

    def on_axis(pair: Any, other: int) -> Pair:
        return (pair[0], other) if axis == 0 else (other, pair[1])

    padding = layer.padding if isinstance(layer.padding, str) else on_axis(layer.padding, 0)
    return {
        "kernel_size": on_axis(layer.kernel_size, 1),
        "stride": on_axis(layer.stride, 1),
        "padding": padding,
        "dilation": on_axis(layer.dilation, 1),
    }


def _named(parts: Sequence[nn.Module], operation: str) -> nn.Sequential:
    return nn.Sequential(OrderedDict(zip(CHILDREN[operation], parts, strict=True)))


def _full(rank: int, full: int, what: str = "rank") -> None:
    if not 1 <= rank <= full:
        raise Refused(f"{what} {rank}: expected 1 to {full}, the full rank")


def _svd(layer: Any, rank: int) -> nn.Module:
    weight, bias = layer.weight, layer.bias is not None
    _full(rank, min(weight.shape[0], weight[0].numel()))
    if isinstance(layer, nn.Linear):
        return _named(
            [nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=bias)], "svd"
        )
    return _named(
        [_conv(layer, layer.in_channels, rank), _point(rank, layer.out_channels, bias=bias)],
        "svd",
    )


def _spatial_svd(layer: nn.Conv2d, rank: int) -> nn.Module:
    inputs, outputs, (high, wide) = layer.in_channels, layer.out_channels, layer.kernel_size
    _full(rank, max(min(inputs * high, outputs * wide), outputs))  # a wider middle only pads with zeros
    return _named(
        [
            _conv(layer, inputs, rank, **_half(layer, 0)),
            _conv(layer, rank, outputs, **_half(layer, 1), bias=layer.bias is not None),
        ],
        "spatial_svd",
    )


def _cp(layer: nn.Conv2d, rank: int) -> nn.Module:
    if rank < 1:
        raise Refused(f"rank {rank}: expected 1 or more")
    return _named(
        [
            _point(layer.in_channels, rank, bias=False),
            _conv(layer, rank, rank, **_half(layer, 0), groups=rank),
            _conv(layer, rank, rank, **_half(layer, 1), groups=rank),
            _point(rank, layer.out_channels, bias=layer.bias is not None),
        ],
        "cp",
    )


def _tucker2(layer: nn.Conv2d, rank_in: int, rank_out: int) -> nn.Module:
    _full(rank_in, layer.in_channels, "rank of the inputs")
    _full(rank_out, layer.out_channels, "rank of the outputs")
    return _named(
        [
            _point(layer.in_channels, rank_in, bias=False),
            _conv(layer, rank_in, rank_out),
            _point(rank_out, layer.out_channels, bias=layer.bias is not None),
        ],
        "tucker2",
    )


def _stacked(layer: nn.Conv2d, middle: int) -> nn.Module:
    # all padding before the first: padding between the two would set to zero what one 5 x 5 sees there
    return _named(
        [
            _conv(layer, layer.in_channels, middle, kernel_size=3, stride=1),
            _conv(layer, middle, layer.out_channels, kernel_size=3, padding=0, bias=layer.bias is not None),
        ],
        "stacked",
    )


def _divided(layer: nn.Conv2d, groups: int) -> nn.Conv2d:
    if groups < 2 or layer.in_channels % groups or layer.out_channels % groups:
        raise Refused(f"{layer.in_channels} inputs and {layer.out_channels} outputs do not make {groups} groups")
    return _conv(layer, layer.in_channels, layer.out_channels, groups=groups, bias=layer.bias is not None)


def _shuffled(layer: nn.Conv2d, groups: int) -> nn.Module:
    made = _divided(layer, groups)
    return _named([Index(range(layer.in_channels)), made, Index(range(layer.out_channels))], "shuffled")


def _separable(layer: nn.Conv2d, multiplier: int) -> nn.Module:
    _full(multiplier, layer.kernel_size[0] * layer.kernel_size[1], "kernels per input")
    middle = layer.in_channels * multiplier
    return _named(
        [
            _conv(layer, layer.in_channels, middle, groups=layer.in_channels),
            _point(middle, layer.out_channels, bias=layer.bias is not None),
        ],
        "separable",
    )


def _fire(layer: nn.Conv2d, condensed: int, ones: int, rectified: int) -> nn.Module:
    if not (condensed > 0 and 0 < ones < layer.out_channels and rectified in (0, 1)):
        raise Refused(
            f"{condensed} condensed channels, {ones} of {layer.out_channels} outputs by 1 x 1 filters, rectified "
            f"{rectified}: expected at least one of each kind, and 0 or 1"
        )
    bias = layer.bias is not None
    return Condensed(
        _point(layer.in_channels, condensed, bias=bool(rectified)),
        _point(condensed, ones, bias=bias or bool(rectified), stride=layer.stride),
        _conv(layer, condensed, layer.out_channels - ones, bias=bias or bool(rectified)),
        rectified=bool(rectified),
    )


def _beside(layer: nn.Conv2d) -> nn.Module:
    pattern = _conv(layer, layer.in_channels, layer.out_channels, groups=layer.groups, bias=layer.bias is not None)
    point = _conv(
        layer, layer.in_channels, layer.out_channels, groups=layer.groups, kernel_size=1, padding=0, dilation=1
    )
    return Beside(pattern, point)


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "svd": _svd,
    "spatial_svd": _spatial_svd,
    "cp": _cp,
    "tucker2": _tucker2,
    "stacked": _stacked,
    "grouped": _divided,
    "shuffled": _shuffled,
    "separable": _separable,
    "fire": _fire,
    "beside": _beside,
}
