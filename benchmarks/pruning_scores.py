"""Magnitude against saliency (diagonal Fisher): LeNet-5 at five sparsities, before and after retraining.

    python benchmarks/pruning_scores.py --data-root DATA --candidate RUN/00-baseline/candidate.press

One global threshold, one round, the same retraining; top-1 error on MNIST's test split. Writes
docs/results/pruning-scores.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common

import netpress as nxp
from netpress.candidate import Candidate, Context
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.measure.metrics import machine
from netpress.methods import WeightPrune
from netpress.run_folder import read_json, write_json
from netpress.train import Training, evaluate, fit

SCORES = ("magnitude", "saliency")
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
TRAIN = Training(epochs=1, lr=1e-3)
PATH = Path(__file__).parent.parent / "docs" / "results" / "pruning-scores.json"


def row(candidate: Candidate, data: Data, *, score: Any, scope: Any, sparsity: float) -> dict[str, Any]:
    """Error right after pruning and after retraining."""
    example = normalise(data.train.images[:1], data.mean, data.std)
    context = Context(example, train=data.train, validation=data.validation)
    pruned = WeightPrune(sparsity=sparsity, score=score, scope=scope).apply(candidate, context)
    trained = fit(pruned, TRAIN, context, teacher=candidate.net).candidate
    errors = [1 - evaluate(c.net, data.test, c.inputs).top1 for c in (pruned, trained)]
    return {"score": score, "scope": scope, "sparsity": sparsity, "before": errors[0], "after": errors[1]}


def main() -> int:
    """Measure, print the table, check that the numbers are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    parser.add_argument("--candidate", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    data, candidate = nxp.data.open("mnist", args.data_root), nxp.load(args.candidate)
    start = 1 - evaluate(candidate.net, data.test, candidate.inputs).top1
    facts: dict[str, Any] = {"baseline_error": start, "train": TRAIN.model_dump(mode="json"), "machine": machine()}
    earlier = read_json(PATH) or {}
    facts["rows"] = earlier.get("rows", []) if earlier.get("baseline_error") == start else []
    done = {(r["score"], r["scope"], r["sparsity"]) for r in facts["rows"]}
    for sparsity in SPARSITIES:
        for scope in ("layer", "global"):
            for score in SCORES:
                if (score, scope, sparsity) not in done:
                    facts["rows"].append(row(candidate, data, score=score, scope=scope, sparsity=sparsity))
                    write_json(PATH, facts)
    print("score and scope, error before → after retraining, %\n")
    print("| score, scope | " + " | ".join(f"{s:.0%}" for s in SPARSITIES) + " |\n|---|" + "---|" * len(SPARSITIES))
    found = {(r["score"], r["scope"], r["sparsity"]): r for r in facts["rows"]}
    for scope in ("layer", "global"):
        for score in SCORES:
            rows = [found[score, scope, s] for s in SPARSITIES]
            cells = " | ".join(f"{100 * r['before']:.2f} → {100 * r['after']:.2f}" for r in rows)
            print(f"| {score}, {scope} | {cells} |")
    shares = [
        found["saliency", "global", s]["before"] / found["magnitude", "global", s]["before"] for s in (0.8, 0.9, 0.95)
    ]
    claims = [common.at_most("global, 80 to 95 %, before retraining: saliency's error / magnitude's", max(shares), 0.8)]
    return common.finish({"rows": len(facts["rows"]), "baseline_error": start}, claims, check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
