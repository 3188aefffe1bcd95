"""8-bit and smaller integers: weights on a grid per channel, activations as UINT8, and a gate on accuracy."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from netpress.candidate import Candidate, Context, Record
from netpress.errors import ModelError, RecipeError
from netpress.forms import Free, Signs
from netpress.methods.equalise import equalise
from netpress.methods.folding import Rest, fold
from netpress.methods.gate import keep_worst
from netpress.methods.integers import Rules, Whole
from netpress.methods.ranges import Range
from netpress.methods.refitting import calibration
from netpress.methods.searching import Amounts, Estimate, Knob, Searched
from netpress.methods.targets import check_keys, check_patterns, choose, targets
from netpress.processor import REDUCED, integer_instructions, processor
from netpress.train.bind import parametrized
from netpress.train.checkpoint import finite

Bits = Annotated[int, Field(ge=2, le=8)]
Pattern = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Quantize:
    """Give weights, and activations if wanted, whole multiples of a step: what integer kernels compute with.

        w -> clamp(round(w / step), -2^(bits - 1), 2^(bits - 1) - 1) * step     per output channel
        x -> (clamp(round(x / scale) + zero, 0, 255) - zero) * scale           per value of the pass

    Batch norms are folded first. Training afterwards is quantization-aware: the gradient passes the rounding, steps and
    scales are trained too. Zeros stay zero; of shared values the table goes onto the grid; sign patterns stay.

    Attributes:
        bits: of a weight, 2 to 8; a table gives layers their own, and leaves out those that it does not name.
        grain: a step per output `channel`, or one for the `tensor`.
        range: what a weight's grid holds: `minmax` all, `percentile` all but the rarest, `mse` the least squared error.
        zero_point: `middle`, as integer kernels want it; `fitted` to least and largest weight, for size only.
        activations: `uint8`: calibrated and rounded, the file's graph computes in integers; `float`: they stay.
        activation_range: as `range`, on the calibration images.
        percentile: per cent that a percentile range holds.
        samples: calibration images, of the training split.
        frozen: paths or patterns of layers that stay float.
        biases: `affine` puts biases and the norms' weights on 8 bits too, for size only.
        equalise: `layers` evens out the ranges of channels between neighbouring layers first (data-free).
        max_drop: points of validation top-1 that may be lost before any retraining; the layers that cost most stay
            float until it holds. None: no gate.
        scan_samples: validation images on which each layer's cost is measured.
        steps: whether training moves steps and scales: `trained` or `frozen`.
        kernels: `reduced` gives 8-bit weights 7 bits, for processors that add products of integers in 16 bits;
            `full` does not; `auto` looks at this processor.
        norms: batch norms that no layer can take: `float` leaves them; `half` makes scale and shift in half precision
            of each, as `fold_batch_norm` does.

    Source: Jacob et al. 2018 (integer arithmetic, folding); Esser et al. 2020 (trained steps); Nagel et al. 2019
    (equalisation). SEP-Net's "8 bits linearly": `grain = "tensor"`, `zero_point = "fitted"`, `activations = "float"`.

    >>> Quantize(bits=4, activations="float").gives
    frozenset({'affine'})
    """

    name: ClassVar[str] = "quantize"
    revision: ClassVar[int] = 1
    preserves: ClassVar[frozenset[str]] = frozenset({"support", "shared", "affine", "signs"})

    bits: Bits | dict[str, Bits] = 8
    grain: Literal["channel", "tensor"] = "channel"
    range: Range = "minmax"
    zero_point: Literal["middle", "fitted"] = "middle"
    activations: Literal["uint8", "float"] = "uint8"
    activation_range: Range = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    samples: Annotated[int, Field(ge=1)] = 512
    frozen: tuple[Pattern, ...] = ()
    biases: Literal["float", "affine"] = "float"
    equalise: Literal["none", "layers"] = "none"
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    scan_samples: Annotated[int, Field(ge=1)] = 1024
    steps: Literal["trained", "frozen"] = "trained"
    kernels: Literal["auto", "full", "reduced"] = "auto"
    norms: Literal["float", "half"] = "float"

    def __post_init__(self) -> None:
        if self.zero_point == "fitted" and (self.grain, self.activations) != ("tensor", "float"):
            raise RecipeError(
                'quantize.zero_point: "fitted" is for size only: with grain = "tensor" and activations = "float"'
            )

    @property
    def gives(self) -> frozenset[str]:
        """Integers; with rounded activations also a pass that later steps must not change."""
        return frozenset({"affine"} if self.activations == "float" else {"affine", "rounded"})

    def expand(self) -> list[Quantize]:
        """One round."""
        return [self]

    @classmethod
    def searched(cls, candidate: Candidate, _context: Context, settings: Mapping[str, Any]) -> Searched:
        """All layers on integers, or none."""
        names = [target.name for target in targets(candidate.net)]
        size = sum(candidate.net.get_parameter(name).numel() for name in names)

        def foresee(amounts: Amounts, before: Estimate) -> Estimate:
            bits = amounts["default"]
            if bits is None:
                return before
            parts = {name: replace(p := before.parts[name], bits=min(p.bits, float(bits) - 1)) for name in names}
            return before.changed(parts)

        def tuned(amounts: Amounts) -> Quantize | None:
            bits = amounts["default"]
            return None if bits is None else cls(**settings, bits=int(bits))

        return Searched((Knob("all layers", ("default",), (8, None), size),), tuned, foresee)

    def check(self, net: nn.Module) -> None:
        """Refuse names of layers that `net` does not have."""
        check_keys(self.bits, net, "quantize.bits")
        check_patterns(self.frozen, [target.path for target in targets(net)], "quantize.frozen")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Fold, equalise, calibrate, round; then keep float what the gate asks for.

        Raises:
            ModelError: a weight or an activation is not finite, or a weight is no plain parameter.
            RecipeError: a name fits no layer; there are no calibration or validation images.
        """
        self._check_input(candidate, context)
        ready, notes = self._ready(candidate, context)
        images = None
        if self.activations == "uint8":
            images = calibration(ready, context, samples=self.samples, what="quantize.samples")
        whole = Whole(ready, context, self._rules(), images)
        kept = self._kept(candidate)
        if self.max_drop is not None:
            kept |= keep_worst(candidate, whole, context, kept=kept, settings=self._gate_settings())
        made, facts = whole.build(kept)
        record = Record(self.name, asdict(self), (*self._told(), *notes, *whole.told(facts, kept)), {"integers": facts})
        return made.but(history=(*candidate.history, record))

    def _check_input(self, candidate: Candidate, context: Context) -> None:
        self.check(candidate.net)
        if (where := parametrized(candidate.net)) is not None:
            raise ModelError(f"{where} is computed by a parametrization: remove that before quantizing")
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: it has no grid")
        if "rounded" in candidate.traits:
            raise ModelError("the network's activations are integers already: quantize the network as it was before")
        if self.max_drop is not None and context.validation is None:
            raise RecipeError("quantize.max_drop is decided on validation images: give validation = ...")

    def _ready(self, candidate: Candidate, context: Context) -> tuple[Candidate, list[str]]:
        """Batch norms folded, ranges evened out."""
        formed = [t.path for t in targets(candidate.net) if not _free(candidate, t.name)]
        rest: Rest = "half" if self.norms == "half" else "keep"
        folded = fold(candidate, context, frozen=tuple(formed), rest=rest, method=self.name)
        notes = list(folded.told()) if folded.pairs or folded.stay else []
        ready = folded.candidate
        if self.equalise == "layers":
            even = equalise(ready, context)
            ready = even.candidate
            notes += even.notes
        return ready, notes

    def _rules(self) -> Rules:
        whole = self.activations == "uint8"
        return Rules(
            bits=self.bits,
            most=REDUCED if whole and self._reduced() else 8,
            grain=self.grain,
            range=self.range,
            zero_point=self.zero_point,
            activation_range=self.activation_range,
            percentile=self.percentile,
            trained=self.steps == "trained",
            biases=self.biases == "affine",
        )

    def _reduced(self) -> bool:
        return self.kernels == "reduced" or (self.kernels == "auto" and not integer_instructions())

    def _told(self) -> list[str]:
        if self.activations == "float":
            return []
        found = ", ".join(integer_instructions())
        if self._reduced():
            why = f"{processor()} has no VNNI or dot product" if self.kernels == "auto" else "as asked for"
            return [f"weights take at most {REDUCED} bits ({why}): pairs of products are added in 16 bits"]
        return [f"weights take up to 8 bits ({found or 'as asked for'}): products are added in 32 bits"]

    def _kept(self, candidate: Candidate) -> dict[str, str]:
        """Layers that stay float in any case: path -> why."""
        kept = {}
        for target in targets(candidate.net):
            form = candidate.forms.get(target.name)
            named = [p for p in self.frozen if fnmatch.fnmatchcase(target.path, p)]
            if named:
                kept[target.path] = f"frozen by {named[0]!r}"
            elif choose(self.bits, target) is None:
                kept[target.path] = "quantize.bits does not name it"
            elif form is not None and isinstance(form.values, Signs):
                kept[target.path] = "its weights are signs times a scale: no integer kernel for those"
        return kept

    def _gate_settings(self) -> Mapping[str, float]:
        assert self.max_drop is not None
        return {"max_drop": self.max_drop, "samples": self.scan_samples}


METHODS = (Quantize,)
EXAMPLES = (
    Quantize(kernels="reduced", samples=64),
    Quantize(bits=4, grain="tensor", zero_point="fitted", activations="float", biases="affine"),
    Quantize(bits={"conv": 6, "linear": 8}, range="mse", activation_range="mse", samples=32, equalise="layers"),
)


def _free(candidate: Candidate, name: str) -> bool:
    form = candidate.forms.get(name)
    return form is None or isinstance(form.values, Free)
