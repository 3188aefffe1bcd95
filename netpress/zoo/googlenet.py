"""GoogLeNet: nine inception modules with 1×1 reductions, in the 2014 form and in torchvision's.

The 2014 form (Caffe's BVLC model) has biases, local response normalisation around the second convolution, and no batch
normalisation. torchvision's form has batch normalisation (epsilon 0.001) without biases, a 3×3 filter in the branch
that the paper gives a 5×5, and a fourth pool of 2×2.

Source: Szegedy et al. 2015, Going deeper with convolutions, table 1.
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from netpress.zoo.blocks import conv_relu, he_uniform, inception
from netpress.zoo.checks import check_choice, check_image
from netpress.zoo.variant import Variant

_FORMS = ("bvlc", "torchvision")
_AUX = ("none", "train")

# Outputs of 1×1, 3×3's reduction, 3×3, 5×5's reduction, 5×5, pool's projection; a pool ends stages 3 and 4.
_MODULES = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
_HEADS = {"inception4a": 512, "inception4d": 528}  # channels of the modules that have an auxiliary head behind them

_AUX_NOTE = (
    "aux='train' adds the two auxiliary heads ({with_heads} parameters); forward returns the main logits in every mode "
    "and does not run them, with_heads returns all three for a loss with the paper's weights of 0.3."
)

VARIANTS = {
    "googlenet": Variant(
        settings={"form": "bvlc", "aux": "none", "dropout": 0.4},
        shape=(3, 224, 224),
        num_classes=1000,
        params=6_998_552,
        macs=1_582_671_872,
        source="Szegedy et al. 2015; Caffe's bvlc_googlenet (6,990,272 weights and 8,280 biases)",
        status="EXACT",
        note=_AUX_NOTE.format(with_heads="13,378,280"),
    ),
    "googlenet-bn": Variant(
        settings={"form": "torchvision", "aux": "none", "dropout": 0.2},
        shape=(3, 224, 224),
        num_classes=1000,
        params=6_624_904,
        macs=1_498_376_192,
        source="torchvision's googlenet",
        status="EXACT",
        note=(
            "Not the paper's network: batch normalisation, 3×3 in place of 5×5. torchvision's own weights expect "
            "images with mean 0.5 and deviation 0.5 per channel. " + _AUX_NOTE.format(with_heads="13,004,888")
        ),
    ),
}

TORCHVISION: tuple[tuple[str, str], ...] = (
    (r"\.bn\.", ".norm."),
    (r"^conv2\.", "reduce2."),
    (r"^conv3\.", "conv2."),
    (r"\.branch1\.", ".conv1x1."),
    (r"\.branch2\.0\.", ".conv3x3.reduce."),
    (r"\.branch2\.1\.", ".conv3x3.wide."),
    (r"\.branch3\.0\.", ".conv5x5.reduce."),
    (r"\.branch3\.1\.", ".conv5x5.wide."),
    (r"\.branch4\.1\.", ".pool.project."),
    (r"^aux1\.", "heads.inception4a."),
    (r"^aux2\.", "heads.inception4d."),
)
"""torchvision's names of googlenet's tensors, in those of form="torchvision"; aux1 and aux2 need aux="train"."""


class GoogLeNet(nn.Module):
    """A chain of named layers, some with an auxiliary classifier behind them.

    Args:
        layers: name -> layer, in order; each becomes an attribute.
        heads: name of a layer -> classifier of its output.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._order = tuple(layers)
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return the main logits; the heads are not run."""
        for name in self._order:
            x = self.get_submodule(name)(x)
        return x

    def with_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the main logits, then those of every head; the paper adds the heads' losses with weight 0.3."""
        answers = []
        for name in self._order:
            x = self.get_submodule(name)(x)
            if name in self.heads:
                answers.append(self.heads[name](x))
        return (x, *answers)


def build(*, form: str, aux: str, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.4) -> GoogLeNet:
    """Build `conv1 pool1 reduce2 conv2 pool2 inception3a ... inception5b pool5 flatten drop fc`, fully convolutional.

    Initial weights of the form without batch normalisation: He et al. 2015, uniform.

    Args:
        form: "bvlc" or "torchvision".
        aux: "none", or "train" for the auxiliary heads behind 4a and 4d, reached by `with_heads`. In the form "bvlc"
            they take images of 224 pixels only (209 to 224).
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier; before the heads' classifiers it is 0.7.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes), both sides at least 15 pixels.

    Raises:
        ModelError: a value is out of range.

    >>> build(form="bvlc", aux="none").inception3a.conv5x5.wide.conv.kernel_size
    (5, 5)
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_choice("form", form, _FORMS)
    check_choice("aux", aux, _AUX)
    layers = _stem(form, in_channels)
    eps = _eps(form)
    width = 192
    for name, widths in _MODULES.items():
        layers[name] = inception(width, widths, last_kernel=5 if form == "bvlc" else 3, norm_eps=eps)
        width = widths[0] + widths[2] + widths[4] + widths[5]
        if name == "inception3b":
            layers["pool3"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        if name == "inception4e":
            layers["pool4"] = nn.MaxPool2d(3 if form == "bvlc" else 2, stride=2, ceil_mode=True)
    layers |= {"pool5": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1)}
    layers |= {"drop": nn.Dropout(dropout), "fc": nn.Linear(width, num_classes)}
    heads = {name: _head(form, channels, num_classes) for name, channels in _HEADS.items()} if aux == "train" else {}
    net = GoogLeNet(layers, heads)
    if form == "bvlc":
        he_uniform(net)
    return net


def _eps(form: str) -> float | None:
    return None if form == "bvlc" else 1e-3


def _stem(form: str, in_channels: int) -> OrderedDict[str, nn.Module]:
    """The layers before the first module: 192 channels at an eighth of the image's size."""
    eps = _eps(form)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv_relu(in_channels, 64, 7, stride=2, norm_eps=eps),
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
        norm1=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        reduce2=conv_relu(64, 64, 1, norm_eps=eps),
        conv2=conv_relu(64, 192, 3, norm_eps=eps),
        norm2=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),
    )
    if form == "torchvision":
        del layers["norm1"], layers["norm2"]
    return layers


def _head(form: str, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            pool=nn.AvgPool2d(5, stride=3) if form == "bvlc" else nn.AdaptiveAvgPool2d(4),
            conv=conv_relu(channels, 128, 1, norm_eps=_eps(form)),
            flatten=nn.Flatten(1),
            fc1=nn.Linear(2048, 1024),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.7),
            fc2=nn.Linear(1024, num_classes),
        )
    )
