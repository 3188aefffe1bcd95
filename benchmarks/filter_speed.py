"""How much faster removed filters make a network: ONNX Runtime, batch 1, one thread, all models in turns in one run.

    python benchmarks/filter_speed.py --check | tee docs/results/filter-speed.txt

ResNet-18 at 224×224 pruned to half its multiply-adds, with and without rounding the widths to multiples of 8, and
ResNet-20 for CIFAR at 60 %. The weights are fresh: time does not depend on them.
"""

from __future__ import annotations

import argparse
import sys

import common
import numpy as np
import torch

from netpress import methods, zoo
from netpress.candidate import Candidate, Inputs
from netpress.codec.header import Arch
from netpress.measure import cost, latency, speedup

CASES = (("resnet18", "50%", (8, 1)), ("cifar-resnet20", "60%", (8, 4, 1)))
FASTER = 1.6


def main() -> int:
    """Prune, time in turns, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "Speed\n\n| network | MACs | ms, median (quartiles) | times faster, median of ratios (quartiles) | MACs saved |"
    )
    print("|---|---|---|---|---|")
    rows, claims = [], []
    for name, limit, widths in CASES:
        shape = zoo.describe(name).shape
        torch.manual_seed(0)
        before = Candidate(zoo.create(name).eval(), arch=Arch("zoo", name), inputs=Inputs(shape))
        found = {"original": before}
        for width in widths:
            method = methods.FilterPrune(max_macs=limit, round_to=width)
            found[f"round_to={width}"] = methods.apply(method, before.net, example=torch.zeros(1, *shape))
        x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        timings = latency({k: common.graph(c) for k, c in found.items()}, x, threads=1, rounds=options.rounds)
        whole = cost(before.net, shape).macs
        for key, candidate in found.items():
            macs, t = cost(candidate.net, shape).macs, timings[key]
            ratio = speedup(timings["original"], t) if key != "original" else None
            faster = f"{ratio.median:.2f} ({ratio.q1:.2f}..{ratio.q3:.2f})" if ratio else "1"
            spread = f"{t.median_ms:.3g} ({t.q1_ms:.3g}..{t.q3_ms:.3g})"
            print(f"| {name}, {key} | {macs:,} | {spread} | {faster} | {whole / macs:.2f}x |", flush=True)
            rows.append(
                {"network": name, "what": key, "macs": macs, "ms": t.median_ms, "times": ratio and ratio.median}
            )
    ours = {(row["network"], row["what"]): row["times"] for row in rows}
    claims.append(
        common.at_least("ResNet-18, half the MACs, round_to=8: times faster", ours["resnet18", "round_to=8"], FASTER)
    )
    return common.finish({"benchmark": "filter-speed", "rows": rows}, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
