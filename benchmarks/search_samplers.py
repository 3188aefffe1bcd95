"""Samplers of the search at an equal number of trials: the area that their trials dominate, the best inside a limit.

    python benchmarks/search_samplers.py --data-root DATA --out runs/samplers     # goes on where it was stopped
    python benchmarks/search_samplers.py --check | tee docs/results/search-samplers.txt

LeNet-5 on MNIST within 2 % of its file (filters, weights, values: 9 amounts) and ResNet-8 on CIFAR-10 within half of
its multiply-adds (filters: 8 amounts at most), pretrained both, 25 trials of one epoch over 2,000 images in batches of
128 (ResNet-8: 3,000 in batches of 32; with 16 updates it learned nothing), judged on 2,000 validation images, three
seeds (which draw the trials' batches too). No trial is stopped early: all cost the same.

area: of (load, top-1) that the trials dominate between load 0 and 1, load = cost / limit, above chance, as a share of
the largest there could be (the baseline's accuracy for nothing). best: highest top-1 inside the limit, validation.
Writes docs/results/search-samplers.json and .svg; without --out it prints and checks what that file holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import common

from netpress.budget import Budget
from netpress.opening import Options
from netpress.recipe import NetworkSpec
from netpress.search import Searching, search
from netpress.search.goal import Goal
from netpress.search.plan import Plan
from netpress.search.samplers import names
from netpress.search.samplers.volume import volume

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "search-samplers.json"
FIGURE = RESULTS.with_suffix(".svg")
TRIALS, SEEDS, CHANCE = 25, (0, 1, 2), 0.1
NETWORKS: Mapping[str, tuple[str, str, Budget]] = {
    "LeNet-5": ("lenet5", "mnist", Budget(max_size="2%")),
    "ResNet-8": ("mlperf-tiny-resnet8", "cifar10", Budget(max_macs="50%")),
}
MORE: Mapping[str, dict[str, Any]] = {"ResNet-8": {"sample": 3000, "train.batch": 32}}
PLAN: dict[str, Any] = {
    "trials": TRIALS,
    "sample": 2000,
    "judged": 2000,
    "rungs": [1],
    "finalists": 0,
    "train.precision": "bf16-mixed",
}
DEFAULT = Plan().sampler
SAMPLERS = ("mlp", "tpe", "random", "uniform")
COLOURS = {"mlp": "#1f77b4", "tpe": "#d62728", "random": "#7f7f7f", "uniform": "#2ca02c", "greedy": "#9467bd"}


def measured(out: Path, root: str, network: str, sampler: str, seed: int) -> dict[str, Any]:
    """One search: accuracy and load of every trial, in order."""
    name, data, budget = NETWORKS[network]
    facts = search(
        NetworkSpec(name=name, weights="pretrained"),
        data,
        budget=budget,
        out=out / f"{name}-{sampler}-{seed}",
        how=Searching(plan={**PLAN, **MORE.get(network, {}), "sampler": sampler}),
        options=Options(seed=seed, data_root=root),
    ).facts
    goal = Goal(facts["baseline"], facts["goal"]["limits"])
    rows = [[goal.load(r["costs"]), r["top1"]] for r in facts["rows"] if r["state"] == "complete"]
    return {
        "network": network,
        "sampler": sampler,
        "seed": seed,
        "baseline": facts["baseline"]["top1"],
        "amounts": len(facts["dimensions"]),
        "trials": rows,
        "failed": sum(r["state"] == "failed" for r in facts["rows"]),
        "seconds": sum(r["seconds"] for r in facts["rows"]),
        "date": facts["date"],
    }


def area(one: Mapping[str, Any], count: int | None = None) -> float:
    """Area that the first trials dominate, as a share of the largest there could be."""
    return volume(one["trials"][:count], CHANCE) / (one["baseline"] - CHANCE)


def best(one: Mapping[str, Any]) -> float:
    """The highest accuracy inside the limit."""
    return max((top1 for load, top1 in one["trials"] if load <= 1), default=0.0)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Median of the seeds, and each."""
    lines = [
        f"Area dominated and best validation top-1 inside the limit after {TRIALS} trials: median (seeds {SEEDS})",
        "",
        "| network | sampler | area | best inside, % | baseline, % | minutes of trials |",
        "|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        for sampler in samplers(found):
            runs = [r for r in found if (r["network"], r["sampler"]) == (network, sampler)]
            if not runs:
                lines.append(f"| {network} | {sampler} | not run | | | |")
                continue
            areas, tops = [area(r) for r in runs], [100 * best(r) for r in runs]
            lines.append(
                f"| {network} | {sampler} | {median(areas):.3f} ({', '.join(f'{a:.3f}' for a in areas)}) | "
                f"{median(tops):.2f} ({', '.join(f'{t:.2f}' for t in tops)}) | {100 * runs[0]['baseline']:.2f} | "
                f"{sum(r['seconds'] for r in runs) / 60:.1f} |"
            )
    return "\n".join(lines)


def samplers(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that must be there, and others that were run."""
    return [*SAMPLERS, *sorted({r["sampler"] for r in found} - set(SAMPLERS))]


def figure(found: Sequence[Mapping[str, Any]]) -> None:
    """Median area against the number of trials."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "netpress"
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(1, len(NETWORKS), figsize=(9, 3.6))
    for place, network in zip(axes, NETWORKS, strict=True):
        for sampler in samplers(found):
            runs = [r for r in found if (r["network"], r["sampler"]) == (network, sampler)]
            if runs:
                curve = [median(area(r, n) for r in runs) for n in range(1, TRIALS + 1)]
                place.plot(range(1, TRIALS + 1), curve, label=sampler, color=COLOURS.get(sampler))
        place.set(title=network, xlabel="trials", ylabel="area dominated", ylim=(0, None))
        place.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    drawing.tight_layout()
    drawing.savefig(FIGURE, metadata={"Date": None})


def claims(found: Sequence[Mapping[str, Any]]) -> list[common.Claim]:
    """The default finds the best inside the limit on each network; in area it is near the best of the others."""
    held = []
    for network in NETWORKS:
        runs = [r for r in found if r["network"] == network]
        for what, count, least in (("best inside", best, 1.0), ("area", area, 0.9)):
            by = {s: median(count(r) for r in runs if r["sampler"] == s) for s in {r["sampler"] for r in runs}}
            others = max(value for name, value in by.items() if name != DEFAULT)
            held.append(
                common.at_least(f"{network}: {what}, {DEFAULT} over the best other", by[DEFAULT] / others, least)
            )
    return held


def main() -> int:
    """Run what is missing, or print what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the searches lie")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=names())
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        for seed in SEEDS:
            for network in args.networks:
                for sampler in args.samplers:
                    one = measured(args.out, args.data_root, network, sampler, seed)
                    key = (network, sampler, seed)
                    found = [r for r in found if (r["network"], r["sampler"], r["seed"]) != key] + [one]
                    RESULTS.write_text(json.dumps(found) + "\n")
                    print(*key, f"area {area(one):.3f}, best {best(one):.2%}", file=sys.stderr, flush=True)
    figure(found)
    print(table(found))
    return common.finish({"runs": len(found)}, claims(found), check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
