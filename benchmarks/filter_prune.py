"""Filter pruning of pretrained CIFAR ResNets: the runs, from their folders, and what was not run.

    netpress run filter-prune-resnet20 --seed 0 --data-root DATA --out runs/resnet20-0
    netpress run filter-prune-resnet56 --data-root DATA --out runs/resnet56-2epochs --set step.0.train.epochs=2
    python benchmarks/filter_prune.py runs/resnet20-* runs/resnet56-* --check | tee docs/results/filter-prune.txt

Writes docs/results/filter-prune.json; without run folders it prints and checks what that file holds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import common

from netpress import recipe

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "filter-prune.json"
RECIPES = {"cifar-resnet20": "filter-prune-resnet20", "cifar-resnet56": "filter-prune-resnet56"}
TOP1, FEWER_MACS, EPOCHS = 90.3, 40.0, 15


def collect(folder: Path) -> dict[str, Any]:
    """What the table needs of one run."""
    facts = json.loads((folder / "metrics.json").read_text())
    baseline, final, steps = facts["baseline"], facts["final"], facts["steps"]
    return {
        "network": facts["network"].partition(":")[2],
        "seed": facts["seed"],
        "date": facts["date"],
        "machine": facts["machine"],
        "epochs": sum(step["train"]["epochs"] for step in steps),
        "macs": [baseline["macs"], final["macs"]],
        "params": [baseline["params"], final["params"]],
        "top1": [baseline["top1"], final["top1"]],
        "validation": [baseline["validation"]["top1"], final["validation"]["top1"]],
        "file_bytes": final["file_bytes"],
        "speedup": facts["speedup"]["median"] if facts.get("speedup") else None,
        "minutes": sum(s["seconds"] for s in steps) / 60,
        "sha256": final["sha256"],
    }


def line(row: dict[str, Any]) -> str:
    """One run as a row."""
    fewer = 100 * (1 - row["macs"][1] / row["macs"][0])
    before, after = (100 * v for v in row["top1"])
    decided = " → ".join(f"{100 * v:.2f}" for v in row["validation"])
    speed = "–" if row["speedup"] is None else f"{row['speedup']:.2f}x"
    return (
        f"| {row['network']}, seed {row['seed']} | {row['epochs']} | {row['macs'][0]:,} → {row['macs'][1]:,} "
        f"(−{fewer:.1f} %) | {row['params'][0]:,} → {row['params'][1]:,} | {decided} | {before:.2f} → {after:.2f} "
        f"| {speed} | {row['minutes']:.0f} |"
    )


def not_run(rows: list[dict[str, Any]]) -> list[str]:
    """Recipes whose full length nobody has run."""
    missing = []
    for network, name in RECIPES.items():
        epochs = sum(step.train.epochs for step in recipe.read(name).steps())
        if not any(r["network"] == network and r["epochs"] >= epochs for r in rows):
            missing.append(f"| {network}, {name} | {epochs} | not run | not run | not run | not run | – | – |")
    return missing


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """ResNet-20's limits: accuracy of the last epoch on the reported half of the test images."""
    found = [r for r in rows if r["network"] == "cifar-resnet20"]
    fewer = [100 * (1 - r["macs"][1] / r["macs"][0]) for r in found]
    return [
        common.at_least(
            "ResNet-20: top-1 %, median of the seeds", 100 * statistics.median(r["top1"][1] for r in found), TOP1
        ),
        common.at_least("ResNet-20: fewer multiply-adds, %", min(fewer), FEWER_MACS),
        common.at_most("ResNet-20: epochs", max(r["epochs"] for r in found), EPOCHS),
    ]


def main() -> int:
    """Collect or read, print, check."""
    rows, check = common.collected(__doc__, RESULTS, collect)
    rows.sort(key=lambda r: (r["network"], r["seed"]))
    print("Runs\n\n| network | epochs | MACs | parameters | top-1 deciding, % | top-1 reported, % | faster | minutes |")
    print("|---" * 8 + "|")
    print("\n".join([*map(line, rows), *not_run(rows)]))
    return common.finish({"benchmark": "filter-prune", "runs": len(rows)}, claims(rows), check=check)


if __name__ == "__main__":
    raise SystemExit(main())
