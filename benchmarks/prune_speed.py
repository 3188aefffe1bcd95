"""CPU seconds of filter pruning, ours and torch-pruning 1.6.1, in turns; ours with and without the check; peak memory.

    python benchmarks/prune_speed.py [--check] [--rounds 7]

Both analyse the network and remove half of every layer's filters by the sum of absolute weights, at 224 x 224, on one
thread. Theirs (`pip install --no-deps torch-pruning==1.6.1`) is told to keep the outputs, as its readme shows. Each
round starts from a copy of the same network, whose making is not counted. Peak memory is of a process of its own:
growth over what the network and the libraries take, as a share of the network.
"""

from __future__ import annotations

import common  # isort: skip  (sets the number of threads)

import argparse
import copy
import gc
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# name: how many times less CPU we must take, and with the check
LIMITS = {"vgg16": (4.0, None), "resnet50": (1.0, None), "mobilenet_v2": (1.0, None), "densenet201": (15.0, 10.0)}


def build(name: str) -> Any:
    """A network of torchvision with random weights."""
    common.declare_operators()
    import torch
    from torchvision import models

    torch.manual_seed(0)
    return models.get_model(name, weights=None).eval()


def ours(net: Any, example: Any) -> tuple[Any, Any, Any]:
    """Couple, score by the sum of absolute weights over the filters of a group, keep half."""
    from netpress import graph

    coupling = graph.couple(net, example)
    held = dict(net.named_parameters())
    scores = {group.name: _l1(group, held) for group in coupling.free}
    kept = graph.choose(coupling, scores, keep=0.5)
    return graph.keep(net, coupling, kept), coupling, kept


def _l1(group: Any, held: Any) -> Any:
    import torch

    total = torch.zeros(len(group))
    for slot in group.slots:
        if slot.role == "filter":
            weight = held[slot.tensor].detach()
            sums = weight.abs().sum([d for d in range(weight.dim()) if d != slot.axis])
            total += sums[torch.from_numpy(slot.positions)].sum(1)
    return total.numpy()


def theirs(net: Any, example: Any) -> Any:
    """Build the dependency graph, prune once; the argument is changed."""
    import torch_pruning as tp
    from torch import nn

    last = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.MagnitudeImportance(p=1)
    pruner = tp.pruner.BasePruner(net, example, importance=importance, pruning_ratio=0.5, ignored_layers=last)
    pruner.step()
    return net


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and result."""
    gc.collect()
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def rounds(name: str, count: int) -> dict[str, Any]:
    """Both sides in turn; medians and ranges."""
    import torch

    from netpress import graph

    net, example = build(name), torch.zeros(1, 3, 224, 224)
    seconds: dict[str, list[float]] = {"ours": [], "check": [], "theirs": []}
    ours(net, example)  # imports
    for _ in range(count):
        mine, (small, coupling, kept) = timed(partial(ours, net, example))
        check, error = timed(partial(graph.check, net, small, coupling, kept))
        assert error < 1e-6
        seconds["ours"].append(mine)
        seconds["check"].append(mine + check)
        copied = copy.deepcopy(net)
        seconds["theirs"].append(timed(partial(theirs, copied, example))[0])
    counts = [sum(p.numel() for p in m.parameters()) for m in (net, small, copied)]
    return {**seconds, "removed": 1 - counts[1] / counts[0], "theirs removed": 1 - counts[2] / counts[0]}


def memory(name: str) -> float:
    """Growth of the peak over the network and the libraries, over the bytes of the network."""
    done = subprocess.run([sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def grown(name: str) -> float:
    """Measured here, in a process of its own."""
    import torch

    example = torch.zeros(1, 3, 224, 224)
    ours(build("mobilenet_v2"), example)  # what the libraries load on first use is not the network's
    net = build(name)
    size = sum(x.numel() * x.element_size() for x in [*net.parameters(), *net.buffers()])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    result = ours(net, example)
    del result
    return (_status("VmHWM") - before) / size


def _status(name: str) -> int:
    """Bytes of resident memory, now or at the peak (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> int:
    """Measure, print the table, check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.memory:
        print(grown(args.memory))
        return 0
    claims, results = [], {}
    print("CPU seconds, one thread, median (least..most); x: theirs over ours\n")
    print("| network | analysis + pruning | with the check | torch-pruning | x | x with the check | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for name, (limit, checked) in LIMITS.items():
        row = rounds(name, args.rounds)
        peak = 1 + memory(name)
        middle = {side: statistics.median(row[side]) for side in ("ours", "check", "theirs")}
        gain, gain_checked = middle["theirs"] / middle["ours"], middle["theirs"] / middle["check"]
        cells = [name, *[common.spread(row[side]).strip() for side in ("ours", "check", "theirs")]]
        print(
            "| " + " | ".join([*cells, f"{gain:.1f}", f"{gain_checked:.1f}", f"{peak:.2f} x the network"]) + " |",
            flush=True,
        )
        claims.append(common.at_least(f"{name}: times less CPU than torch-pruning", gain, limit))
        if checked:
            claims.append(common.at_least(f"{name}: times less CPU, with the check", gain_checked, checked))
        claims.append(common.at_most(f"{name}: peak memory over the network", peak, 2.0))
        results[name] = {**row, "peak": peak}
    return common.finish({"networks": results}, claims, check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
