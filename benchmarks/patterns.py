"""Binarized patterns: real-valued networks (R), k x k filters as signs (B), the rest in 8 bits (BQ), side by side.

    netpress run sepnet-bq --data-root DATA --out runs/sepnet-bq
    netpress run benchmarks/patterns_inception.toml --data-root DATA --out runs/patterns-inception
    netpress run benchmarks/patterns_resnet20.toml --data-root DATA --out runs/patterns-resnet20-none
    netpress run benchmarks/patterns_resnet20.toml --data-root DATA --out runs/patterns-resnet20-point \
        --set 'step.0.branch="point"'
    python benchmarks/patterns.py runs/sepnet-bq runs/patterns-* --check | tee docs/results/patterns.txt

Writes docs/results/patterns.json; without run folders it prints and checks what that file holds. "Effective" counts are
those of the slides, in words of 32 bits: a pattern's weights are a bit each; rule N counts no scales, rule S one more
number for each k x k filter. BQ's megabytes give everything else one byte, and scales four, as our files do. The file
is what lies on the disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import common

from netpress.measure.effective import Effective

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "patterns.json"
NAMES = {
    "zoo:sepnet-r-small": "SEP-Net, modules 1-1-2",
    "own:Sequential": "small inception net",
    "zoo:cifar-resnet20": "cifar-resnet20, pretrained",
}
PAPER = {  # points of top-1 on ImageNet, R -> B and R -> BQ: SEP-Net small 65.8, 63.7, 63.5; GoogLeNet 68.65, 67.97
    "zoo:sepnet-r-small": {"B": 65.8 - 63.7, "BQ": 65.8 - 63.5},
    "own:Sequential": {"B": 68.65 - 67.97},
}
FORMS = {"pattern_binarize": "B", "quantize": "BQ"}
WANTED = (
    ("zoo:sepnet-r-small", "none"),
    ("own:Sequential", "none"),
    ("zoo:cifar-resnet20", "none"),
    ("zoo:cifar-resnet20", "point"),
)
NOT_HERE = (
    "SEP-Net small, Tiny-ImageNet (200 classes)",
    "SEP-Net small, ImageNet",
    "GoogLeNet, ImageNet",
    "C-Inception, ImageNet",
)
WORST, MARGIN = 2.1, 0.5
"""Points of top-1: the most that the source's R to B loses, and what eight bits may cost on top."""


def collect(folder: Path) -> dict[str, Any]:
    """What the table needs of one run."""
    facts = json.loads((folder / "metrics.json").read_text())
    stages = {"R": _stage(facts["baseline"])}
    binary: dict[str, Any] = {}
    for step in facts["steps"]:
        form = FORMS[step["records"][-1]["method"]]
        stages[form] = _stage(step)
        if form == "B":
            record = step["records"][-1]
            rows = record["facts"]["patterns"]
            binary = {
                "scale": record["settings"]["scale"],
                "branch": record["settings"]["branch"],
                "weights": sum(row["weights"] for row in rows),
                "kernels": sum(row["kernels"] for row in rows),
                "layers": len(rows),
                "branches": sum(row["branch"] for row in rows),
            }
    return {
        "network": facts["network"],
        "seed": facts["seed"],
        "date": facts["date"],
        "machine": facts["machine"],
        "binary": binary,
        "stages": stages,
        "sha256": facts["final"]["sha256"],
    }


def _stage(numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        "epochs": numbers["train"]["epochs"],
        "minutes": numbers["seconds"] / 60,
        "top1": 100 * numbers["top1"],
        "validation": 100 * numbers["validation"]["top1"],
        "params": numbers["params"],
        "file_bytes": numbers["file_bytes"],
        "overhead_bytes": numbers["overhead_bytes"],
    }


def loss(row: dict[str, Any], form: str) -> float:
    """Points of test top-1 that a form loses against R."""
    return float(row["stages"]["R"]["top1"] - row["stages"][form]["top1"])


def counted(row: dict[str, Any], form: str) -> tuple[int, int, float, float]:
    """Effective parameters by rule N and S, megabytes by both; a quantized network's are counted on its B."""
    if form == "R":
        params = row["stages"]["R"]["params"]
        return params, params, 4 * params / 1e6, 4 * params / 1e6
    binary = row["binary"]
    found = Effective(row["stages"]["B"]["params"], binary["weights"], binary["kernels"], biases=0)
    words = found.params_without_scales, found.params_with_scales
    if form == "B":
        return *words, 4 * words[0] / 1e6, 4 * words[1] / 1e6
    return *words, found.bytes_quantized / 1e6, (found.bytes_quantized + 4 * found.kernels) / 1e6


def label(row: dict[str, Any]) -> str:
    """The network's name, and whether it has branches."""
    branched = {"none": ", no branch", "point": ", 1 x 1 beside"}[row["binary"]["branch"]]
    return NAMES[row["network"]] + (branched if row["network"] == "zoo:cifar-resnet20" else "")


def lines(row: dict[str, Any]) -> list[str]:
    """One run: a row for each form."""
    name, made = label(row), []
    for form in ("R", "B", "BQ"):
        stage = row["stages"].get(form)
        if stage is None:
            made.append(f"| {name} | {form} | not run | | | | | | | |")
            continue
        n, s, mb_n, mb_s = counted(row, form)
        effective = f"{n:,}" if form == "R" else f"{n:,} / {s:,}"
        megabytes = f"{mb_n:.3f}" if form == "R" else f"{mb_n:.3f} / {mb_s:.3f}"
        printed = PAPER.get(row["network"], {}).get(form)
        theirs = "–" if printed is None else f"{printed:.1f}"
        lost = "–" if form == "R" else f"{loss(row, form):.2f}"
        made.append(
            f"| {name} | {form} | {stage['epochs']} | {effective} | {megabytes} | {stage['file_bytes']:,} "
            f"| {stage['validation']:.2f} | {stage['top1']:.2f} | {lost} | {theirs} |"
        )
    return made


def binarized(row: dict[str, Any]) -> str:
    """What became patterns, as a row."""
    b, params = row["binary"], row["stages"]["R"]["params"]
    minutes = sum(stage["minutes"] for stage in row["stages"].values())
    return (
        f"| {NAMES[row['network']]} | {b['branch']} | {row['seed']} | {b['layers']} | {b['weights']:,} "
        f"({100 * b['weights'] / params:.0f} %) | {b['kernels']:,} | {b['scale']} | {row['date']} | {minutes:.0f} |"
    )


def not_run(rows: list[dict[str, Any]]) -> list[str]:
    """Runs that are wanted and missing, and the source's own setting."""
    there = {(row["network"], row["binary"]["branch"]) for row in rows}
    missing = [f"{NAMES[name]}, branch {branch}" for name, branch in WANTED if (name, branch) not in there]
    return [f"| {name} | R, B, BQ | not run | | | | | | | |" for name in (*missing, *NOT_HERE)]


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """Losses against the largest of the source's, what eight bits cost, smaller files, what the branch wins."""
    found = []
    by = {(row["network"], row["binary"]["branch"]): row for row in rows}
    for (network, _), row in by.items():
        name = label(row)
        if network in PAPER or row["binary"]["branch"] == "point":
            found.append(common.at_most(f"{name}: points of top-1 lost, R to B", loss(row, "B"), WORST))
        smaller = row["stages"]["R"]["file_bytes"] / row["stages"]["B"]["file_bytes"]
        found.append(common.at_least(f"{name}: times smaller file, R to B", smaller, 1.0))
        if "BQ" in row["stages"]:
            more = loss(row, "BQ") - loss(row, "B")
            found.append(common.at_most(f"{name}: points of top-1 lost, B to BQ", more, MARGIN))
    alone, beside = (by.get(("zoo:cifar-resnet20", branch)) for branch in ("none", "point"))
    if alone and beside:
        won = loss(alone, "B") - loss(beside, "B")
        found.append(common.at_least("ResNet-20: points of top-1 won by the 1 x 1 branch", won, 0.0))
    return found


def main() -> int:
    """Collect or read, print, check."""
    rows, check = common.collected(__doc__, RESULTS, collect)
    rows.sort(key=lambda r: (r["network"], r["binary"]["branch"], r["seed"]))
    print("Forms\n")
    print(
        "| network | form | epochs | parameters, effective: N / S | MB, effective: N / S | file, bytes "
        "| top-1 deciding, % | top-1 reported, % | points lost | paper's loss, ImageNet |"
    )
    print("|---" * 10 + "|")
    print("\n".join([*(line for row in rows for line in lines(row)), *not_run(rows)]))
    print("\nBinarized\n")
    print("| network | branch | seed | layers | weights (of R's parameters) | filters | scale | date | minutes |")
    print("|---" * 9 + "|")
    print("\n".join(map(binarized, rows)))
    return common.finish({"benchmark": "patterns", "runs": len(rows)}, claims(rows), check=check)


if __name__ == "__main__":
    raise SystemExit(main())
