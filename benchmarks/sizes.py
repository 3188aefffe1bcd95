"""Every size that the papers print, ours beside it: what `netpress reproduce sizes` prints, and how long it takes.

python benchmarks/sizes.py --check | tee docs/results/sizes.txt
"""

from __future__ import annotations

import argparse
import sys

import common
import torch

from netpress import reproduce
from netpress.reproduce import tables

SECONDS = 60
DIFFER = 25


def main() -> int:
    """Count, print the text and two Markdown tables for the pages, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: list[reproduce.Result] = []
    seconds = common.cpu_seconds(lambda: found.append(reproduce.run("sizes")))
    result = found[0]
    print(result.text())
    print("\nBy paper\n\n| paper | numbers | exact | rounded | differ |\n|---|---|---|---|---|")
    for paper in tables.by_paper(result.rows):
        n = tables.counts(paper.rows)
        print(f"| {paper.title} | {len(paper.rows)} | {n['exact']} | {n['rounded']} | {n['differs']} |")
    print("\nDifferences\n\n| paper, place | what | printed | ours | off by | reason |\n|---|---|---|---|---|---|")
    for row in result.rows:
        if row.verdict == "differs":
            ours = tables.shown(row.ours, row.unit)
            cells = (f"{row.paper}, {row.where}", row.what, row.printed, ours, row.how, row.reason)
            print(f"| {' | '.join(cells)} |")
    counts = tables.counts(result.rows)
    claims = [
        common.at_most("CPU seconds", seconds, SECONDS),
        common.at_least("rows with a verdict / rows", sum(counts.values()) / len(result.rows), 1),
        common.at_most("rows that differ", counts["differs"], DIFFER),
        common.at_most(
            "of them without a reason", sum(not r.reason for r in result.rows if r.verdict == "differs"), 0.5
        ),
    ]
    return common.finish({"benchmark": "sizes", "seconds": seconds, "counts": counts}, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
