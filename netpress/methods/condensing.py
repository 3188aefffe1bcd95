"""What methods share that drop connections while they train: which layers, when, how much of a score stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netpress.candidate import Candidate, Context
from netpress.errors import RecipeError
from netpress.forms import Form, narrow
from netpress.methods.feeding import reads_image
from netpress.methods.replaceable import Chosen, Seen, alike, stuck, watched
from netpress.methods.same_function import image_shape, insist_on_numbers
from netpress.methods.targets import check_patterns
from netpress.methods.uses import Uses, watch
from netpress.train.bind import formed

Fits = Callable[[nn.Conv2d], str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Which convolutions settings name.

    Attributes:
        method: its name.
        layers: paths or patterns; None: all of the right kind, but those that read the image.
        frozen: paths or patterns of those that stay.
        kind: why a layer is of no such kind, e.g. of the filters' size; None where it is.
        fits: why its numbers do not fit the settings; None where they do.
    """

    method: str
    layers: tuple[str, ...] | None
    frozen: tuple[str, ...]
    kind: Fits
    fits: Fits

    @property
    def chosen(self) -> Chosen:
        """The patterns alone."""
        return Chosen(self.method, self.layers or ("*",), self.frozen)

    def refusal(self, layer: nn.Module) -> str | None:
        """Why a layer cannot take what the settings ask for, by what it is alone."""
        if type(layer) is not nn.Conv2d:
            return f"a {type(layer).__name__} is no plain convolution"
        return self.kind(layer) or self.fits(layer)

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no convolution, and layers named by their very path that do not fit.

        Raises:
            RecipeError: so it is; one line.
        """
        paths = [path for path, _ in _convolutions(net)]
        every = [path for path, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        check_patterns(self.layers or (), paths, f"{self.method}.layers")
        check_patterns(self.frozen, every, f"{self.method}.frozen")
        for path in paths:
            self.insist(path, None if self.chosen.frozen_by(path) else self.refusal(net.get_submodule(path)))

    def insist(self, path: str, reason: str | None) -> None:
        """Raise a RecipeError where a layer named by its very path has a reason to stay."""
        if reason is not None and path in (self.layers or ()):
            raise RecipeError(f"{self.method}.layers: {path}: {reason}")


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """The layers to act on, in the network's order, why others stay, and how the network uses its tensors."""

    paths: tuple[str, ...]
    stay: Mapping[str, str]
    uses: Uses
    seen: Seen


def pick(candidate: Candidate, context: Context, asked: Asked) -> Picked:
    """Find the convolutions that settings name and that can be acted on.

    Raises:
        ModelError: a weight is not finite or no plain parameter, or an image does not pass.
        RecipeError: a pattern names no layer, or a layer named by its path cannot be acted on.
    """
    net = candidate.net
    insist_on_numbers(net, "nothing can be condensed by it")
    asked.check(net)
    shape = image_shape(candidate, context)
    uses, seen = watch(net, shape, method=asked.method), watched(net, torch.zeros(1, *shape))
    twins, paths, stay = alike(net), list[str](), dict[str, str]()
    for path, layer in sorted(_convolutions(net), key=lambda pair: seen.order.get(pair[0], len(seen.order))):
        frozen = asked.chosen.frozen_by(path)
        if not asked.chosen.names(path) or (asked.layers is None and _other(asked, layer)):
            continue
        reason = asked.refusal(layer) or stuck(net, path, twins) or seen.reason(path)
        if reason is None and asked.layers is None and reads_image(net, path, uses):
            reason = "it reads the image"
        if frozen is None:
            asked.insist(path, reason)
        if reason is None and frozen is None:
            paths.append(path)
        else:
            stay[path] = reason or f"frozen by {frozen!r}"
    return Picked(tuple(paths), stay, uses, seen)


def _convolutions(net: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    return [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]


def _other(asked: Asked, layer: nn.Conv2d) -> bool:
    """Whether a layer is of another kind, so that nobody who names no layers means it."""
    return asked.kind(layer) is not None


# --- while it trains ---


def opened(candidate: Candidate, paths: Iterable[str]) -> Candidate:
    """The candidate with a support, of everything so far, on the weights of these layers."""
    forms = dict(candidate.forms)
    for path in paths:
        name = f"{path}.weight"
        form = forms.get(name, Form())
        if form.support is None:
            forms[name] = narrow(form, torch.ones_like(candidate.net.get_parameter(name), dtype=torch.bool))
    return candidate.but(net=formed(candidate.net, forms), forms=forms)


def largest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest scores of each row; among equals the earlier ones are dropped first.

    >>> largest(torch.tensor([[1.0, 3.0, 1.0]]), 2)
    tensor([[False,  True,  True]])
    """
    order = scores.argsort(dim=1, stable=True)[:, scores.shape[1] - count :]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)  # noqa: FBT003


def supported(form: Form | None, like: Tensor) -> Tensor:
    """Where a tensor may differ from zero."""
    return torch.ones_like(like, dtype=torch.bool) if form is None or form.support is None else form.support


# --- what the report is told ---


def by_source(names: Sequence[str], weight: Tensor) -> list[dict[str, Any]]:
    """One row per layer that a layer reads: its path, how many inputs come from it, and mean |W| over these.

    Args:
        names: of `origin.sources`, one per input.
        weight: (O, I, ...), zero where a connection was dropped.

    >>> by_source(["a", "b", "b"], torch.tensor([[1.0, -2.0, 0.0]]))
    [{'path': 'a', 'inputs': 1, 'mean': 1.0}, {'path': 'b', 'inputs': 2, 'mean': 1.0}]
    """
    size = weight.detach().double().abs().transpose(0, 1).flatten(1).mean(1).tolist()
    found: dict[str, list[float]] = {}
    for name, value in zip(names, size, strict=True):
        found.setdefault(name, []).append(value)
    return [{"path": path, "inputs": len(v), "mean": sum(v) / len(v)} for path, v in found.items()]
