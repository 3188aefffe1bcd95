"""Every network of the zoo: its numbers, and how long it takes to build without weights.

python benchmarks/models.py --check | tee docs/results/models.txt
"""

from __future__ import annotations

import argparse
import sys
import time

import common
import torch

from netpress import zoo

SECONDS = 0.5


def build_seconds(name: str) -> float:
    """CPU seconds of one build on meta; the families are imported before."""
    start = time.process_time()
    zoo.create(name, device="meta")
    return time.process_time() - start


def main() -> int:
    """Print the table, check the slowest build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = zoo.names()
    print("Models\n\n| name | input | parameters | MACs | status | source | note |\n|---|---|---|---|---|---|---|")
    for name in names:
        v = zoo.describe(name)
        shape = "×".join(map(str, v.shape))
        print(f"| `{name}` | {shape} | {v.params:,} | {v.macs:,} | {v.status} | {v.source} | {v.note} |")
    seconds = {name: build_seconds(name) for name in names}
    slowest = max(seconds, key=lambda name: seconds[name])
    print(f"\nslowest to build on meta: {slowest}, {seconds[slowest]:.2f} CPU s")
    claims = [common.at_most("CPU seconds of the slowest build on meta", seconds[slowest], SECONDS)]
    result = {"benchmark": "models", "models": len(names), "slowest": slowest, "seconds": seconds[slowest]}
    return common.finish(result, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
