"""Which layers make what another layer reads: found by running the network, through joins, norms and pools."""

from __future__ import annotations

from torch import nn

from netpress.methods.uses import PRODUCTS, Call, Uses, View


def sources(net: nn.Module, path: str, uses: Uses) -> list[str]:
    """For each input of a convolution the path of the layer that makes it; "" where that is the image, or not known.

    Norms, pools, functions of single values and depthwise convolutions pass on what they read; of a sum the first
    operand counts.

    Args:
        net: the network that `uses` was found in.
        path: of a convolution that is called once.
        uses: of the pass.

    >>> from netpress.methods.uses import watch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1))
    >>> sources(net, "2", watch(net, (1, 8, 8), method="example"))
    ['0', '0']
    """
    x = uses.readers_of(net.get_parameter(f"{path}.weight"))[0].input(0)
    return [] if x is None else _made(x, uses, {})


def _made(x: View, uses: Uses, known: dict[int, list[str]]) -> list[str]:
    """The makers of a value's channels, its second axis."""
    channels = x.shape[1] if len(x.shape) > 1 else 1
    made = uses.makers.get(x.key)
    if made is None:
        return [""] * channels
    if x.key not in known:
        known[x.key] = _behind(made, uses, known)
    found = known[x.key]
    if len(found) == channels and len(x.shape) == len(made.out.shape):
        return found
    return [found[0] if len(set(found)) == 1 else ""] * channels  # channels joined or put in another order


def _behind(made: Call, uses: Uses, known: dict[int, list[str]]) -> list[str]:
    channels = made.out.shape[1] if len(made.out.shape) > 1 else 1
    if made.name == "cat":
        parts = made.plain[0] if made.plain else ()
        if (made.plain[1:] or (0,))[0] in (1, 1 - len(made.out.shape)) and parts and all(parts):
            return [path for part in parts for path in _made(part, uses, known)]
        return [""] * channels
    product = PRODUCTS.get(made.name)
    weight = made.input(product.weight) if product is not None else None
    if weight is not None and not _depthwise(made, weight):
        return [(uses.names.get(weight.key) or [""])[0].rpartition(".")[0]] * channels
    x = made.input(0)
    if x is None:
        return [""] * channels
    found = _made(x, uses, known)
    in_order = "index" not in made.name and len(found) == channels
    return found if in_order else [found[0] if len(set(found)) == 1 else ""] * channels


def _depthwise(made: Call, weight: View) -> bool:
    x = made.input(0)
    return made.name == "convolution" and x is not None and weight.shape[1] == 1 and weight.shape[0] == x.shape[1] > 1
