"""What integers buy in time and bytes: original and int8 on ONNX Runtime, batch 1, one thread, all sides in turns.

    python benchmarks/int8_latency.py --check | tee docs/results/int8-latency.txt

224 x 224 images. Weights are fresh and calibration images noise: time does not depend on them (bytes of a `.press`
file do, a little). The limits hold for processors that add products of 8-bit integers in 32 bits (VNNI, dot product);
elsewhere the script says what it found, and checks only what does not depend on the processor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from netpress import export, methods, store, zoo
from netpress.candidate import Candidate, Inputs
from netpress.codec.header import Arch
from netpress.data.types import Split
from netpress.measure import latency, speedup
from netpress.processor import integer_instructions, processor
from netpress.train.channels import recalibrate

FASTER = {"resnet18": 3.2, "resnet50": 2.8, "mobilenet-v1": 3.0, "mobilenet-v2": 1.3}
SMALLER, PRODUCT = (3.6, 4.1), 0.25
SIDE = 224


def sides(name: str, noise: Split) -> dict[str, Candidate]:
    """The network, and it in integers; of ResNet-18 also with half of its multiply-adds pruned."""
    torch.manual_seed(0)
    inputs = Inputs((3, SIDE, SIDE), (0.5,) * 3, (0.25,) * 3)
    net = zoo.create(name).eval()
    recalibrate(net, noise, inputs, samples=len(noise))
    found = {"float32": Candidate(net, arch=Arch("zoo", name), inputs=inputs)}
    example = torch.zeros(1, *inputs.shape)
    if name == "resnet18":
        prune = methods.FilterPrune(max_macs="50%", round_to=8)
        thin = methods.apply(prune, net, example=example, inputs=inputs)
        found["pruned"] = thin.but(arch=Arch("zoo", name, edits=thin.arch.edits))
    quantize = methods.Quantize(samples=len(noise))
    for what, candidate in list(found.items()):
        made = methods.apply(quantize, candidate.net, example=example, inputs=inputs, train=noise)
        label = "int8" if what == "float32" else f"{what} + int8"
        found[label] = made.but(arch=Arch("zoo", name, edits=(*candidate.arch.edits, *made.arch.edits)))
    return found


def measure(name: str, noise: Split, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Rows of one network: milliseconds, ratio to the original, bytes."""
    files = {}
    for what, candidate in sides(name, noise).items():
        press = folder / f"{name}-{what}.press"
        saved = store.save(candidate, press, codec="rans")
        files[what] = (press.with_suffix(".onnx"), saved.file_bytes)
        export.export_onnx(press, files[what][0])
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    timed = latency({what: path for what, (path, _) in files.items()}, x, threads=1, rounds=rounds)
    first, base = timed["float32"], files["float32"][0].stat().st_size
    rows = []
    for what, (path, press_bytes) in files.items():
        t, ratio = timed[what], speedup(first, timed[what]) if what != "float32" else None
        size = path.stat().st_size
        spread = f"{t.median_ms:.3g} ({t.q1_ms:.3g}..{t.q3_ms:.3g})"
        faster = f"{ratio.median:.2f} ({ratio.q1:.2f}..{ratio.q3:.2f})" if ratio else "1"
        print(f"| {name}, {what} | {spread} | {faster} | {size:,} | {base / size:.2f}x | {press_bytes:,} |", flush=True)
        row = {"network": name, "what": what, "ms": t.median_ms, "times": ratio.median if ratio else 1.0}
        rows.append({**row, "onnx_bytes": size, "smaller": base / size, "press_bytes": press_bytes})
    return rows


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """The limits that hold on this processor."""
    found = []
    by = {(row["network"], row["what"]): row for row in rows}
    for (name, what), row in by.items():
        if what == "int8":
            if integer_instructions():
                found.append(common.at_least(f"{name}: times faster", row["times"], FASTER[name]))
            found.append(common.at_least(f"{name}: int8 .onnx times smaller", row["smaller"], SMALLER[0]))
            found.append(common.at_most(f"{name}: int8 .onnx times smaller", row["smaller"], SMALLER[1]))
            found.append(
                common.at_most(f"{name}: .press over .onnx, int8", row["press_bytes"] / row["onnx_bytes"], 0.999)
            )
    if ("resnet18", "pruned + int8") in by:
        product = by["resnet18", "pruned"]["times"] * by["resnet18", "int8"]["times"]
        off = abs(by["resnet18", "pruned + int8"]["times"] / product - 1)
        found.append(common.at_most("pruned + int8 against the product of both gains: off by", off, PRODUCT))
    return found


def main() -> int:
    """Make, time in turns, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(FASTER), choices=list(FASTER))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    have = ", ".join(integer_instructions())
    print(f"{processor()}: {have or 'no VNNI, no dot product: 7-bit weights; limits of speed do not apply'}\n")
    print("Speed\n\n| network | ms, median (quartiles) | times faster (quartiles) | .onnx | smaller | .press |")
    print("|---" * 6 + "|")
    rng = torch.Generator().manual_seed(0)
    noise = Split(
        torch.randint(0, 256, (16, 3, SIDE, SIDE), dtype=torch.uint8, generator=rng), torch.zeros(16, dtype=torch.int64)
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            rows += measure(name, noise, Path(folder), options.rounds)
    facts = {"benchmark": "int8-latency", "integer_instructions": list(integer_instructions()), "rows": rows}
    return common.finish(facts, claims(rows), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
