"""What condensing buys in time and bytes: training form and converted form on ONNX Runtime, one thread, all in turns.

    python benchmarks/condense_speed.py --check --data-root DATA [--press MODEL] | tee docs/results/condense-speed.txt

Batch 1. Per network, on the way to the device: the training form (dense 1 x 1 convolutions); condensed to 4 groups that
read a quarter of the inputs each; batch norms merged to scale and shift in half precision; integers. Weights are fresh,
their statistics and the integers' ranges from calibration images (CIFAR-10; noise at 224 x 224): neither time nor bytes
depend much on them. With `--press` CondenseNet-86 is a trained one, condensed already, and its accuracy is measured
too, in the runtime, on the first test images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import nn

from netpress import data, export, measure, methods, store
from netpress.arch import build
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.data.types import Split
from netpress.processor import integer_instructions, processor
from netpress.runtime import Session
from netpress.train.channels import recalibrate

NETWORKS: dict[str, tuple[Arch, dict[str, Any]]] = {
    "condensenet-86": (Arch("zoo", "condensenet-86", {"form": "training"}), {"linear_keep": 0.5}),
    "condensenext": (Arch("zoo", "condensenext", {"form": "training"}), {}),
    "densenet121": (Arch("torchvision", "densenet121"), {}),
}
"""By name: the training form, and settings of `condense` besides groups and factor."""
SIDE, IMAGES = 224, 2000
FLOAT_BYTES, INT8_BYTES = 2.2e6, 0.75e6


class Sides:
    """One network in its forms.

    Args:
        name: of `NETWORKS`.
        split: calibration images.
        inputs: their shape and normalisation.
        press: a condensed, trained network, or None.
    """

    def __init__(self, name: str, split: Split, inputs: Inputs, press: Path | None) -> None:
        arch, settings = NETWORKS[name]
        torch.manual_seed(0)
        net: nn.Module = build(arch).eval()
        recalibrate(net, split, inputs, samples=min(len(split), 256))
        context = Context(example=torch.zeros(1, *inputs.shape), train=split)
        start = Candidate(net, arch=arch, inputs=inputs)
        condense = methods.Condense(groups=4, factor=4, **settings)
        small = store.load(press) if press else condense.apply(start, context)
        half = methods.FoldBatchNorm(rest="half").apply(small, context)
        self.forms = {"training form": start, "condensed": small, "norms in half": half}
        if not arch.name.startswith("densenet"):
            whole = methods.Quantize(samples=min(len(split), 512)).apply(half, context)
            self.forms["int8"] = whole


def accuracy(path: Path, split: Split, images: int) -> float:
    """Top-1 of a file in the runtime, on the first images."""
    session, right = Session(path, threads=1), 0
    for at in range(0, images, 100):
        x, y = split.images[at : at + 100].numpy(), split.labels[at : at + 100].numpy()
        right += int((session.run(x).argmax(1) == y).sum())
    return right / images


def rows_of(name: str, sides: Sides, folder: Path, options: argparse.Namespace, test: Split | None) -> list[Any]:
    """Rows of one network: milliseconds, ratio to the training form, bytes, accuracy."""
    files = {}
    for what, candidate in sides.forms.items():
        press = folder / f"{name}-{what.replace(' ', '-')}.press"
        saved = store.save(candidate, press)
        files[what] = press.with_suffix(".onnx")
        export.export_onnx(press, files[what])
        if saved.note:
            raise SystemExit(f"{name}, {what}: {saved.note}")
    shape = sides.forms["condensed"].inputs.shape
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    timed = measure.latency(files, x, threads=1, rounds=options.rounds)
    rows = []
    for what, path in files.items():
        t, press = timed[what], path.with_suffix(".press")
        ratio = measure.speedup(timed["training form"], t) if what != "training form" else None
        macs = measure.cost(sides.forms[what].net, shape).macs
        spread = f"{t.median_ms:.3g} ({t.q1_ms:.3g}..{t.q3_ms:.3g})"
        faster = f"{ratio.median:.2f} ({ratio.q1:.2f}..{ratio.q3:.2f})" if ratio else "1"
        size = press.stat().st_size
        top1 = accuracy(press, test, IMAGES) if test is not None and what != "training form" else None
        seen = "not measured" if top1 is None else f"{top1:.2%}"
        print(f"| {name}, {what} | {macs:,} | {spread} | {faster} | {size:,} | {seen} |", flush=True)
        row = {"network": name, "what": what, "macs": macs, "ms": t.median_ms, "press_bytes": size, "top1": top1}
        rows.append({**row, "times": ratio.median if ratio else 1.0})
    return rows


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """What must hold."""
    found = []
    for row in rows:
        if row["what"] in ("condensed", "norms in half"):
            found.append(common.at_least(f"{row['network']}, {row['what']}: times faster", row["times"], 1.0))
        if row["network"] == "condensenet-86" and row["what"] in ("norms in half", "int8"):
            most = INT8_BYTES if row["what"] == "int8" else FLOAT_BYTES
            found.append(common.at_most(f"condensenet-86, {row['what']}: bytes", row["press_bytes"], most))
    return found


def noise(side: int) -> Split:
    """A few images of noise."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8, generator=rng)
    return Split(images, torch.zeros(8, dtype=torch.int64))


def main() -> int:
    """Make, time in turns, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--data-root", type=Path, help="where CIFAR-10 lies")
    parser.add_argument("--press", type=Path, help="a condensed, trained CondenseNet-86")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    common.declare_operators()
    cifar = data.open("cifar10", options.data_root)
    have = ", ".join(integer_instructions()) or "no VNNI, no dot product"
    weights = "trained" if options.press else "fresh"
    print(f"{processor()}: {have}; CondenseNet-86 with {weights} weights\n")
    columns = ("network", "multiply-adds", "ms, median (quartiles)", "times faster (quartiles)", ".press")
    print(f"Forms\n\n| {' | '.join((*columns, f'top-1 of {IMAGES:,}'))} |\n" + "|---" * 6 + "|")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            small = NETWORKS[name][0].source == "zoo"
            press = options.press if name == "condensenet-86" else None
            inputs = (
                Inputs(cifar.shape, cifar.mean, cifar.std)
                if small
                else Inputs((3, SIDE, SIDE), (0.5,) * 3, (0.25,) * 3)
            )
            sides = Sides(name, cifar.train if small else noise(SIDE), inputs, press)
            rows += rows_of(name, sides, Path(folder), options, cifar.test if press else None)
    facts = {"benchmark": "condense-speed", "weights": weights, "rounds": options.rounds, "rows": rows}
    return common.finish(facts, claims(rows), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
