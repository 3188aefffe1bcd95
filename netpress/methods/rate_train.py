"""Training for rate: the bytes of the file are part of the loss (Oktay et al. 2020; Wiedemann et al. 2019)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress.budget import Bytes
from netpress.candidate import Candidate, Context, Record, Trained
from netpress.errors import ModelError
from netpress.forms import Affine, Form, step_share
from netpress.methods.rate_cost import bits as estimated
from netpress.methods.rate_cost import cost
from netpress.methods.rating import Kept, Norms, chosen, closed, on_whole, packed, rest, room
from netpress.methods.targets import check_patterns, targets
from netpress.train.bind import formed
from netpress.train.checkpoint import finite

Pattern = Annotated[str, Field(min_length=1)]

STEERED_UNTIL = 0.85
"""Share of the training behind which the price stays: the rate of learning is too low to follow it."""
FASTEST = 1.5
"""Largest factor by which the price changes at one moment."""
AIM = 0.985
"""Share of a byte budget that the training steers to: what is left over covers its last changes."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RateTrain:
    """Train whole numbers and the bytes they take in the file, together.

        loss + lam * estimated kB,   w = q * step,  q whole

    Every tensor gets a grid with a trained step. The forward pass computes with the rounded weights, gradients pass the
    rounding; the estimate (`rate_cost`) pulls every weight towards the next smaller number by what that saves. At
    moments of the training the tensors are really coded, which corrects the estimate and, with `max_size`, moves the
    price `lam`. In the end zeros stay zero: they are outside the support.

    Attributes:
        lam: what a kB (1000 bytes) of the file must save of the loss. With `max_size` only the first guess.
        max_size: of the whole file, `5kB` or `5%` of the float32 weights: the price is steered to it.
        levels: whole numbers that the largest weight of a tensor begins with.
        bits: of a number at most, 2 to 8.
        rise: share of the training in which the price rises from 0.
        stages: how often the tensors are really coded.
        biases: `affine`: also biases are whole numbers, coded alike; `float`: they stay.
        norms: batch norms, which train as they are: `half` makes scale and shift of them in the end, in half precision,
            as `fold_batch_norm` does; `float` leaves them.
        frozen: paths or patterns of layers that stay float.

    Differs from the sources: the density is no trained network but counted from the weights, by row and column, as the
    file's coder does; gradients pass the rounding instead of noise.

    >>> sorted(RateTrain(max_size="5kB").gives)
    ['affine', 'support']
    """

    name: ClassVar[str] = "rate_train"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset({"support", "affine"})
    preserves: ClassVar[frozenset[str]] = frozenset({"support"})

    lam: Annotated[float, Field(gt=0, le=1000)] = 0.01
    max_size: Bytes | None = None
    levels: Annotated[int, Field(ge=1, le=127)] = 8
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    rise: Annotated[float, Field(ge=0, lt=1)] = 0.15
    stages: Annotated[int, Field(ge=1, le=1000)] = 50
    biases: Kept = "affine"
    norms: Norms = "half"
    frozen: tuple[Pattern, ...] = ()

    @property
    def moments(self) -> tuple[float, ...]:
        """When the tensors are really coded, as shares of the training."""
        return tuple(s / (self.stages + 1) for s in range(1, self.stages + 1))

    def expand(self) -> list[RateTrain]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no layer of `net`."""
        check_patterns(self.frozen, [target.path for target in targets(net)], "rate_train.frozen")

    def refuse(self, candidate: Candidate, context: Context) -> None:
        """Refuse a budget below the floor."""
        if self.max_size is not None:
            self.gradually(candidate, context)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Round to the grids that a training would begin with.

        Raises:
            ModelError: a weight is not finite, or no plain parameter.
            BudgetError: `max_size` is below what header, graph and the tensors that stay take.
        """
        acting = self.gradually(candidate, context)
        return acting.finish(acting.candidate, context)

    def gradually(self, candidate: Candidate, context: Context) -> Rating:
        """The training that the bytes are part of; raises what `apply` does."""
        self.check(candidate.net)
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: it has no grid")
        names = chosen(candidate, self.frozen, self.biases)
        forms = {**candidate.forms, **{name: self._form(candidate, name) for name in names}}
        start = candidate.but(net=formed(candidate.net, forms), forms=forms)
        grids = {name: self.settled(start, name) for name in names}
        begun = sum(packed(form, start.net.get_parameter(name).detach(), "context") for name, form in grids.items())
        beside, left = 0, None
        if self.max_size is not None:
            ended = {**forms, **grids}
            ready = start.but(net=formed(start.net, ended), forms=ended)
            beside = rest(closed(ready, context, self.norms, self.name), names)
            left = room(candidate, self.max_size, beside, self.name)
        memory = {"begun": torch.tensor(float(begun)), "bytes": torch.tensor(float(begun + beside))}
        return Rating(start, self.moments, self, tuple(names), beside, left, memory)

    def settled(self, candidate: Candidate, name: str) -> Form:
        """What the form of a tensor becomes in the end, where its weights are what they are now."""
        form = candidate.forms[name]
        assert form.step is not None
        return on_whole(candidate.net.get_parameter(name).detach(), form.step, self.bits, form.support)

    def _form(self, candidate: Candidate, name: str) -> Form:
        w = candidate.net.get_parameter(name).detach()
        largest = float(w.abs().max()) or 1.0
        step = torch.full((1,) * w.ndim, largest / min(self.levels, (1 << self.bits - 1) - 1))
        support = candidate.forms[name].support if name in candidate.forms else None
        return Form(support, Affine.symmetric(step, self.bits))


METHODS = (RateTrain,)
EXAMPLES = (RateTrain(lam=0.05, stages=2), RateTrain(max_size="2kB", bits=6, levels=30, biases="float", stages=3))


@dataclasses.dataclass(slots=True, eq=False)
class Rating:
    """A training with the bytes in the loss.

    Attributes:
        candidate: on its grids.
        moments: when the tensors are really coded.
        settings: the method.
        names: of the tensors that are whole numbers.
        beside: bytes of everything else in the file; 0 where there is no budget.
        room: bytes that a budget leaves for them, or None.
        memory: the price, and by tensor how many bytes an estimated one really takes.
    """

    candidate: Candidate
    moments: tuple[float, ...]
    settings: RateTrain
    names: tuple[str, ...]
    beside: int
    room: float | None
    memory: dict[str, Tensor]

    def act(self, stage: int, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Code the tensors; correct the estimate; move the price. Supports stay.

        Raises:
            ModelError: all weights of a tensor are zero: the price is too high.
        """
        sizes = {name: self._coded(name, weights) for name in self.names}
        for name in self.names:
            guess = float(self._bits(name, weights)) / 8
            self.memory[f"scale/{name}"] = torch.tensor(max(sizes[name], 1) / max(guess, 1.0)).clamp(0.1, 10.0)
        total = sum(sizes.values())
        price = self.memory.setdefault("price", torch.tensor(self.settings.lam))
        self.memory["bytes"] = torch.tensor(float(total + self.beside))
        moment = self.moments[stage]
        if self.room is not None and moment < STEERED_UNTIL:
            factor = (total / self._target(moment)) ** 0.5
            self.memory["price"] = price * min(max(factor, 1 / FASTEST), FASTEST)
        return {}

    def _target(self, moment: float) -> float:
        """Bytes to be at now: from those of the beginning geometrically down to the budget's."""
        assert self.room is not None
        begun = float(self.memory["begun"])
        aim, rise = AIM * (self.room + self.beside) - self.beside, 3 * self.settings.rise
        done = 1.0 if rise == 0 else min(moment / rise, 1.0)
        return max(aim, 1.0) * math.pow(max(begun, 1.0) / max(aim, 1.0), 1 - done)

    def _coded(self, name: str, weights: Mapping[str, Tensor]) -> int:
        # the file's coder and the forms live on the CPU, wherever the training is
        w, step = weights[name].detach().cpu(), self._trained(name, weights)[1].detach().cpu()
        if name.endswith("weight") and not bool(w.any()):
            raise ModelError(
                f"{name}: all its weights went to 0 at a price of {self._price():.3g} a kB: take a smaller lam, or a "
                "larger max_size; the last good epoch is kept"
            )
        return packed(on_whole(w, step, self.settings.bits), w, "context")

    def _price(self) -> float:
        return float(self.memory["price"]) if "price" in self.memory else self.settings.lam

    def _scale(self, name: str) -> float:
        """How many bytes an estimated one takes, as of the last moment."""
        key = f"scale/{name}"
        return float(self.memory[key]) if key in self.memory else 1.0

    def _trained(self, name: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        assert isinstance(weights, Trained)
        latent, step = weights.trained(name)
        return latent, step

    def _bits(self, name: str, weights: Mapping[str, Tensor]) -> Tensor:
        latent, step = self._trained(name, weights)
        form = self.candidate.forms[name]
        assert isinstance(form.values, Affine)
        share = step_share(form, latent)
        assert share is not None
        if form.support is not None:
            latent = torch.where(form.support.to(latent.device), latent, 0.0)
        return estimated(latent, step, share.to(latent), form.values.levels)

    def penalty(self, stage: int, weights: Mapping[str, Tensor]) -> Tensor | None:
        """The price of the bytes."""
        rise = self.settings.rise * (len(self.moments) + 1)
        price = self._price() * (min(1.0, stage / rise) if rise else 1.0)
        if price == 0:
            return None
        parts = [self._scale(name) * self._bits(name, weights) for name in self.names]
        return price / 8000 * torch.stack(parts).sum()

    def told(self) -> dict[str, float]:
        """Price and bytes at the last moment."""
        return {"price": self._price(), "coded_bytes": float(self.memory["bytes"])}

    def finish(self, trained: Candidate, context: Context) -> Candidate:
        """Zeros go out of the supports, grids lose the bits that nothing uses, steps become numbers of two bytes."""
        forms = {**trained.forms, **{name: self.settings.settled(trained, name) for name in self.names}}
        net = formed(trained.net, forms)
        rows = [self._row(name, net.get_parameter(name).detach(), forms[name]) for name in self.names]
        guess, size = (sum(row[key] for row in rows) for key in ("estimated_bytes", "bytes"))
        notes = [f"{r['name']}: {r['nonzero']:,} of {r['weights']:,} not zero, {r['bytes']:,} bytes" for r in rows]
        notes.append(f"{size:,} bytes of whole numbers, {guess:,.0f} estimated; a price of {self._price():.3g} a kB")
        facts = {"rate": {"price": self._price(), "bytes": size, "estimated_bytes": guess, "tensors": rows}}
        record = Record(self.settings.name, dataclasses.asdict(self.settings), tuple(notes), facts)
        small = closed(trained.but(net=net, forms=forms), context, self.settings.norms, self.settings.name)
        return small.but(history=(*trained.history, record))

    def _row(self, name: str, w: Tensor, form: Form) -> dict[str, Any]:
        """A tensor's numbers: what the training took its bytes for, and what they are."""
        guess = cost(w if form.step is None else (w / form.step).round()).bits / 8 * self._scale(name)
        size, used = packed(form, w), int((w != 0).sum())
        return {"name": name, "weights": w.numel(), "nonzero": used, "estimated_bytes": guess, "bytes": size}
