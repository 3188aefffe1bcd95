"""The smallest files: trained for rate, coded with context, channels sorted; beside the sizes that were published.

    for s in 0 1 2; do
        netpress run smallest-lenet-5 --data-root DATA --seed $s --out runs/smallest/lenet5-$s
        netpress run smallest-lenet-300-100 --data-root DATA --seed $s --out runs/smallest/lenet300-$s
    done
    netpress run smallest-resnet20 --data-root DATA --out runs/smallest/resnet20-0
    netpress run smallest-lenet-5 --data-root DATA --set step.0.lam=0.15 --out runs/smallest/lenet5-lam15-0
    python benchmarks/smallest.py runs/smallest/*/ --check | tee docs/results/smallest.txt

Writes docs/results/smallest.json and .svg; without run folders it prints and checks what that file holds. Errors are
top-1 on the test images after the last epoch (ResNet-20: on the half that decides nothing, its weights were trained on
all training images). A ratio is 4 bytes x parameters of the network as it was / bytes of the whole file on the disk.
Seeds: the median must meet a limit, the worst of small sets may lie 0.1 points above it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import median
from typing import Any

import common

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "smallest.json"
FIGURE = RESULTS.with_suffix(".svg")
NAMES = {"lenet5": "LeNet-5", "lenet-300-100": "LeNet-300-100", "cifar-resnet20": "ResNet-20"}
PUBLISHED: dict[str, tuple[tuple[str, float, float | None], ...]] = {  # who, ratio, error in %, None: not with it
    "lenet5": (
        ("Han et al. 2016, Deep Compression", 39.0, 0.74),
        ("published", 124.8, None),
        ("published", 138.0, None),
        ("published best", 555.0, 0.69),
        ("published best", 606.0, 0.9),
    ),
    "lenet-300-100": (
        ("Han et al. 2016, Deep Compression", 40.0, 1.58),
        ("published", 55.0, None),
        ("published", 64.0, 1.94),
        ("published best", 124.0, 1.9),
    ),
    "cifar-resnet20": (),
}
LIMITS = {  # network, price -> (bytes, error in %)
    ("lenet5", 0.1): ((4310, 0.80), (3100, 0.69)),
    ("lenet5", 0.15): ((2845, 0.9),),
    ("lenet-300-100", 0.1): ((8600, 1.9), (19000, 1.6)),
}
SEEDS_APART = 0.1
NOT_RUN = ("ResNet-32, CIFAR-10 (47x without loss)", "VGG-16, CIFAR-10 (159x at 6.57 % error)")


def collect(folder: Path) -> dict[str, Any]:
    """What the tables need of one run."""
    facts = json.loads((folder / "metrics.json").read_text())
    rate = next(
        record["facts"]["rate"] for step in facts["steps"] for record in step["records"] if "rate" in record["facts"]
    )
    return {
        "network": facts["network"].removeprefix("zoo:"),
        "seed": facts["seed"],
        "date": facts["date"],
        "machine": facts["machine"],
        "params": facts["baseline"]["params"],
        "stages": [_stage(folder, numbers) for numbers in (facts["baseline"], *facts["steps"])],
        "rate": rate,
        "sha256": facts["final"]["sha256"],
    }


def _stage(folder: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    path = folder / numbers["name"] / "history.csv"
    epochs = list(csv.DictReader(path.open())) if path.is_file() else []
    return {
        "name": numbers["name"],
        "file_bytes": numbers["file_bytes"],
        "overhead_bytes": numbers["overhead_bytes"],
        "nonzero": numbers["nonzero"],
        "error": 100 - 100 * numbers["top1"],
        "validation_error": 100 - 100 * numbers["validation"]["top1"],
        "epochs": numbers["train"]["epochs"],
        # what was interrupted counts its last part alone; its epochs all
        "minutes": max(numbers["seconds"], sum(float(row["seconds"]) for row in epochs)) / 60,
    }


def trained(row: dict[str, Any]) -> tuple[int, float]:
    """Bytes and error of a run's final file."""
    last = row["stages"][-1]
    return int(last["file_bytes"]), float(last["error"])


def stage_lines(row: dict[str, Any]) -> list[str]:
    """A row of the table for each stage."""
    made = []
    for stage in row["stages"]:
        ratio, price = 4 * row["params"] / stage["file_bytes"], row["rate"]["price"]
        made.append(
            f"| {NAMES[row['network']]} | {price:.3g} | {row['seed']} | {stage['name']} | {stage['epochs']} "
            f"| {stage['nonzero']:,} "
            f"| {stage['file_bytes']:,} | {stage['overhead_bytes']:,} | {ratio:.1f} | {stage['validation_error']:.2f} "
            f"| {stage['error']:.2f} |"
        )
    return made


def tensor_lines(row: dict[str, Any]) -> list[str]:
    """Where the bytes of a training for rate are."""
    return [
        f"| {NAMES[row['network']]} | {t['name']} | {t['nonzero']:,} of {t['weights']:,} | {t['estimated_bytes']:,.0f} "
        f"| {t['bytes']:,} | {8 * t['bytes'] / max(t['nonzero'], 1):.1f} |"
        for t in row["rate"]["tensors"]
    ]


def beside_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Ours and what was published, by ratio."""
    made = []
    for network, points in PUBLISHED.items():
        found = list(points)
        for row in rows:
            if row["network"] == network:
                size, error = trained(row)
                found.append(
                    (
                        f"netpress, {row['rate']['price']:.3g} a kB, seed {row['seed']}: {size:,} bytes",
                        4 * row["params"] / size,
                        error,
                    )
                )
        for who, ratio, lost in sorted(found, key=lambda point: point[1]):
            told = "not printed with it" if lost is None else f"{lost:.2f}"
            made.append(f"| {NAMES[network]} | {who} | {ratio:.1f}x | {told} |")
    return [*made, *(f"| {name} | netpress | not run | not run |" for name in NOT_RUN)]


def axis_points(network: str, ours: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """All points of a panel: ratio or bytes, error."""
    return [*ours, *((ratio, error) for _, ratio, error in PUBLISHED[network] if error is not None)]


def draw(rows: list[dict[str, Any]]) -> None:
    """Size against error, the published points drawn in."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "netpress", "font.size": 9}
    import matplotlib.pyplot as plt

    params = {row["network"]: row["params"] for row in rows}
    shown = [network for network in ("lenet5", "lenet-300-100") if network in params]
    figure, axes = plt.subplots(1, len(shown), figsize=(9.5, 4), squeeze=False)
    for axis, network in zip(axes[0], shown, strict=True):
        ours = [trained(row) for row in rows if row["network"] == network]
        axis.scatter(*zip(*ours, strict=True), color="#0b6e4f", marker="o", label="netpress, each seed", zorder=3)
        for i, (_, ratio, theirs) in enumerate(p for p in PUBLISHED[network] if p[2] is not None):
            size = 4 * params[network] / ratio
            axis.scatter([size], [theirs], color="#b3541e", marker="s", label="published" if i == 0 else None, zorder=3)
            axis.annotate(f"{ratio:g}x", (size, theirs), textcoords="offset points", xytext=(6, 4))
        for i, ratio in enumerate(p[1] for p in PUBLISHED[network] if p[2] is None):
            label = "published, error not with it" if i == 0 else None
            axis.axvline(4 * params[network] / ratio, color="#b3541e", linestyle=":", linewidth=1, label=label)
        axis.set(xscale="log", title=NAMES[network], xlabel="file, bytes", ylabel="test error, %")
        axis.grid(visible=True, which="both", alpha=0.25)
        axis.set_ylim(0, 1.25 * max(error for _, error in axis_points(network, ours)))
        axis.set_xticks([2000, 5000, 10000, 20000, 50000], ["2,000", "5,000", "10,000", "20,000", "50,000"])
        axis.minorticks_off()
        axis.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """Limits of size and error, seeds taken together; estimates beside bytes."""
    found = []
    for (network, price), limits in LIMITS.items():
        mine = [trained(row) for row in rows if row["network"] == network and round(row["rate"]["price"], 3) == price]
        for size, error in limits if mine else ():
            name = f"{NAMES[network]}, {price:g} a kB, seeds: {len(mine)}: {size:,} bytes at {error:g} %"
            found.append(common.at_most(f"{name}: most bytes", max(b for b, _ in mine), size))
            found.append(common.at_most(f"{name}: median error", round(median(e for _, e in mine), 4), error))
            found.append(common.at_most(f"{name}: worst error", max(e for _, e in mine), error + SEEDS_APART))
    for row in rows:
        name, rate = f"{NAMES[row['network']]}, {row['rate']['price']:.3g} a kB, seed {row['seed']}", row["rate"]
        off = abs(rate["estimated_bytes"] / rate["bytes"] - 1)
        found.append(common.at_most(f"{name}: bytes estimated in training, off by a share of", off, 0.03))
        if row["network"] == "cifar-resnet20":
            first, last = row["stages"][0], row["stages"][-1]
            found.append(common.at_least(f"{name}: ratio", 4 * row["params"] / last["file_bytes"], 20.0))
            found.append(common.at_most(f"{name}: points lost", last["error"] - first["error"], 0.5))
        else:
            spent = sum(stage["minutes"] for stage in row["stages"])
            found.append(common.at_most(f"{name}: minutes", spent, 90.0))
    return found


def main() -> int:
    """Collect or read, print, draw, check."""
    rows, check = common.collected(__doc__, RESULTS, collect)
    rows.sort(key=lambda row: (list(NAMES).index(row["network"]), row["rate"]["price"], row["seed"]))
    print("Stages\n")
    print(
        "| network | price of a kB | seed | stage | epochs | not zero | file, bytes | around the tensors "
        "| times smaller | validation error, % | test error, % |"
    )
    print("|---" * 11 + "|")
    print("\n".join(line for row in rows for line in stage_lines(row)))
    print(
        "\nTensors\n\n| network, seed 0 | tensor | not zero | estimated, bytes | bytes | bits for each |\n"
        + "|---" * 6
        + "|"
    )
    print(
        "\n".join(
            line
            for row in rows
            if row["seed"] == 0 and round(row["rate"]["price"], 3) == 0.1
            for line in tensor_lines(row)
            if "resnet" not in row["network"]
        )
    )
    print("\nBeside\n\n| network | who | times smaller | test error, % |\n|---|---|---|---|")
    print("\n".join(beside_lines(rows)))
    draw(rows)
    return common.finish({"benchmark": "smallest", "runs": len(rows)}, claims(rows), check=check)


if __name__ == "__main__":
    raise SystemExit(main())
