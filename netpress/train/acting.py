"""A method at work inside a training: its moments come, supports shrink, its penalty is part of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netpress.candidate import Acting, Remembering
from netpress.errors import ModelError
from netpress.forms import Form, Free, Params
from netpress.train.bind import Bound, owner
from netpress.train.schedule import due


class Weights(Mapping[str, Tensor]):
    """The formed tensors of a bound network by name, made when they are asked for: a penalty of zero costs nothing.

    Args:
        net: bound.
        names: of its formed tensors.
    """

    def __init__(self, net: nn.Module, names: tuple[str, ...]) -> None:
        self.net, self.names = net, names

    def __getitem__(self, name: str) -> Tensor:
        module, leaf = owner(self.net, name)
        tensor: Tensor = getattr(module, leaf)
        return tensor

    def trained(self, name: str) -> Params:
        """What is trained of a tensor: before rounding, and the step of its grid where that is trained too."""
        module, leaf = owner(self.net, name)
        made: Any = module.parametrizations[leaf]  # type: ignore[index]
        return made.original if made.is_tensor else (made.original0, made.original1)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Course:
    """What the loop knows of a method that acts: how many of its moments have passed, and what they did.

    Args:
        acting: of the method.
        net: bound to the forms of `acting.candidate`.
        updates: of the whole training.

    Raises:
        RecipeError: the training is too short for the moments.
        ModelError: a tensor that has a form cannot be acted on.
    """

    def __init__(self, acting: Acting, net: nn.Module, updates: int) -> None:
        self.acting, self.net = acting, net
        self.due = due(acting.moments, updates)
        self.stage = 0
        self.weights = Weights(net, tuple(acting.candidate.forms))

    def reach(self, place: int) -> bool:
        """Act, if update number `place` is the first at or behind a moment; True where something changed."""
        acted = False
        while self.stage < len(self.due) and place >= self.due[self.stage]:
            with torch.no_grad():
                for name, support in self.acting.act(self.stage, self.weights).items():
                    self._narrow(name, support)
            self.stage += 1
            acted = True
        return acted

    def penalty(self) -> Tensor | None:
        """What the method adds to the loss now."""
        return self.acting.penalty(self.stage, self.weights)

    @property
    def memory(self) -> dict[str, Tensor]:
        """What the method carries from moment to moment: part of a checkpoint."""
        return self.acting.memory if isinstance(self.acting, Remembering) else {}

    def told(self) -> dict[str, float]:
        """Numbers of the method for an epoch's row."""
        return self.acting.told() if isinstance(self.acting, Remembering) else {}

    def supports(self) -> dict[str, Tensor]:
        """The supports as they are, by name: part of a checkpoint."""
        return {name: self._bound(name).support for name in self.weights if self._bound(name).support is not None}  # type: ignore[misc]

    def restore(self, stage: int, supports: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> None:
        """Go on behind `stage` moments with these supports and this memory."""
        self.stage = stage
        self.memory.update(memory)
        for name, support in supports.items():
            self._narrow(name, support)

    def forms(self, forms: Mapping[str, Form]) -> dict[str, Form]:
        """The forms with the supports of now."""
        mine = self.supports()
        return {
            name: Form(mine[name].cpu().clone(), form.values) if name in mine and form.support is not None else form
            for name, form in forms.items()
        }

    def _narrow(self, name: str, support: Tensor) -> None:
        bound = self._bound(name)
        if bound.support is None or not isinstance(bound.form.values, Free):
            raise ModelError(f"{name}: only a tensor with a support and free values can be acted on in training")
        bound.support.logical_and_(support.to(bound.support.device))

    def _bound(self, name: str) -> Bound:
        module, leaf = owner(self.net, name)
        assert parametrize.is_parametrized(module, leaf)
        bound = module.parametrizations[leaf][0]  # type: ignore[index]
        assert isinstance(bound, Bound)
        return bound
