"""Figures 1 and 2 of the CondenseNeXt paper, drawn anew: what a depthwise separable convolution splits, and ReLU6.

    python benchmarks/condensenext_figures.py --check

Writes docs/results/condensenext-separable.svg and docs/results/condensenext-relu6.svg. The values and the gradients of
figure 2 are PyTorch's; `--check` holds them, and the weights that figure 1 counts, to the formulas.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import common
import matplotlib as mpl
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from netpress import atomic

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "netpress", "font.size": 9}
from matplotlib import pyplot as plt  # noqa: E402  after the choice of a canvas
from matplotlib.patches import FancyArrowPatch, Polygon  # noqa: E402

RESULTS = Path(__file__).parent.parent / "docs" / "results"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
SIDE, INPUTS, OUTPUTS, KERNEL = 5, 4, 6, 3
"""Of the drawing: D, I, O, H."""
SLANT = (0.42, 0.3)
"""Where a step into the depth goes on paper."""


def block(axes: Any, at: tuple[float, float], size: tuple[int, int, int], colour: str) -> None:
    """A cuboid with a grid on its faces.

    Args:
        axes: of matplotlib.
        at: lower left corner of the front.
        size: columns, rows, depth.
        colour: of the edges; faces are lighter.
    """
    (x, y), (w, h, d) = at, size
    dx, dy = d * SLANT[0], d * SLANT[1]
    faces = (
        ([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], 0.25),
        ([(x, y + h), (x + w, y + h), (x + w + dx, y + h + dy), (x + dx, y + h + dy)], 0.15),
        ([(x + w, y), (x + w + dx, y + dy), (x + w + dx, y + h + dy), (x + w, y + h)], 0.4),
    )
    for corners, shade in faces:
        axes.add_patch(Polygon(corners, facecolor=mpl.colors.to_rgba(colour, shade), edgecolor=colour, linewidth=1))
    thin = {"color": colour, "linewidth": 0.5, "solid_capstyle": "butt"}
    for i in range(1, w):
        axes.plot([x + i, x + i, x + i + dx], [y, y + h, y + h + dy], **thin)
    for i in range(1, h):
        axes.plot([x, x + w, x + w + dx], [y + i, y + i, y + i + dy], **thin)
    for i in range(1, d):  # every channel is a slice
        sx, sy = i * SLANT[0], i * SLANT[1]
        axes.plot([x + sx, x + w + sx, x + w + sx], [y + h + sy, y + h + sy, y + sy], **thin)


def arrow(axes: Any, start: float, end: float, y: float = 3) -> None:
    """From one column of the drawing to the next."""
    axes.add_patch(FancyArrowPatch((start, y), (end, y), arrowstyle="-|>", mutation_scale=12, color=GREY))


def pile(axes: Any, at: tuple[float, float], size: tuple[int, int, int], count: int, colour: str) -> None:
    """Filters of one size, one under the other."""
    step = size[1] + size[2] * SLANT[1] + 0.45
    for i in range(count):
        block(axes, (at[0], at[1] - i * step), size, colour)


def caption(axes: Any, x: float, text: str, *, y: float = -1.0) -> None:
    """Words below a part of the drawing."""
    axes.text(x, y, text, ha="center", va="top")


def separable() -> Any:
    """Figure 1: above, one filter bank does all; below, it is split into filters per channel and 1 x 1 filters."""
    figure, (whole, split) = plt.subplots(2, 1, figsize=(9.5, 5.8))
    whole.set_title("convolution: every output's filter covers all I channels", loc="left", fontweight="bold")
    block(whole, (0, 0), (SIDE, SIDE, INPUTS), BLUE)
    caption(whole, 3.2, "X\nD × D × I")
    arrow(whole, 7.6, 12.4)
    for i in range(OUTPUTS):
        block(whole, (13.2 + 5.6 * (i % 3), 3.4 - 5.2 * (i // 3)), (KERNEL, KERNEL, INPUTS), ORANGE)
    caption(whole, 21.2, "K: O filters H × H × I\nH² I O weights", y=-2.6)
    arrow(whole, 30.4, 34.2)
    block(whole, (35, 0), (SIDE, SIDE, OUTPUTS), BLUE)
    caption(whole, 38.6, "Y\nD × D × O")
    split.set_title("split in two: filter each channel, then combine the channels", loc="left", fontweight="bold")
    block(split, (0, 0), (SIDE, SIDE, INPUTS), BLUE)
    caption(split, 3.2, "X\nD × D × I")
    arrow(split, 7.6, 9.8)
    for i in range(INPUTS):
        block(split, (10.4 + 4.2 * (i % 2), 4.2 - 4.4 * (i // 2)), (KERNEL, KERNEL, 1), ORANGE)
    caption(split, 14.2, "depthwise (filtering)\nI filters H × H × 1\nH² I weights", y=-1.0)
    arrow(split, 18.6, 20.6)
    block(split, (21.2, 0), (SIDE, SIDE, INPUTS), BLUE)
    caption(split, 24.4, "Ŷ\nD × D × I")
    arrow(split, 28.6, 30.4)
    pile(split, (31.2, 5.4), (1, 1, INPUTS), OUTPUTS // 2, GREEN)
    pile(split, (34.4, 5.4), (1, 1, INPUTS), OUTPUTS - OUTPUTS // 2, GREEN)
    caption(split, 34.2, "pointwise (combining)\nO filters 1 × 1 × I\nI O weights")
    arrow(split, 38.0, 39.8)
    block(split, (40.6, 0), (SIDE, SIDE, OUTPUTS), BLUE)
    caption(split, 44.2, "Y\nD × D × O")
    for axes in (whole, split):
        axes.set(xlim=(-0.5, 48.6), ylim=(-4.8, 8.4), aspect="equal")
        axes.set_axis_off()
    return figure


def curves() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """What figure 2 shows: by name, x, f(x) and f'(x), all of PyTorch."""
    found = {}
    for name, function in (("ReLU", F.relu), ("ReLU6", F.relu6)):
        x = torch.linspace(-3, 10, 1301, dtype=torch.float64, requires_grad=True)
        y = function(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        found[name] = (x.detach(), y.detach(), slope)
    return found


def activations(found: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Any:
    """Figure 2: both functions, and below their gradients."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(6, 5.2), sharex=True, height_ratios=(2, 1))
    styles = {"ReLU": (ORANGE, "--", 2.2), "ReLU6": (BLUE, "-", 1.6)}
    for name, (x, y, slope) in found.items():
        colour, style, width = styles[name]
        above.plot(x, y, style, color=colour, linewidth=width, label=name)
        shown = slope.clone()
        shown[1:][slope.diff() != 0] = torch.nan  # a step is a gap, not a slope
        below.plot(x, shown, style, color=colour, linewidth=width, label=name)
    above.axhline(6, color=GREY, linewidth=0.6, linestyle=":")
    above.set_ylabel("f(x)")
    above.legend(frameon=False)
    below.set(xlabel="x", ylabel="f '(x)", ylim=(-0.15, 1.25), yticks=(0, 1), xticks=range(-3, 11))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(0, color=GREY, linewidth=0.4)
    return figure


def write(figure: Any, name: str) -> None:
    """As SVG, the same bytes every time."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    atomic.write(RESULTS / f"condensenext-{name}.svg", buffer.getvalue())


def claims(found: dict[str, tuple[Tensor, Tensor, Tensor]]) -> list[common.Claim]:
    """Figure 2 is equation 5 and its gradient; figure 1's counts are those of PyTorch's layers."""
    x, y, slope = found["ReLU6"]
    off = (y - x.clamp(0, 6)).abs().max().item()
    wrong = (slope != ((x > 0) & (x < 6))).sum().item()
    whole = nn.Conv2d(INPUTS, OUTPUTS, KERNEL, bias=False).weight.numel()
    first = nn.Conv2d(INPUTS, INPUTS, KERNEL, groups=INPUTS, bias=False).weight.numel()
    second = nn.Conv2d(INPUTS, OUTPUTS, 1, bias=False).weight.numel()
    counted = KERNEL**2 * INPUTS * OUTPUTS, KERNEL**2 * INPUTS, INPUTS * OUTPUTS
    return [
        common.at_most("ReLU6: largest distance from min(max(0, x), 6)", off, 0),
        common.at_most("ReLU6: points whose gradient is not 1 inside (0, 6) and 0 elsewhere", wrong, 0),
        common.at_most(
            "figure 1: counts of weights that are not the layers'",
            sum(a != b for a, b in zip(counted, (whole, first, second), strict=True)),
            0,
        ),
    ]


def main() -> int:
    """Draw and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    args = parser.parse_args()
    found = curves()
    write(separable(), "separable")
    write(activations(found), "relu6")
    return common.finish({"benchmark": "condensenext-figures"}, claims(found), check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
