"""Plain convolutions against condensing (fire) modules in their place, with the same number of epochs of training.

    python benchmarks/condensed.py --data-root DATA --work FOLDER [--networks stacked cifar-resnet20 ...]
    python benchmarks/condensed.py --print --check | tee docs/results/condensed.txt

The hypothesis of Gulati 2017 (CondenseNet: Reducing Parameters of CNN, conclusion), not tested there: condensing does
well in other deep networks too. CIFAR-10, 45,000 training images, accuracy of the last epoch on the 10,000 test images.
Every arm is trained in two stages, as many epochs for all, the second at a fifth of the first one's rate:

    plain        the network as it is
    condensed    every 3 x 3 convolution but the first is a fire module, fresh weights
    substituted  plain in the first stage, then fire modules fitted to its weights and calibration images
    distilled    the same, and the outputs of the replaced layers are learned from the plain network

Rows are kept in docs/results/condensed.jsonl: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from torch import nn

import netpress as nxp
from netpress.arch import build
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.measure import cost
from netpress.measure.metrics import machine
from netpress.methods import Substitute
from netpress.train import Training, draw, evaluate, fit

ROWS = Path(__file__).parent.parent / "docs" / "results" / "condensed.jsonl"
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "stacked": ("condensenet-cifar", {"module": "plain", "dropout": 0.0}, (2, 1)),
    "cifar-resnet20": ("cifar-resnet20", {}, (2, 1)),
    "cifar-vgg16-bn": ("cifar-vgg16-bn", {}, (3, 1)),
}
"""By name: the zoo's network, its settings, and the epochs of both stages."""
ARMS = ("plain", "substituted", "condensed", "distilled")
FIRE = {"kind": "fire", "condense": 0.125, "ones": 0.75, "samples": 128}
FIRST = Training(
    optimizer="sgd", lr=0.1, weight_decay=5e-4, warmup=0.1, shift=4, flip=True, clip=5.0, precision="bf16-mixed"
)


class Bench:
    """One network: its data, its plain network after the first stage, its arms."""

    def __init__(self, name: str, data: Data, work: Path, seed: int) -> None:
        self.name, self.data, self.work, self.seed = name, data, work / f"{name}-{seed}", seed
        self.model, settings, self.stages = NETWORKS[name]
        self.arch = Arch("zoo", self.model, settings)
        self.work.mkdir(parents=True, exist_ok=True)

    def context(self, step: int, folder: str) -> Context:
        """Splits, seed, and a folder for checkpoints."""
        scratch = self.work / folder
        scratch.mkdir(exist_ok=True)
        example = normalise(self.data.train.images[:1], self.data.mean, self.data.std)
        return Context(example, train=self.data.train, seed=self.seed, step=step, scratch=scratch)

    def fresh(self) -> Candidate:
        """The plain network with fresh weights."""
        with torch.random.fork_rng():
            torch.manual_seed(draw(self.seed, 0))
            net = build(self.arch)
        return Candidate(net, arch=self.arch, inputs=Inputs(self.data.shape, self.data.mean, self.data.std))

    def train(self, candidate: Candidate, stage: str, *, step: int, teacher: nn.Module | None = None) -> Candidate:
        """One stage, read from the work folder if an earlier call finished it."""
        path = self.work / f"{stage}.press"
        if not path.is_file():
            lr = FIRST.lr if step == 1 else FIRST.lr / 5
            changes = {"epochs": self.stages[step - 1], "lr": lr, "distill_layers": 1.0 if teacher is not None else 0.0}
            settings = Training.model_validate({**FIRST.model_dump(), **changes})
            context = self.context(step, stage)
            fitted = fit(candidate, settings, context, teacher=teacher, key=stage, on_epoch=say(stage))
            nxp.save(fitted.candidate, path)
        return nxp.load(path)

    def fired(self, candidate: Candidate, objective: str) -> Candidate:
        """Fire modules in the place of the 3 x 3 convolutions but the first."""
        first = next(path for path, m in candidate.net.named_modules() if isinstance(m, nn.Conv2d))
        images = 0 if objective == "weights" else 2048
        method = Substitute(**FIRE, objective=objective, frozen=(first,), recalibrate=images)
        return method.apply(candidate, self.context(2, "fire"))

    def plain(self) -> tuple[Candidate, Candidate]:
        """At the start of the second stage, and at its end."""
        half = self.train(self.fresh(), "plain-first", step=1)
        return half, self.train(half, "plain", step=2)

    def condensed(self) -> tuple[Candidate, Candidate]:
        """Fresh weights in the condensed structure."""
        made = self.fired(self.fresh(), "weights")
        with torch.random.fork_rng():
            torch.manual_seed(draw(self.seed, 0))
            for module in made.net.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        half = self.train(made, "condensed-first", step=1)
        return half, self.train(half, "condensed", step=2)

    def substituted(self) -> tuple[Candidate, Candidate]:
        """Fitted to the plain network of the first stage."""
        made = self.fired(self.train(self.fresh(), "plain-first", step=1), "asymmetric")
        return made, self.train(made, "substituted", step=2)

    def distilled(self) -> tuple[Candidate, Candidate]:
        """The same, taught by it layer by layer."""
        plain = self.train(self.fresh(), "plain-first", step=1)
        made = self.fired(plain, "asymmetric")
        return made, self.train(made, "distilled", step=2, teacher=plain.net)


def say(stage: str) -> Callable[[dict[str, float]], None]:
    """Print a line per epoch."""
    return lambda row: print(f"{stage}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)


def row(bench: Bench, arm: str) -> dict[str, Any]:
    """One arm, measured at the start and at the end of its second stage."""
    start = time.process_time()
    half, end = getattr(bench, arm)()
    top1 = [evaluate(c.net, bench.data.test, c.inputs).top1 for c in (half, end)]
    found = cost(end.net, bench.data.shape)
    return {
        "network": bench.name,
        "arm": arm,
        "seed": bench.seed,
        "epochs": list(bench.stages),
        "params": found.params,
        "macs": found.macs,
        "top1": top1,
        "cpu_minutes": (time.process_time() - start) / 60,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def line(found: dict[str, Any], plain: dict[str, Any]) -> str:
    """One arm as a row of the table."""
    epochs = " + ".join(map(str, found["epochs"]))
    if found is plain:
        counts, gain = f"{found['params']:,} | {found['macs']:,}", ""
    else:
        counts = " | ".join(f"{found[k]:,} ({plain[k] / found[k]:.1f}x fewer)" for k in ("params", "macs"))
        gain = f" ({100 * (found['top1'][1] - plain['top1'][1]):+.2f})"
    return (
        f"| {found['network']} | {found['arm']}, seed {found['seed']} | {epochs} | {counts} "
        f"| {100 * found['top1'][0]:.2f} | {100 * found['top1'][1]:.2f}{gain} |"
    )


def show(rows: list[dict[str, Any]], *, check: bool) -> int:
    """The table; what has no row was not run."""
    print("Condensed\n\n| network | arm | epochs | parameters | MACs | top-1 at half-time, % | top-1, % (to plain) |")
    print("|---" * 7 + "|")
    for name in NETWORKS:
        mine = [r for r in rows if r["network"] == name]
        plain = next((r for r in mine if r["arm"] == "plain"), None)
        for arm in ARMS:
            found = [r for r in mine if r["arm"] == arm]
            for r in found if plain is not None else ():
                print(line(r, plain))
            if not found:
                print(f"| {name} | {arm} | not run | | | | |")
    return common.finish({"benchmark": "condensed", "rows": len(rows)}, [], check=check)


def main() -> int:
    """Run what is missing, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/condensed"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.print:
        data = nxp.data.open("cifar10", args.data_root)
        for name in args.networks:
            bench = Bench(name, data, args.work, args.seed)
            for arm in args.arms:
                if not any(
                    (r["network"], r["arm"], r["seed"]) == (name, arm, args.seed) for r in common.read_rows(ROWS)
                ):
                    found = row(bench, arm)
                    common.add_row(ROWS, found)
    return show(common.read_rows(ROWS), check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
