"""Published weights on the test set they are stated for: all 10,000 images, one thread.

python benchmarks/pretrained.py --data-root DATA --check | tee docs/results/pretrained.txt
"""

from __future__ import annotations

import argparse
import sys
import time

import common
import torch

from netpress import zoo
from netpress.arch import open_network
from netpress.candidate import Inputs
from netpress.data import open as open_data
from netpress.train import evaluate
from netpress.weights import open_weights
from netpress.weights.known import KNOWN

POINTS = 0.1


def main() -> int:
    """Print stated and reached accuracy, check that they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("Accuracy\n\n| network | test images | stated top-1, % | reached, % | CPU seconds | source |")
    print("|---|---|---|---|---|---|")
    rows, claims = [], []
    for known in KNOWN:
        if known.top1 is None or known.data not in ("mnist", "cifar10"):
            continue
        data = open_data(known.data, options.data_root)
        named = open_network(known.network, shape=zoo.describe(known.network).shape, classes=10)
        open_weights(named.net, named.arch, "pretrained", options.data_root)
        start = time.process_time()
        top1 = evaluate(named.net, data.test, Inputs(data.shape, known.mean, known.std)).top1
        seconds = time.process_time() - start
        rows.append({"network": known.network, "stated": known.top1, "top1": top1, "seconds": seconds})
        print(
            f"| `{known.network}` | {len(data.test):,} of {known.data} | {100 * known.top1:.2f} "
            f"| {100 * top1:.2f} | {seconds:.0f} | {known.source} |",
            flush=True,
        )
        claims.append(common.at_most(f"{known.network}: points off", 100 * abs(top1 - known.top1), POINTS))
    return common.finish({"benchmark": "pretrained", "rows": rows}, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
