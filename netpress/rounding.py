"""Activations as 8-bit integers: which values of a network's forward pass are rounded, and to which grid.

    x -> (clamp(round(x / scale) + zero, 0, 255) - zero) * scale

A network stays the plain module that it is. What is rounded is named by the call that makes it: the path of the module
in whose `forward` it happens, the name of the function, and how often that module has called it before. The calls are
seen by torch's own hook for functions (`TorchFunctionMode`), so that sums and joins count as layers do; the grid of
each rounded value is two tensors of the network, and so part of its state.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.onnx import ops
from torch.overrides import TorchFunctionMode

from netpress.codec.sides import MAX_STEP, MIN_STEP
from netpress.errors import ModelError
from netpress.forms import Form, on_grid
from netpress.shadow import observing

_PLACES = "_rounded_places"
"""Attribute of a network: (i, place) of the values that it rounds."""
_OWN = "_class_before_rounding"
LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
"""Functions that multiply weights with activations, and have integer kernels."""
HIGH = 255
PASSES = frozenset(
    """
    adaptive_max_pool1d adaptive_max_pool2d alpha_dropout channel_shuffle chunk contiguous dropout dropout1d dropout2d
    dropout3d expand feature_dropout flatten flip index_select max_pool1d max_pool2d max_pool3d movedim narrow
    native_channel_shuffle permute pixel_shuffle pad pixel_unshuffle relu relu_ repeat reshape roll select split squeeze
    swapaxes t tensor_split transpose unbind unflatten unsqueeze view __getitem__
    """.split()  # noqa: SIM905
)
"""Functions whose results are some of their input's values, or zero: on a grid if that is."""


class Place(NamedTuple):
    """A value of a forward pass: the module that made it, the function, and which call of it (from 0)."""

    path: str
    name: str
    number: int

    def __str__(self) -> str:
        where = f"{self.path}:{self.name}" if self.path else self.name
        return f"{where}:{self.number}" if self.number else where


INPUT = Place("", "input", 0)
Given = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and named arguments of a call."""


def moves(place: Place, given: Given) -> bool:
    """Whether a call only moves values of its first argument, or puts zeros beside them.

    >>> moves(Place("", "pad", 0), ((None, (1, 1), "constant", 0.5), {}))
    False
    """
    if place.name == "pad":
        return not (given[1].get("value") or (given[0][3] if len(given[0]) > 3 else 0))
    return place.name in PASSES


@dataclass(frozen=True, slots=True)
class Grid:
    """The 256 levels that one value of a network is rounded to.

    Attributes:
        scale: float32, without axes; a parameter of the network where training moves it, else a buffer.
        zero: uint8, without axes: the level that is 0.
    """

    scale: Tensor
    zero: Tensor

    def of(self, x: Tensor) -> Tensor:
        """`x` on the grid, float32.

        The gradient passes where nothing was clamped; the scale's is that of Esser et al. 2020 (LSQ), as for weights.

        >>> Grid(torch.tensor(0.5), torch.tensor(2, dtype=torch.uint8)).of(torch.tensor([-9.0, 0.3, 1.1]))
        tensor([-1.0000,  0.5000,  1.0000])
        """
        scale = self.scale
        if torch.compiler.is_exporting():
            whole = ops.symbolic("QuantizeLinear", (x, scale, self.zero), dtype=torch.uint8, shape=x.shape)
            return ops.symbolic("DequantizeLinear", (whole, scale, self.zero), dtype=torch.float32, shape=x.shape)
        zero = self.zero.to(scale.dtype)
        share = torch.full_like(scale, max(x[:1].numel(), 1) * HIGH).rsqrt()
        # not in half precision: that has fewer levels between two powers of two than the grid
        return on_grid(x.to(scale.dtype), scale, share, (-zero, HIGH - zero))


class Following(TorchFunctionMode):
    """Names every value that a forward pass makes, and hands it to `made`; what that returns goes on in its place.

    Args:
        net: whose pass is followed; modules are named by their paths in it.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.paths = {id(module): path for path, module in net.named_modules()}
        self.stack = [""]
        self.counts: Counter[tuple[str, str]] = Counter()

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        at = (self.stack[-1], name)
        place = Place(*at, self.counts[at])
        self.counts[at] += 1
        return self.made(place, (args, kwargs or {}), func(*args, **(kwargs or {})))

    def made(self, place: Place, given: Given, out: Any) -> Any:  # noqa: ARG002
        """What goes on in place of `out`, which the call at `place` made of the arguments `given`."""
        return out

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow what is called meanwhile."""

        def enter(module: nn.Module, _args: Any) -> None:
            self.stack.append(self.paths.get(id(module), self.stack[-1]))

        def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
            self.stack.pop()

        handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()


class _Rounding(Following):
    """Rounds the values that a network names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.grids = grids(net)
        self.left = dict.fromkeys(self.grids)
        # on which grid a tensor lies; weakly, or a pass would hold all its activations at once
        self.lies: dict[int, tuple[weakref.ref[Tensor], Grid]] = {}

    def made(self, place: Place, given: Given, out: Any) -> Any:
        if place in self.grids:
            return self.rounded(place, out)
        grid = self.grid_of(given[0][0]) if given[0] and moves(place, given) else None
        if grid is not None and isinstance(out, Tensor | tuple | list):
            return self._moved(place, grid, out)
        self.lies.pop(id(out), None)  # a tensor that was changed in place has left its grid
        return out

    def _moved(self, place: Place, grid: Grid, out: Any) -> Any:
        """Values that are on a grid already; runtimes want to be told so on both sides of what moves them."""
        again = torch.compiler.is_exporting() and place.name not in ("relu", "relu_")
        parts = [out] if isinstance(out, Tensor) else list(out)
        parts = [self._note(grid, grid.of(part) if again else part) for part in parts]
        return parts[0] if isinstance(out, Tensor) else type(out)(parts)

    def rounded(self, place: Place, x: Tensor) -> Tensor:
        """The value of a place on its grid."""
        self.left.pop(place, None)
        return self._note(self.grids[place], self.grids[place].of(x))

    def _note(self, grid: Grid, x: Tensor) -> Tensor:
        self.lies[id(x)] = (weakref.ref(x), grid)
        return x

    def grid_of(self, x: object) -> Grid | None:
        """The grid that a tensor lies on."""
        found = self.lies.get(id(x))
        return found[1] if found is not None and found[0]() is x else None  # numbers of tensors are given again


def grids(net: nn.Module) -> dict[Place, Grid]:
    """By value that a network rounds, its grid; nothing where activations are floats.

    >>> grids(nn.Linear(2, 2))
    {}
    """
    places = net.__dict__.get(_PLACES, ())
    return {place: Grid(getattr(net, f"round{i}_scale"), getattr(net, f"round{i}_zero")) for i, place in places}


def add_rounding(net: nn.Module, path: str, name: str, number: int, trained: int) -> None:
    """Let a network round one more value, in place: the edit `round`.

    The grid is two tensors of the network itself, `round<i>_scale` and `round<i>_zero`: a child module would be called
    by networks that call all their children.

    Args:
        net: the network.
        path, name, number: of the `Place`.
        trained: 1 where training moves the scale, else 0.

    Raises:
        ValueError: the network rounds this value already, or has other tensors of these names.
    """
    places = net.__dict__.get(_PLACES, ())
    place = Place(path, str(name), int(number))
    if place in dict(places).values():
        raise ValueError(f"{place} is rounded already")
    net.get_submodule(path)
    names = (f"round{len(places)}_scale", f"round{len(places)}_zero")
    if taken := [n for n in names if hasattr(net, n)]:
        raise ValueError(f"the network has a {taken[0]!r} of its own: rename it")
    if not places:
        _follow_forward(net)
    scale = torch.ones(())
    if trained:
        net.register_parameter(names[0], nn.Parameter(scale))
    else:
        net.register_buffer(names[0], scale)
    net.register_buffer(names[1], torch.zeros((), dtype=torch.uint8))
    net.__dict__[_PLACES] = (*places, (len(places), place))


class _Settling(_Rounding):
    """Notes on which grid the input of every layer lies."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.inputs: dict[str, Grid] = {}

    def made(self, place: Place, given: Given, out: Any) -> Any:
        if place.name in LAYERS and (grid := self.grid_of(given[0][0])) is not None:
            self.inputs[place.path] = grid
        return super().made(place, given, out)


def settle_biases(net: nn.Module, forms: Mapping[str, Form], image: Tensor) -> int:
    """Bring the biases of layers in integers to what integer kernels add, in place; and scales into their range.

        b -> round(b / (s w)) * (s w)       s: scale of the layer's input, w: steps of its weights

    Kernels add whole multiples of s w; a bias in between would now and then move an output by a level.

    Args:
        net: with rounded activations; one without is left as it is.
        forms: of its weights; a bias that has a form of its own stays.
        image: one normalised image (1, C, H, W).

    Returns:
        How many biases were settled.
    """
    if not (found := grids(net)):
        return 0
    with torch.no_grad():
        for grid in found.values():  # training may push a scale below what `Grid.of` takes; a file's graph has no clamp
            grid.scale.clamp_(MIN_STEP, MAX_STEP)
    mode, settled = _Settling(net), 0
    with observing(net):
        _pass(net, mode, (image,), {})
        for path, grid in mode.inputs.items():
            layer: Any = net.get_submodule(path)
            dot = f"{path}." if path else ""
            form, bias = forms.get(f"{dot}weight"), getattr(layer, "bias", None)
            step = None if form is None else form.step
            if step is None or bias is None or f"{dot}bias" in forms:
                continue
            unit = (grid.scale * step.to(grid.scale).flatten()).clamp(min=torch.finfo(torch.float32).tiny)
            bias.copy_(torch.round(bias / unit) * unit)
            settled += 1
    return settled


def _pass(net: nn.Module, mode: _Rounding, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """One forward pass of a network, with the forward that its class had before it rounded, seen by `mode`."""
    if INPUT in mode.grids and args:
        args = (mode.rounded(INPUT, args[0]), *args[1:])
    with mode.following():
        return getattr(net, _OWN).forward(net, *args, **kwargs)


def _follow_forward(net: nn.Module) -> None:
    """Give a network a class of its own whose `forward` rounds; its base is the one that the network had."""
    own = type(net)

    @functools.wraps(own.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        mode = _Rounding(self)
        out = _pass(self, mode, args, kwargs)
        if mode.left:
            raise ModelError(
                f"{next(iter(mode.left))} is rounded, but this pass did not make it: the network was changed after it "
                "was quantized, or goes other ways for other images"
            )
        return out

    net.__class__ = type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__, _OWN: own})
