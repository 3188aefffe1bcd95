"""What one update is: network, optimizer and loss on their device, in one process or several."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from netpress.candidate import Candidate, Context, Images
from netpress.errors import RecipeError
from netpress.train import processes
from netpress.train.averaging import Average
from netpress.train.balanced import class_weights
from netpress.train.bind import bind, grid_steps, trained_groups
from netpress.train.checkpoint import State
from netpress.train.layout import channels_last, lay_out
from netpress.train.losses import training_loss
from netpress.train.matching import Matching
from netpress.train.memory import keep_memory
from netpress.train.settings import Training
from netpress.train.sparsity import GroupLasso
from netpress.train.strided import Unstrided
from netpress.train.task import Task

LEASH = 0.05
"""Share of itself by which one update may change a step or scale of a grid."""


def _optimizer(net: nn.Module, settings: Training) -> Optimizer:
    groups = trained_groups(net, settings.weight_decay, power=1 if settings.optimizer == "adamw" else 2)
    if settings.optimizer == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True)
    return AdamW(groups, lr=settings.lr, fused=True)


def _fabric(settings: Training, device: torch.device) -> Fabric:
    """Where and in which precision things run; in several processes, gradients are averaged while they are computed."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision
    if settings.precision == "16-mixed" and device.type != "cuda":
        raise RecipeError(f"precision '16-mixed' needs device 'cuda', this is {device.type!r}; take 'bf16-mixed'")
    _, world = processes.place()
    if world == 1:
        return Fabric(accelerator=device.type, devices=1, precision=settings.precision)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    # statistics of batch norms are the same everywhere (processes.reduce_norms): nothing to send around
    still = (
        "forward_sync_buffers"
        if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        else (
            "broadcast_buffers"  # its name before PyTorch 2.12
        )
    )
    strategy = DDPStrategy(gradient_as_bucket_view=True, **{still: False})
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=max(1, world // local),
        strategy=strategy,
        precision=settings.precision,
    )
    fabric.launch()
    return fabric


def resident(split: Images, device: torch.device) -> Images:
    """The split on the accelerator, where it takes at most a third of what is free there; batches are then cut there.

    >>> from netpress.data import open
    >>> train = open("digits").train
    >>> resident(train, torch.device("cpu")) is train
    True
    """
    to = getattr(split, "to", None)
    if device.type != "cuda" or to is None or not isinstance(split.images, Tensor):
        return split
    free, _ = torch.cuda.mem_get_info(device)
    moved: Images = to(device) if split.images.nbytes <= free / 3 else split
    return moved


class Engine(State):
    """One training in progress: what its updates share.

    Args:
        candidate: copied; the copy is bound to the forms and trained.
        settings, context: of the training.
        teacher: see `fit`.
        task: hooks.
    """

    def __init__(
        self, candidate: Candidate, settings: Training, context: Context, teacher: nn.Module | None, task: Task
    ) -> None:
        assert context.train is not None
        self.settings, self.task = settings, task
        self.rank, self.world = processes.place()
        self.fabric = _fabric(settings, context.device)
        self.split = resident(context.train, self.fabric.device)
        net = deepcopy(candidate.net)
        bind(net, candidate.forms)
        super().__init__(net, _optimizer(net, settings))
        self.channels_last = settings.channels_last and lay_out(self.net, context.example)
        on_cpu = self.fabric.device.type == "cpu"
        self.unstrided = Unstrided(self.net) if self.channels_last and on_cpu else None
        self.give_back = keep_memory() if on_cpu else None
        self.grid_steps = [*grid_steps(self.net)]
        self.norms = processes.reduce_norms(self.net)
        compiled = torch.compile(self.net, dynamic=False) if settings.compile else self.net
        self.model, self.steps = self.fabric.setup(compiled, self.optimizer)
        if settings.ema > 0:
            self.average = Average(self.net, settings.ema)
        self.teacher, self.matching = None, None
        if teacher is not None and settings.taught:
            self.teacher = self.fabric.to_device(deepcopy(teacher).eval().requires_grad_(requires_grad=False))
        if self.teacher is not None and settings.distill_layers > 0:
            self.matching = Matching(self.net, self.teacher, context.example.to(self.fabric.device))
        self.lasso = GroupLasso(candidate.net, context.example) if settings.group_lasso > 0 else None
        self.class_weights = _class_weights(self.split, settings, len(candidate.classes), self.fabric.device)
        self.updates = math.ceil(len(context.train) / settings.batch)

    @property
    def scaling(self) -> dict[str, Any]:
        """State of the scaling of gradients in half precision; empty in any other."""
        found: dict[str, Any] = self.fabric.strategy.precision.state_dict()
        return found

    @scaling.setter
    def scaling(self, found: dict[str, Any]) -> None:
        if found:
            self.fabric.strategy.precision.load_state_dict(found)

    def close(self) -> None:
        """Take hooks off the network; it is trained."""
        processes.release_norms(self.norms)
        if self.give_back is not None:
            self.give_back()
        if self.matching is not None:
            self.matching.close()
        if self.unstrided is not None:
            self.unstrided.close()

    def update(self, x: Tensor, y: Tensor, lr: float, place: int) -> Tensor:
        """One step of the optimizer on this process's part of a batch.

        Args:
            x: images (B, C, H, W).
            y: labels (B,).
            lr: rate of this update.
            place: number of the update in the training, from 0.

        Returns:
            Sum of the losses, sum of the metric, and images of this process, (3,): adding them up over the processes
            and the batches of an epoch gives its means.
        """
        if self.channels_last and x.ndim == 4:
            x = channels_last(x)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        pieces = [*zip(x.chunk(self.settings.accumulate), y.chunk(self.settings.accumulate), strict=True)]
        counted = torch.zeros(3, device=x.device)
        for i, (images, labels) in enumerate(pieces):
            with self.fabric.no_backward_sync(self.model, enabled=i + 1 < len(pieces)):
                counted += self._backward(images, labels, len(images) / len(x), place)
        self._step(place)
        # a batch that every process has whole must count once
        return counted / self.world if self._whole(place) < self.world else counted

    def _backward(self, x: Tensor, y: Tensor, part: float, place: int) -> Tensor:
        """Gradients of one micro-batch: the share `part` of this process's images of an update."""
        soft = None
        if self.teacher is not None:
            with torch.no_grad():
                soft = self.teacher(x)
        answers = self.task.forward(self.model, x)
        if self.task.loss is not None:
            loss = self.task.loss(answers, y)
        else:
            deferred = place < self.settings.focal_from * self.settings.epochs * self.updates
            loss = training_loss(answers, y, soft, self.settings, None if deferred else self.class_weights)
        if self.matching is not None:
            loss = loss + self.settings.distill_layers * self.matching.loss()
        scaled = loss * (part * self._weight(place, round(len(x) / part)))
        if (extra := self._penalty()) is not None:
            # not of the images: the same in every process, so their mean is the term itself
            loss, scaled = loss + extra, scaled + part * extra
        self.fabric.backward(scaled)
        hits = self.task.metric(answers.detach() if isinstance(answers, Tensor) else answers, y)
        return torch.stack([loss.detach().float() * len(y), hits.sum().float(), loss.new_tensor(len(y)).float()])

    def _weight(self, place: int, images: int) -> float:
        """What makes the mean over the processes the mean over the batch, though their parts differ in size."""
        whole = self._whole(place)
        # a batch of fewer images than processes goes whole to each
        return 1.0 if whole < self.world else images * self.world / whole

    def _whole(self, place: int) -> int:
        """Images of the whole batch of an update, over all processes."""
        size = self.settings.batch
        return min(size, len(self.split) - place % self.updates * size)

    def _penalty(self) -> Tensor | None:
        extra = self.course.penalty() if self.course is not None else None
        if self.lasso is not None:
            lasso = self.settings.group_lasso * self.lasso(self.net).to(self.fabric.device)
            extra = lasso if extra is None else extra + lasso
        return extra

    def _step(self, place: int) -> None:
        if self.settings.clip > 0:
            self.fabric.clip_gradients(self.model, self.steps, max_norm=self.settings.clip)
        before = [step.detach().clone() for step in self.grid_steps]
        self.steps.step()
        # one large gradient must not throw a grid away: all its weights would be zero, or one level
        with torch.no_grad():
            for step, was in zip(self.grid_steps, before, strict=True):
                torch.clamp(step, was * (1 - LEASH), was * (1 + LEASH), out=step)
        if self.average is not None:
            self.average.update(place)

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """The network as it is judged: with the averaged weights, where there are any."""
        if self.average is None:
            yield self.net
            return
        with self.average.standing_in():
            yield self.net


def _class_weights(split: Images, settings: Training, classes: int, device: torch.device) -> Tensor | None:
    if settings.loss == "cross_entropy":
        return None
    labels = split.labels.cpu()
    return class_weights(labels, max(classes, int(labels.max()) + 1), settings.focal_beta).to(device)
