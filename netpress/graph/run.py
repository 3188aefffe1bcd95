"""One run of a network on labels: tensors are introduced, modules followed, errors said in one line."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.graph.call import flat
from netpress.graph.copying import duplicate, plain, tensors
from netpress.graph.labels import UNSEEN, Axes
from netpress.graph.trace import Tracer, ValueOfMeta

Introduce = Callable[[Tracer, nn.Module], None]


def to_meta(net: nn.Module) -> nn.Module:
    """A copy without values, in evaluation mode; integers and booleans stay, they may be positions of channels."""

    def convert(_: str, x: Tensor) -> Tensor:
        if not (x.is_floating_point() or x.is_complex()):
            return x.detach() if x.is_meta else x.detach().cpu().clone()
        new = torch.empty_like(x, device="meta", requires_grad=False)
        if isinstance(x, nn.Parameter):
            return nn.Parameter(new, requires_grad=x.requires_grad)
        return new

    return duplicate(net, convert).eval()


def hollow_input(x: Any) -> Any:
    """An input without values."""
    return torch.empty_like(x, device="meta") if isinstance(x, Tensor) else x


def run(
    tracer: Tracer,
    net: nn.Module,
    inputs: tuple[Any, ...],
    known: Introduce | None = None,
    *,
    modes: tuple[bool, ...] = (False,),
) -> Any:
    """Run a network on labels.

    Args:
        tracer: collects what it finds.
        net: a network whose tensors nobody else needs.
        inputs: its inputs; they and the outputs are pinned.
        known: introduces the network's tensors; unless given, with axes that were not used yet.
        modes: run it once for each: False for evaluation, True for training.

    Returns:
        What the network returns in the last mode.

    Raises:
        ModelError: the network does not run on these inputs, or looks at values.
    """
    (known or introduce)(tracer, net)
    labels = tracer.labels
    out = None
    for mode in modes:
        net.train(mode)
        given = tuple(_batch(x) if mode else x for x in inputs)
        for x in flat(given):
            axes: Axes = [None] * x.dim()
            if x.dim() > 1 and x.shape[1] > 1 and x.is_floating_point():
                axes[1] = fresh = labels.fresh(x.shape[1])
                labels.pin(fresh, "network input")
            tracer.introduce("", x, axes)
        out = _forward(tracer, net, given)
        for x in flat(out):
            for a in tracer.axes(x):
                if a is not None:
                    labels.pin(a, "network output")
    net.eval()
    return out


def _batch(x: Any) -> Any:
    """Two images at least: norms refuse to train on one."""
    return torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() > 1 and x.shape[0] == 1 else x


def introduce(tracer: Tracer, net: nn.Module) -> None:
    """Tell the tracer the names of all tensors; what is neither parameter nor buffer is fixed."""
    fixed = plain(net)
    for name, x in tensors(net):
        if name in fixed:
            tracer.introduce("", x, [None] * x.dim())
            continue
        # beyond the first two axes of a weight lies its window; scales such as (1, 1, 1, C) have channels there
        window = x.dim() > 2 and x.shape[0] > 1
        axes = [None if n == 1 or (window and d > 1) else UNSEEN for d, n in enumerate(x.shape)]
        tracer.introduce(name, x, axes)


def _forward(tracer: Tracer, net: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The network's output, with the paths of running modules kept on the tracer's stack."""
    hooks = []
    for path, module in net.named_modules():

        def enter(m: nn.Module, args: Any, path: str = path) -> None:
            tracer.stack.append((path, m))
            if f"pin inputs of {type(m).__name__}" in tracer.choices:
                for x in flat(args):
                    tracer.pin_all(tracer.axes(x), "a number of channels is read off the input")

        def leave(*_: Any) -> None:
            tracer.stack.pop()

        hooks += [module.register_forward_pre_hook(enter, prepend=True), module.register_forward_hook(leave)]
    try:
        with warnings.catch_warnings(), torch.no_grad(), tracer.functions, tracer:
            warnings.simplefilter("ignore")
            return net(*inputs)
    except ValueOfMeta as error:
        where = tracer.path or "the network"
        raise ModelError(f"{where} decides by a value, at {error}: its channels cannot be followed") from error
    except Exception as error:
        where, line = tracer.path or "the network", str(error).strip().splitlines()
        shapes = ", ".join(str(tuple(x.shape)) for x in flat(inputs))
        raise ModelError(
            f"{where} does not run on an input of shape {shapes}: {type(error).__name__} at {_place(error)}: "
            f"{line[0] if line else ''}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _place(error: Exception) -> str:
    """File and line of the last of the network's own code that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/netpress/graph/" not in f.filename]
    last = (own or frames)[-1]
    return f"{last.filename.rpartition('/')[2]}:{last.lineno}"
