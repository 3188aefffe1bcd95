"""The CondenseNeXt paper's steps one by one: depthwise instead of grouped, kernels pruned, ReLU6, its loss, p and C.

    Q='--data-root DATA --precision bf16-mixed'; R=runs/ladder
    netpress run condensenet-cifar10-quick $Q --out $R/condensenet
    netpress run condensenext-cifar10-quick $Q --out $R/condensenext
    netpress run condensenext-cifar10-quick $Q --out $R/condensenext-relu --set 'network.settings.activation="relu"'
    netpress run condensenext-cifar10-quick $Q --out $R/condensenext-focal --set step.0.train.loss=class_balanced_focal
    netpress run benchmarks/condensenext_paper.toml $Q --out $R/paper
    netpress run benchmarks/condensenext_paper.toml $Q --out $R/paper-relu --set 'network.settings.activation="relu"'
    netpress run benchmarks/condensenext_paper.toml $Q --out $R/paper-p1 --set step.0.p=1    # and paper-p2
    netpress run benchmarks/condensenext_paper.toml $Q --out $R/paper-c8 --set step.0.cardinality=8
    python benchmarks/condense_ladder.py runs/ladder/* --check | tee docs/results/condense-ladder.txt

Writes docs/results/condense-ladder.json and .svg, where rows of other runs stay; without run folders it prints and
checks what that file holds. Stages
4-4-4 and growth 8-8-8 for the paper's 14-14-14 and 8-16-32, five epochs for 200: its accuracies are not within reach.
One seed, five epochs: differences under about a point mean nothing. A checkpoint is what stopping a training keeps, as
the paper's 16.7 and 2.9 MB are: 4 x (2 x parameters + masks) bytes for parameters, their momentum and a number for each
weight that may be dropped, and the norms' statistics.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

import common

import netpress as nxp

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "condense-ladder.json"
FIGURE = RESULTS.with_suffix(".svg")
RUNS = {  # name of the folder: (what it is, what it is compared with, the paper's difference in points)
    "condensenet": ("CondenseNet: learned groups 1 x 1, 3 x 3 in 4 groups", None, None),
    "condensenext-relu": ('"D": 3 x 3 depthwise, learned groups', "condensenet", -1.17),
    "condensenext": ('"D" with ReLU6', "condensenext-relu", None),
    "condensenext-focal": ('"D" with ReLU6 and its loss', "condensenext", None),
    "paper-relu": ("its equations: kernels pruned", "condensenext-relu", -0.88),
    "paper": ("its equations, ReLU6", "paper-relu", 0.577),
    "paper-p2": ("its equations, half the kernels", "paper", None),
    "paper-p1": ("its equations, a quarter", "paper", None),
    "paper-c8": ("its equations, groups of outputs pruned apart", "paper", None),
}
LOSSES = {"cross_entropy": "cross-entropy", "class_balanced_focal": "class-balanced focal"}
SMALL: dict[str, Any] = {"stages": (4, 4, 4), "growth": (8, 8, 8)}
CHECKPOINTS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("CondenseNet-86, 14-14-14", "condensenet-86", {}, "16.7 MB"),
    ('CondenseNeXt "D", 14-14-14', "condensenext", {}, "–"),
    ("CondenseNeXt by its equations, 14-14-14", "condensenext", {"variant": "paper"}, "2.9 MB"),
    ("CondenseNet, 4-4-4", "condensenet-86", SMALL, "–"),
    ('CondenseNeXt "D", 4-4-4', "condensenext", SMALL, "–"),
    ("CondenseNeXt by its equations, 4-4-4", "condensenext", {"variant": "paper", **SMALL}, "2.9 MB"),
)
LEARNED = re.compile(r"block\d+\.layer\d+\.conv1\.weight")
CHANCE = 10.0
"""Per cent of the test images that a network of no knowledge gets right."""


def checkpoint(name: str, settings: dict[str, Any]) -> tuple[int, int]:
    """Parameters of a network in training, and bytes of a checkpoint."""
    net = nxp.zoo.create(name, **{**settings, "form": "training"})
    params = sum(p.numel() for p in net.parameters())
    masks = sum(p.numel() for path, p in net.named_parameters() if LEARNED.fullmatch(path))
    return params, 4 * (2 * params + masks) + sum(b.numel() * b.element_size() for b in net.buffers())


def collect(folder: Path) -> dict[str, Any]:
    """What the table needs of one run; nothing of a folder that is no finished run of this ladder."""
    if folder.name not in RUNS or not (folder / "metrics.json").is_file():
        return {}
    facts = json.loads((folder / "metrics.json").read_text())
    network = tomllib.loads((folder / "recipe.toml").read_text())["network"]
    (step,), final = facts["steps"], facts["final"]
    record, settings = step["records"][-1], network["settings"]
    kernels = record["method"] == "condense_kernels"
    return {
        "run": folder.name,
        "seed": facts["seed"],
        "date": facts["date"],
        "machine": facts["machine"],
        "activation": settings.get("activation", "relu" if network["name"].startswith("condensenet") else "relu6"),
        "loss": step["train"]["loss"],
        "epochs": step["train"]["epochs"],
        "precision": step["train"]["precision"],
        "p": record["settings"]["p"] if kernels else None,
        "cardinality": (record["settings"]["cardinality"] or "outputs") if kernels else None,
        "params": final["params"],
        "macs": final["macs"],
        "checkpoint_bytes": checkpoint(network["name"], settings)[1],
        "file_bytes": final["file_bytes"],
        "top1": 100 * final["top1"],
        "validation": 100 * final["validation"]["top1"],
        "history": step["history"],
        "sha256": final["sha256"],
    }


def difference(by: dict[str, dict[str, Any]], name: str, split: str = "top1") -> float | None:
    """Points against the run that one is compared with; None where either was not run."""
    other = RUNS[name][1]
    return by[name][split] - by[other][split] if other in by and name in by else None


def ladder(by: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each run; those that are missing say so."""
    rows = []
    for name, (what, other, theirs) in RUNS.items():
        row = by.get(name)
        printed = "–" if theirs is None else f"{theirs:+g}"
        if row is None:
            rows.append(f"| {name} | {what} | not run {'| ' * 9}| {other or '–'} | | {printed} |")
            continue
        points = difference(by, name)
        rows.append(
            f"| {name} | {what} | {row['activation']} | {LOSSES[row['loss']]} | {row['p'] or '–'} "
            f"| {row['cardinality'] or '–'} | {row['params']:,} | {row['macs']:,} | {row['checkpoint_bytes']:,} "
            f"| {row['file_bytes']:,} | {row['validation']:.2f} | {row['top1']:.2f} | {other or '–'} "
            f"| {'–' if points is None else f'{points:+.2f}'} | {printed} |"
        )
    return rows


def times(by: dict[str, dict[str, Any]]) -> list[str]:
    """How long an epoch took, and how far the input was from being the limit."""
    rows = []
    for name in RUNS:
        if name in by:
            told = by[name]["history"]
            seconds, rate, ready = (
                median(row[key] for row in told) for key in ("seconds", "images_per_second", "input_per_second")
            )
            rows.append(f"| {name} | {len(told)} | {seconds:.0f} | {rate:.0f} | {ready:,.0f} | {by[name]['date']} |")
    return rows


def draw(by: dict[str, dict[str, Any]]) -> None:
    """Training loss and validation top-1 against epochs; a ring marks an epoch within which connections went."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "netpress"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for number, name in enumerate(RUNS):  # a run keeps its colour whichever others there are
        told = by[name]["history"] if name in by else []
        if not told:
            continue
        epochs, stages = [row["epoch"] for row in told], [0, *(row["stage"] for row in told)]
        rings = [i for i in range(len(told)) if stages[i + 1] > stages[i]]
        for axis, key, scale in zip(axes, ("train_loss", "validation_top1"), (1, 100), strict=True):
            values = [scale * row[key] for row in told]
            look: dict[str, Any] = {"color": f"C{number}", "ls": "--" if RUNS[name][1] == "paper" else "-"}
            axis.plot(epochs, values, marker=".", lw=1.2, label=name, **look)
            axis.plot(
                [epochs[i] for i in rings], [values[i] for i in rings], "o", mfc="none", ms=8, color=look["color"]
            )
    axes[0].set(xlabel="epoch", ylabel="training loss, each run's own")
    axes[1].set(xlabel="epoch", ylabel="validation top-1, %")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


def claims(by: dict[str, dict[str, Any]]) -> list[common.Claim]:
    """CondenseNet-86's checkpoint is the printed one; what is deployed is smaller; every network has learned."""
    off = abs(checkpoint("condensenet-86", {})[1] / 1e6 - 16.7)
    found = [common.at_most("CondenseNet-86's checkpoint: MB off the printed 16.7", off, 0.2)]
    if by:
        share = max(row["file_bytes"] / row["checkpoint_bytes"] for row in by.values())
        found.append(common.at_most("largest deployed file over its training's checkpoint", share, 0.5))
        least = min(row["top1"] for row in by.values())
        found.append(common.at_least("least test top-1 of all runs, %", least, 4 * CHANCE))
    if {"condensenet", "condensenext"} <= by.keys():
        for what in ("params", "macs"):
            ratio = by["condensenext"][what] / by["condensenet"][what]
            found.append(common.at_most(f'"D" over CondenseNet, deployed: {what}', ratio, 1.0))
    return found


def main() -> int:
    """Collect or read, print, draw, check."""
    rows, check = common.collected(__doc__, RESULTS, collect, key="run")
    by = {row["run"]: row for row in rows if row}
    RESULTS.write_text(json.dumps(list(by.values()), indent=1) + "\n")
    print("Ladder\n")
    print(
        "| run | what it is | activation | loss | p | C | parameters | MACs | checkpoint, bytes | .press, bytes "
        "| validation, % | test, % | against | points | paper's |"
    )
    print("|---" * 15 + "|")
    print("\n".join(ladder(by)))
    print("\nCheckpoints\n\n| network in training | parameters | checkpoint, bytes | printed |\n|---|---|---|---|")
    for what, name, settings, printed in CHECKPOINTS:
        params, size = checkpoint(name, settings)
        print(f"| {what} | {params:,} | {size:,} | {printed} |")
    print(
        "\nTime\n\n| run | epochs | s per epoch, median | images/s | input alone, images/s | date |\n"
        + "|---" * 6
        + "|"
    )
    print("\n".join(times(by)))
    if by:
        draw(by)
    return common.finish({"benchmark": "condense-ladder", "runs": len(by)}, claims(by), check=check)


if __name__ == "__main__":
    raise SystemExit(main())
