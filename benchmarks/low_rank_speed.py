"""What half the multiply-adds are in time: ONNX Runtime, batch 1, one thread, all models in turns in one run.

    python benchmarks/low_rank_speed.py --check | tee docs/results/low-rank-speed.txt

Every layer that can be divided gets the ranks of half of its own multiply-adds, as multiples of 8 and without rounding;
filters are pruned to half of the network's; substitutions have the sizes that are said. ResNet-18 at 224×224 and
ResNet-20 for CIFAR. The weights are fresh or random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import common
import numpy as np
import torch
from torch import nn

from netpress import methods, zoo
from netpress.arch import edit
from netpress.candidate import Candidate, Inputs, edited
from netpress.codec.header import Arch
from netpress.measure import cost, latency, speedup
from netpress.methods.rank_settings import sites_of
from netpress.methods.replaceable import Chosen, find
from netpress.methods.replacing import unspared

NETWORKS = (("resnet18", ("conv1",)), ("cifar-resnet20", ("conv1",)))
KINDS = ("svd", "spatial_svd", "cp", "tucker2")
SUBSTITUTES: dict[str, dict[str, Any]] = {
    "grouped, 2": {"kind": "grouped"},
    "separable, 4 kernels": {"kind": "separable", "multiplier": 4},
    "fire, condense 0.5": {"kind": "fire", "condense": 0.5},
}
FASTER = 1.5


def divided(before: Candidate, kind: str, step: int, frozen: tuple[str, ...]) -> Candidate:
    """Every layer at half of its multiply-adds; random numbers in the factors."""
    method = methods.LowRank(kind=kind, keep=0.5, round_to=step)  # type: ignore[arg-type]
    example = torch.zeros(1, *before.inputs.shape)
    layers = find(before, example, method.operation, chosen=Chosen("low_rank", frozen=frozen))
    net, arch = deepcopy(before.net), before.arch
    for site in sites_of(before.net, layers, None, seed=0, step=step):
        numbers = _pair(site) if site.operation == "tucker2" else site.at_share(0.5)
        if unspared(site.layer, *site.price(numbers)) is None:
            edit(net, site.operation, site.layer.path, *numbers)
            arch = edited(arch, site.operation, site.layer.path, *numbers)
            for parameter in net.get_submodule(site.layer.path).parameters():
                nn.init.normal_(parameter, std=0.02)
    return before.but(net=net, arch=arch)


def _pair(site: Any) -> tuple[int, int]:
    """The largest equal shares of inputs and outputs; the weights' spectra do not matter here."""
    rank_in, rank_out = site.full
    best = site.up((1, 1))
    for part in range(1, 65):
        numbers = site.up((max(1, rank_in * part // 64), max(1, rank_out * part // 64)))
        if site.price(numbers)[0] <= 0.5 * site.layer.macs:
            best = numbers
    return best


def versions(before: Candidate, frozen: tuple[str, ...]) -> Iterator[tuple[str, Candidate]]:
    """The original and everything that is compared with it."""
    example = torch.zeros(1, *before.inputs.shape)
    yield "original", before
    for kind in KINDS:
        for step in (8, 1):
            yield f"{kind}, round_to={step}", divided(before, kind, step, frozen)
    for name, settings in SUBSTITUTES.items():
        method = methods.Substitute(**settings, frozen=frozen)
        yield name, methods.apply(method, before.net, example=example).but(arch=before.arch)
    prune = methods.FilterPrune(max_macs="50%", round_to=8)
    yield "filter_prune, round_to=8", methods.apply(prune, before.net, example=example)


def main() -> int:
    """Build, time in turns, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("Speed\n\n| network | MACs | ms, median (quartiles) | times faster, median (quartiles) | MACs saved |")
    print("|---|---|---|---|---|")
    rows = []
    for name, frozen in NETWORKS:
        shape = zoo.describe(name).shape
        torch.manual_seed(0)
        before = Candidate(zoo.create(name).eval(), arch=Arch("zoo", name), inputs=Inputs(shape))
        found = dict(versions(before, frozen))
        x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        timings = latency({k: common.graph(c) for k, c in found.items()}, x, threads=1, rounds=options.rounds)
        whole = cost(before.net, shape).macs
        for key, candidate in found.items():
            macs, t = cost(candidate.net, shape).macs, timings[key]
            ratio = speedup(timings["original"], t) if key != "original" else None
            faster = f"{ratio.median:.2f} ({ratio.q1:.2f}..{ratio.q3:.2f})" if ratio else "1"
            slow = ratio is not None and ratio.median < 1.05
            spread = f"{t.median_ms:.3g} ({t.q1_ms:.3g}..{t.q3_ms:.3g})"
            print(
                f"| {name}, {key} | {macs:,} | {spread} | {faster}{' **no fewer milliseconds**' if slow else ''} "
                f"| {whole / macs:.2f}x |",
                flush=True,
            )
            rows.append(
                {"network": name, "what": key, "macs": macs, "ms": t.median_ms, "times": ratio and ratio.median}
            )
    ours = {(row["network"], row["what"]): row["times"] for row in rows}
    claims = [
        common.at_least(f"ResNet-18, {kind}, round_to=8: times faster", ours["resnet18", f"{kind}, round_to=8"], FASTER)
        for kind in ("svd", "spatial_svd")
    ]
    return common.finish({"benchmark": "low-rank-speed", "rows": rows}, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
