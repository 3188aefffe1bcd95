"""Parts of densely connected networks: DenseNet, CondenseNet, CondenseNeXt."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_count, check_counts


class DenseLayer(nn.Module):
    """y = [x, f(x)] along the channels, where f is a chain of named layers that keeps height and width.

    Args:
        layers: name -> layer, in order; each becomes an attribute.

    Source: Huang et al. 2017, Densely Connected Convolutional Networks.

    >>> DenseLayer(OrderedDict(conv1=nn.Conv2d(16, 8, 1)))(torch.zeros(1, 16, 7, 7)).shape
    torch.Size([1, 24, 7, 7])
    """

    def __init__(self, layers: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return x's channels, then the new ones."""
        new = x
        for layer in self.children():
            new = layer(new)
        return torch.cat([x, new], dim=1)


class Index(nn.Module):
    """Choose channels: y[:, j] = x[:, index[j]]; a channel may be chosen several times.

    Args:
        index: the chosen channels, kept as an int64 buffer.

    >>> Index([2, 0, 0])(torch.arange(3.0).reshape(1, 3, 1, 1)).flatten()
    tensor([2., 0., 0.])
    """

    index: Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(list(index), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the chosen channels (axis 1) in the order of the index."""
        return x.index_select(1, self.index)


class Interleave(nn.Module):
    """Order channels that lie group by group as group 0's first, group 1's first, ..., group 0's second, ...

    Output o of the layer is output o // G of group o mod G.

    Args:
        groups: G, divides the channels.

    Source: Zhang et al. 2018, ShuffleNet; Huang et al. 2018, CondenseNet, section 3.

    >>> Interleave(2)(torch.arange(6.0).reshape(1, 6, 1, 1)).flatten()
    tensor([0., 3., 1., 4., 2., 5.])
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the same channels in the other order."""
        n, c, h, w = x.shape
        return x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def condensed(inputs: int, outputs: int, *, groups: int, factor: int) -> tuple[Index, nn.Conv2d, Interleave]:
    """Return a learned group convolution in its converted form: index - grouped 1×1 convolution - interleave.

    In the dense form, a 1×1 convolution, output o belongs to group o mod G, and all outputs of a group read the same
    I / C inputs. The index lists those inputs group by group; row j of group g of the grouped convolution is the dense
    form's row g + j G. I * O / C weights, where the dense form has I * O. Until something is learned, group g reads
    every C-th input from g mod C on, so that with G = C each input is read once.

    Args:
        inputs: I, a multiple of C.
        outputs: O, a multiple of G.
        groups: G.
        factor: C, the condense factor.

    Returns:
        The three layers, in order; layers that treat every channel alone may stand between the first two.

    Raises:
        ModelError: the groups or the factor do not divide.

    Source: Huang et al. 2018, CondenseNet, section 3.

    >>> index, conv, interleave = condensed(16, 32, groups=4, factor=4)
    >>> index.index[:5], conv.weight.shape
    (tensor([ 0,  4,  8, 12,  1]), torch.Size([32, 4, 1, 1]))
    """
    check_condensable(inputs, outputs, groups=groups, factor=factor)
    kept = [i for group in range(groups) for i in range(group % factor, inputs, factor)]
    return Index(kept), nn.Conv2d(len(kept), outputs, 1, groups=groups, bias=False), Interleave(groups)


def grouped_half(inputs: int, outputs: int, groups: int, relu: nn.Module) -> OrderedDict[str, nn.Module]:
    """Return `norm2 relu2 conv2`: the second half of a CondenseNet layer, a 3×3 convolution in groups, without bias.

    Raises:
        ModelError: the groups do not divide the channels.

    >>> list(grouped_half(32, 8, 4, nn.ReLU()))
    ['norm2', 'relu2', 'conv2']
    """
    if inputs % groups or outputs % groups:
        raise ModelError(f"zoo: setting groups: {groups} must divide {inputs} and the growth {outputs}")
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False)
    return OrderedDict(norm2=nn.BatchNorm2d(inputs), relu2=relu, conv2=conv)


def check_condensable(inputs: int, outputs: int, *, groups: int, factor: int) -> None:
    """Refuse a learned group convolution whose groups do not divide its outputs or whose factor not its inputs.

    Raises:
        ModelError: so it is.

    >>> check_condensable(16, 32, groups=4, factor=4)
    """
    if outputs % groups or inputs % factor:
        raise ModelError(
            f"zoo: a learned group convolution of {inputs} inputs and {outputs} outputs: groups {groups} must divide "
            f"the outputs and condense_factor {factor} the inputs"
        )


class KernelSums(nn.Module):
    """Single k×k kernels, each from one input to one output: y[:, o] = sum over the kernels of o of kernel * x[:, i].

    A dense k×k convolution of which only some kernels (pairs of input and output) were kept: index of inputs, depthwise
    convolution, and sums that multiply nothing. Until something is learned, the kernels are spread evenly.

    Args:
        inputs: input channels.
        outputs: output channels; one without a kernel is 0.
        kernels: number of kernels.
        kernel: height and width of the filters, odd.
        bias: whether a number is added to each output.

    Source: Kalgaonkar and El-Sharkawy 2021, CondenseNeXt, equations 2 to 4.

    >>> KernelSums(16, 32, 64)(torch.zeros(1, 16, 7, 7)).shape
    torch.Size([1, 32, 7, 7])
    """

    outputs: Tensor

    def __init__(self, inputs: int, outputs: int, kernels: int, *, kernel: int = 3, bias: bool = False) -> None:
        super().__init__()
        self.width = outputs
        self.index = Index([i % inputs for i in range(kernels)])
        self.conv = nn.Conv2d(kernels, kernels, kernel, padding=kernel // 2, groups=kernels, bias=False)
        self.register_buffer("outputs", torch.tensor([i * outputs // kernels for i in range(kernels)]))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums, of the height and width that the convolution gives."""
        maps = self.conv(self.index(x))
        start = maps.new_zeros(self.width) if self.bias is None else self.bias
        wide = start.view(1, -1, 1, 1).expand(maps.shape[0], -1, *maps.shape[2:])
        sums: Tensor = wide.index_add(1, self.outputs, maps)
        return sums


class GroupSum(nn.Module):
    """Add neighbouring channels: y[:, j] = x[:, j G] + ... + x[:, j G + G - 1].

    Args:
        groups: G, divides the channels.

    >>> GroupSum(2)(torch.arange(4.0).reshape(1, 4, 1, 1)).flatten()
    tensor([1., 5.])
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return channels / G channels, in the layout of x."""
        n, c, h, w = x.shape
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            # the plain way leaves the layout, forward and backward, and all layers behind pay: 2.5 times in training
            rows = x.permute(0, 2, 3, 1).reshape(n, h, w, c // self.groups, self.groups)
            return rows.sum(4).permute(0, 3, 1, 2)
        return x.reshape(n, c // self.groups, self.groups, h, w).sum(2)


def check_stages(stages: object, growth: object) -> list[tuple[int, int]]:
    """Return each block's (layers, growth), or refuse them.

    Raises:
        ModelError: no lists of equal length, or a number out of range.

    >>> check_stages([14, 14, 14], [8, 16, 32])
    [(14, 8), (14, 16), (14, 32)]
    """
    counts, widths = check_counts("stages", stages), check_counts("growth", growth)
    for width in widths:
        check_count("growth", width, most=1024)
    if not 1 <= len(counts) == len(widths) <= 8 or sum(counts) > 512:
        raise ModelError(
            "zoo: settings stages and growth must be 1 to 8 numbers each, equally many, of at most 512 layers in all, "
            f"got {stages!r} and {growth!r}"
        )
    return list(zip(counts, widths, strict=True))


def dense_network(
    in_channels: int,
    num_classes: int,
    blocks: Sequence[tuple[int, int]],
    layer: Callable[[int, int], OrderedDict[str, nn.Module]],
    *,
    relu: nn.Module,
    classifier_keep: float = 1.0,
) -> nn.Sequential:
    """Build `conv1 block1 pool1 block2 ... norm relu pool flatten [index] fc`: connections run on across the blocks.

    Args:
        in_channels: channels of the image.
        num_classes: outputs.
        blocks: each block's layers and growth k; conv1, 3×3, has 2 k of the first block.
        layer: (inputs, k) -> the named layers of a dense layer that adds k channels.
        relu: the activation before the last pool.
        classifier_keep: share of its inputs that the classifier reads, through an index.

    Source: Huang et al. 2018, CondenseNet, section 4.

    >>> net = dense_network(3, 10, [(1, 8)], lambda i, k: OrderedDict(conv=nn.Conv2d(i, k, 1)), relu=nn.ReLU())
    >>> net.fc.in_features
    24
    """
    width = 2 * blocks[0][1]
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(in_channels, width, 3, padding=1, bias=False))
    for number, (count, k) in enumerate(blocks, start=1):
        block = {f"layer{i + 1}": DenseLayer(layer(width + i * k, k)) for i in range(count)}
        layers[f"block{number}"] = nn.Sequential(OrderedDict(block))
        width += count * k
        if number < len(blocks):
            layers[f"pool{number}"] = nn.AvgPool2d(2)
    layers |= {"norm": nn.BatchNorm2d(width), "relu": relu, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1)}
    kept = int(width * classifier_keep)
    if kept == 0:
        raise ModelError(f"zoo: classifier_keep {classifier_keep} leaves none of the classifier's {width} inputs")
    if kept < width:
        layers["index"] = Index([i * width // kept for i in range(kept)])
    layers["fc"] = nn.Linear(kept, num_classes)
    return nn.Sequential(layers)
