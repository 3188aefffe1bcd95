"""The one training loop, for baselines and for every method's retraining."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from netpress.candidate import Candidate, Context, Images
from netpress.data.batches import Augment, batches
from netpress.errors import DataError, ModelError
from netpress.rounding import settle_biases
from netpress.shadow import evaluating
from netpress.train.bind import bind, grid_steps, trained_groups, unbind, vanished
from netpress.train.checkpoint import CHECKPOINT, Progressed, finite, load_checkpoint, save_checkpoint
from netpress.train.evaluate import evaluate
from netpress.train.losses import training_loss
from netpress.train.matching import Matching
from netpress.train.settings import Training
from netpress.train.sparsity import GroupLasso
from netpress.train.strided import Unstrided

Row = dict[str, float]
LEASH = 0.05
"""Share of itself by which one update may change a step or scale of a grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a training gives: the candidate, and one row of numbers per epoch."""

    candidate: Candidate
    history: tuple[Row, ...]


def draw(seed: int, *place: int) -> int:
    """The seed of one place of a run (step, epoch, ...), independent of every other place's.

    >>> draw(0, 1, 2) != draw(0, 2, 1)
    True
    """
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def learning_rate(settings: Training, done: float) -> float:
    """Learning rate after the share `done` (0 to 1) of all updates.

    >>> learning_rate(Training(lr=0.1), 0.5)
    0.05
    """
    if done < settings.warmup:
        return settings.lr * done / settings.warmup
    match settings.schedule:
        case "cosine":
            rest = (done - settings.warmup) / (1 - settings.warmup)
            return settings.lr * 0.5 * (1 + math.cos(math.pi * rest))
        case "step":
            return settings.lr * settings.gamma ** sum(done >= m for m in settings.milestones)
        case "constant":
            return settings.lr


def channels_last(x: Tensor) -> Tensor:
    """Images (N, C, H, W) with their channels side by side in memory.

    One channel has the same bytes in both layouts, and its strides do not tell them apart; then the layers behind would
    fall back to the slow layout wherever a weight does not say better. So the strides are spelled out.

    >>> channels_last(torch.zeros(2, 1, 3, 4)).stride()
    (12, 1, 4, 1)
    """
    n, c, h, w = x.shape
    laid = x.contiguous(memory_format=torch.channels_last)
    return laid.as_strided((n, c, h, w), (c * h * w, 1, c * w, c))


def _optimizer(net: nn.Module, settings: Training) -> Optimizer:
    groups = trained_groups(net, settings.weight_decay, power=1 if settings.optimizer == "adamw" else 2)
    if settings.optimizer == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True)
    return AdamW(groups, lr=settings.lr, fused=True)


def _lay_out(net: nn.Module, example: Tensor) -> bool:
    """Lay weights out with channels last, in place, if the network takes that: one that views its maps does not."""
    if example.ndim != 4:
        return False
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad(), evaluating(net):
            net(channels_last(example.to(next(net.parameters()).device)))
    except RuntimeError:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return False
    return True


class _Trainer:
    """One training in progress: what the epochs share."""

    def __init__(self, candidate: Candidate, settings: Training, context: Context, teacher: nn.Module | None) -> None:
        if context.train is None:
            raise DataError("training needs data: the context has no train split")
        self.split: Images = context.train
        self.candidate, self.settings, self.context = candidate, settings, context
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision
        self.fabric = Fabric(accelerator=context.device.type, devices=1, precision=settings.precision)
        self.net = deepcopy(candidate.net)
        bind(self.net, candidate.forms)
        self.optimizer: Optimizer = _optimizer(self.net, settings)
        self.channels_last = settings.channels_last and _lay_out(self.net, context.example)
        on_cpu = self.fabric.device.type == "cpu"
        self.unstrided = Unstrided(self.net) if self.channels_last and on_cpu else None
        self.grid_steps = [*grid_steps(self.net)]
        self.model, self.steps = self.fabric.setup(self.net, self.optimizer)
        self.teacher, self.matching = None, None
        if teacher is not None and settings.taught:
            self.teacher = self.fabric.to_device(deepcopy(teacher).eval().requires_grad_(requires_grad=False))
        if self.teacher is not None and settings.distill_layers > 0:
            self.matching = Matching(self.net, self.teacher, context.example.to(self.fabric.device))
        self.lasso = GroupLasso(candidate.net, context.example) if settings.group_lasso > 0 else None
        self.updates = math.ceil(len(self.split) / settings.batch)

    def close(self) -> None:
        """Take hooks off the network; it is trained."""
        if self.matching is not None:
            self.matching.close()
        if self.unstrided is not None:
            self.unstrided.close()

    def epoch(self, number: int) -> Row:
        """Train for one epoch; its randomness is a function of (seed, step, epoch) alone."""
        settings, context = self.settings, self.context
        seed = draw(context.seed, context.step, number)
        torch.manual_seed(seed)
        self.model.train()
        start, total, right, seen = time.perf_counter(), 0.0, 0, 0
        stream = batches(
            self.split,
            size=settings.batch,
            mean=self.candidate.inputs.mean,
            std=self.candidate.inputs.std,
            device=self.fabric.device,
            seed=seed,
            augment=Augment(shift=settings.shift, flip=settings.flip),
        )
        for i, (x, y) in enumerate(stream):
            done = (number * self.updates + i) / (settings.epochs * self.updates)
            loss, hits = self._update(x, y, learning_rate(settings, done))
            total, right, seen = total + loss * len(y), right + hits, seen + len(y)
            if not math.isfinite(loss):
                raise ModelError(
                    f"step {context.step}, epoch {number + 1}, batch {i + 1}: the loss is {loss}; "
                    f"the last good epoch is kept; try a lower lr (it is {settings.lr:g})"
                )
            if i % 32 == 0:
                place = number * self.updates + i
                context.progress("train", place, settings.epochs * self.updates, {"loss": loss})
        return {
            "epoch": number + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": total / seen,
            "train_top1": right / seen,
            "seconds": time.perf_counter() - start,
        }

    def _update(self, x: Tensor, y: Tensor, lr: float) -> tuple[float, int]:
        if self.channels_last:
            x = channels_last(x)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        soft = None
        if self.teacher is not None:
            with torch.no_grad():
                soft = self.teacher(x)
        answers = self.model(x)
        loss = training_loss(answers, y, soft, self.settings)
        if self.matching is not None:
            loss = loss + self.settings.distill_layers * self.matching.loss()
        if self.lasso is not None:
            loss = loss + self.settings.group_lasso * self.lasso(self.net).to(loss.device)
        self.fabric.backward(loss)
        if self.settings.clip > 0:
            self.fabric.clip_gradients(self.model, self.steps, max_norm=self.settings.clip)
        before = [step.detach().clone() for step in self.grid_steps]
        self.steps.step()
        # one large gradient must not throw a grid away: all its weights would be zero, or one level
        with torch.no_grad():
            for step, was in zip(self.grid_steps, before, strict=True):
                torch.clamp(step, was * (1 - LEASH), was * (1 + LEASH), out=step)
        return loss.item(), int((answers.detach().argmax(1) == y).sum())

    def judge(self, done: Progressed, row: Row) -> bool:
        """Add validation numbers to the row; with patience, keep the best weights. True: stop early."""
        if self.context.validation is not None:
            scores = evaluate(self.net, self.context.validation, self.candidate.inputs, device=self.fabric.device)
            row |= {"validation_loss": scores.loss, "validation_top1": scores.top1}
        if not self.settings.patience or "validation_loss" not in row:
            return False
        if row["validation_loss"] < done.best_loss:
            done.best_loss, done.waited = row["validation_loss"], 0
            done.best = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        else:
            done.waited += 1
        return done.waited >= self.settings.patience


def fit(
    candidate: Candidate,
    settings: Training,
    context: Context,
    *,
    teacher: nn.Module | None = None,
    key: str = "",
    on_epoch: Callable[[Row], None] | None = None,
) -> Fitted:
    """Train a candidate; its forms hold to the bit before, during and after.

    The last epoch's weights are returned; with `patience`, those of the lowest validation loss. With a scratch folder,
    every epoch is checkpointed there and a second call with the same `key` goes on where the first one was stopped.

    Args:
        candidate: left untouched.
        settings: epochs, learning rate and so on.
        context: splits, seed, step, device, scratch folder, progress.
        teacher: network whose soft answers are learned with weight `settings.distill`, and whose layers' outputs with
            weight `settings.distill_layers`.
        key: names this training in its checkpoint.
        on_epoch: called with each epoch's row.

    Returns:
        The trained candidate and its history.

    Raises:
        ModelError: the loss or a weight is no longer finite; names step and epoch, the last good checkpoint is kept.
        RecipeError: `distill_layers` is asked for, and no layer's output has the shape that the teacher's has.
    """
    if settings.epochs == 0:
        return Fitted(candidate, ())
    with torch.random.fork_rng(), closing(_Trainer(candidate, settings, context, teacher)) as trainer:
        path = None if context.scratch is None else context.scratch / CHECKPOINT
        done = Progressed() if path is None else load_checkpoint(path, trainer.net, trainer.optimizer, key=key)
        stop = settings.patience > 0 and done.waited >= settings.patience
        while done.epochs < settings.epochs and not stop:
            row = trainer.epoch(done.epochs)
            if (bad := finite(trainer.net)) is not None:
                raise ModelError(f"step {context.step}, epoch {done.epochs + 1}: {bad} is no longer finite")
            stop = trainer.judge(done, row)
            done.epochs += 1
            done.history.append(row)
            if path is not None:
                save_checkpoint(path, trainer.net, trainer.optimizer, done, key=key)
            if on_epoch is not None:
                on_epoch(row)
    if done.best:
        trainer.net.load_state_dict(done.best)
    net = trainer.net.cpu()
    forms = unbind(net, candidate.forms)
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if (gone := vanished(net, forms, before=candidate.forms)) is not None:
        raise ModelError(f"step {context.step}: {gone} went to 0 in training; try a lower lr (it is {settings.lr:g})")
    settle_biases(net, forms, context.example)
    return Fitted(candidate.but(net=net.eval(), forms=forms), tuple(done.history))
