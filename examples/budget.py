"""Say what you can afford: a search finds which filters and weights go, on the digits that come with netpress.

python examples/budget.py --out runs/budget
"""

import argparse
from pathlib import Path

import netpress as nxp
from netpress.search import Searching, search


def main() -> None:
    """Search, and show what was tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/budget"))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    plan = {"trials": args.trials, "baseline.epochs": args.epochs, "train.epochs": args.epochs, "finalists": 2}
    budget = nxp.Budget(max_macs="40%", max_size="60kB", max_drop=2)  # of the baseline; points of accuracy
    found = search("lenet5", "digits", budget=budget, out=args.out, how=Searching(plan=plan))

    for row in found.facts["rows"]:
        amounts = ", ".join(f"{name} {value:g}" for name, value in row["policy"].items())
        print(f"trial {row['number']}: {row['state']}, top-1 {row['top1']:.2%}: {amounts}")
    if found.run is None:
        print("nothing fits this budget; report.html shows the nearest")
        return
    before, after = found.run.metrics["baseline"], found.run.metrics["final"]
    print(f"top-1 {before['top1']:.2%} -> {after['top1']:.2%}, multiply-adds {before['macs']:,} -> {after['macs']:,}")
    print(
        f"{after['file_bytes']:,} bytes; the budget is {'met' if found.met else 'missed'}: {args.out / 'report.html'}"
    )


if __name__ == "__main__":
    main()
