"""Batch norms that no layer can take: one scale and one shift per channel, in single or in half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netpress.arch import edit
from netpress.candidate import Candidate, Context, edited
from netpress.factor.scaling import at
from netpress.methods.norms import only_norm
from netpress.methods.same_function import Change, compare, on_meta

Precision = Literal["merge", "half"]

TOLERANCE = 1e-6
CAUSE = "it uses a norm in a way that one run does not show; freeze it"
FROZEN = "frozen by "
"""How the reason of a norm begins that was told to stay."""
LEAST = 2.0**-14
"""The least normal number of half precision: below it, numbers lose digits."""
LOST = 2.0**-10
"""Of the widest channel of a norm, what rounding may cost another; half precision rounds by 2^-11 at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """A candidate whose norms were merged.

    Attributes:
        candidate: the new one.
        merged: paths of the norms, in the network's order.
        stay: the norms that were not: path -> why.
        notes: what was done, in words; empty where nothing was.
    """

    candidate: Candidate
    merged: tuple[str, ...]
    stay: Mapping[str, str]
    notes: tuple[str, ...]


def merge(
    candidate: Candidate, context: Context, stay: Mapping[str, str], *, precision: Precision, method: str
) -> Merged:
    """Make one scale and one shift per channel of what a batch norm holds: half of its numbers.

        scale = g / sqrt(v + e)        shift = h - m scale

    with m and v the running mean and variance, g and h the norm's weight and bias, e its epsilon, in float64; rounded
    once. In half precision both are float32 tensors that hold numbers of half precision, which a file writes in two
    bytes each; they are buffers then, which training leaves as they are, or the numbers would not stay. In single
    precision they are parameters.

    Args:
        candidate: left untouched.
        context: as `fold`.
        stay: norms that could not be folded -> why.
        precision: "merge" single, "half" half precision.
        method: what errors call it.

    Raises:
        ModelError: the network with merged norms computes something else, rounding aside.
    """
    left, found = {}, {}
    for path, reason in stay.items():
        norm = candidate.net.get_submodule(path)
        exact = scale_and_shift(norm)
        why = reason if reason.startswith(FROZEN) else _why_not(candidate, path, norm)
        if why is None and precision == "half" and exact is not None:
            why = _lost(norm, *exact)
        if why is None and exact is not None:
            found[path] = exact
        else:
            left[path] = why or reason
    if not found:
        return Merged(candidate, (), left, ())
    notes = _checked(candidate, context, found, precision, method)
    made = _merged(candidate, deepcopy(candidate.net), _rounded(found) if precision == "half" else found, precision)
    return Merged(made, tuple(found), left, notes)


Found = Mapping[str, tuple[Tensor, Tensor]]


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor] | None:
    """What a batch norm does in evaluation mode, in float64; None where it keeps no statistics.

    >>> norm = nn.BatchNorm1d(1, eps=0.0); norm.running_mean.fill_(2); norm.running_var.fill_(4)
    tensor([2.])
    tensor([4.])
    >>> scale_and_shift(norm)
    (tensor([0.5000], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    if norm.running_mean is None or norm.running_var is None:
        return None
    scale = (norm.running_var.detach().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.detach().double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def _why_not(candidate: Candidate, path: str, norm: Any) -> str | None:
    """Why a norm cannot be merged, whatever its numbers; None where it can."""
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics"
    if not only_norm(norm):
        return f"{type(norm).__name__} may do more than normalise"
    if len([m for _, m in candidate.net.named_modules(remove_duplicate=False) if m is norm]) > 1:
        return "the network holds it under several names"
    formed = [n for n in ("weight", "bias") if (f"{path}.{n}" if path else n) in candidate.forms]
    return f"its {formed[0]} has a form, which merging would not keep" if formed else None


def _lost(norm: Any, scale: Tensor, shift: Tensor) -> str | None:
    """What half precision would lose of a norm; None where it holds its numbers."""
    if scale.is_meta:
        return None
    for name, exact in (("scale", scale), ("shift", shift)):
        if not bool(exact.half().isfinite().all()):
            return f"its {name} reaches {exact.abs().max():.1e}: half precision ends at 65,504"
    # how widely each channel varies behind the norm, and how much of that the rounding of its scale moves
    spread = (norm.running_var.double() + norm.eps).sqrt()
    off = (scale.half().double() - scale).abs() * spread
    if bool((off > LOST * (scale.abs() * spread).max()).any()):
        worst = int(off.argmax())
        return f"its scale of {scale[worst]:.1e} lies where half precision has few digits"
    return None


def _rounded(found: Found) -> Found:
    return {path: (scale.half().double(), shift.half().double()) for path, (scale, shift) in found.items()}


def _checked(
    candidate: Candidate, context: Context, found: Found, precision: Precision, method: str
) -> tuple[str, ...]:
    """Compare the network with and without merged norms; what was seen, in words."""
    words = "half" if precision == "half" else "single"
    told = f"merged {len(found)} batch norms to scale and shift in {words} precision"
    if on_meta(candidate.net):
        return (told, "merged on meta: not checked")
    change = Change(method, "merged", TOLERANCE, CAUSE)
    seen = compare(candidate, context, change, lambda copy: _merged(candidate, copy, found, precision).net)
    if precision == "merge":
        return (told, f"merged: {seen}")
    rounded = _rounded(found)
    off = max(_off(a, b) for path in found for a, b in zip(rounded[path], found[path], strict=True))
    free = Change(method, "rounded", math.inf, CAUSE)
    moved = compare(candidate, context, free, lambda copy: _merged(candidate, copy, rounded, precision).net)
    return (f"{told}: largest relative rounding {off:.1e}", f"merged: {seen}", f"rounded: {moved}")


def _off(rounded: Tensor, exact: Tensor) -> float:
    """The largest rounding, relative to the number, or to the least normal one where the number is smaller."""
    return float(((rounded - exact).abs() / exact.abs().clamp(min=LEAST)).max()) if len(exact) else 0.0


def _merged(candidate: Candidate, net: nn.Module, found: Found, precision: Precision) -> Candidate:
    """`candidate` with norms merged in `net`, which is changed in place."""
    arch, trained = candidate.arch, int(precision == "merge")
    for path, (scale, shift) in found.items():
        edit(net, "scaled", path, trained)
        arch = edited(arch, "scaled", path, trained)
        made = at(net, path)
        with torch.no_grad():
            made.scale.copy_(scale)
            made.shift.copy_(shift)
    return candidate.but(net=net, arch=arch)
