"""Long-tailed CIFAR-10: cross-entropy against the class-balanced focal loss, all else equal.

    Q='--data-root DATA --precision bf16-mixed'; R=runs/ladder; F='--set baseline.loss=class_balanced_focal'
    S="$F --set baseline.focal_gamma=1 --set baseline.focal_form=softmax"
    netpress run benchmarks/long_tail.toml $Q --out $R/lt-ce
    netpress run benchmarks/long_tail.toml $Q --out $R/lt-focal $F --set baseline.focal_gamma=1
    netpress run benchmarks/long_tail.toml $Q --out $R/lt-focal-softmax4 $S
    netpress run benchmarks/long_tail.toml $Q --out $R/lt-focal-softmax $S --set baseline.focal_beta=0.999
    netpress run benchmarks/long_tail.toml $Q --out $R/lt-deferred $S --set baseline.focal_from=0.7
    python benchmarks/long_tail.py runs/ladder/lt-* --check | tee docs/results/long-tail.txt

Writes docs/results/long-tail.json; without run folders it prints and checks what that file holds. The classes' training
images fall by a factor of 100 from the first class to the last. The 10,000 test images are 1,000 of each class, so that
top-1 is balanced accuracy, the mean over the classes of the share of their images that is found (recall). A network
that neglects rare classes loses by it. One seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import common

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "long-tail.json"
PLAIN, BALANCED = "lt-ce", "lt-deferred"
RUNS = {  # name of the folder -> the loss in words
    PLAIN: "cross-entropy",
    "lt-focal": "balanced focal, sigmoid, β = 0.9999",
    "lt-focal-softmax4": "balanced focal, softmax, β = 0.9999",
    "lt-focal-softmax": "balanced focal, softmax, β = 0.999",
    BALANCED: "balanced focal, softmax, β = 0.9999, deferred",
}
GAIN = 2.0
"""Points of balanced accuracy that the deferred class-balanced focal loss shall win at least."""


def collect(folder: Path) -> dict[str, Any]:
    """What the tables need of one run; nothing of a folder that is no finished one of these."""
    if folder.name not in RUNS or not (folder / "metrics.json").is_file():
        return {}
    facts = json.loads((folder / "metrics.json").read_text())
    final, data = facts["final"], facts["data"]
    confusion = facts["changed"]["confusion"]
    images = data["note"].rpartition("by class ")[2].split(", ")
    return {
        "run": folder.name,
        "network": facts["network"],
        "data": data["name"],
        "seed": facts["seed"],
        "date": facts["date"],
        "machine": facts["machine"],
        "minutes": final["seconds"] / 60,
        "train": final["train"],
        "classes": facts["classes"],
        "images": [int(count.replace(",", "")) for count in images],
        "recall": [100 * row[k] / sum(row) for k, row in enumerate(confusion)],
        "tested": [sum(row) for row in confusion],
        "top1": 100 * final["top1"],
        "validation": 100 * final["validation"]["top1"],
        "sha256": final["sha256"],
    }


def lines(by: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each loss: balanced accuracy, the five common classes' and the five rare ones'."""
    rows = []
    for name, loss in RUNS.items():
        row = by.get(name)
        if row is None:
            rows.append(f"| {loss} | not run | | | | | | | | |")
            continue
        half, train = len(row["recall"]) // 2, row["train"]
        won = "–" if name == PLAIN or PLAIN not in by else f"{row['top1'] - by[PLAIN]['top1']:+.2f}"
        rows.append(
            f"| {loss} | {row['seed']} | {train['epochs']} | {row['validation']:.2f} | {row['top1']:.2f} | {won} "
            f"| {mean(row['recall'][:half]):.2f} | {mean(row['recall'][half:]):.2f} | {row['minutes']:.0f} "
            f"| {row['date']} |"
        )
    return rows


def recalls(by: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each class: training images, and recall by each loss."""
    first = next(iter(by.values()), {"classes": []})
    rows = []
    for k, name in enumerate(first["classes"]):
        found = (f"{by[run]['recall'][k]:.1f}" if run in by else "not run" for run in RUNS)
        rows.append(f"| {name} | {first['images'][k]:,} | {' | '.join(found)} |")
    return rows


def claims(by: dict[str, dict[str, Any]]) -> list[common.Claim]:
    """Recall over the classes is top-1, and the balanced loss wins its points."""
    found = [
        common.at_most(f"{name}: points between top-1 and mean recall", abs(row["top1"] - mean(row["recall"])), 0.02)
        for name, row in by.items()
    ]
    if {PLAIN, BALANCED} <= by.keys():
        won = by[BALANCED]["top1"] - by[PLAIN]["top1"]
        found.append(common.at_least("points of balanced accuracy won by the class-balanced focal loss", won, GAIN))
    return found


def main() -> int:
    """Collect or read, print, check."""
    rows, check = common.collected(__doc__, RESULTS, collect)
    by = {row["run"]: row for row in rows if row}
    RESULTS.write_text(json.dumps(list(by.values()), indent=1) + "\n")
    print("Losses\n")
    print(
        "| loss | seed | epochs | validation, % | test = balanced, % | points | five common classes, % "
        "| five rare classes, % | minutes | date |"
    )
    print("|---" * 10 + "|")
    print("\n".join(lines(by)))
    print("\nClasses\n")
    print(f"| class | training images | {' | '.join(f'{loss}: recall, %' for loss in RUNS.values())} |")
    print("|---" * (2 + len(RUNS)) + "|")
    print("\n".join(recalls(by)))
    return common.finish({"benchmark": "long-tail", "runs": len(by)}, claims(by), check=check)


if __name__ == "__main__":
    raise SystemExit(main())
