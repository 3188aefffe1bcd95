"""Keras's arrays in PyTorch's layout."""

from collections.abc import Mapping

from torch import Tensor

_KERNELS = ("kernel", "depthwise_kernel")
_NAMES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def is_keras(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether arrays are named as Keras's layers name theirs.

    >>> import torch
    >>> is_keras({"dense.kernel": torch.zeros(1)}), is_keras({"fc.bias": torch.zeros(1)})
    (True, False)
    """
    ends = {name.rpartition(".")[2] for name in tensors}
    return ends <= set(_NAMES) and not ends.isdisjoint(_KERNELS)


def from_keras(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn Keras's arrays into PyTorch's: other names at the end, other orders of axes.

    Convolution (rows, columns, in, out) -> (out, in, rows, columns); depthwise (rows, columns, channels, multiplier) ->
    (channels * multiplier, 1, rows, columns); dense (in, out) -> (out, in). A dense layer behind a flatten of more than
    one pixel would need its inputs put into another order as well: Keras's arrays do not tell, so none is expected.

    Raises:
        ValueError: a kernel is neither of a convolution nor of a dense layer.

    >>> import torch
    >>> {name: tuple(t.shape) for name, t in from_keras({"conv2d.kernel": torch.zeros(5, 3, 2, 8)}).items()}
    {'conv2d.weight': (8, 2, 5, 3)}
    """
    found = {}
    for name, tensor in tensors.items():
        layer, _, what = name.rpartition(".")
        found[f"{layer}.{_NAMES[what]}"] = _turned(name, tensor) if what in _KERNELS else tensor
    return found


def _turned(name: str, kernel: Tensor) -> Tensor:
    if kernel.ndim == 2:
        return kernel.T.contiguous()
    if kernel.ndim != 4:
        raise ValueError(f"{name} has {kernel.ndim} axes; kernels of 2 (dense) or 4 (convolution) are read")
    if name.endswith(".depthwise_kernel"):
        return kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1).contiguous()
    return kernel.permute(3, 2, 0, 1).contiguous()
