"""Fold batch norm into the layer before it (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.candidate import Candidate, Context, Record
from netpress.methods.folding import Rest, fold
from netpress.methods.targets import CONVOLUTIONS, check_patterns

Pattern = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FoldBatchNorm:
    """Take batch norms out: what they do is put into weights and bias of the layer before them.

        w' = w g / sqrt(v + e)        b' = (b - m) g / sqrt(v + e) + h

    with m and v the running mean and variance, g and h the norm's scale and shift, e its epsilon, all per output
    channel, in float64; the result is rounded once. A layer without a bias gets one. In evaluation mode the network
    computes the same; in training mode it does not: retraining afterwards trains without batch norm.

    Only a norm that scales and shifts the output of one layer, which nothing else reads, can be folded; the others
    stay, each with its reason in the notes, or become scale and shift (`rest`). Convolutions of any kind and linear
    layers; which norm follows which layer is found by running the network. Every application is checked in float64 on
    an image of the least size that the network takes.

    ONNX Runtime folds batch norm itself when it opens a model: the file is a little smaller there (ResNet-20 0.8 %,
    ResNet-18 0.1 %) and not faster (1.00 times both, one thread). What it is for: quantization, which needs the weights
    that inference really uses, and programs that fold nothing (PyTorch, one thread: 1.09 and 1.04 times as fast).

    Attributes:
        frozen: paths or patterns with `*`: norms, or layers before them, that stay as they are.
        rest: of the norms that no layer can take, as those before an activation, or behind a layer whose weights share
            values, are signs or on a grid (with `keep` those are refused): `keep` them as they are; `merge` their
            four numbers per channel to scale and shift, which are trained; `half` the same in half precision, 4 bytes
            of a file per channel where there were 16: these are constants, training leaves them as they are.

    Differs from the paper: no training with folded weights and no quantization; only the arithmetic of inference.

    >>> FoldBatchNorm(frozen=("layer4.*",)).frozen
    ('layer4.*',)
    """

    name: ClassVar[str] = "fold_batch_norm"
    revision: ClassVar[int] = 2
    gives: ClassVar[frozenset[str]] = frozenset()

    frozen: tuple[Pattern, ...] = ()
    rest: Rest = "keep"

    @property
    def preserves(self) -> frozenset[str]:
        """Zeros; where channels are scaled shared values would part, but with `rest` their norms are merged instead."""
        return frozenset({"support"} if self.rest == "keep" else {"support", "shared", "affine", "signs"})

    def expand(self) -> list[FoldBatchNorm]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse a pattern that matches no layer and no batch norm of `net`."""
        kinds = (*CONVOLUTIONS, nn.Linear, _BatchNorm)
        paths = [path for path, module in net.named_modules() if isinstance(module, kinds)]
        check_patterns(self.frozen, paths, "fold_batch_norm.frozen")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Fold what can be folded.

        Raises:
            ModelError: a weight is not finite, shares its values, or is no plain parameter; an image does not pass;
                or the folded network computes something else.
            RecipeError: a pattern of `frozen` matches nothing.
        """
        self.check(candidate.net)
        folded = fold(candidate, context, frozen=self.frozen, rest=self.rest, method=self.name)
        record = Record(self.name, asdict(self), folded.told())
        return folded.candidate.but(history=(*candidate.history, record))


METHODS = (FoldBatchNorm,)
EXAMPLES = (FoldBatchNorm(), FoldBatchNorm(rest="half"))
