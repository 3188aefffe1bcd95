"""Run a network once and let a rule per operation say what becomes of the channel labels.

The run happens under a `TorchDispatchMode`, on the `meta` device: no weights are touched, nothing is computed. Integer
and boolean tensors stay real, because they decide which channels an index selects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from netpress.graph.call import Call, Claim, Findings, Known, Option, Output, Site, flat, words
from netpress.graph.labels import UNSEEN, Axes, Axis, Equations, IntArray, Replay

# functions that work for any number of channels: the sizes that they pass on come from their argument
SIZELESS = words(
    "flatten reshape_as view_as expand_as squeeze unsqueeze linear matmul einsum bmm layer_norm rms_norm instance_norm "
    "group_norm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm chunk unbind glu "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d unfold softmax normalize channel_shuffle "
    "pixel_shuffle pixel_unshuffle movedim swapaxes transpose permute broadcast_tensors max_pool1d avg_pool1d mm "
    "interpolate tensor_split addmm baddbmm __matmul__ __rmatmul__"
)


Rule = Callable[["Tracer", Call], list[Axes]]


def table(names: str, rule: Rule) -> dict[str | None, Rule]:
    """One rule for several operations."""
    return dict.fromkeys(names.split(), rule)


class Functions(TorchFunctionMode):
    """Remembers which public function of PyTorch is running: `flatten` and `view` are one operation below it."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.running.append(getattr(func, "__name__", ""))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.running.pop()


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The dispatch mode: runs each operation, then the rule that names its outputs' labels.

    Args:
        labels: `Equations` to learn, `Replay` to follow classes known before.
        rules: rule per operation; `None` stands for all other pointwise operations.
        choices: which reading to take, by place in the source.
    """

    def __init__(
        self, labels: Equations | Replay, rules: Mapping[str | None, Rule], choices: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels, self.rules, self.choices = labels, rules, choices or {}
        self.known: dict[int, Known] = {}
        self.found = Findings()
        self.functions = Functions()
        self.stack: list[tuple[str, nn.Module | None]] = [("", None)]
        self.index = -1
        self._made: set[int] = set()
        self.after: Callable[[Tracer, Call, list[Axes]], None] | None = None  # sees every operation when it is done

    @property
    def path(self) -> str:
        """The module that is running."""
        return self.stack[-1][0]

    @property
    def owner(self) -> str:
        """The class of the innermost running module that is not PyTorch's own: whose code names the sizes."""
        owners = (type(m) for _, m in reversed(self.stack) if m is not None)
        return next((c.__name__ for c in owners if not c.__module__.startswith("torch.nn.")), "")

    # --- labels of tensors ---

    def introduce(self, name: str, tensor: Tensor, axes: Axes) -> None:
        """Introduce a parameter, buffer or input."""
        self.known[id(tensor)] = Known(tensor, axes, zeroed=True, name=name)

    def axes(self, tensor: Tensor) -> Axes:
        """The labels of a tensor; axes of parameters that were not used before get fresh ones."""
        known = self.known.get(id(tensor))
        if known is None:
            return [None] * tensor.dim()
        for axis, labels in enumerate(known.axes):
            if labels is UNSEEN:
                known.axes[axis] = self.labels.fresh(tensor.shape[axis])
        return known.axes

    def axis(self, tensor: Tensor, axis: int) -> Axis:
        """The labels of one axis, as `axes`."""
        known = self.known.get(id(tensor))
        if known is None:
            return None
        if known.axes[axis] is UNSEEN:
            known.axes[axis] = self.labels.fresh(tensor.shape[axis])
        return known.axes[axis]

    def peek(self, tensor: Tensor, axis: int) -> Axis:
        """The labels of one axis, `UNSEEN` where it has none yet."""
        known = self.known.get(id(tensor))
        return None if known is None else known.axes[axis]

    def peek_all(self, tensor: Tensor) -> Axes:
        """The labels of all axes, `UNSEEN` where there are none yet."""
        known = self.known.get(id(tensor))
        return [] if known is None else known.axes

    def create(self, size: int) -> IntArray:
        """Labels of an axis that the code makes up: it may follow the channels that it meets later."""
        labels = self.labels.fresh(size)
        self.found.created.append(labels)
        self._made.add(int(labels[0]))
        return labels

    def made(self, labels: IntArray) -> bool:
        """Whether these are labels that the code makes up."""
        return int(labels[0]) in self._made

    def meet(self, tensor: Tensor, axis: int, labels: Axis, why: str) -> None:
        """The axis of a tensor and `labels` go together; where one of them is fixed, the other is pinned."""
        known = self.known.get(id(tensor))
        mine = None if known is None else known.axes[axis]
        if mine is UNSEEN:
            assert known is not None
            assert labels is None or len(labels) == tensor.shape[axis], (labels, tensor.shape, axis)
            known.axes[axis] = labels
        elif mine is None:
            if labels is not None:
                self.pin(labels, why)
        elif labels is None:
            self.pin(mine, why)
        else:
            self.labels.equate(mine, labels)

    def pin(self, labels: Axis, why: str) -> None:
        """These stay; the reason gets the module that is running."""
        if labels is not None and len(labels):
            self.labels.pin(labels, f"{why} in {self.path}" if self.path else why)

    def pin_all(self, axes: Axes, why: str) -> None:
        """All labels of a tensor stay."""
        for labels in axes:
            self.pin(labels, why)

    def mix(self, labels: Axis, how: str) -> None:
        """The running operation mixes these."""
        if labels is not None:
            self.labels.mix(labels, f"{how} in {self.path}" if self.path else how)

    def zeroed(self, tensor: Tensor) -> bool:
        """Whether removed slices of this tensor are zero in the zeroed twin."""
        known = self.known.get(id(tensor))
        return known is not None and known.zeroed

    # --- numbers written into the code ---

    def risk(self) -> None:
        """The running operation may hold a number of channels; only a trial can tell."""
        if not (self.functions.running and self.functions.running[-1] in SIZELESS):
            self.found.risks.append(self.index)

    @property
    def function(self) -> str:
        """The public function that is running, or ""."""
        return self.functions.running[-1] if self.functions.running else ""

    def choose(self, options: Sequence[Option], labels: IntArray) -> None:
        """Take the reading that `choices` names for this place in the source, the first unless told; the last pins."""
        if isinstance(self.labels, Replay):
            return
        site = f"{_site()} ({len(options)})"  # one line may cut one axis, and name the size of another
        self.found.sites[self.index] = Site(site, len(options), labels)
        options[min(self.choices.get(site, 0), len(options) - 1)].apply()

    def attributes(self, values: Mapping[int, IntArray]) -> list[Claim]:
        """Whole numbers of the running module that equal one of these counts: they may follow the channels."""
        path, module = self.stack[-1]
        if module is None or type(module).__module__.startswith("torch.nn."):
            return []
        held = vars(module).items()
        return [
            Claim(path, name, (values[value],))
            for name, value in held
            if type(value) is int and value in values and not (name in _COUNTED and isinstance(module, COUNTED))
        ]

    def lists(self, values: Sequence[int], parts: Sequence[IntArray | int]) -> list[Claim]:
        """Lists and tuples of the running module that equal these counts."""
        path, module = self.stack[-1]
        own = module is not None and not type(module).__module__.startswith("torch.nn.")
        held = vars(module).items() if module is not None and own else ()
        found = [(n, v) for n, v in held if isinstance(v, list | tuple) and list(v) == list(values)]
        return [Claim(path, name, tuple(parts), type(value).__name__) for name, value in found]

    # --- running ---

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.index += 1
        out = self.run(func, args, kwargs or {})
        call = Call(_plain(func), func, args, kwargs or {}, list(flat(out)), _schema(func))
        labelled = self.rule(call)
        if len(labelled) != len(call.outs):
            labelled = labelled * len(call.outs)
        for tensor, axes in zip(call.outs, labelled, strict=True):
            assert len(axes) == tensor.dim(), (call.name, axes, tensor.shape)
            before = self.known.get(id(tensor))
            if before is not None and before.name and before.tensor is tensor:
                continue
            every = all if call.name in ("cat", "stack") else any
            zeroed = call.name in _KEEPS_ZERO and every(self.zeroed(x) for x in call.tensors)
            self.known[id(tensor)] = Known(tensor, axes, zeroed=zeroed)
        if call.name not in _COPIES:  # whether a reshape copies depends on strides
            made = [(t.shape, a) for t, a in zip(call.outs, labelled, strict=True)]
            self.found.outputs.append(Output(self.index, call.name.removeprefix("_unsafe_"), made))
        if self.after is not None:
            self.after(self, call, labelled)
        return out

    def rule(self, call: Call) -> list[Axes]:
        """The labels of the outputs."""
        nothing: list[Axes] = [[None] * x.dim() for x in call.outs]
        rule = self.rules.get(call.name)
        if rule is None and torch.Tag.pointwise in call.func.tags:
            rule = self.rules[None]
        carried = [x for x in call.tensors if any(a is not None for a in getattr(self.known.get(id(x)), "axes", ()))]
        if not carried and (rule is None or not getattr(rule, "creates", False)):
            return nothing
        forced = bool(self.choices) and isinstance(self.labels, Equations) and self._pinned(call.name)
        if rule is None:
            self.found.unknown.append((call.name, self.path))
            for x in carried:
                self.pin_all(self.axes(x), f"no rule for {call.name}")
            return nothing
        result = rule(self, call)
        for axes in [*map(self.axes, carried), *result] if forced else []:
            self.pin_all(axes, f"a number of channels is written into the code: {call.name}")
        return result

    def _pinned(self, name: str) -> bool:
        """Whether the choices say that this operation, at this place in the source, leaves channels as they are."""
        self.found.places[self.index] = place = f"pin {name} at {_site()}"
        return not self.choices.keys().isdisjoint((place, f"pin {self.index}", f"pin every {name}"))

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run the operation; real tensors beside `meta` ones follow them, and integers are made for real."""
        tensors = list(flat((args, tuple(kwargs.values()))))
        meta = sum(x.is_meta for x in tensors)
        if meta and meta < len(tensors):
            args, kwargs = _to_meta(args), {k: _to_meta(v) for k, v in kwargs.items()}
        elif not tensors and func._schema.name in _EXACT and str(kwargs.get("device")) == "meta":
            kwargs = {**kwargs, "device": torch.device("cpu")}
        elif meta and func._schema.name in _VALUES:
            raise ValueOfMeta(_site())
        elif meta and func._schema.name in _QUICK:
            return _quick(func._schema.name, args)
        return func(*args, **kwargs)


class ValueOfMeta(Exception):  # noqa: N818
    """The network looks at a value that tracing does not compute; the text says where in its source."""


# layers whose numbers are read off the shapes of their tensors
COUNTED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
_COUNTED = words(
    "in_channels out_channels groups num_features in_features out_features num_channels num_parameters "
    "normalized_shape training"
)
_COPIES = words("clone contiguous alias detach lift_fresh _to_copy empty empty_like as_strided")
_EXACT = words("aten::arange aten::eye aten::linspace aten::scalar_tensor aten::tril_indices")
_VALUES = words("aten::_local_scalar_dense aten::is_nonzero aten::equal aten::nonzero")
_KEEPS_ZERO = words(
    "view _unsafe_view reshape permute transpose t squeeze unsqueeze expand slice select split split_with_sizes cat "
    "stack flip roll repeat clone detach alias contiguous _to_copy index_select index mul div neg constant_pad_nd "
    "unbind as_strided lift_fresh pixel_shuffle pixel_unshuffle _weight_norm_interface"
)


# these run often, and PyTorch's own shape functions for them are written in Python
_BATCH_NORM = "aten::native_batch_norm"
_QUICK = frozenset(
    f"aten::{name}{mark}"
    for name in words("relu silu gelu hardtanh hardswish hardsigmoid sigmoid leaky_relu elu mish tanh")
    for mark in ("", "_")
) | {_BATCH_NORM}


def _quick(name: str, args: Any) -> Any:
    """What these operations return on `meta`."""
    x: Tensor = args[0]
    if name == _BATCH_NORM:
        side = x.shape[1] if args[5] else 0
        return torch.empty_like(x), x.new_empty(side), x.new_empty(side)
    return x if name.endswith("_") else torch.empty_like(x)


@cache
def _plain(func: Any) -> str:
    name: str = func._schema.name.partition("::")[2]
    return name.rstrip("_") if not name.startswith("__") else name


@cache
def _schema(func: Any) -> dict[str, tuple[int, Any]]:
    return {
        a.name: (position, a.default_value if a.has_default_value() else None)
        for position, a in enumerate(func._schema.arguments)
    }


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if value.is_meta else torch.empty_like(value, device="meta")
    if isinstance(value, list | tuple):
        return type(value)(_to_meta(part) for part in value)
    return torch.device("meta") if isinstance(value, torch.device) else value


def _site() -> str:
    """File and line of the innermost code that belongs neither to PyTorch nor to this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(("torch.", "netpress.graph", "contextlib")) and module != "torch":
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
