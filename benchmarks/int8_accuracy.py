"""Networks in integers: accuracy in float, simulated and on integer kernels; bytes; calibrated, not trained.

    netpress run int8-mobilenet-v1 --data-root DATA --out runs/int8-mobilenet
    python benchmarks/int8_accuracy.py --data-root DATA --mobilenet runs/int8-mobilenet --check \
        | tee docs/results/int8-accuracy.txt

All 10,000 test images; 512 images of the training split calibrate; nothing was decided on the test images. The float
networks: published LeNet-5, ResNet-20 and ResNet-8, and the MobileNet-v1 that the first line trains.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from netpress import export, store, zoo
from netpress.arch import open_network
from netpress.candidate import Candidate, Context, Inputs
from netpress.data import open as open_data
from netpress.data.batches import normalise
from netpress.methods import Quantize
from netpress.processor import integer_instructions, processor
from netpress.runtime import Session
from netpress.train import evaluate, logits
from netpress.train.evaluate import score
from netpress.weights import open_weights

PUBLISHED = (("lenet5", "mnist"), ("cifar-resnet20", "cifar10"), ("mlperf-tiny-resnet8", "cifar10"))
LOST = {"mobilenet-v1": 1.0}
LOST_ELSEWHERE, SAME, SMALLER = 0.3, 99.5, (3.6, 4.6)


def published(name: str, source: str, root: str) -> tuple[Candidate, Any]:
    """A network with its published weights, and its data."""
    data = open_data(source, root)
    named = open_network(name, shape=zoo.describe(name).shape, classes=10)
    known = open_weights(named.net, named.arch, "pretrained", root).known
    assert known is not None
    return Candidate(named.net.eval(), arch=named.arch, inputs=Inputs(data.shape, known.mean, known.std)), data


def measure(name: str, candidate: Candidate, data: Any, folder: Path, method: Quantize) -> dict[str, Any]:
    """Quantize one network and measure both."""
    example = normalise(data.train.images[:1], candidate.inputs.mean, candidate.inputs.std)
    start = time.process_time()
    made = method.apply(candidate, Context(example, data.train, data.validation))
    seconds = time.process_time() - start
    sizes = {}
    for what, side in (("float", candidate), ("int8", made)):
        sizes[what] = store.save(side, folder / f"{name}-{what}.press").file_bytes
        sizes[f"{what}.onnx"] = export.export_onnx(folder / f"{name}-{what}.press", folder / f"{name}-{what}.onnx")
    simulated = logits(made.net, data.test, made.inputs)
    session = Session(folder / f"{name}-int8.press", threads=1)
    pixels = data.test.images.numpy()
    whole = torch.from_numpy(np.concatenate([session.run(pixels[i : i + 500]) for i in range(0, len(pixels), 500)]))
    facts = made.history[-1].facts["integers"]
    return {
        "network": name,
        "bits": sorted({row["bits"] for row in facts["layers"]}),
        "kept": facts["kept"],
        "float": 100 * evaluate(candidate.net, data.test, candidate.inputs).top1,
        "simulated": 100 * score(simulated, data.test.labels).top1,
        "kernels": 100 * score(whole, data.test.labels).top1,
        "same": 100 * export.agree(simulated, whole).same_top1,
        "bytes": sizes,
        "seconds": seconds,
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    size = row["bytes"]
    return (
        f"| {row['network']} | {row['float']:.2f} | {row['simulated']:.2f} | {row['kernels']:.2f} "
        f"| {row['kernels'] - row['float']:+.2f} | {row['same']:.2f} | {size['float.onnx']:,} → {size['int8.onnx']:,} "
        f"({size['float.onnx'] / size['int8.onnx']:.2f}x) | {size['int8']:,} | {row['bits']} | {row['seconds']:.0f} |"
    )


def main() -> int:
    """Quantize, measure, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--mobilenet", type=Path, help="run folder of int8-mobilenet-v1")
    parser.add_argument("--set", nargs="*", default=[], help="settings of Quantize, key=value")
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    method = Quantize(**dict(pair.split("=", 1) for pair in options.set))
    found = ", ".join(integer_instructions()) or "no VNNI, no dot product: 7-bit weights"
    print(f"{processor()}: {found}\n\nAccuracy\n")
    print(
        "| network | float, % | simulated | integer kernels | lost | same class, % | .onnx bytes | .press bytes ",
        end="",
    )
    print("| bits | CPU s to quantize |\n" + "|---" * 10 + "|")
    rows, claims = [], []
    sides = [(name, *published(name, source, options.data_root)) for name, source in PUBLISHED]
    if options.mobilenet is not None:
        baseline = store.load(options.mobilenet / "00-baseline" / "candidate.press")
        sides.append(("mobilenet-v1", baseline, open_data("cifar10", options.data_root)))
    with tempfile.TemporaryDirectory() as folder:
        for name, candidate, data in sides:
            rows.append(row := measure(name, candidate, data, Path(folder), method))
            print(line(row), flush=True)
            limit = LOST.get(name, LOST_ELSEWHERE)
            claims.append(common.at_most(f"{name}: points lost", row["float"] - row["kernels"], limit))
            claims.append(common.at_least(f"{name}: same class as simulated, %", row["same"], SAME))
    if options.mobilenet is None:
        print("| mobilenet-v1 | not run" + " |" * 9)
    return common.finish({"benchmark": "int8-accuracy", "rows": rows}, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
