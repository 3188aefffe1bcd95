"""Prune a network and retrain it in a loop of your own: what was pruned stays zero, what is shared stays shared.

python examples/own_loop.py --out runs/own_loop
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import netpress as nxp
from netpress.candidate import Context, Inputs
from netpress.data import Data, batches
from netpress.train import evaluate


def loop(net: nn.Module, data: Data, *, epochs: int, rate: float) -> None:
    """Anybody's training loop: it knows nothing of netpress but the batches."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
    for epoch in range(epochs):
        for x, y in batches(data.train, size=64, mean=data.mean, std=data.std, seed=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def main() -> None:
    """Train, prune, retrain, share, retrain, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/own_loop"))
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    data = nxp.data.open("digits")
    inputs, example = Inputs(data.shape, data.mean, data.std), torch.zeros(1, *data.shape)
    net = nxp.zoo.create("lenet-300-100")
    loop(net, data, epochs=args.epochs, rate=1e-3)
    print(f"trained: {evaluate(net, data.test, inputs).top1:.2%}")

    pruned = nxp.apply(nxp.methods.WeightPrune(sparsity=0.9), net, example=example, inputs=inputs)
    with nxp.bound(pruned) as trainable:  # one parametrization per pruned tensor, gone again behind this block
        loop(trainable, data, epochs=args.epochs, rate=5e-4)
    zeros = sum(int((p == 0).sum()) for p in pruned.net.parameters())
    print(f"pruned and retrained: {evaluate(pruned.net, data.test, inputs).top1:.2%}, {zeros:,} weights are zero")

    shared = nxp.methods.WeightShare(bits=4).apply(pruned, Context(example))  # on a candidate: its zeros stay
    with nxp.bound(shared) as trainable:
        loop(trainable, data, epochs=2, rate=1e-4)
    saved = nxp.save(shared, args.out / "shared.press")
    before = 4 * sum(p.numel() for p in net.parameters())
    top1 = evaluate(shared.net, data.test, inputs).top1
    print(f"shared and retrained: {top1:.2%}; {saved.file_bytes:,} bytes, {before / saved.file_bytes:.1f}x smaller")


if __name__ == "__main__":
    main()
