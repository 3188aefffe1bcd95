"""Entropy-constrained quantization: whole numbers chosen by what they cost in the file, without training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress.budget import Bytes
from netpress.candidate import Candidate, Context, Record
from netpress.errors import ModelError, RecipeError
from netpress.forms import Form, Shared
from netpress.methods.file_bytes import file_bytes
from netpress.methods.rate_cost import Cost, cost
from netpress.methods.rating import Kept, Norms, bisected, chosen, closed, halved, on_whole, packed, room
from netpress.methods.targets import check_patterns, targets
from netpress.train.bind import formed
from netpress.train.checkpoint import finite
from netpress.train.gradients import diagonal_fisher
from netpress.train.schedule import draw

Pattern = Annotated[str, Field(min_length=1)]

ROUNDS = 6
"""How often numbers and their cost are found anew from each other."""
FLOOR = 1e-2
"""Share of a tensor's mean curvature that every weight has at least: few images do not ask for every weight."""
LARGEST = 127
CHEAPEST, DEAREST = 1e-7, 1e4
"""Prices among which one is looked for."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RateQuantize:
    """Round weights to whole multiples of a step so that error and bytes are least together.

        minimise sum f (w - v[q])^2 / 2 + lam * kB(q)        f: diagonal Fisher information, v: values of the numbers

    The step of a tensor is where, for small errors, a bit less costs as much as it saves: step^2 = 12 lam / (ln 2 f).
    Each weight takes of its nearest number, the next smaller one and zero what is best at the costs of `rate_cost`;
    numbers and costs are found from each other a few times. With `values = "means"` each number then gets the mean of
    its weights for its value: a table, two bytes for each number.

    Attributes:
        lam: what a kB (1000 bytes) of the file must save of the loss.
        max_size: of the whole file, `50kB` or `10%` of the float32 weights: `lam` is searched for.
        values: of the numbers: whole multiples of the step (`grid`), or the means of their weights (`means`).
        samples: images of the training split for the Fisher information; 0: every weight counts alike.
        biases, norms, frozen: as `rate_train`.

    Source: Chou, Lookabaugh and Gray 1989 (entropy-constrained quantization); Choi, El-Khamy and Lee 2017 (with the
    diagonal of the curvature, for networks). Differs: costs depend on row and column, as the file's coder sees them.

    >>> sorted(RateQuantize(max_size="50kB").gives)
    ['affine', 'support']
    """

    name: ClassVar[str] = "rate_quantize"
    revision: ClassVar[int] = 1
    preserves: ClassVar[frozenset[str]] = frozenset({"support"})

    lam: Annotated[float, Field(gt=0, le=1000)] = 0.01
    max_size: Bytes | None = None
    values: Literal["grid", "means"] = "grid"
    samples: Annotated[int, Field(ge=0)] = 512
    biases: Kept = "affine"
    norms: Norms = "half"
    frozen: tuple[Pattern, ...] = ()

    @property
    def gives(self) -> frozenset[str]:
        """Zeros, and whole multiples of a step or shared values."""
        return frozenset({"support", "affine" if self.values == "grid" else "shared"})

    def expand(self) -> list[RateQuantize]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`."""
        check_patterns(self.frozen, [target.path for target in targets(net)], "rate_quantize.frozen")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Choose the numbers.

        Raises:
            ModelError: a weight is not finite, or no plain parameter.
            RecipeError: there are no images for the Fisher information.
            BudgetError: `max_size` is below what header, graph and the tensors that stay take.
        """
        self.check(candidate.net)
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: it has no grid")
        names = chosen(candidate, self.frozen, self.biases)
        matters = self._matters(candidate, context, names)
        if self.max_size is None:
            lam, small = self.lam, self._made(candidate, context, matters, self.lam)
        else:
            lam, small = self._searched(candidate, context, matters)
        net, forms = small.net, small.forms
        rows = [_row(name, net.get_parameter(name).detach(), forms.get(name, Form())) for name in names]
        notes = [f"{r['name']}: {r['nonzero']:,} of {r['weights']:,} not zero, {r['bytes']:,} bytes" for r in rows]
        facts = {"rate": {"price": lam, "bytes": sum(r["bytes"] for r in rows), "tensors": rows}}
        notes.append(f"{facts['rate']['bytes']:,} bytes of numbers at a price of {lam:.3g} a kB")
        record = Record(self.name, dataclasses.asdict(self), tuple(notes), facts)
        return small.but(history=(*candidate.history, record))

    def _matters(self, candidate: Candidate, context: Context, names: list[str]) -> dict[str, Tensor]:
        """How much the loss cares about each weight."""
        if self.samples == 0:
            return {name: torch.ones_like(candidate.net.get_parameter(name)) for name in names}
        if context.train is None:
            raise RecipeError("rate_quantize.samples: the Fisher information needs training images; or take 0")
        found = diagonal_fisher(
            candidate.net,
            names,
            context.train,
            candidate.inputs,
            samples=self.samples,
            seed=draw(context.seed, context.step) % 2**32,
        )
        return {name: f.clamp(min=max(FLOOR * float(f.mean()), 1e-12)) for name, f in found.items()}

    def _made(self, candidate: Candidate, context: Context, matters: Mapping[str, Tensor], lam: float) -> Candidate:
        """The network at a price."""
        found = _quantized(candidate, matters, lam, means=self.values == "means")
        forms = {**candidate.forms, **{name: form for name, (form, _) in found.items()}}
        net = formed(_with(candidate, found).net, forms)
        return closed(candidate.but(net=net, forms=forms), context, self.norms, self.name)

    def _searched(
        self, candidate: Candidate, context: Context, matters: Mapping[str, Tensor]
    ) -> tuple[float, Candidate]:
        """The least price that meets the budget, and the network at it."""
        assert self.max_size is not None
        floor = file_bytes(self._made(candidate, context, matters, DEAREST))
        left = room(candidate, self.max_size, floor, self.name)
        allowed, lam = left + floor, CHEAPEST

        def size(price: float) -> float:
            found = _quantized(candidate, matters, price, means=self.values == "means")
            return sum(packed(form, w, "context") for form, w in found.values())

        while True:
            lam = bisected(size, left, lam, DEAREST)
            small = self._made(candidate, context, matters, lam)
            over = file_bytes(small) - allowed  # forms are named in the header too
            if over <= 0 or lam >= DEAREST / 2:
                return lam, small
            left -= over


METHODS = (RateQuantize,)
EXAMPLES = (
    RateQuantize(lam=1e-5, samples=32),
    RateQuantize(lam=4.0, samples=0, biases="float", values="means"),
)


def _quantized(
    candidate: Candidate, matters: Mapping[str, Tensor], lam: float, *, means: bool
) -> dict[str, tuple[Form, Tensor]]:
    """By tensor its form and values at a price."""
    found = {}
    for name, f in matters.items():
        form = candidate.forms.get(name, Form())
        w = candidate.net.get_parameter(name).detach()
        kept = w if form.support is None else torch.where(form.support, w, 0.0)
        found[name] = _chosen(kept, f, lam / 8000, means=means, before=form.support)
    return found


def _chosen(w: Tensor, f: Tensor, bit: float, *, means: bool, before: Tensor | None = None) -> tuple[Form, Tensor]:
    """Numbers of one tensor where a bit costs `bit`: their form, and the tensor.

    Args:
        w: the tensor, zero outside its support.
        f: how much the loss cares about each entry.
        bit: price of a bit, in units of the loss.
        means: whether a number stands for the mean of its weights, not for a multiple of the step.
        before: the support that the tensor had.
    """
    size = w.abs()
    largest = float(size.max())
    if largest == 0:
        return on_whole(w, torch.ones((1,) * w.ndim), 8), w
    step = max(math.sqrt(12 * bit / (math.log(2) * float(f.mean()))), largest / LARGEST)
    step = float(halved(torch.tensor(step)))
    near = (size / step).round().clamp(max=LARGEST)
    number = near
    for _ in range(ROUNDS):
        told = cost(number)

        def loss(q: Tensor, told: Cost = told) -> Tensor:
            bits = torch.where(q > 0, told.first + (q - 1) * told.further, 0.0)
            return f * (size - q * step).square() / 2 + bit * bits

        options = torch.stack([near, (near - 1).clamp(min=0), torch.zeros_like(near)])
        number = options.gather(0, torch.stack([*map(loss, options)]).argmin(0, keepdim=True))[0]
    signed = number * w.sign()
    if means and bool(signed.any()):
        return _means(w, f, signed)
    return on_whole(signed * step, torch.full((1,) * w.ndim, step), 8, before), signed * step


def _means(w: Tensor, f: Tensor, number: Tensor) -> tuple[Form, Tensor]:
    """Each number but 0 as the mean of its weights, by how much they matter; some number is not 0."""
    support = number != 0
    used, index = torch.unique(number[support], return_inverse=True)
    total = torch.bincount(index, (f * w)[support].double(), minlength=len(used))
    exact = (total / torch.bincount(index, f[support].double(), minlength=len(used))).float()
    near = halved(exact)
    table = near if len(torch.unique(near)) == len(near) and bool((near != 0).all()) else exact
    values = torch.zeros_like(w)
    values[support] = table[index]
    return Form(support.cpu(), Shared(index.cpu(), len(used))), values


def _with(candidate: Candidate, found: Mapping[str, tuple[Form, Tensor]]) -> Candidate:
    """A candidate whose tensors have the values found."""
    made = formed(candidate.net, {})
    with torch.no_grad():
        for name, (_, values) in found.items():
            made.get_parameter(name).copy_(values)
    return candidate.but(net=made)


def _row(name: str, w: Tensor, form: Form) -> dict[str, Any]:
    return {"name": name, "weights": w.numel(), "nonzero": int((w != 0).sum()), "bytes": packed(form, w)}
