"""The starts of k-means compared on a pruned LeNet-5, 2 to 8 bits, before and after training of the shared values.

    python benchmarks/centroids.py --data-root DATA --candidate RUN/02-weight_prune/candidate.press

Accuracy is top-1 error on MNIST's test split; training sees the train split only; nothing is chosen by these numbers.
Writes docs/results/centroids.json and docs/results/centroids.svg; `--plot` draws again from the JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common

import netpress as nxp
from netpress import atomic
from netpress.candidate import Candidate, Context
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.measure.metrics import machine
from netpress.methods import WeightShare
from netpress.run_folder import read_json, write_json
from netpress.train import Training, evaluate, fit

INITS = ("forgy", "density", "linear", "optimal")
BITS = (2, 3, 4, 5, 6, 7, 8)
RESULTS = Path(__file__).parent.parent / "docs" / "results"
TRAIN = Training(epochs=1, lr=3e-4)


def row(candidate: Candidate, data: Data, *, init: Any, bits: int, seed: int) -> dict[str, Any]:
    """Error before and after training the table, and the squared error of the clustering."""
    example = normalise(data.train.images[:1], data.mean, data.std)
    context = Context(example, train=data.train, validation=data.validation, seed=seed)
    shared = WeightShare(bits=bits, init=init).apply(candidate, context)
    trained = fit(shared, TRAIN, context).candidate
    errors = [1 - evaluate(c.net, data.test, c.inputs).top1 for c in (shared, trained)]
    inertia = sum(float(note.rpartition(" ")[2]) for note in shared.history[-1].notes)
    return {"init": init, "bits": bits, "seed": seed, "before": errors[0], "after": errors[1], "inertia": inertia}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All starts, all widths, all seeds; finished rows of an earlier call are kept."""
    data, candidate = nxp.data.open("mnist", args.data_root), nxp.load(args.candidate)
    path = RESULTS / "centroids.json"
    facts: dict[str, Any] = {
        "pruned_error": 1 - evaluate(candidate.net, data.test, candidate.inputs).top1,
        "kept": sum(int(f.support.sum()) for f in candidate.forms.values() if f.support is not None),
        "train": TRAIN.model_dump(mode="json"),
        "machine": machine(),
        "rows": [],
    }
    earlier = read_json(path) or {}
    if {k: earlier.get(k) for k in ("pruned_error", "train")} == {k: facts[k] for k in ("pruned_error", "train")}:
        facts["rows"] = earlier["rows"]
    done = {(r["init"], r["bits"], r["seed"]) for r in facts["rows"]}
    for seed in range(args.seeds):
        for bits in BITS:
            for init in INITS:
                if (init, bits, seed) in done:
                    continue
                facts["rows"].append(row(candidate, data, init=init, bits=bits, seed=seed))
                write_json(path, facts)
    return facts


def median(facts: dict[str, Any], init: str, bits: int, what: str) -> float:
    """Median over the seeds."""
    values = sorted(r[what] for r in facts["rows"] if (r["init"], r["bits"]) == (init, bits))
    return float(values[len(values) // 2])


def plot(facts: dict[str, Any], path: Path) -> None:
    """Error against bits, before (dashed) and after (solid) training of the table."""
    import io

    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "netpress"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for colour, init in zip(("#d55e00", "#009e73", "#0072b2", "#cc79a7"), INITS, strict=True):
        for what, style in (("before", "--"), ("after", "-")):
            errors = [100 * median(facts, init, bits, what) for bits in BITS]
            axes.plot(BITS, errors, style, marker="o", markersize=4, color=colour, label=f"{init}, {what} training")
    axes.axhline(100 * facts["pruned_error"], color="#666666", linewidth=1, label="pruned, not shared")
    axes.set_xlabel("bits of an index")
    axes.set_ylabel("test error, %")
    axes.set_title("LeNet-5, pruned, then shared: first centroids and training of the table")
    axes.legend(fontsize=7, ncols=2)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    atomic.write(path, buffer.getvalue())


def main() -> int:
    """Measure or read, print the table, check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    parser.add_argument("--candidate", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot", action="store_true", help="only draw and check what was measured before")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    facts = read_json(RESULTS / "centroids.json") if args.plot else measure(args)
    assert facts is not None, "nothing was measured yet"
    print("start of k-means, error before → after training of the table, %\n")
    print("| start | " + " | ".join(f"{b} bits" for b in BITS) + " |\n|---|" + "---|" * len(BITS))
    for init in INITS:
        cells = [
            f"{100 * median(facts, init, b, 'before'):.2f} → {100 * median(facts, init, b, 'after'):.2f}" for b in BITS
        ]
        print(f"| {init} | " + " | ".join(cells) + " |")
    plot(facts, RESULTS / "centroids.svg")
    worst = max(median(facts, "linear", b, "after") for b in BITS if b >= 4) - facts["pruned_error"]
    claims = [
        common.at_most("linear start, 4 bits and more: points of error above the pruned network", 100 * worst, 0.1)
    ]
    return common.finish({"rows": len(facts["rows"]), "pruned_error": facts["pruned_error"]}, claims, check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
