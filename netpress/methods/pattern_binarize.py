"""Pattern binarization: the k x k filters become signs times a scale, one bit a weight (SEP-Net, Li et al. 2017)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from netpress.arch import edit
from netpress.candidate import Candidate, Context, Record, edited
from netpress.errors import ModelError
from netpress.factor import refusal
from netpress.forms import Form, Free, Signs, decode, encode
from netpress.measure.effective import counted
from netpress.methods.refitting import Calibration, calibration
from netpress.methods.targets import Target, check_patterns, targets
from netpress.train.bind import parametrized
from netpress.train.channels import recalibrate
from netpress.train.checkpoint import finite
from netpress.train.moments import moments
from netpress.train.schedule import draw

Pattern = Annotated[str, Field(min_length=1)]
_AXES: dict[str, tuple[int, ...]] = {"none": (), "constant": (), "layer": (), "channel": (0,), "kernel": (0, 1)}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PatternBinarize:
    """Give the k x k filters (k > 1) of convolutions one bit a weight: a pattern of signs, times a scale.

        w -> s where w > 0, else -s        s = mean |w| over what shares it: the least-squares scale

    The patterns stay as they are from here on; scales, biases, norms, 1 x 1 and linear layers go on training.

    Attributes:
        layers, frozen: paths or patterns of convolutions that are binarized, and of those that are not; frozen wins.
        scale: `none`: -1 and 1, for layers whose norm takes the scale up; `constant`: `offset` for all, as the source
            does; `layer`, `channel` (one per output channel) or `kernel` (one per k x k filter).
        offset: the constant of `constant`; the source tuned it between 0.02 and 0.09 (0.06 for 3 x 3, 0.05 for 5 x 5).
        scales: whether training moves the scales: `trained` or `frozen`.
        branch: `point` puts a 1 x 1 convolution beside each, on the same input, that takes back what it can of the
            change, as in SEP-Net's pattern residual block; `none`.
        samples: calibration images that the 1 x 1 convolutions are fitted on; 0, or no data: they take back the change
            of the filters' centres.
        recalibrate: images that batch norms are measured on afterwards; 0: they keep their statistics.

    Source: Li et al. 2017, SEP-Nets: Small and Effective Pattern Networks: zero counts as negative, as there. The fit
    of the 1 x 1 branch and scales by layer, channel and kernel are not in it.

    >>> from netpress.methods import apply
    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 4, 1))
    >>> small = apply(PatternBinarize(scale="none"), net, example=torch.zeros(1, 1, 8, 8))
    >>> small.net[0].weight.unique()
    tensor([-1.,  1.], grad_fn=<Unique2Backward0>)
    """

    name: ClassVar[str] = "pattern_binarize"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset({"signs"})
    preserves: ClassVar[frozenset[str]] = frozenset({"support", "shared", "affine", "signs"})

    layers: Annotated[tuple[Pattern, ...], Field(min_length=1)] = ("*",)
    frozen: tuple[Pattern, ...] = ()
    scale: Literal["none", "constant", "layer", "channel", "kernel"] = "kernel"
    offset: Annotated[float, Field(gt=0, le=100)] = 0.06
    scales: Literal["trained", "frozen"] = "trained"
    branch: Literal["none", "point"] = "none"
    samples: Annotated[int, Field(ge=0)] = 512
    recalibrate: Annotated[int, Field(ge=0)] = 2048

    def expand(self) -> list[PatternBinarize]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse patterns that name no k x k convolution of `net`."""
        paths = [target.path for target in _spatial(net)]
        for field in ("layers", "frozen"):
            check_patterns(getattr(self, field), paths, f"pattern_binarize.{field}", noun="k x k convolution")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Binarize.

        Raises:
            ModelError: a weight is not finite or no plain parameter.
            RecipeError: a pattern names no k x k convolution.
        """
        self.check(candidate.net)
        if (where := parametrized(candidate.net)) is not None:
            raise ModelError(f"{where} is computed by a parametrization: remove that before binarizing")
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: it has no signs")
        images = None
        if self.branch == "point" and self.samples and context.train is not None:
            images = calibration(candidate, context, samples=self.samples, what="pattern_binarize.samples")
        small, rows, said = candidate.but(net=deepcopy(candidate.net)), [], []
        for target in _spatial(candidate.net):
            reason = self._stays(target, candidate)
            if reason is not None:
                said.append(f"{target.path} stays: {reason}")
                continue
            small, row = self._binarized(candidate, small, target, images)
            rows.append(row)
        if context.train is not None and self.recalibrate and rows:
            seed = draw(context.seed, context.step)
            recalibrate(small.net, context.train, candidate.inputs, samples=self.recalibrate, seed=seed)
        sizes = _effective(small)
        facts = {"patterns": rows, "effective": sizes}
        record = Record(self.name, asdict(self), (*_told(rows), _counted(sizes), *said), facts)
        return small.but(history=(*candidate.history, record))

    def _stays(self, target: Target, candidate: Candidate) -> str | None:
        """Why a convolution is not binarized."""
        if not any(fnmatch.fnmatchcase(target.path, pattern) for pattern in self.layers):
            return "pattern_binarize.layers does not name it"
        for pattern in self.frozen:
            if fnmatch.fnmatchcase(target.path, pattern):
                return f"frozen by {pattern!r}"
        form = candidate.forms.get(target.name)
        if form is not None and not isinstance(form.values, Free):
            return f"its weights are {form.values.name} already"
        return None

    def _binarized(
        self, before: Candidate, small: Candidate, target: Target, images: Calibration | None
    ) -> tuple[Candidate, dict[str, Any]]:
        """The candidate with one more layer binarized, and its row for the report."""
        weight = before.net.get_parameter(target.name).detach()
        given = before.forms.get(target.name, Form())
        form, binary = self._signs(weight, given)
        row = {
            "path": target.path,
            "weights": int(weight.numel() if given.support is None else given.support.sum()),
            "kernels": weight.shape[0] * weight.shape[1],
            "scales": _count(form, weight) if self.scale not in ("none", "constant") else 0,
            "error": float((weight.double() - binary.double()).norm() / weight.double().norm().clamp(min=1e-30)),
            "branch": False,
        }
        name, forms = target.name, dict(small.forms)
        forms.pop(name, None)
        layer = small.net.get_submodule(target.path)
        # a branch gives the weight another name, under which an earlier form would be lost
        if self.branch == "point" and refusal(layer, "beside") is None and target.name not in before.forms:
            edit(small.net, "beside", target.path)
            made: Any = small.net.get_submodule(target.path)
            with torch.no_grad():
                made.point.weight.copy_(_offset(before, target.path, weight - binary, images))
                if made.pattern.bias is not None:
                    made.pattern.bias.copy_(layer.bias)
            small = small.but(arch=edited(small.arch, "beside", target.path))
            name, row["branch"] = f"{target.path}.pattern.weight", True
        with torch.no_grad():
            small.net.get_parameter(name).copy_(binary)
        return small.but(forms={**forms, name: form}), row

    def _signs(self, weight: Tensor, given: Form) -> tuple[Form, Tensor]:
        """The form of a weight, and the weight that holds it."""
        signs = Signs.of(weight, support=given.support, axes=_AXES[self.scale], trained=self.scales == "trained")
        if self.scale in ("none", "constant"):
            signs = replace(signs, trained=False)
        form = Form(given.support, signs)
        scale = encode(form, weight)
        assert isinstance(scale, Tensor)
        if self.scale in ("none", "constant"):
            scale = torch.full_like(scale, 1.0 if self.scale == "none" else self.offset)
        return form, decode(form, scale, weight.shape)


METHODS = (PatternBinarize,)
EXAMPLES = (
    PatternBinarize(),
    PatternBinarize(scale="channel", branch="point", samples=32),
)


def _spatial(net: nn.Module) -> list[Target]:
    """The convolutions whose filters are larger than one place."""
    return [
        target
        for target in targets(net)
        if target.kind == "conv" and max(net.get_submodule(target.path).kernel_size) > 1  # type: ignore[arg-type]
    ]


def _count(form: Form, weight: Tensor) -> int:
    scale = encode(form, weight)
    return scale.numel() if isinstance(scale, Tensor) else 0


def _offset(before: Candidate, path: str, change: Tensor, images: Calibration | None) -> Tensor:
    """The 1 x 1 filters that take back most of the change of k x k ones.

        min over P of E||R p - P c||^2 = R C S^T (S C S^T)^-1

    with R the change, p an input patch, C = E[p p^T], c = S p its centre; without images C is the identity and P the
    centre of R.
    """
    outputs, inputs, high, wide = change.shape
    middle = (high // 2) * wide + wide // 2
    if images is None:
        return change[:, :, high // 2, wide // 2, None, None]
    net = before.net
    found = moments(net, path, net, path, images.split, images.inputs, samples=images.samples, seed=images.seed)
    groups = len(found.patches)
    flat = change.double().reshape(groups, outputs // groups, -1)
    centres = torch.arange(inputs) * high * wide + middle
    seen = found.patches[:, :, centres]  # (G, D, I)
    gram = seen[:, centres]
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    gram = gram + torch.diag_embed(ridge[:, None].expand(groups, inputs))
    fitted: Tensor = torch.linalg.solve(gram, (flat @ seen).mT).mT
    return fitted.reshape(outputs, inputs, 1, 1)


def _told(rows: list[dict[str, Any]]) -> list[str]:
    weights, kernels = (sum(row[key] for row in rows) for key in ("weights", "kernels"))
    said = [
        f"binarized {len(rows)} layers: {weights:,} weights in {kernels:,} kernels, {weights / 8:,.0f} bytes of bits"
    ]
    for row in rows:
        beside = ", with a 1 x 1 convolution beside it" if row["branch"] else ""
        said.append(f"{row['path']}: {row['scales']:,} scales, relative error {row['error']:.3f}{beside}")
    return said


def _effective(small: Candidate) -> dict[str, int]:
    """How many 32-bit parameters the network amounts to, zeros counted like other weights; plain data.

    Filters that an earlier step made signs are among them.
    """
    names = [name for name, form in small.forms.items() if isinstance(form.values, Signs)]
    weights = [w for name in names if (w := small.net.get_parameter(name)).ndim > 2]
    found = counted(small.net, weights)
    return {
        "params": found.params,
        "binary": found.binary,
        "kernels": found.kernels,
        "rule_n": found.params_without_scales,
        "rule_s": found.params_with_scales,
    }


def _counted(sizes: Mapping[str, int]) -> str:
    before, bare, scaled = (f"{sizes[key]:,}" for key in ("params", "rule_n", "rule_s"))
    return f"{before} parameters amount to {bare} of 32 bits (n/32 for n signs), {scaled} with a scale for each filter"
