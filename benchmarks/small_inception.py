"""A small GoogLeNet-style network for 32x32 images: a stem, four inception modules, a linear layer.

    netpress run benchmarks/patterns_inception.toml --data-root DATA --out runs/patterns-inception

Made for `benchmarks/patterns.py`: as in the source's GoogLeNet the 3x3 filters inside the modules can become patterns,
while the stem's filters and the 5x5 ones stay.
"""

from collections import OrderedDict

from torch import nn

from netpress.zoo.blocks import conv_relu, inception

STEM, EPS = 32, 1e-3
# outputs of 1x1, 3x3's reduction, 3x3, 5x5's reduction, 5x5, pool's projection
MODULES = {
    "inception3a": (16, 24, 32, 4, 8, 8),
    "inception4a": (32, 48, 64, 8, 16, 16),
    "inception4b": (48, 64, 96, 12, 24, 24),
    "inception5a": (80, 80, 160, 16, 40, 40),
}
POOLED = {"inception4a": "pool3", "inception5a": "pool4"}  # modules that a pool goes before


def build() -> nn.Sequential:
    """Build `conv1 pool1 inception3a pool3 inception4a inception4b pool4 inception5a pool flatten fc`.

    Returns:
        The network: (n, 3, 32, 32) -> logits (n, 10).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv_relu(3, STEM, 3, norm_eps=EPS), pool1=nn.MaxPool2d(3, stride=2, padding=1)
    )
    width = STEM
    for name, widths in MODULES.items():
        if name in POOLED:
            layers[POOLED[name]] = nn.MaxPool2d(3, stride=2, padding=1)
        layers[name] = inception(width, widths, norm_eps=EPS)
        width = widths[0] + widths[2] + widths[4] + widths[5]
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1), "fc": nn.Linear(width, 10)}
    return nn.Sequential(layers)
