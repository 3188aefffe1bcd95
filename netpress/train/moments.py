"""Second moments of what a layer sees, and the weights that bring its outputs nearest to another network's.

Shape letters: N images, P places of an image, G groups, I and O channels in and out, D = I/G kh kw inputs of a filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from netpress.candidate import Images, Inputs
from netpress.data.batches import batches
from netpress.errors import DataError, ModelError
from netpress.shadow import evaluating

CHUNK = 64  # images per pass: bounds the memory of their patches


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Means of products over the input patches p of a layer and the outputs y it should give; all float64.

    Attributes:
        patches: E[p p^T], (G, D, D); the patch order is (i, kh, kw), as `F.unfold` gives it.
        crossed: E[y p^T], (G, O/G, D).
        patch_mean: E[p], (G, D).
        output_mean: E[y], (G, O/G).
        count: patches seen.
        output_square: E[y^2], (G, O/G).
    """

    patches: Tensor
    crossed: Tensor
    patch_mean: Tensor
    output_mean: Tensor
    count: int
    output_square: Tensor

    def centred(self) -> Moments:
        """The same about the means, which are then zero: covariances instead of second moments."""
        p, y = self.patch_mean, self.output_mean
        return replace(
            self,
            patches=self.patches - p[:, :, None] * p[:, None, :],
            crossed=self.crossed - y[:, :, None] * p[:, None, :],
            output_square=self.output_square - y.square(),
            patch_mean=torch.zeros_like(p),
            output_mean=torch.zeros_like(y),
        )

    @property
    def whole(self) -> Tensor:
        """E[p p^T] of a layer without groups, (D, D).

        Raises:
            ValueError: the layer has groups.
        """
        if len(self.patches) > 1:
            raise ValueError(f"the layer has {len(self.patches)} groups, and one moment for each")
        return self.patches[0]

    def singular(self) -> bool:
        """Whether some direction of the patches is never seen, to rounding: then only a ridge makes a fit unique.

        A pivot of Cholesky's factor is the variance of one entry that the entries before it do not explain.
        """
        if self.count < self.patches.shape[1]:
            return True
        factor, failed = torch.linalg.cholesky_ex(self.patches)
        seen = self.patches.diagonal(dim1=1, dim2=2)
        left = factor.diagonal(dim1=1, dim2=2).square()
        return bool((failed > 0).any() or (left <= 1e-12 * len(seen[0]) * seen).any())

    def bias(self, weight: Tensor) -> Tensor:
        """The bias that makes a weight's mean outputs right: E[y] - W E[p], (O,).

        Args:
            weight: (O, I/G, kh, kw) or (O, D).
        """
        return (self.output_mean[..., None] - self._rows(weight) @ self.patch_mean[..., None]).flatten()

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Relative error of the outputs: sqrt(E||y - W p - b||^2 / E||y||^2); 0 where the outputs are all zero.

        Args:
            weight: (O, I/G, kh, kw) or (O, D).
            bias: (O,) or None.
        """
        rows = self._rows(weight)
        lost = self.output_square.sum() - 2 * (rows * self.crossed).sum() + (rows @ self.patches * rows).sum()
        if bias is not None:
            b = bias.to(rows).view_as(self.output_mean)
            made = (rows @ self.patch_mean[..., None])[..., 0]
            lost = lost + (b * (b + 2 * made - 2 * self.output_mean)).sum()
        whole = self.output_square.sum().item()
        return (max(lost.item(), 0.0) / whole) ** 0.5 if whole > 0 else 0.0

    def _rows(self, weight: Tensor) -> Tensor:
        """A weight as (G, O/G, D), in the moments' precision and place."""
        return weight.detach().to(self.patches).reshape(self.crossed.shape)


def moments(  # noqa: PLR0913  two layers of two networks, and the images that both see
    student: nn.Module,
    at: str,
    teacher: nn.Module,
    of: str,
    split: Images,
    inputs: Inputs,
    *,
    samples: int = 512,
    places: int = 64,
    seed: int = 0,
    channels: Sequence[int] | None = None,
) -> Moments:
    """Second moments of a layer's input patches, and of these with the outputs of a layer of another network.

    Both networks see the same images in evaluation mode, and both layers are read at the same places; they may be one
    network and one layer. A layer that is called several times counts every call.

    Args:
        student: left untouched.
        at: path of one of its `nn.Conv2d` or `nn.Linear`, whose patches are taken.
        teacher: left untouched.
        of: path of the module whose outputs y are wanted: (N, O, H, W), or (N, ..., O) where `at` is linear.
        split: images; a random sample of them is used.
        inputs: the networks' normalisation.
        samples: how many images.
        places: how many random places of each image, all if there are fewer.
        seed: of images and places.
        channels: which of the teacher's outputs stand for those of `at`, in its order; None: all.

    Returns:
        Means over images, places and calls.

    Raises:
        ModelError: the outputs have other places than the layer's, or the layers are not called equally often.
        DataError: there are no images, or the network does not take them.

    >>> from netpress.data import Split
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> images = Split(torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    >>> found = moments(net, "0", net, "0", images, Inputs((1, 4, 4), (0.5,), (0.5,)))
    >>> found.count, tuple(found.patches.shape), found.whole[0, 0].item(), found.singular()
    (20, (1, 9, 9), 1.0, True)
    """
    pair = _Pair((student, at), (teacher, of), places, seed)
    _check_images(split, inputs)
    sums, seen = _Sums(getattr(pair.layer, "groups", 1)), 0
    with torch.no_grad(), evaluating(student), evaluating(teacher):
        for x, _ in batches(split, size=CHUNK, mean=inputs.mean, std=inputs.std, seed=seed):
            for p, y in pair.read(x[: samples - seen]):
                sums.add(p, y if channels is None else y[:, list(channels)], at)
            seen += len(x)
            if seen >= samples:
                break
    return sums.means()


def regress(
    weight: Tensor, bias: Tensor | None, found: Moments, *, ridge: float = 1e-3
) -> tuple[Tensor, Tensor | None]:
    """The weights, near the given ones, whose outputs are nearest to the wanted ones.

        min over W, b of E||y - W p - b||^2 + l ||W - W0||^2,   l = ridge x mean diagonal of E[p p^T]
        W = W0 + (E[y p^T] - W0 E[p p^T]) (E[p p^T] + l 1)^-1

    Each group is one such problem. With a bias, the moments are taken about the means; without, as they are. Where
    some direction of the patches is never seen (`Moments.singular`), the weights along it stay.

    Args:
        weight: W0, (O, I/G, kh, kw) or (O, D).
        bias: (O,), only asked whether there is one; None: the layer has none, and none is fitted.
        found: of this layer's patches and the wanted outputs.
        ridge: >= 0; at 0 the change of least norm is taken.

    Returns:
        Weight and bias, float64 of the given shapes; None without a bias.

    Source: He, Zhang, Sun 2017 (Channel pruning) reconstruct outputs by least squares; the pull towards the given
    weights instead of zero is ours.

    >>> p, w = torch.randn(50, 3).double(), torch.tensor([[1.0, 2.0, 3.0]]).double()
    >>> sums = _Sums(1); sums.add(p[None], p @ w.T)
    >>> [round(x, 6) for x in regress(torch.zeros(1, 3), None, sums.means(), ridge=0.0)[0][0].tolist()]
    [1.0, 2.0, 3.0]
    """
    taken = found if bias is None else found.centred()
    start = taken._rows(weight)
    amount = ridge * taken.patches.diagonal(dim1=1, dim2=2).mean(1)
    lifted = taken.patches + torch.diag_embed(amount[:, None].expand(taken.patch_mean.shape))
    slope = (taken.crossed - start @ taken.patches).mT
    factor, failed = torch.linalg.cholesky_ex(lifted)
    if (failed > 0).any() or (ridge <= 0 and taken.singular()):
        change = torch.linalg.pinv(lifted, hermitian=True, rtol=1e-12 * len(slope[0])) @ slope
    else:
        change = torch.cholesky_solve(slope, factor)
    fitted = (start + change.mT).reshape(weight.shape)
    return fitted, None if bias is None else found.bias(fitted)


def target(weight: Tensor, found: Moments, *, bias: bool, ridge: float = 1e-3) -> Tensor:
    """The matrix M (O, D) that a decomposition should come near, so that a network's outputs are another's.

    Weights as `regress` gives them; the bias that goes with any approximation M' is `found.bias(M')`. For the layer of
    a network whose inputs earlier compression has changed this is asymmetric reconstruction: the patches are those of
    the compressed network, the outputs those of the untouched one.

    Args:
        weight: (O, I, kh, kw) or (O, D).
        found: of a layer without groups.
        bias: whether the layer has a bias to take up the means.
        ridge: as in `regress`.

    Raises:
        ValueError: the moments are those of a layer with groups.

    Source: Zhang et al. 2016, Accelerating Very Deep Convolutional Networks, section 3.3; there for responses after
    the nonlinearity as well, here for those before it.
    """
    matrix = weight.reshape(-1, len(found.whole))
    return regress(matrix, found.output_mean[0] if bias else None, found, ridge=ridge)[0]


class _Reached(Exception):  # noqa: N818  a way out of a forward pass, caught at once
    """The layer was reached: the rest of the network need not run."""


class _Sums:
    """Sums of products so far; patches (G, n, D) and outputs (n, O)."""

    def __init__(self, groups: int) -> None:
        self.groups, self.count = groups, 0
        self.parts: tuple[Tensor, ...] = ()

    def add(self, p: Tensor, y: Tensor, at: str = "") -> None:
        n, outputs = y.shape
        if p.shape[1] != n or outputs % self.groups:
            raise ModelError(f"{at}: {p.shape[1]} patches in {self.groups} groups, {n} outputs of {outputs} channels")
        y = y.to(p.device).view(n, self.groups, -1).transpose(0, 1)
        parts = (p.mT @ p, y.mT @ p, p.sum(1), y.sum(1), y.square().sum(1))
        self.parts = tuple(a + b for a, b in zip(self.parts, parts, strict=True)) if self.parts else parts
        self.count += n

    def means(self) -> Moments:
        patches, crossed, patch, output, square = (part / self.count for part in self.parts)
        return Moments(patches, crossed, patch, output, self.count, square)


@dataclass(frozen=True, slots=True, eq=False)
class _Picked:
    """Which places of each image are read: (N, p), counted along the flattened sizes of the layer's outputs."""

    index: Tensor
    sizes: tuple[int, ...]
    axis: int  # of the channels


class _Pair:
    """Reads patches of one layer and outputs of another at the same random places of the same images."""

    def __init__(self, ours: tuple[nn.Module, str], theirs: tuple[nn.Module, str], places: int, seed: int) -> None:
        (self.student, self.at), (self.teacher, self.of) = ours, theirs
        self.layer = _layer(self.student, self.at)
        self.itself = self.student is self.teacher and self.at == self.of  # then one pass gives both
        self.places, self.drawn = places, torch.Generator().manual_seed(seed)
        self.picked: list[_Picked] = []
        self.outputs: list[Tensor] = []
        self.calls: int | None = None

    def read(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Patches (G, N p, D) and outputs (N p, O), call by call."""
        self.picked, self.outputs = [], []
        patches = _read(self.student, self.at, self._patches, x, self.calls)
        if not self.itself:
            self.outputs = _read(self.teacher, self.of, self._outputs, x, self.calls)
        self.calls, theirs = len(patches), len(self.outputs)
        if self.calls != theirs or not theirs:
            raise ModelError(
                f"{self.at} is called {self.calls} times, the teacher's {self.of} {theirs} times: expected as often"
            )
        return list(zip(patches, self.outputs, strict=True))

    def _patches(self, x: Tensor, out: Tensor) -> Tensor:
        self.picked.append(_pick(self.layer, out, self.places, self.drawn))
        at = self.picked[-1].index
        if self.itself:
            self.outputs.append(self._outputs(x, out))
        return _patches(self.layer, x, at)

    def _outputs(self, _x: Tensor, out: Tensor) -> Tensor:
        if not self.picked:
            return out  # one call too many, which is said when all are counted
        return _outputs(out, self.picked.pop(0), names=(self.at, self.of))


def _check_images(split: Images, inputs: Inputs) -> None:
    got = tuple(split.images.shape[1:])
    if not len(split):
        raise DataError("calibration: there are no images")
    if inputs.shape and got != tuple(inputs.shape):
        raise DataError(f"calibration: expected images of shape {tuple(inputs.shape)} as the network takes, got {got}")


def _layer(net: nn.Module, path: str) -> nn.Conv2d | nn.Linear:
    layer = net.get_submodule(path)
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise ModelError(f"{path}: expected a Conv2d or a Linear, got {type(layer).__name__}")
    return layer


def _read(
    net: nn.Module, path: str, take: Callable[[Tensor, Tensor], Tensor], x: Tensor, calls: int | None
) -> list[Tensor]:
    """What `take` gives at each call of a module; with `calls`, the pass ends at that call."""
    found: list[Tensor] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        found.append(take(args[0], out))  # at once: what follows may write into the output
        if len(found) == calls:
            raise _Reached

    handle = net.get_submodule(path).register_forward_hook(hook)
    try:
        net(x.to(next(net.parameters())))
    except _Reached:
        pass
    except RuntimeError as error:
        shape = tuple(x.shape[1:])
        raise DataError(f"the network does not take images of shape {shape}: {str(error).splitlines()[0]}") from error
    finally:
        handle.remove()
    return found


def _pick(layer: nn.Module, out: Tensor, places: int, drawn: torch.Generator) -> _Picked:
    axis = 1 if isinstance(layer, nn.Conv2d) else out.ndim - 1
    sizes = tuple(size for i, size in enumerate(out.shape) if i not in (0, axis))
    total = torch.Size(sizes).numel()
    if total <= places:
        index = torch.arange(total).expand(len(out), total)
    else:
        index = torch.rand(len(out), total, generator=drawn).topk(places).indices
    return _Picked(index.to(out.device), sizes, axis)


def _outputs(out: Tensor, picked: _Picked, names: tuple[str, str]) -> Tensor:
    """Outputs at the picked places, (N p, O)."""
    sizes = tuple(size for i, size in enumerate(out.shape) if i not in (0, picked.axis))
    if sizes != picked.sizes or len(out) != len(picked.index):
        got, own = (len(out), *sizes), (len(picked.index), *picked.sizes)
        raise ModelError(f"{names[0]} gives outputs at {own} places, the teacher's {names[1]} at {got}: expected equal")
    rows = out.movedim(picked.axis, -1).reshape(len(out), -1, out.shape[picked.axis])
    return _at(rows, picked.index).flatten(0, 1)


def _at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (N, P, ...) at places (N, p), float64 (N, p, ...); always a copy."""
    return rows[torch.arange(len(rows), device=rows.device)[:, None], index.to(rows.device)].double()


def _patches(layer: nn.Conv2d | nn.Linear, x: Tensor, index: Tensor) -> Tensor:
    """Input patches at the picked places, (G, N p, D)."""
    if isinstance(layer, nn.Linear):
        return _at(x.reshape(len(x), -1, x.shape[-1]), index).flatten(0, 1)[None]
    padded = _padded(layer, x)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    n, channels, height, width = padded.shape
    rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    a, b, c, d = padded.stride()
    # all windows as a view: only the picked ones are copied
    windows = padded.as_strided((n, rows, columns, channels, kh, kw), (a, c * sh, d * sw, b, c * dh, d * dw))
    image = torch.arange(n, device=x.device)[:, None]
    chosen = windows[image, index // columns, index % columns].double()
    return chosen.reshape(index.numel(), layer.groups, -1).transpose(0, 1)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    ends: list[int] = []
    for axis in (1, 0):  # the last axis first, as `F.pad` wants it
        if layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            ends += [total // 2, total - total // 2]
        else:
            ends += [0, 0] if isinstance(layer.padding, str) else [layer.padding[axis]] * 2
    return F.pad(x, ends, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
