"""How fast the training engine is: images per second against the loop that people write, all sides in turns.

    python benchmarks/train_speed.py --data-root DATA --check | tee docs/results/train-speed.txt

"plain" is the loop of the PyTorch tutorials: `DataLoader(shuffle=True)` over PIL images, torchvision's RandomCrop,
RandomHorizontalFlip, ToTensor and Normalize for each image, the optimizer as its constructor makes it, `loss.item()`
and the right answers counted in every step; with no worker and with two (kept between epochs), of which the better is
compared. "netpress" is `netpress.train.fit`. Same network and first weights, batch, precision, optimizer and
augmentation; each side computes with one thread, workers come on top. A turn is one pass over the same training
images; a first turn of all sides is left out. The last table: epochs of 45,000 images per hour of two networks in the
form that learns groups, both in `fit`. Wall time; ratios are of turns next to each other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import netpress as nxp
from netpress import zoo
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.data.types import Split
from netpress.processor import processor
from netpress.train import Training, fit

SGD = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-4}
PRECISIONS = ("32-true", "bf16-mixed")
WORKERS = (0, 2)


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained, on how many images per turn, and how many times faster than the plain loop it must be."""

    name: str
    data: str
    images: int
    train: dict[str, Any]
    limit: float


CASES = (
    Case("lenet5", "mnist", 12_800, {"shift": 2}, 2.0),
    Case("cifar-resnet20", "cifar10", 2_560, {"shift": 4, "flip": True, **SGD}, 1.3),
)
NETWORKS = {
    "CondenseNet-86": ("condensenet-86", {"form": "training"}),
    'CondenseNeXt "D"': ("condensenext", {"variant": "D", "form": "training"}),
}
DENSE = {"shift": 4, "flip": True, "batch": 64, **SGD}
DENSE_IMAGES, DENSE_LIMIT, EPOCH = 640, 1.5, 45_000


class Pictures(Dataset):  # type: ignore[type-arg]
    """Images as torchvision's data sets give them: one PIL picture at a time, changed by a transform."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        pixels = split.images.permute(0, 2, 3, 1).numpy()
        self.pixels = pixels[..., 0] if pixels.shape[3] == 1 else pixels
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def pictures(split: Split, data: Data, train: Training) -> Pictures:
    """With the transforms that the tutorials name."""
    common.declare_operators()
    from torchvision import transforms

    steps: list[Any] = [transforms.RandomCrop(data.shape[1], padding=train.shift)]
    steps += [transforms.RandomHorizontalFlip()] if train.flip else []
    steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    return Pictures(split, transforms.Compose(steps))


class Plain:
    """The loop that people write."""

    def __init__(self, net: nn.Module, train: Training, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.net, self.loader = deepcopy(net).train(), loader
        self.low = train.precision == "bf16-mixed"
        parameters, decay = self.net.parameters(), train.weight_decay
        self.optimizer: torch.optim.Optimizer
        if train.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, train.lr, train.momentum, weight_decay=decay, nesterov=True)
        else:
            self.optimizer = torch.optim.AdamW(parameters, train.lr, weight_decay=decay)

    def epoch(self) -> float:
        """One pass over the images; wall seconds."""
        start, running, correct = time.perf_counter(), 0.0, 0
        for x, y in self.loader:
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
                outputs = self.net(x)
                loss = F.cross_entropy(outputs, y)
            loss.backward()
            self.optimizer.step()
            running += loss.item()
            correct += int((outputs.argmax(1) == y).sum().item())
        return time.perf_counter() - start


def opened(name: str, data: Data, settings: dict[str, Any] | None = None) -> Candidate:
    """A zoo network with fresh weights, as a candidate."""
    torch.manual_seed(0)
    inputs = Inputs(data.shape, data.mean, data.std)
    return Candidate(zoo.create(name, **settings or {}), arch=Arch("zoo", name, settings or {}), inputs=inputs)


def context(split: Split, data: Data) -> Context:
    """Training images and nothing else: nothing is evaluated, nothing is written."""
    return Context(example=normalise(split.images[:1], data.mean, data.std), train=split)


def beside(case: Case, data: Data, precision: str, rounds: int) -> dict[str, list[float]]:
    """Images per second of every turn, by side: the plain loops take their turns between the epochs of `fit`."""
    split = Split(data.train.images[: case.images], data.train.labels[: case.images])
    train = Training(epochs=rounds + 1, precision=precision, **case.train)
    candidate, seen = opened(case.name, data), pictures(split, data, train)
    loops = {}
    for workers in WORKERS:
        loader = DataLoader(seen, train.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        loops[f"plain, {workers} workers"] = Plain(candidate.net, train, loader)
    rates: dict[str, list[float]] = {"netpress": [], **{name: [] for name in loops}}

    def turn(row: dict[str, float]) -> None:
        rates["netpress"].append(len(split) / row["seconds"])
        for name, loop in loops.items():
            rates[name].append(len(split) / loop.epoch())

    fit(candidate, train, context(split, data), on_epoch=turn)
    return {name: found[1:] for name, found in rates.items()}


def dense(data: Data, precision: str, rounds: int) -> dict[str, list[float]]:
    """Images per second of every turn, by network: one epoch of `fit` each."""
    split = Split(data.train.images[:DENSE_IMAGES], data.train.labels[:DENSE_IMAGES])
    train = Training(epochs=1, precision=precision, **DENSE)
    candidates = {shown: opened(name, data, settings) for shown, (name, settings) in NETWORKS.items()}
    rates: dict[str, list[float]] = {shown: [] for shown in candidates}
    for _ in range(rounds + 1):
        for shown, candidate in candidates.items():
            rates[shown].append(len(split) / fit(candidate, train, context(split, data)).history[0]["seconds"])
    return {shown: found[1:] for shown, found in rates.items()}


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, str]:
    """Median of the ratios of turns next to each other, and it with the quartiles."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, f"{middle:.2f} ({low:.2f}..{high:.2f})"


def compare(root: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Rows of the first table, printed as they are measured."""
    rows = []
    print("Loops\n\n| network | data | batch | precision | netpress, images/s | plain, 0 workers | 2 workers | times |")
    print("|---" * 8 + "|")
    for case in CASES:
        data = nxp.data.open(case.data, root)
        for precision in PRECISIONS:
            rates = beside(case, data, precision, rounds)
            medians = {name: statistics.median(found) for name, found in rates.items()}
            ours, *plain = medians
            best = max(plain, key=lambda name: medians[name])
            times, text = ratio(rates[ours], rates[best])
            shown = " | ".join(f"{value:,.0f}" for value in medians.values())
            print(f"| {case.name} | {case.data} | 128 | {precision} | {shown} | {text} |", flush=True)
            rows.append({"network": case.name, "precision": precision, "times": times, "best": best, "rates": rates})
    return rows


def compare_dense(root: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Rows of the second table, printed as they are measured."""
    rows = []
    print("\nDense\n\n| network | precision | images/s | epochs per hour | times |\n" + "|---" * 5 + "|")
    data = nxp.data.open("cifar10", root)
    for precision in PRECISIONS:
        rates = dense(data, precision, rounds)
        first, second = rates.values()
        for name, found in rates.items():
            middle = statistics.median(found)
            times, text = ratio(found, first) if found is second else (1.0, "1")
            hourly = 3600 * middle / EPOCH
            print(f"| {name} | {precision} | {middle:,.0f} | {hourly:.1f} | {text} |", flush=True)
            rows.append({"network": name, "precision": precision, "times": times, "epochs_per_hour": hourly})
    return rows


def claims(loops: list[dict[str, Any]], denses: list[dict[str, Any]]) -> list[common.Claim]:
    """The limits; a lower precision must gain."""
    found = []
    times = {(row["network"], row["precision"]): row["times"] for row in loops}
    for case in CASES:
        full, low = (times[case.name, precision] for precision in PRECISIONS)
        found.append(common.at_least(f"{case.name}, float32: times faster than the plain loop", full, case.limit))
        found.append(common.at_least(f"{case.name}, bf16: times faster than the plain loop", low, full))
    for row in denses[1::2]:
        name = f"{row['network']} over CondenseNet-86, {row['precision']}: epochs per hour"
        found.append(common.at_least(name, row["times"], DENSE_LIMIT))
    return found


def main() -> int:
    """Train in turns, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dense-rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, {torch.get_num_threads()} thread per process, torch {torch.__version__}\n")
    loops = compare(options.data_root, options.rounds)
    denses = compare_dense(options.data_root, options.dense_rounds)
    facts = {"benchmark": "train-speed", "processor_name": processor(), "loops": loops, "dense": denses}
    return common.finish(facts, claims(loops, denses), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
