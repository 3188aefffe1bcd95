"""Compress a network of your own, trained by your own loop, and run the result without PyTorch.

python examples/own_network.py --out runs/own
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import netpress as nxp
from netpress.data import batches
from netpress.runtime import Session


class Net(nn.Module):
    """A small convolutional network with batch norm: (n, 1, 28, 28) -> logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images."""
        return self.classifier(self.features(x))


def train(net: nn.Module, data: nxp.data.Data, epochs: int) -> None:
    """Anybody's loop."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for x, y in batches(data.train, size=64, mean=data.mean, std=data.std, seed=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def main() -> None:
    """Train, compress, load again, run without PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()

    torch.manual_seed(0)
    data, net = nxp.data.open("digits"), Net()
    train(net, data, args.epochs)

    epochs = {f"step.{i}.train.epochs": str(args.epochs) for i in (0, 1)}
    run = nxp.run("deep-compression", net=net, data=data, out=args.out, overrides=epochs)
    before, after = run.metrics["baseline"], run.metrics["final"]
    print(f"top-1 {before['top1']:.2%} -> {after['top1']:.2%}, {run.metrics['ratio']:.1f}x smaller")

    again = nxp.load(args.out / "model.press", into=Net())  # your class, edited and filled
    session = Session(args.out / "model.press")  # no PyTorch
    pixels = data.test.images[:100].numpy()
    answers = again.net(torch.from_numpy((pixels / 255 - data.mean[0]) / data.std[0]).float())
    same = np.array_equal(session.run(pixels).argmax(1), answers.argmax(1).numpy())
    print(f"the runtime names the same classes: {same}")


if __name__ == "__main__":
    main()
