"""The one training loop, for baselines and for every method's retraining."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from netpress.candidate import Acting, Candidate, Context
from netpress.data.batches import Augment, batches
from netpress.data.rate import Metered
from netpress.errors import DataError, ModelError
from netpress.rounding import settle_biases
from netpress.train import processes
from netpress.train.acting import Course
from netpress.train.bind import unbind, vanished
from netpress.train.checkpoint import CHECKPOINT, Progressed, finite, load_checkpoint, save_checkpoint
from netpress.train.engine import Engine
from netpress.train.evaluate import judge
from netpress.train.schedule import draw, learning_rate, reseed
from netpress.train.settings import Training
from netpress.train.task import Task

Row = dict[str, float]
TICK = 32
"""Updates between two moments at which processes compare notes, and a checkpoint may be written."""
SAVE_SECONDS = 60.0
"""What a killed training loses at most, beside the updates of one tick."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a training gives: the candidate, and one row of numbers per epoch."""

    candidate: Candidate
    history: tuple[Row, ...]


class _Loop:
    """The epochs of one training: what is counted, checked, written."""

    def __init__(self, engine: Engine, candidate: Candidate, context: Context, key: str) -> None:
        self.engine, self.candidate, self.context, self.key = engine, candidate, context, key
        self.settings = engine.settings
        self.path: Path | None = None if context.scratch is None else context.scratch / CHECKPOINT
        self.done = load_checkpoint(self.path, engine, key=key)
        self.saved = time.monotonic()

    def epoch(self) -> Row:
        """Train for one epoch, or for the rest of one; its randomness is a function of (seed, step, epoch) alone."""
        engine, settings, done = self.engine, self.settings, self.done
        seed = draw(self.context.seed, self.context.step, done.epochs)
        engine.model.train()
        counted = torch.zeros(3, device=engine.fabric.device)
        stream = batches(
            engine.split,
            size=settings.batch,
            mean=self.candidate.inputs.mean,
            std=self.candidate.inputs.std,
            device=engine.fabric.device,
            seed=seed,
            augment=Augment(shift=settings.shift, flip=settings.flip),
            start=done.batches,
            part=(engine.rank, engine.world),
        )
        with closing(Metered(stream)) as self.input:
            self.clock, self.waiting = time.perf_counter(), 0.0
            for x, y in self.input:
                counted += self._update(x, y, seed)
                done.batches += 1
                if done.batches % TICK == 0:
                    self._tick(counted)
            self._tick(counted, last=True)
        return self._row()

    def _update(self, x: Tensor, y: Tensor, seed: int) -> Tensor:
        engine, settings, done = self.engine, self.settings, self.done
        place = done.epochs * engine.updates + done.batches
        if engine.course is not None and engine.course.reach(place):
            self.context.progress("condense", engine.course.stage, len(engine.course.due), {})
        # dropout of an update depends on its place alone: an epoch goes on anywhere, bit for bit
        reseed(draw(seed, done.batches, engine.rank), engine.fabric.device)
        counted = engine.update(x, y, learning_rate(settings, place / (settings.epochs * engine.updates)), place)
        # reading a number waits for an accelerator; there the tick looks
        # and a part that is not finite in one process would leave the others waiting
        if counted.device.type == "cpu" and engine.world == 1 and not math.isfinite(loss := counted[0].item() / len(y)):
            raise self._exploded(loss)
        return counted

    def _exploded(self, loss: float) -> ModelError:
        return ModelError(
            f"step {self.context.step}, epoch {self.done.epochs + 1}, batch {self.done.batches + 1}: the loss is "
            f"{loss}; the last good epoch is kept; try a lower lr (it is {self.settings.lr:g})"
        )

    def _tick(self, counted: Tensor, *, last: bool = False) -> None:
        """Add up over the processes; show; every minute, write a checkpoint in the midst of the epoch."""
        engine, done = self.engine, self.done
        overdue = time.monotonic() - self.saved > SAVE_SECONDS
        summed = processes.total(
            torch.cat([counted, counted.new_tensor([float(overdue and engine.rank == 0)])])
        ).tolist()
        counted.zero_()
        now, waiting = time.perf_counter(), self.input.waiting
        done.count(summed[:3], seconds=now - self.clock, waiting=waiting - self.waiting)
        self.clock, self.waiting = now, waiting
        if not math.isfinite(summed[0]):
            done.batches -= 1
            raise self._exploded(summed[0] / max(summed[2], 1))
        place, whole = done.epochs * engine.updates + done.batches, self.settings.epochs * engine.updates
        rates = {"loss": summed[0] / max(summed[2], 1), "images/s": done.rate(), "input/s": done.input_rate()}
        self.context.progress("train", place, whole, rates)
        if summed[3] and not last and finite(engine.net) is None:
            self._save()

    def _row(self) -> Row:
        done, rate = self.done, self.engine.optimizer.param_groups[0]["lr"]
        row = {
            "epoch": done.epochs + 1,
            "lr": rate,
            "train_loss": done.sums[0] / done.sums[2],
            "train_top1": done.sums[1] / done.sums[2],
            "seconds": done.seconds,
            "images_per_second": done.rate(),
            "input_per_second": done.input_rate(),
        }
        if self.engine.course is not None:
            row |= {"stage": self.engine.course.stage, **self.engine.course.told()}
        return row

    def close_epoch(self, row: Row) -> bool:
        """Judge the epoch, write it down. True: stop early."""
        engine, done, context = self.engine, self.done, self.context
        if (bad := finite(engine.net)) is not None:
            raise ModelError(f"step {context.step}, epoch {done.epochs + 1}: {bad} is no longer finite")
        if context.validation is not None:
            with engine.judged() as net:
                loss, score = judge(net, context.validation, self.candidate.inputs, engine.task, engine.fabric.device)
                row |= {"validation_loss": loss, "validation_top1": score}
                stop = self._keep_best(row, net)
        else:
            stop = False
        done.close(row)
        self._save()
        return stop

    def _keep_best(self, row: Row, net: nn.Module) -> bool:
        done = self.done
        if not self.settings.patience:
            return False
        if row["validation_loss"] < done.best_loss:
            done.best_loss, done.waited = row["validation_loss"], 0
            done.best = {k: v.detach().clone() for k, v in net.state_dict().items()}
        else:
            done.waited += 1
        return done.waited >= self.settings.patience

    def _save(self) -> None:
        if self.path is not None and self.engine.rank == 0:
            save_checkpoint(self.path, self.engine, self.done, key=self.key)
        self.saved = time.monotonic()


def fit(  # noqa: PLR0913  what a training is told: each is plain where it is not needed
    candidate: Candidate | Acting,
    settings: Training,
    context: Context,
    *,
    teacher: nn.Module | None = None,
    key: str = "",
    on_epoch: Callable[[Row], None] | None = None,
    task: Task | None = None,
) -> Fitted:
    """Train a candidate; its forms hold to the bit before, during and after.

    The last epoch's weights are returned; with `patience`, those of the lowest validation loss; with `ema`, their
    average. With a scratch folder, every epoch is checkpointed there, and every minute within an epoch; a second call
    with the same `key` goes on where the first one was stopped and ends in the same bits. In several processes, each
    calls this with the same arguments; rank 0 writes.

    Args:
        candidate: left untouched; or a method at work in this training (`candidate.Gradual`).
        settings: epochs, learning rate and so on.
        context: splits, seed, step, device, scratch folder, progress.
        teacher: network whose soft answers are learned with weight `settings.distill`, and whose layers' outputs with
            weight `settings.distill_layers`.
        key: names this training in its checkpoint.
        on_epoch: called with each epoch's row.
        task: how the network is called, what is minimised and counted, where it is no plain classification.

    Returns:
        The trained candidate and its history.

    Raises:
        ModelError: the loss or a weight is no longer finite; names step and epoch, the last good checkpoint is kept.
        RecipeError: `distill_layers` is asked for, and no layer's output has the shape that the teacher's has; or the
            training is too short for the moments of the method.
    """
    acting = None if isinstance(candidate, Candidate) else candidate
    plain = candidate if isinstance(candidate, Candidate) else candidate.candidate
    if settings.epochs == 0:
        return Fitted(plain if acting is None else acting.finish(plain, context), ())
    if context.train is None:
        raise DataError("training needs data: the context has no train split")
    with torch.random.fork_rng(), closing(Engine(plain, settings, context, teacher, task or Task())) as engine:
        if acting is not None:
            engine.course = Course(acting, engine.net, settings.epochs * engine.updates)
        loop = _Loop(engine, plain, context, key)
        done = loop.done
        stop = settings.patience > 0 and done.waited >= settings.patience
        while done.epochs < settings.epochs and not stop:
            row = loop.epoch()
            stop = loop.close_epoch(row)
            if on_epoch is not None:
                on_epoch(row)
    trained = _taken(engine, plain, settings, done, context)
    return Fitted(trained if acting is None else acting.finish(trained, context), tuple(done.history))


def _taken(engine: Engine, candidate: Candidate, settings: Training, done: Progressed, context: Context) -> Candidate:
    """The trained network out of the engine: plain, on the CPU, with the forms it holds now."""
    if done.best:
        engine.net.load_state_dict(done.best)
    elif engine.average is not None:
        engine.average.keep()
    net = engine.net.cpu()
    before = candidate.forms if engine.course is None else engine.course.forms(candidate.forms)
    forms = unbind(net, before)
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if (gone := vanished(net, forms, before=candidate.forms)) is not None:
        raise ModelError(f"step {context.step}: {gone} went to 0 in training; try a lower lr (it is {settings.lr:g})")
    settle_biases(net, forms, context.example)
    return candidate.but(net=net.eval(), forms=forms)
