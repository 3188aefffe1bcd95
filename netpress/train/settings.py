"""How a network is (re)trained: one block of settings for all methods."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Training(BaseModel):
    """One training, as a recipe's `[baseline]` or a step's `train = {...}` says it.

    Zero epochs are allowed: the step is measured as it is.

    >>> Training(epochs=3, lr=1e-3).schedule
    'cosine'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # SGD with Nesterov's form
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0  # on free weights of two or more axes only
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # share of all steps in which the rate rises from zero
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)  # of `step`: shares of all steps
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1  # of `step`: factor at each milestone
    batch: Annotated[int, Field(ge=1, le=65_536)] = 128
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of `cross_entropy` only
    loss: Literal["cross_entropy", "class_balanced_focal"] = "cross_entropy"
    focal_form: Literal["sigmoid", "softmax"] = "sigmoid"  # a yes or no per class, or one choice among them
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0  # how much less an image counts that is right for sure
    focal_beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999  # how much more a rare class counts; 0: no more
    focal_from: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the training before which cross-entropy is trained
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0  # weight of the baseline's soft answers in the loss
    distill_layers: Annotated[float, Field(ge=0, le=1000)] = 0.0  # weight of the layers' distance from the baseline's
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0  # of the soft answers
    group_lasso: Annotated[float, Field(ge=0, le=1)] = 0.0  # weight of the norms of removable channels in the loss
    patience: Annotated[int, Field(ge=0)] = 0  # epochs without a better validation loss; 0: never stop early
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest norm of the gradient; 0: no limit
    shift: Annotated[int, Field(ge=0, le=64)] = 0  # pad-and-crop augmentation, pixels
    flip: bool = False  # random mirror images
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights that are judged and kept; 0: none
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1  # pieces that a batch is computed in, for less memory
    compile: bool = False  # torch.compile: pays on accelerators, hardly on a CPU
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True

    @model_validator(mode="after")
    def _loss_is_one(self) -> Self:
        if self.loss == "class_balanced_focal" and self.label_smoothing > 0:
            raise ValueError(
                f"loss 'class_balanced_focal' takes no label_smoothing (it is {self.label_smoothing:g}): "
                "leave it out, or take loss 'cross_entropy'"
            )
        return self

    @property
    def taught(self) -> bool:
        """Whether the baseline is needed as a teacher."""
        return self.distill > 0 or self.distill_layers > 0
