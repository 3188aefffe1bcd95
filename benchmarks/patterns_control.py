"""The control of benchmarks/patterns.py: R with as many more epochs as B had, same settings, R itself as teacher.

    python benchmarks/patterns_control.py runs/sepnet-bq --data-root DATA
    python benchmarks/patterns_control.py runs/patterns-inception --data-root DATA --own

What B loses against this network is the price of the patterns alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import common
import small_inception
import torch

from netpress import store
from netpress.candidate import Context
from netpress.data import open as open_data
from netpress.data.batches import normalise
from netpress.train import Training, evaluate, fit


def main() -> int:
    """Train on, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of R, B, BQ")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--own", action="store_true", help="the network is small_inception's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = json.loads((options.run / "metrics.json").read_text())
    press = options.run / "00-baseline" / "candidate.press"
    before = store.load(press, into=small_inception.build() if options.own else None)
    data = open_data(facts["data"]["name"], options.data_root)
    example = normalise(data.train.images[:1], data.mean, data.std)
    settings = Training.model_validate(facts["steps"][0]["train"])
    context = Context(example, data.train, data.validation, seed=facts["seed"], step=1)
    after = fit(before, settings, context, teacher=before.net).candidate
    tops = {name: 100 * evaluate(c.net, data.test, c.inputs).top1 for name, c in (("R", before), ("R+", after))}
    tops["B"] = 100 * facts["steps"][0]["top1"]
    print(
        f"{facts['network']}: R {tops['R']:.2f}, R and {settings.epochs} epochs {tops['R+']:.2f}, B {tops['B']:.2f} %"
    )
    return common.finish({"benchmark": "patterns-control", "run": options.run.name, "top1": tops}, [], check=False)


if __name__ == "__main__":
    sys.exit(main())
