"""Prune every convolutional network of torchvision, and one or more of every convolutional family of timm, and compare.

    python benchmarks/prune_coverage.py [--check] [--networks NAME ...] [--timeout 300] [--again]

Random weights, random batch-norm statistics, keep 0.5 of every group of channels that can go, chosen at random. Ours:
the relative error against the zeroed twin in float64, the share of parameters removed, what could not be pruned and
why. Theirs (torch-pruning 1.6.1, `pip install --no-deps torch-pruning==1.6.1`): magnitude pruning at ratio 0.5 with
the outputs ignored, as its readme shows; the network that it returns is compared with a twin of the original in which
every slice is zero that it removed. Each network runs in a process of its own, so that a crash is a row.

"promised" is the share that goes when half of every channel axis goes but the network's inputs and outputs.
Rows are kept in docs/results/coverage.jsonl: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import common  # isort: skip  (sets the number of threads)

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "docs" / "results"
ROWS = RESULTS / "coverage.jsonl"
TOLERANCE = 1e-6

NOT_CONVOLUTIONAL = ("vit_", "swin", "maxvit")
TIMM = """
gernet_s mobileone_s0 regnetz_b16 regnetz_b16_evos repvgg_a0 resnet32ts eca_resnext26ts gcresnext26ts seresnet33ts
bat_resnext26ts convmixer_768_32 convnext_atto convnext_tiny_hnf convnext_zepto_rms convnextv2_atto cspresnet50
cspresnext50 cspdarknet53 darknet53 cs3darknet_focus_s cs3sedarknet_l cs3edgenet_x cspnext_tiny densenet121
densenetblur121d dla34 dla46x_c dla60_res2net dla60_res2next dpn48b dpn68 dpn68b efficientnet_b0 efficientnet_b0_gn
efficientnet_b0_g8_gn efficientnet_b0_g16_evos efficientnet_blur_b0 efficientnet_cc_b0_4e efficientnet_es
efficientnet_lite0 efficientnetv2_rw_t gc_efficientnetv2_rw_t tf_efficientnet_b0 mixnet_s tf_mixnet_l mnasnet_small
fbnetc_100 spnasnet_100 tinynet_e mobilenetv2_050 mobilenet_edgetpu_100 fasternet_t0 fastvit_t8 focalnet_tiny_srf
ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hrnet_w18_small inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small mambaout_femto poolformer_s12 poolformerv2_s12
convformer_s18 fbnetv3_b lcnet_050 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_conv_blur_medium
nasnetalarge eca_nfnet_l0 nf_regnet_b0 nf_resnet26 nfnet_l0 dm_nfnet_f0 pnasnet5large rdnet_tiny regnetx_002
regnety_002 regnetz_005 regnety_040_sgn regnetv_040 repghostnet_050 repvit_m0_9 res2net50_14w_8s res2next50 resnest14d
resnest50d_4s2x40d resnet18 resnet10t resnet26d resnetaa50 resnetblur50 resnetrs50 ecaresnet26t seresnext26d_32x4d
wide_resnet50_2 resnetv2_18 resnetv2_50 resnetv2_50d_gn resnetv2_50d_evos resnetv2_50d_frn resnetv2_50x1_bit
rexnet_100 rexnetr_100 selecsls42 legacy_seresnet18 legacy_seresnext26_32x4d skresnet18 skresnext50_32x4d starnet_s1
tresnet_m vgg11_bn vovnet39a ese_vovnet19b_slim_dw eca_vovnet39b ese_vovnet39b_evos legacy_xception xception41
xception41p
"""


def networks() -> list[str]:
    """All names, torchvision's first."""
    common.declare_operators()
    from torchvision import models

    listed = [n for n in models.list_models(models) if not n.startswith(NOT_CONVOLUTIONAL)]
    return [f"torchvision:{n}" for n in listed] + [f"timm:{n}" for n in TIMM.split()]


def build(name: str) -> Any:
    """A network with random weights and random statistics of its norms, in evaluation mode, and an input."""
    common.declare_operators()
    import torch
    from torch import nn

    torch.manual_seed(0)
    source, _, model = name.partition(":")
    if source == "torchvision":
        from torchvision import models

        extra = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
        net = models.get_model(model, weights=None, **extra)
        size = 299 if "inception" in model else 224
    else:
        import timm

        net = timm.create_model(model, pretrained=False)
        size = net.pretrained_cfg["input_size"][-1]
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return net.eval(), torch.zeros(1, 3, size, size)


def count(net: Any) -> int:
    """Parameters."""
    return sum(p.numel() for p in net.parameters())


def ours(name: str) -> dict[str, Any]:
    """Our row of one network."""
    from netpress.graph import check, choose, couple, keep, random_scores

    net, example = build(name)
    start = time.process_time()
    coupling = couple(net, example)
    kept = choose(coupling, random_scores(coupling, 0), keep=0.5)
    small = keep(net, coupling, kept)
    seconds = time.process_time() - start
    error = check(net, small, coupling, kept)
    pinned: dict[str, int] = {}
    for group in coupling.groups:
        if group.pinned and not group.pinned.startswith("network"):
            reason = group.pinned.partition(" in ")[0]
            pinned[reason] = pinned.get(reason, 0) + int(group.cost.sum())
    return {
        "state": "exact" if error <= TOLERANCE else "wrong",
        "error": error,
        "parameters": count(net),
        "removed": 1 - count(small) / count(net),
        "promised": promised(net, coupling),
        "pinned": {reason: cost / count(net) for reason, cost in pinned.items()},
        "unknown": [list(pair) for pair in coupling.unknown],
        "mixes": coupling.mixing,
        "untouched": len(coupling.untouched),
        "seconds": seconds,
    }


def promised(net: Any, coupling: Any) -> float:
    """Share of parameters that goes when half of every channel axis goes but inputs and outputs of the network."""
    fixed = {
        (slot.tensor, slot.axis)
        for group in coupling.groups
        if group.pinned.startswith("network")
        for slot in group.slots
    }
    left = 0.0
    for name, p in net.named_parameters():
        axes = list(range(min(p.dim(), 2)))
        if p.dim() > 1 and p.shape[0] == 1:
            axes = [int(p.shape.index(max(p.shape)))]
        half = [a for a in axes if p.shape[a] > 1 and (name, a) not in fixed]
        left += p.numel() * 0.5 ** len(half)
    return 1 - left / count(net)


def theirs(name: str) -> dict[str, Any]:
    """torch-pruning's row of one network."""
    import copy

    import torch
    import torch_pruning as tp
    from torch import nn

    net, example = build(name)
    net = net.double()
    twin = copy.deepcopy(net)
    start = time.process_time()
    last = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d) and is_output(m, name)][-1:]
    pruner = tp.pruner.BasePruner(
        net,
        torch.zeros_like(example).double(),
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    removed = follow(net, pruner.step(interactive=True))
    seconds = time.process_time() - start
    twin = silenced(twin, removed, example)
    torch.manual_seed(1)
    x = torch.randn(1, 3, 96, 96) if example.shape[-1] >= 96 and small_runs(twin) else torch.randn(example.shape)
    with torch.no_grad():
        want, got = twin(x.double()), net(x.double())
    if want.shape != got.shape:
        return {"state": "crash", "why": f"output {tuple(got.shape)}, expected {tuple(want.shape)}"}
    error = float((want - got).abs().max() / want.abs().max())
    return {
        "state": "exact" if error <= TOLERANCE else "differs",
        "error": error,
        "removed": 1 - count(net) / count(twin),
        "seconds": seconds,
    }


def small_runs(net: Any) -> bool:
    """Whether a network takes images of 96 x 96."""
    import torch

    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, 96, 96).double())
    except Exception:  # noqa: BLE001  (a network that does not fit raises anything)
        return False
    return True


def is_output(module: Any, name: str) -> bool:
    """Whether a layer makes the 1,000 scores."""
    outputs = getattr(module, "out_features", getattr(module, "out_channels", 0))
    return outputs == 1000 and name != ""


Place = tuple[str, str, int]  # path of a module, name of its tensor, axis


def follow(net: Any, groups: Any) -> dict[Place, set[int]]:
    """Prune group after group; which positions of the original each tensor lost."""
    paths = {module: path for path, module in net.named_modules()}
    left = {place: list(range(n)) for place, n in sizes(net, paths).items()}
    original = sizes(net, paths)
    for group in groups:
        touched = [(dep.target.module, sorted(set(idxs))) for dep, idxs in group if dep.target.module in paths]
        group.prune()
        after = sizes(net, paths)
        for module, positions in touched:
            for place in [p for p in left if p[0] == paths[module] and after.get(p, 0) < len(left[p])]:
                count = len(left[place]) - after.get(place, 0)
                # a layer may divide the positions among its groups: the first of them then name what goes
                gone = {k for k in positions if k < len(left[place])}
                gone = set(sorted(gone)[:count])
                left[place] = [v for k, v in enumerate(left[place]) if k not in gone]
    lost = {place: set(range(original[place])) - set(kept) for place, kept in left.items()}
    return {place: positions for place, positions in lost.items() if positions}


def sizes(net: Any, paths: Any) -> dict[Place, int]:
    """Length of every axis of every tensor."""
    return {
        (paths[m], name, axis): n
        for m in net.modules()
        if m in paths
        for name, x in [*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)]
        for axis, n in enumerate(x.shape)
    }


def silenced(net: Any, removed: dict[Place, set[int]], example: Any) -> Any:
    """The twin in which what was removed is zero; our classes say where statistics must leave it out."""
    import numpy as np
    import torch

    from netpress import graph

    gone = {(f"{path}.{name}" if path else name, axis): lost for (path, name, axis), lost in removed.items()}
    coupling = graph.couple(net, example.double())
    kept = {group.name: np.array([not touched(group, k, gone) for k in range(len(group))]) for group in coupling.free}
    if coupling.mixing:
        return graph.zeroed_twin(net, coupling, kept)
    with torch.no_grad():
        held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        for (name, axis), lost in gone.items():
            held[name].index_fill_(axis, torch.tensor(sorted(lost)), 0)
    return net


def touched(group: Any, member: int, gone: dict[tuple[str, int], set[int]]) -> bool:
    """Whether a member of a group lost one of its positions."""
    return any(set(s.positions[member].tolist()) & gone.get((s.tensor, s.axis), set()) for s in group.slots)


def worker(tool: str, name: str) -> int:
    """One row, printed."""
    print(json.dumps({"ours": ours, "theirs": theirs}[tool](name)))
    return 0


def attempt(tool: str, name: str, timeout: float) -> dict[str, Any]:
    """One row from a process of its own; a crash or a timeout is a row too."""
    command = [sys.executable, __file__, "--worker", tool, "--networks", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"state": "timeout", "why": f"more than {timeout:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        files = [line.split('"')[1] for line in lines if line.strip().startswith("File ")]
        places = [file.rpartition("site-packages/")[2].rpartition(f"{ROWS.parents[2]}/")[2] for file in files]
        where = places[-1] if places else ""
        # what fails in our own comparison is no crash of the other tool
        state = "not compared" if tool == "theirs" and where.startswith("netpress/") else "crash"
        return {"state": state, "why": lines[-1][:200], "where": where}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def rows() -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured so far; later lines win."""
    if not ROWS.exists():
        return {}
    read = [json.loads(line) for line in ROWS.read_text().splitlines()]
    return {(r["network"], r["tool"]): r for r in read}


def table(found: dict[tuple[str, str], dict[str, Any]], names: list[str]) -> None:
    """One line per network."""
    print("| network | ours | error | removed | promised | kept whole, and why | torch-pruning | removed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        a, b = found.get((name, "ours"), {"state": "not run"}), found.get((name, "theirs"), {"state": "not run"})
        why = "; ".join(f"{r} ({100 * s:.0f} %)" for r, s in a.get("pinned", {}).items() if s >= 0.005) or a.get(
            "why", ""
        )
        cells = [
            name,
            a["state"],
            f"{a['error']:.0e}" if "error" in a else "",
            percent(a, "removed"),
            percent(a, "promised"),
            why,
            b["state"],
            percent(b, "removed"),
        ]
        print("| " + " | ".join(cells) + " |")


def summary(found: dict[tuple[str, str], dict[str, Any]], names: list[str]) -> None:
    """How many networks each tool pruned, and how."""
    states = ("exact", "differs", "wrong", "crash", "timeout", "not compared", "not run")
    print("\nSummary\n\n| | networks | exact | wrong | crash | timeout | not compared | not run | removed, median |")
    print("|---" * 9 + "|")
    for tool, title in (("ours", "netpress"), ("theirs", "torch-pruning 1.6.1")):
        mine = [found.get((name, tool), {"state": "not run"}) for name in names]
        count = {state: sum(row["state"] == state for row in mine) for state in states}
        removed = statistics.median(row["removed"] for row in mine if row["state"] == "exact")
        cells = [count["exact"], count["differs"] + count["wrong"], *(count[state] for state in states[3:])]
        print(f"| {title} | {len(names)} | {' | '.join(map(str, cells))} | {100 * removed:.1f}% |")


def percent(row: dict[str, Any], key: str) -> str:
    """A share in per cent."""
    return f"{100 * row[key]:.1f}%" if key in row else ""


def claims(found: dict[tuple[str, str], dict[str, Any]], names: list[str]) -> list[common.Claim]:
    """What the table must show."""
    mine = [found.get((n, "ours"), {"state": "not run"}) for n in names]
    low = [r for r in mine if r["state"] == "exact" and r["removed"] < 0.5 * r["promised"]]
    behind = [
        n
        for n in names
        if found.get((n, "theirs"), {}).get("state") == "exact"
        and found.get((n, "ours"), {}).get("removed", 0) < found[n, "theirs"]["removed"] - 0.005
    ]
    print(f"\nless than half of what was promised: {len(low)} of {len(names)}")
    print(f"torch-pruning removes more, correctly: {behind or 'nowhere'}")
    return [
        common.at_least("networks pruned exactly", sum(r["state"] == "exact" for r in mine), len(names)),
        common.at_most("largest relative error", max((r.get("error", 0.0) for r in mine), default=0.0), TOLERANCE),
        common.at_most("share of networks that lose less than half of the promise", len(low) / len(names), 0.1),
        common.at_most("networks where torch-pruning removes more, correctly", len(behind), 0),
    ]


def main() -> int:
    """Measure what is missing, print the table, check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--worker", choices=("ours", "theirs"))
    parser.add_argument("--tools", nargs="*", default=["ours", "theirs"])
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.networks[0])
    names = args.networks or networks()
    for tool in args.tools:
        for name in names:
            if not args.again and (name, tool) in rows():
                continue
            row = {"network": name, "tool": tool, **attempt(tool, name, args.timeout)}
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, tool, row["state"], percent(row, "removed"), row.get("why", ""), file=sys.stderr, flush=True)
    found = rows()
    table(found, names)
    summary(found, names)
    states: dict[str, int] = {}
    for name in names:
        for tool in ("ours", "theirs"):
            state = f"{tool} {found.get((name, tool), {'state': 'not run'})['state']}"
            states[state] = states.get(state, 0) + 1
    return common.finish({"networks": len(names), "states": states}, claims(found, names), check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
