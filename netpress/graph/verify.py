"""Twins of a network in which removed channels are zero, and the check that a pruned network equals its zeroed twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netpress.errors import ModelError
from netpress.graph.call import Call, flat
from netpress.graph.copying import Convert, duplicate, plain, tensors
from netpress.graph.edit import selector, shrink
from netpress.graph.labels import Axes, BoolArray, Replay
from netpress.graph.rules_math import RULES
from netpress.graph.run import hollow_input, run, to_meta
from netpress.graph.solve import Coupling, Kept
from netpress.graph.trace import Tracer
from netpress.graph.trial import introduce_classes

TOLERANCE = 1e-6
SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 448)


class Twin(nn.Module):
    """A network whose removed channels are zero, run so that what sees many channels at once sees the kept ones only.

    Attributes:
        net: the network with the removed slices zero.
    """

    def __init__(self, net: nn.Module, coupling: Coupling, mask: BoolArray) -> None:
        super().__init__()
        self.net, self._coupling, self._mask = net, coupling, mask
        self.training = net.training

    def forward(self, *inputs: Any) -> Any:
        """As the network's, with statistics over the channels that stay."""
        tracer = Tracer(Replay(), RULES)
        everything = np.ones(self._coupling.count, np.bool_)

        def after(t: Tracer, call: Call, labelled: list[Axes]) -> None:
            assert isinstance(t.labels, Replay)
            if t.labels.mixed:
                t.labels.mixed = False
                _over_kept(t, call, labelled, self._mask)

        tracer.after = after
        return run(tracer, self.net, inputs, lambda t, n: introduce_classes(t, n, self._coupling, everything))


def zeroed_twin(net: nn.Module, coupling: Coupling, kept: Kept) -> nn.Module:
    """The network with every slice zero that removed channels own, on every axis: what pruning must equal.

    Where an operation sees many channels at once (layer and group norm, a mean or softmax over channels, weight
    standardisation), the twin takes its statistics over the channels that stay, as the pruned network does.

    Args:
        net: left untouched.
        coupling: `couple(net, example)`.
        kept: as for `keep`.
    """
    mask = coupling.mask(kept)
    return _twin(duplicate(net, _copied), coupling, mask)


def _twin(copied: nn.Module, coupling: Coupling, mask: BoolArray) -> nn.Module:
    rows = zip(coupling.table.names, coupling.table.axes, coupling.table.classes, strict=True)
    _zero(copied, [(name, axis, ~mask[classes]) for name, axis, classes in rows])
    return Twin(copied, coupling, mask) if coupling.mixing else copied


def silenced_twin(net: nn.Module, coupling: Coupling, kept: Kept) -> nn.Module:
    """The network with the removed filters' own weights zero, and nothing else: "making the weights zero".

    What a norm or a bias adds after the filter is still there, so this is not what removing the filter gives.
    """
    mask = coupling.mask(kept)
    copied = duplicate(net, _copied)
    t = coupling.table
    rows = zip(t.names, t.axes, t.classes, t.roles, strict=True)
    _zero(copied, [(name, axis, ~mask[classes]) for name, axis, classes, role in rows if role == "filter"])
    return copied


def _copied(_: str, x: Tensor) -> Tensor:
    new = x.detach().clone()
    return nn.Parameter(new, requires_grad=x.requires_grad) if isinstance(x, nn.Parameter) else new


def _zero(net: nn.Module, slices: list[tuple[str, int, BoolArray]]) -> None:
    held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    with torch.no_grad():
        for name, axis, gone in slices:
            if gone.any() and (held[name].is_floating_point() or held[name].is_complex()):
                held[name].index_fill_(axis, torch.from_numpy(np.flatnonzero(gone)), 0)


def _over_kept(t: Tracer, call: Call, labelled: list[Axes], mask: BoolArray) -> None:
    """Run an operation on the channels that stay; what went is zero in its outputs."""

    def index(axes: Axes) -> dict[int, Tensor]:
        gone = {d: (a < 0) | mask[a] for d, a in enumerate(axes) if a is not None}
        return {d: torch.from_numpy(np.flatnonzero(flags)) for d, flags in gone.items() if not flags.all()}

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            for d, kept in index(t.axes(value)).items():
                value = value.index_select(d, kept)
            return value
        return type(value)(cut(part) for part in value) if isinstance(value, list | tuple) else value

    args, kwargs = cut(call.args), {name: cut(value) for name, value in call.kwargs.items()}
    args = _adapted(call, args)
    for out, axes, small in zip(call.outs, labelled, flat(call.func(*args, **kwargs)), strict=True):
        kept = index(axes)
        for d in reversed(kept):
            shape = [out.shape[a] if a == d or (a in kept and a > d) else n for a, n in enumerate(small.shape)]
            small = small.new_zeros(shape).index_copy_(d, kept[d], small)  # noqa: PLW2901
        out.copy_(small)


def _adapted(call: Call, args: Any) -> Any:
    """Arguments that tell the number of channels, as the smaller tensors need them."""
    args = list(args)
    if call.name == "native_layer_norm":
        position = call.positions["normalized_shape"][0]
        args[position] = list(args[0].shape[-len(args[position]) :])
    elif call.name == "native_group_norm":
        args[call.positions["C"][0]] = args[0].shape[1]
    return args


# --- the check ---


def smallest_input(net: nn.Module, example: Any) -> Any:
    """The smallest images that a network runs on, no larger than the example's; found without computing anything.

    Args:
        net: left untouched.
        example: an input, or a tuple of inputs.

    Returns:
        Like the example, with values drawn from a normal distribution (seed 0), float64 where it was a float.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    hollow = to_meta(net)
    for size in SIZES:
        shapes = [_resized(x, size) for x in inputs]
        if any(isinstance(x, Tensor) and x.dim() > 2 and size >= max(x.shape[2:]) for x in inputs):
            break
        if runs(hollow, tuple(shapes)):
            return _random(tuple(shapes), example)
    return _random(inputs, example)


def _resized(x: Any, size: int) -> Any:
    if not isinstance(x, Tensor) or x.dim() < 3:
        return x
    return torch.empty(*x.shape[:2], *[min(size, n) for n in x.shape[2:]], dtype=x.dtype, device="meta")


def runs(hollow: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether a hollow network runs on inputs of these shapes."""
    try:
        with torch.no_grad():
            hollow(*[hollow_input(x) for x in inputs])
    except Exception:  # noqa: BLE001  (anything may be raised by a forward that does not fit)
        return False
    return True


def _random(inputs: tuple[Any, ...], like: Any = ()) -> Any:
    rng = torch.Generator().manual_seed(0)
    drawn = tuple(
        torch.randn(x.shape, dtype=torch.float64, generator=rng)
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in inputs
    )
    return drawn if isinstance(like, tuple) else drawn[0]


def check(net: nn.Module, pruned: nn.Module, coupling: Coupling, kept: Kept, example: Any = None) -> float:
    """Compare a pruned network with the zeroed twin of the original, in float64, on the CPU, in evaluation mode.

    Its tensors must be the selected ones of `net`, bit for bit. Its computation is compared on random inputs, with
    random values in the place of tensors that are constant: a scale that starts at zero hides its whole branch.

    Args:
        net: the original, left untouched.
        pruned: the result of `keep`.
        coupling: of `net`.
        kept: what was kept.
        example: inputs; `smallest_input(net, ...)` unless given.

    Returns:
        The largest relative error of the outputs, max |a - b| / max |b|.

    Raises:
        ModelError: the error is above 1e-6, a tensor differs, or the pruned network does not run.

    >>> from netpress.graph import couple, keep
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    >>> coupling, kept = couple(net, torch.zeros(1, 1, 8, 8)), {"0": [True, False, False, True]}
    >>> check(net, keep(net, coupling, kept), coupling, kept) < 1e-12
    True
    """
    mask = coupling.mask(kept)
    _check_values(net, pruned, coupling, mask)
    lively = duplicate(net, _lively())
    selected = dict(tensors(shrink(lively, coupling, mask)))
    small = duplicate(pruned, lambda name, _: selected[name]).eval()
    twin = _twin(lively, coupling, mask).eval()
    tried = [example] if example is not None else [smallest_input(net, coupling.inputs), _random(coupling.inputs)]
    for inputs in tried:
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        error = _difference(small, twin, tuple(_double(x) for x in given))
        if error is not None:
            break
    else:
        raise ModelError("the check says nothing: the network's outputs are all zero or not finite on random inputs")
    if not error <= TOLERANCE:
        raise ModelError(
            f"the pruned network differs from the zeroed twin by {error:.1e}, expected at most {TOLERANCE:.0e}: "
            "its channels were not followed; please report this network, and freeze the layers concerned"
        )
    return error


def _double(x: Any) -> Any:
    return x.detach().to("cpu", torch.float64) if isinstance(x, Tensor) and x.is_floating_point() else x


def _lively() -> Convert:
    """float64 on the CPU; what holds one value only, over and over, gets random ones."""
    rng = torch.Generator().manual_seed(0)

    def convert(_: str, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return _copied("", x)
        new = x.detach().to("cpu", torch.float64, copy=True)
        if new.numel() > 1 and bool((new == new.flatten()[0]).all()):
            only = float(new.flatten()[0])
            new = torch.rand(new.shape, dtype=torch.float64, generator=rng) - 0.5
            if only:  # of the same sign: it may be a variance; at least of the size of one: it may be a small scale
                new = (new + 1) * (max(abs(only), 1.0) * (1 if only > 0 else -1))
        return nn.Parameter(new, requires_grad=x.requires_grad) if isinstance(x, nn.Parameter) else new

    return convert


def _check_values(net: nn.Module, pruned: nn.Module, coupling: Coupling, mask: BoolArray) -> None:
    """Every tensor of the pruned network is the selected one of the original."""
    select = selector(coupling, mask)
    computed = plain(net)
    found = dict(tensors(pruned))
    for name, x in tensors(net):
        if name not in computed and not torch.equal(select(name, x), found[name]):
            raise ModelError(f"{name}: the pruned network's values are not those of the channels that stay")


class _InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whatever a network casts to a lower precision, or makes in the usual one, stays float64: rounding is no error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {
            k: torch.float64 if isinstance(v, torch.dtype) and v in _LOWER else v for k, v in (kwargs or {}).items()
        }
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.dtype in _LOWER and next(flat((args, tuple(kwargs.values()))), None) is None:
            return out.double()
        return out


_LOWER = (torch.float32, torch.float16, torch.bfloat16)


def _difference(small: nn.Module, twin: nn.Module, inputs: tuple[Any, ...]) -> float | None:
    """The relative error; None where the outputs say nothing."""
    try:
        with torch.no_grad(), _InDouble():  # type: ignore[no-untyped-call]
            got = list(flat(small(*inputs)))
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        raise ModelError(f"the pruned network does not run: {type(error).__name__}: {text[0]}") from error
    with torch.no_grad(), _InDouble():  # type: ignore[no-untyped-call]
        want = list(flat(twin(*inputs)))
    if [x.shape for x in got] != [x.shape for x in want]:
        raise ModelError(
            f"the pruned network's outputs have shapes {[tuple(x.shape) for x in got]}, "
            f"the original's {[tuple(x.shape) for x in want]}"
        )
    largest = [float(x.abs().max()) for x in want if x.is_floating_point()]
    if not largest or not any(0 < v < float("inf") for v in largest):
        return None
    pairs = zip(got, want, strict=True)
    errors = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) for a, b in pairs if b.is_floating_point()]
    return float(np.max(errors))  # a NaN comes through
