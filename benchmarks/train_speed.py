"""How fast the training engine is: images per second against the loop that people write, all sides in turns.

    python benchmarks/train_speed.py --data-root DATA --check | tee docs/results/train-speed.txt

"plain" is the loop of the PyTorch tutorials: `DataLoader(shuffle=True)` over PIL images, torchvision's RandomCrop,
RandomHorizontalFlip, ToTensor and Normalize for each image, the optimizer as its constructor makes it, `loss.item()`
and the right answers counted in every step; with no worker and with two (kept between epochs), of which the better is
compared. "netpress" is `netpress.train.fit`. Same network and first weights, batch, precision, optimizer and
augmentation; each side computes with as many threads (`--threads`, all cores), workers come on top. A turn is one pass
over the same training images; a first turn of all sides is left out. The last table: epochs of 45,000 images per hour
of two networks in the form that learns groups, both in `fit`.

The first table has wall time, against the better of the plain loops, and beside it the ratio by CPU seconds against
the one without workers: two workers may use cores that are idle otherwise, and other jobs on the machine change CPU
seconds less. The last table has CPU seconds. Ratios are of turns next to each other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
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
from netpress.processor import processor, usable_cores
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
    Case("lenet5", "mnist", 6_400, {"shift": 2}, 2.0),
    Case("cifar-resnet20", "cifar10", 1_280, {"shift": 4, "flip": True, **SGD}, 1.3),
)
NETWORKS = {
    "CondenseNet-86": ("condensenet-86", {"form": "training"}),
    'CondenseNeXt "D"': ("condensenext", {"variant": "D", "form": "training"}),
}
DENSE = {"shift": 4, "flip": True, "batch": 64, **SGD}
DENSE_IMAGES, DENSE_LIMIT, EPOCH = 256, 1.5, 45_000


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

    def epoch(self) -> None:
        """One pass over the images."""
        running, correct = 0.0, 0
        for x, y in self.loader:
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
                outputs = self.net(x)
                loss = F.cross_entropy(outputs, y)
            loss.backward()
            self.optimizer.step()
            running += loss.item()
            correct += int((outputs.argmax(1) == y).sum().item())


def opened(name: str, data: Data, settings: dict[str, Any] | None = None) -> Candidate:
    """A zoo network with fresh weights, as a candidate."""
    torch.manual_seed(0)
    inputs = Inputs(data.shape, data.mean, data.std)
    return Candidate(zoo.create(name, **settings or {}), arch=Arch("zoo", name, settings or {}), inputs=inputs)


def context(split: Split, data: Data) -> Context:
    """Training images and nothing else: nothing is evaluated, nothing is written."""
    return Context(example=normalise(split.images[:1], data.mean, data.std), train=split)


class Clock:
    """Images per second of CPU and of wall time, by side: a lap is what ran since the last one."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.cpu: dict[str, list[float]] = {}
        self.wall: dict[str, list[float]] = {}
        self.last = (time.process_time(), time.perf_counter())

    def lap(self, name: str | None = None) -> None:
        """End a lap of a side; without a name it counts for none."""
        now = (time.process_time(), time.perf_counter())
        if name is not None:
            self.cpu.setdefault(name, []).append(self.images / (now[0] - self.last[0]))
            self.wall.setdefault(name, []).append(self.images / (now[1] - self.last[1]))
        self.last = (time.process_time(), time.perf_counter())

    def rates(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """CPU and wall rates, without the first turn."""
        return {k: v[1:] for k, v in self.cpu.items()}, {k: v[1:] for k, v in self.wall.items()}


def beside(case: Case, data: Data, precision: str, rounds: int) -> Clock:
    """Train on all sides: the plain loops take their turns between the epochs of `fit`."""
    split = Split(data.train.images[: case.images], data.train.labels[: case.images])
    train = Training(epochs=rounds + 1, precision=precision, **case.train)
    candidate, seen = opened(case.name, data), pictures(split, data, train)
    loops = {}
    for workers in WORKERS:
        loader = DataLoader(seen, train.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        loops[f"plain, {workers} workers"] = Plain(candidate.net, train, loader)
    clock = Clock(len(split))

    def turn(_: dict[str, float]) -> None:
        clock.lap("netpress")
        for name, loop in loops.items():
            loop.epoch()
            clock.lap(name)

    fit(candidate, train, context(split, data), on_epoch=turn)
    return clock


def _lap(clock: Clock, laps: Iterator[str | None], _: dict[str, float]) -> None:
    clock.lap(next(laps))


def dense(data: Data, precision: str, rounds: int) -> Clock:
    """Train the dense networks in turns: a warm epoch of `fit` each, behind one that counts for none."""
    split = Split(data.train.images[:DENSE_IMAGES], data.train.labels[:DENSE_IMAGES])
    train = Training(epochs=2, precision=precision, **DENSE)
    clock = Clock(len(split))
    for _ in range(rounds + 1):
        for shown, (name, settings) in NETWORKS.items():
            turn = partial(_lap, clock, iter((None, shown)))
            fit(opened(name, data, settings), train, context(split, data), on_epoch=turn)
    return clock


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, str]:
    """Median of the ratios of turns next to each other, and it with the quartiles."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, f"{middle:.2f} ({low:.2f}..{high:.2f})"


def compare(root: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Rows of the first table, printed as they are measured."""
    rows = []
    print(
        "Loops, images per second\n\n"
        "| network | data | batch | precision | netpress | plain, 0 workers | 2 workers | times | by CPU time |"
    )
    print("|---" * 9 + "|")
    for case in CASES:
        data = nxp.data.open(case.data, root)
        for precision in PRECISIONS:
            cpu, wall = beside(case, data, precision, rounds).rates()
            medians = {name: statistics.median(found) for name, found in wall.items()}
            ours, *plain = medians
            best = max(plain, key=lambda name: medians[name])
            times, text = ratio(wall[ours], wall[best])
            _, alone = ratio(cpu[ours], cpu[plain[0]])
            shown = " | ".join(f"{value:,.0f}" for value in medians.values())
            print(f"| {case.name} | {case.data} | 128 | {precision} | {shown} | {text} | {alone} |", flush=True)
            row = {"network": case.name, "precision": precision, "times": times, "best": best}
            rows.append({**row, "wall": wall, "cpu": cpu})
    return rows


def compare_dense(root: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Rows of the second table, printed as they are measured."""
    rows = []
    print("\nDense\n\n| network | precision | images/CPU s | epochs per CPU hour | times |\n" + "|---" * 5 + "|")
    data = nxp.data.open("cifar10", root)
    for precision in PRECISIONS:
        cpu, wall = dense(data, precision, rounds).rates()
        first, second = cpu.values()
        for name, found in cpu.items():
            middle = statistics.median(found)
            times, text = ratio(found, first) if found is second else (1.0, "1")
            hourly = 3600 * middle / EPOCH
            print(f"| {name} | {precision} | {middle:,.0f} | {hourly:.1f} | {text} |", flush=True)
            row = {"network": name, "precision": precision, "times": times, "epochs_per_hour": hourly}
            rows.append({**row, "wall": wall[name], "cpu": found})
    return rows


def claims(loops: list[dict[str, Any]], denses: list[dict[str, Any]]) -> list[common.Claim]:
    """The limits in both precisions against a loop of the same, and that bf16 gains more over the float32 loop."""
    found = []
    rows = {(row["network"], row["precision"]): row for row in loops}
    for case in CASES:
        full, low = (rows[case.name, precision] for precision in PRECISIONS)
        for row, words in ((full, "float32"), (low, "bf16")):
            found.append(
                common.at_least(f"{case.name}, {words}: times the plain loop in {words}", row["times"], case.limit)
            )
        more = statistics.median(low["wall"]["netpress"]) / statistics.median(full["wall"][full["best"]])
        found.append(common.at_least(f"{case.name}: bf16 over the plain loop in float32", more, full["times"]))
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
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of each side (all cores)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    loops = compare(options.data_root, options.rounds)
    denses = compare_dense(options.data_root, options.dense_rounds)
    facts = {"benchmark": "train-speed", "training_threads": options.threads, "processor_name": processor()}
    facts |= {"loops": loops, "dense": denses}
    return common.finish(facts, claims(loops, denses), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
