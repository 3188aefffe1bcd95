"""What feeds a convolution: a batch norm, through functions of each value alone; found by running the network."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.methods.norms import foldable, only_norm
from netpress.methods.uses import Call, Uses, View

_EACH = frozenset(
    {"relu", "hardtanh", "leaky_relu", "elu", "silu", "gelu", "hardswish", "hardsigmoid", "mish"}
    | {"sigmoid", "tanh", "softplus", "clone"}
)


def reads_image(net: nn.Module, path: str, uses: Uses) -> bool:
    """Whether a convolution reads what the network was given, as it is.

    >>> from netpress.methods.uses import watch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    >>> [reads_image(net, path, watch(net, (3, 8, 8), method="example")) for path in "01"]
    [True, False]
    """
    x = _call(net, path, uses).input(0)
    return x is not None and x.key not in uses.makers


def norm_before(net: nn.Module, path: str, uses: Uses) -> str | None:
    """The batch norm whose channels, chosen by an index, leave a convolution the same if it reads them by that index.

    Between the two stand only functions of each value alone, and nothing else reads what the norm gives. A norm that
    can be folded into the layer before it is none: an index between those two would keep it from vanishing.

    Args:
        net: the network that `uses` was found in.
        path: of a convolution that is called once.
        uses: of the pass.

    >>> from netpress.methods.uses import watch
    >>> net = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1))
    >>> norm_before(net, "3", watch(net, (4, 8, 8), method="example"))
    '1'
    """
    reader = _call(net, path, uses)
    while True:
        x = reader.input(0)
        made = uses.makers.get(x.key) if x is not None else None
        if x is None or made is None or made.out != x or not _passes_on(x, reader, uses):
            return None
        if "batch_norm" in made.name:
            return _norm(net, made, uses)
        if not _alone(made):
            return None
        reader = made


def _call(net: nn.Module, path: str, uses: Uses) -> Call:
    return uses.readers_of(net.get_parameter(f"{path}.weight"))[0]


def _passes_on(x: View, reader: Call, uses: Uses) -> bool:
    """Whether a value is read by that operation only, but for functions that change it where it is."""
    *inside, last = uses.readers[x.key]
    return last is reader and x.key not in uses.results and all(_alone(call) and call.out == x for call in inside)


def _alone(call: Call) -> bool:
    """Whether an operation changes each value without regard to its channel."""
    return call.name.rstrip("_") in _EACH and call.input(0) is not None and not any(call.inputs[1:])


def _norm(net: nn.Module, made: Call, uses: Uses) -> str | None:
    """The path of the module that a batch norm's tensors belong to, if it may be given other ones."""
    mean = [name for v in made.inputs[1:] if v for name in uses.names.get(v.key, ()) if name.endswith("running_mean")]
    if len(mean) != 1:
        return None
    path = mean[0].rpartition(".")[0]
    norm = net.get_submodule(path)
    paths = [p for p, module in net.named_modules(remove_duplicate=False) if module is norm]
    if not (path and isinstance(norm, _BatchNorm) and norm.running_mean is not None and len(paths) == 1):
        return None
    tied = any(p is not q and p.data_ptr() == q.data_ptr() for p in norm.parameters() for q in net.parameters())
    hooked = norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks
    if tied or hooked or not only_norm(norm) or len(uses.readers_of(norm.running_mean)) != 1:
        return None
    return path if foldable(net, norm, uses).path is None else None
