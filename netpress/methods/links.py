"""Which layers' outputs reach one other layer only, through nothing but functions that a positive factor passes.

    f(s x) = s f(x)  for s > 0, channel by channel: ReLU, leaky ReLU, pools, padding with zeros, flattening

Found by running the network, not by names (`uses`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from netpress.methods.targets import targets
from netpress.methods.uses import PRODUCTS, Call, Uses, View, owner, watch


@dataclass(frozen=True, slots=True)
class Link:
    """A layer, the layer that reads its output, and how many of that one's inputs each output channel becomes."""

    first: str
    second: str
    inputs: int = 1


@dataclass(frozen=True, slots=True)
class Links:
    """What was found, in the network's order, and the layers that no link starts from: path -> why."""

    links: tuple[Link, ...]
    stay: Mapping[str, str]


def find_links(net: nn.Module, shape: tuple[int, ...], *, method: str = "equalise") -> Links:
    """Find all layers whose output channels can be scaled if the next layer's inputs are scaled back.

    Args:
        net: left untouched.
        shape: of one image (C, H, W).
        method: what an error says was tried.

    Raises:
        ModelError: an image of this shape does not pass; a weight is no plain parameter.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> find_links(net, (1, 4, 4))
    Links(links=(Link(first='0', second='3', inputs=4),), stay={'3': 'the network returns its output'})
    """
    found = list(targets(net))
    if not found:
        return Links((), {})
    uses = watch(net, shape, method=method)
    links, stay = [], {}
    for target in found:
        link = _link(net, target.path, uses)
        if isinstance(link, Link):
            links.append(link)
        else:
            stay[target.path] = link
    return Links(tuple(links), stay)


class _Layout(NamedTuple):
    """Entry f of a tensor, counted row by row, belongs to channel (f // inner) % channels."""

    channels: int
    inner: int

    def behind(self, before: int, after: int) -> _Layout | None:
        """Where `before` entries in a row became `after`; None where they are not of one channel."""
        return None if self.inner % before else self._replace(inner=self.inner // before * after)


def _link(net: nn.Module, path: str, uses: Uses) -> Link | str:
    """The link from a layer, or why there is none."""
    made = _made(net, path, uses)
    end = made if isinstance(made, str) else _follow(made, uses)
    if isinstance(end, str):
        return end
    call, layout = end
    second = owner(net, call, uses, which="the weights of the layer behind it")
    if second.path is None:
        return second.reason
    columns = _columns(call)
    if columns.channels * columns.inner != layout.channels * layout.inner or layout.inner % columns.inner:
        return f"its channels are no inputs of {second.path}"
    return Link(path, second.path, layout.inner // columns.inner)


def _made(net: nn.Module, path: str, uses: Uses) -> Call | str:
    """The one product that a layer's weights are used in, or why there is none."""
    calls = uses.readers_of(net.get_parameter(f"{path}.weight" if path else "weight"))
    if not calls:
        return "it is not called in evaluation mode"
    if calls[0].name not in PRODUCTS:
        return "its weights are computed, or shared by several layers"
    first = owner(net, calls[0], uses, which="its weights")
    return first.reason if first.path is None else calls[0]


def _follow(made: Call, uses: Uses) -> tuple[Call, _Layout] | str:
    """The product that a layer's output reaches, and where its channels lie by then; or why it reaches none."""
    view, place = made.out, 0
    layout = _rows(made.out, convolution=made.name == "convolution")
    while True:
        if view.key in uses.results:
            return "the network returns its output"
        readers = uses.readers[view.key][place:]
        if not readers:
            return "nothing uses its output"
        call = readers[0]
        in_place = call.out.key == view.key
        if len(readers) > 1 and not in_place:
            return "its output is used more than once"
        if call.name in PRODUCTS:
            x = call.input(PRODUCTS[call.name].x)
            return (call, layout) if x is not None and _same(x, view) else "its channels are rearranged"
        passed = _pass(call, view, layout)
        if isinstance(passed, str):
            return passed
        layout, place = passed, place + 1 if in_place else 0
        view = call.out


_EACH = {"relu", "leaky_relu", "clone"}
_POOL = re.compile(r"_?(?:adaptive_)?(?:max|avg)_pool([123])d(?:_with_indices)?")


def _pass(call: Call, view: View, layout: _Layout) -> _Layout | str:
    """Where the channels lie behind one operation; or why a factor does not pass it."""
    name, x = call.name.rstrip("_"), call.input(0)
    pool = _POOL.fullmatch(name)
    axes = None
    if name in _EACH:
        axes = 0
    elif pool is not None:
        axes = int(pool.group(1))
    elif name == "mean":
        axes = _trailing(call)
    elif name == "constant_pad_nd" and (len(call.plain) < 3 or call.plain[2] == 0):
        axes = len(call.plain[1]) // 2
    if axes is None:
        return f"{name} comes between it and the next layer"
    if x is None or not _same(x, view):
        return "its channels are rearranged"
    before = math.prod(x.shape[len(x.shape) - axes :])
    after = 1 if name == "mean" else math.prod(call.out.shape[len(call.out.shape) - axes :])
    behind = layout.behind(before, after)
    return f"{name} mixes its channels" if behind is None else behind


def _trailing(call: Call) -> int | None:
    """How many axes a mean is taken over, if they are the last ones."""
    x = call.input(0)
    if x is None or len(call.plain) < 2 or not isinstance(call.plain[1], list | tuple):
        return None
    rank = len(x.shape)
    axes = {axis % rank for axis in call.plain[1]}
    return len(axes) if axes and axes == set(range(rank - len(axes), rank)) else None


def _columns(call: Call) -> _Layout:
    """Where the inputs of a product lie."""
    x = call.input(PRODUCTS[call.name].x)
    assert x is not None
    return _rows(x, convolution=call.name == "convolution")


def _rows(view: View, *, convolution: bool) -> _Layout:
    """A convolution's channels are the second axis of what it reads and gives, a linear layer's the last."""
    return _Layout(view.shape[1], math.prod(view.shape[2:])) if convolution else _Layout(view.shape[-1], 1)


def _same(a: View, b: View) -> bool:
    """Whether two views show the same entries in the same order, whatever their shapes."""
    return (a.key, a.offset, _runs(a)) == (b.key, b.offset, _runs(b))


def _runs(view: View) -> list[tuple[int, int]]:
    """(size, stride) without axes of one entry, neighbours that are one run joined."""
    runs: list[tuple[int, int]] = []
    for size, stride in zip(view.shape, view.strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs
