"""Accuracy against multiply-adds: four decompositions, filter pruning, and both, at four budgets each.

    python benchmarks/low_rank.py --data-root DATA --work FOLDER [--networks lenet5 cifar-resnet20] [--methods cp ...]
    python benchmarks/low_rank.py --print --check | tee docs/results/low-rank.txt

Pretrained networks. "weights" and "outputs" and "asymmetric" are the objectives of `low_rank` before any retraining;
what is retrained is "asymmetric", for four epochs. ResNet-20's weights were trained on all 50,000 training images, so
half of the test images decides and the other half is reported; everything here is of the reported half, last epoch.
Rows are kept in docs/results/low-rank.jsonl: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

import netpress as nxp
from netpress.arch import open_network
from netpress.candidate import Candidate, Context, Inputs
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.measure import cost
from netpress.measure.metrics import machine
from netpress.methods import FilterPrune, LowRank
from netpress.train import Training, evaluate, fit
from netpress.weights import open_weights, suited

RESULTS = Path(__file__).parent.parent / "docs" / "results"
ROWS, FIGURE = RESULTS / "low-rank.jsonl", RESULTS / "low-rank.svg"
KINDS = ("svd", "spatial_svd", "cp", "tucker2")
METHODS = (*KINDS, "filter_prune", "filter_prune + tucker2")
OBJECTIVES = ("weights", "outputs", "asymmetric")
NETWORKS: dict[str, dict[str, Any]] = {
    "lenet5": {
        "data": "mnist",
        "budgets": (0.4, 0.25, 0.15, 0.1),
        "frozen": (),
        "train": {"epochs": 4, "lr": 1e-3, "shift": 1, "distill": 0.5, "precision": "bf16-mixed"},
    },
    "cifar-resnet20": {
        "data": "cifar10",
        "budgets": (0.6, 0.45, 0.3, 0.2),
        "frozen": ("conv1",),
        "train": {
            "epochs": 4,
            "optimizer": "sgd",
            "lr": 0.02,
            "weight_decay": 5e-4,
            "shift": 4,
            "flip": True,
            "clip": 5.0,
            "precision": "bf16-mixed",
        },
    },
}
TOLERANCE = 0.0


class Bench:
    """One pretrained network, its data, its methods."""

    def __init__(self, name: str, root: Path, work: Path) -> None:
        self.name, self.facts, self.work = name, NETWORKS[name], work
        named = open_network(name)
        known = open_weights(named.net, named.arch, "pretrained", str(root)).known
        self.data: Data = suited(nxp.data.open(self.facts["data"], root), known)
        inputs = Inputs(self.data.shape, self.data.mean, self.data.std)
        self.start = Candidate(named.net.eval(), arch=named.arch, inputs=inputs)
        self.macs = cost(named.net, self.data.shape).macs

    def context(self, step: int = 1, scratch: Path | None = None) -> Context:
        """Splits and seed 0."""
        example = normalise(self.data.train.images[:1], self.data.mean, self.data.std)
        return Context(example, self.data.train, self.data.validation, step=step, scratch=scratch)

    def top1(self, candidate: Candidate) -> float:
        """Of the reported images."""
        return evaluate(candidate.net, self.data.test, candidate.inputs).top1

    def low_rank(self, before: Candidate, kind: Any, share: float, objective: Any) -> Candidate:
        """Layers divided so that a share of the network's multiply-adds stays."""
        frozen = tuple(path for path in self.facts["frozen"])
        method = LowRank(kind=kind, max_macs=f"{100 * share}%", objective=objective, frozen=frozen)
        return method.apply(before, self.context())

    def compressed(self, method: str, share: float, objective: Any) -> Candidate:
        """One method at one budget, before retraining."""
        if method in KINDS:
            return self.low_rank(self.start, method, share, objective)
        if method == "filter_prune":
            prune = FilterPrune(max_macs=f"{100 * share}%", scope="global", floor=0.2)
            return prune.apply(self.start, self.context())
        half = share**0.5
        pruned = FilterPrune(max_macs=f"{100 * half}%", scope="global", floor=0.2).apply(self.start, self.context())
        left = share * self.macs / cost(pruned.net, self.data.shape).macs
        return self.low_rank(pruned, method.rpartition(" ")[2], left, objective)

    def row(self, method: str, share: float) -> dict[str, Any]:
        """One point: before retraining by every objective, and after."""
        start, found = time.process_time(), {}
        objectives = OBJECTIVES if method != "filter_prune" else OBJECTIVES[-1:]
        before = {}
        for objective in objectives:
            found[objective] = self.compressed(method, share, objective)
            before[objective] = self.top1(found[objective])
        made = found[objectives[-1]]
        seconds = time.process_time() - start
        folder = self.work / f"{self.name} {method} {share}".replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        train = Training(**self.facts["train"])
        context, key = self.context(scratch=folder), f"low-rank {made.arch.edits}"
        fitted = fit(made, train, context, teacher=self.start.net, key=key).candidate
        saved = nxp.save(fitted, folder / "model.press")
        spent = cost(fitted.net, self.data.shape)
        return {
            "network": self.name,
            "method": method,
            "budget": share,
            "macs": spent.macs / self.macs,
            "params": spent.params,
            "file_bytes": saved.file_bytes,
            "before": before,
            "top1": self.top1(fitted),
            "baseline": self.top1(self.start),
            "said": [note for record in made.history for note in record.notes if "degenerate" in note],
            "method_seconds": seconds,
            "cpu_minutes": (time.process_time() - start) / 60,
            "train": train.model_dump(mode="json"),
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
        }


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One row per point; what has none was not run."""
    for name, facts in NETWORKS.items():
        for method in METHODS:
            for budget in facts["budgets"]:
                r = next((r for r in rows if (r["network"], r["method"], r["budget"]) == (name, method, budget)), None)
                if r is None:
                    yield f"| {name} | {method} | {100 * budget:.0f} | not run | | | | | | |"
                    continue
                before = [f"{100 * r['before'][o]:.2f}" if o in r["before"] else "–" for o in OBJECTIVES]
                yield (
                    f"| {name} | {method} | {100 * budget:.0f} | {100 * r['macs']:.1f} | {r['params']:,} "
                    f"| {r['file_bytes']:,} | {' | '.join(before)} | {100 * r['top1']:.2f} "
                    f"({100 * (r['top1'] - r['baseline']):+.2f}) |"
                )


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """Fitting outputs, asymmetrically, is never worse than fitting weights, before retraining."""
    gains = [100 * (r["before"]["asymmetric"] - r["before"]["weights"]) for r in rows if "weights" in r["before"]]
    over = [r["macs"] - r["budget"] for r in rows]
    return [
        common.at_least("least gain of asymmetric over weights at any point, points of top-1", min(gains), TOLERANCE),
        common.at_most("largest excess over a budget of multiply-adds, share", max(over), 0.02),
    ]


def draw(rows: list[dict[str, Any]]) -> None:
    """The figure: accuracy after retraining against the share of multiply-adds left."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "netpress"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(NETWORKS), figsize=(10, 4))
    for axis, name in zip(axes, NETWORKS, strict=True):
        for method in METHODS:
            mine = sorted((r["macs"], r["top1"]) for r in rows if (r["network"], r["method"]) == (name, method))
            axis.plot([100 * m for m, _ in mine], [100 * t for _, t in mine], "o-", ms=4, lw=1.2, label=method)
        if base := next((r["baseline"] for r in rows if r["network"] == name), None):
            axis.axhline(100 * base, color="0.5", lw=0.8, ls="--", label="original")
        axis.set(title=name, xlabel="multiply-adds left, %", ylabel="top-1 after four epochs, %")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> int:
    """Run what is missing, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/low-rank"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--budgets", nargs="*", type=float, help="only these")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for name in () if args.print else args.networks:
        bench = Bench(name, args.data_root, args.work)
        for budget in args.budgets or NETWORKS[name]["budgets"]:
            for method in args.methods:
                if not any(
                    (r["network"], r["method"], r["budget"]) == (name, method, budget) for r in common.read_rows(ROWS)
                ):
                    found = bench.row(method, budget)
                    print(
                        name,
                        method,
                        budget,
                        found["before"],
                        found["top1"],
                        f"{found['cpu_minutes']:.1f} min",
                        flush=True,
                    )
                    common.add_row(ROWS, found)
    rows = common.read_rows(ROWS)
    print(
        "Low rank\n\n| network | method | budget, % | MACs, % | parameters | bytes | weights, % | outputs, % "
        "| asymmetric, % | top-1 retrained, % |"
    )
    print("|---" * 10 + "|")
    print("\n".join(lines(rows)))
    if rows:
        draw(rows)
    return common.finish({"benchmark": "low-rank", "rows": len(rows)}, claims(rows) if rows else [], check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
