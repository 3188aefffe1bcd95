"""Fold batch norm into the layer before it (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

import fnmatch
import itertools
from copy import deepcopy
from dataclasses import asdict
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from netpress.arch import edit
from netpress.candidate import Candidate, Context, Record, edited
from netpress.errors import ModelError, RecipeError
from netpress.forms import Free, project
from netpress.methods.norms import Found, Pair, norm_pairs
from netpress.methods.targets import CONVOLUTIONS, targets
from netpress.shadow import observing, smallest_side
from netpress.train.checkpoint import finite
from netpress.train.loop import draw

TOLERANCE = 1e-6

Pattern = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FoldBatchNorm:
    """Take batch norms out: what they do is put into weights and bias of the layer before them.

        w' = w g / sqrt(v + e)        b' = (b - m) g / sqrt(v + e) + h

    with m and v the running mean and variance, g and h the norm's scale and shift, e its epsilon, all per output
    channel, in float64; the result is rounded once. A layer without a bias gets one. In evaluation mode the network
    computes the same; in training mode it does not: retraining afterwards trains without batch norm.

    Only a norm that scales and shifts the output of one layer, which nothing else reads, can be folded; the others
    stay, each with its reason in the notes. Convolutions of any kind and linear layers; which norm follows which
    layer is found by running the network. Every application is checked in float64 on an image of the least size that
    the network takes.

    ONNX Runtime folds batch norm itself when it opens a model: the file is a little smaller there (ResNet-20 0.8 %,
    ResNet-18 0.1 %) and not faster (1.00 times both, one thread). What it is for: quantization, which needs the weights
    that inference really uses, and programs that fold nothing (PyTorch, one thread: 1.09 and 1.04 times as fast).

    Attributes:
        frozen: paths or patterns with `*`: norms, or layers before them, that stay as they are.

    Differs from the paper: no training with folded weights and no quantization; only the arithmetic of inference.

    >>> FoldBatchNorm(frozen=("layer4.*",)).frozen
    ('layer4.*',)
    """

    name: ClassVar[str] = "fold_batch_norm"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset({"support"})  # channels are scaled: shared values would part

    frozen: tuple[Pattern, ...] = ()

    def expand(self) -> list[FoldBatchNorm]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse a pattern that matches no layer and no batch norm of `net`."""
        kinds = (*CONVOLUTIONS, nn.Linear, _BatchNorm)
        paths = [path for path, module in net.named_modules() if isinstance(module, kinds)]
        for pattern in self.frozen:
            if not fnmatch.filter(paths, pattern):
                some = ", ".join(paths[:12]) + (", ..." if len(paths) > 12 else "")
                raise RecipeError(f"fold_batch_norm.frozen: {pattern!r} names no layer; expected one of {some}")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Fold what can be folded.

        Raises:
            ModelError: a weight is not finite, shares its values, or is no plain parameter; an image does not pass;
                or the folded network computes something else.
            RecipeError: a pattern of `frozen` matches nothing.
        """
        self.check(candidate.net)
        for _ in targets(candidate.net):
            pass  # raises where a weight is no plain parameter
        on_meta = any(t.is_meta for t in itertools.chain(candidate.net.parameters(), candidate.net.buffers()))
        if not on_meta and (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: nothing can be folded into it")
        shape = candidate.inputs.shape or tuple(context.example.shape[1:])
        found = _choose(candidate, self.frozen, norm_pairs(candidate.net, shape))
        notes = [f"folded {len(found.pairs)} of {len(found.pairs) + len(found.stay)} batch norms"]
        if found.pairs:
            notes.append("on meta: not checked" if on_meta else _check(candidate, found, shape, context))
        notes += [f"{path} stays: {reason}" for path, reason in found.stay.items()]
        folded = _folded(candidate, deepcopy(candidate.net), found)
        return folded.but(history=(*candidate.history, Record(self.name, asdict(self), tuple(notes))))


_DONE = {
    "shared": ("shares its weights' values", "sharing"),
    "affine": ("has weights on an integer grid", "quantizing"),
    "signs": ("has weights that are signs", "binarizing"),
}

METHODS = (FoldBatchNorm,)
EXAMPLES = (FoldBatchNorm(),)


def _choose(candidate: Candidate, frozen: tuple[str, ...], found: Found) -> Found:
    """Without the pairs that are frozen, or whose forms folding would break.

    Raises:
        ModelError: a layer's weights share values, or are signs or whole multiples of a step.
    """
    pairs, stay = [], dict(found.stay)
    for pair in found.pairs:
        named = [p for p in frozen if any(fnmatch.fnmatchcase(path, p) for path in (pair.layer, *pair.norms))]
        formed = [name for name in _filled(pair) if name in candidate.forms]
        form = candidate.forms.get(_of(pair.layer, "weight"))
        if named:
            stay[pair.norms[0]] = f"frozen by {named[0]!r}"
        elif formed:
            stay[pair.norms[0]] = f"{formed[0]} has a form, which folding would not keep"
        elif form is not None and not isinstance(form.values, Free):
            what, order = _DONE[form.values.name]
            raise ModelError(
                f"{pair.layer} {what}, and folding {pair.norms[0]} would scale them channel by channel: "
                f"fold before {order}, or freeze it"
            )
        else:
            pairs.append(pair)
    return Found(tuple(pairs), stay)


def _filled(pair: Pair) -> list[str]:
    """Tensors whose entries become part of other tensors, or are filled: their own zeros would not stay."""
    return [_of(pair.layer, "bias"), *(_of(norm, name) for norm in pair.norms for name in ("weight", "bias"))]


def _of(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _folded(candidate: Candidate, net: nn.Module, found: Found) -> Candidate:
    """`candidate` with all pairs folded in `net`, which is changed in place."""
    arch = candidate.arch
    for pair in found.pairs:
        if net.get_submodule(pair.layer).bias is None:
            edit(net, "bias", pair.layer)
            arch = edited(arch, "bias", pair.layer)
        _fold(net, pair)
        for path in pair.norms:
            edit(net, "identity", path)
            arch = edited(arch, "identity", path)
        form = candidate.forms.get(_of(pair.layer, "weight"))
        if form is not None:
            weight = net.get_parameter(_of(pair.layer, "weight"))
            with torch.no_grad():
                weight.copy_(project(form, weight))  # zero times a negative scale is -0.0
    return candidate.but(net=net, arch=arch)


def _fold(net: nn.Module, pair: Pair) -> None:
    """Put what the norm does into the layer's weight and bias, in place."""
    norm, weight = net.get_submodule(pair.norms[0]), net.get_parameter(_of(pair.layer, "weight"))
    bias = net.get_parameter(_of(pair.layer, "bias"))
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shifted = (bias.double() - norm.running_mean.double()) * scale
        bias.copy_(shifted if norm.bias is None else shifted + norm.bias.double())
        weight.copy_(_scaled(net.get_submodule(pair.layer), weight.double(), scale))


def _scaled(layer: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with each output channel scaled.

    A transposed convolution's weight is (in, out / groups, ...): its groups lie along the input axis.
    """
    if not isinstance(layer, _ConvTransposeNd):
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    parts = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return (parts * scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)


def _check(candidate: Candidate, found: Found, shape: tuple[int, ...], context: Context) -> str:
    """Compare the networks before and after, both in float64; what was seen, in words.

    Raises:
        ModelError: they differ by more than rounding.
    """
    net = candidate.net
    side = smallest_side(net, shape[0]) if len(shape) == 3 else None
    least = shape if side is None or side > min(shape[1:]) else (shape[0], side, side)
    before = deepcopy(net).double()
    device = next(before.parameters()).device
    rng = torch.Generator().manual_seed(draw(context.seed, context.step))
    image = torch.randn(1, *least, generator=rng, dtype=torch.float64).to(device)
    try:
        expected = _answers(before, image)
        answers = _answers(_folded(candidate, before, found).net, image)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"fold_batch_norm cannot be checked in float64, nothing was changed: {reason}") from error
    off = max((_off(a, b) for a, b in zip(answers, expected, strict=True)), default=0.0)
    if not off < TOLERANCE:  # also where it is NaN
        raise ModelError(
            f"fold_batch_norm: the folded network differs by {off:.1e} (relative, float64), expected less than "
            f"{TOLERANCE:.0e}: it uses a layer or a norm in a way that one run does not show; freeze those that it does"
        )
    return f"checked in float64 on one {'x'.join(map(str, least))} image: relative error {off:.0e}"


def _answers(net: nn.Module, image: Tensor) -> list[Tensor]:
    with observing(net), torch.random.fork_rng():
        torch.manual_seed(0)  # networks that draw: both draw the same
        return [leaf.clone() for leaf in tree_leaves(net(image)) if isinstance(leaf, Tensor)]


def _off(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|."""
    if a.numel() == 0:
        return 0.0
    scale = b.double().abs().max().item()
    return (a.double() - b.double()).abs().max().item() / (scale or 1.0)
