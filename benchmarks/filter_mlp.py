"""The filter pruning paper's experiments: one layer before, by hand and by its MLP; then layer after layer.

    netpress run benchmarks/filter_mlp_baseline.toml --data-root DATA --out runs/filter-mlp-baseline
    python benchmarks/filter_mlp.py --baseline runs/filter-mlp-baseline --data-root DATA --check \
        | tee docs/results/filter-mlp.txt

One layer: the convolution with most parameters. A trial prunes that layer of the original by L1, measures batch norms
anew, retrains for one epoch on a sample, and is judged on validation images. *Manual* takes half of the filters away.
*Automatic* asks the paper's MLP (16-8) trial after trial how many filters may go for the wanted accuracy, one point
below the baseline's, at the least time; the first three trials have the amounts that one would try by hand. It is run
twice: with the paper's columns (accuracy, testing time, parameters), and with those that it says it lacked (batch size,
pruning ratio, number of filters). Of its trials, that with the fewest parameters among those of the wanted accuracy
wins; if there are none, the nearest. Winners are pruned from the original again and retrained on all training images.

Layer after layer: the largest layer that is still whole loses a fixed share of its filters and the network is retrained
on the sample, again and again, until a quarter of its parameters are gone; then it is retrained in full.

Times are of ONNX Runtime, one image, one thread, all networks in turns. A second call goes on where the first was
stopped. Writes docs/results/filter-mlp.json; without --baseline it prints and checks what that file holds.
"""

import common  # isort: skip  (sets the number of threads)

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from filter_mlp_work import ROUNDS, Sizes, Work

from netpress import graph
from netpress.measure.latency import Speedup, latency, speedup
from netpress.measure.metrics import machine
from netpress.runtime import graph_bytes
from netpress.search.goal import Goal, Row
from netpress.search.sampler import Question
from netpress.search.samplers.paper_mlp import PaperMlp
from netpress.search.space import Dimension, Space

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "filter-mlp.json"
Columns = Literal["paper", "all"]
VARIANTS: tuple[Columns, ...] = ("paper", "all")
WANTED, LESS = 1.0, 0.25
"""Points of accuracy that may be lost; the share of all parameters that must go layer after layer."""
STEPS = 64
"""Amounts that the predictor may choose from, beside the strongest, which leaves one filter."""
NAME = "removed"


def space_of(filters: int) -> Space:
    """Numbers of filters to remove, from all but one to none; the middle is half of them.

    >>> values = space_of(1024).dimensions[0].values
    >>> values[0], values[32], values[-1], len(values)
    (1023, 512, 0, 65)
    """
    steps = min(STEPS, filters)
    amounts = [filters - filters * k // steps for k in range(1, steps + 1)]
    return Space((Dimension(NAME, (filters - 1, *(a for a in amounts if a < filters - 1)), "filter_prune", ("",)),))


def automatic(work: Work, columns: Columns) -> list[dict[str, Any]]:
    """The paper's loop: the predictor is asked, the original is pruned so and retrained briefly, again and again."""
    before, sampler = work.before(), PaperMlp(columns=columns)
    goal = Goal(before, {}, least=before["top1"] - WANTED / 100, unit="params")
    space, rows, found = space_of(work.conv.out_channels), [], []  # type: ignore[var-annotated]
    for number in range(work.sizes.trials):
        question = Question(space, goal, rows, number, work.sizes.trials, work.sizes.seed, lambda _policy: {})
        removed = int(sampler.propose(question)[NAME] or 0)
        trial = work.trial(removed)
        rows.append(Row(number, {NAME: removed}, "complete", trial["top1"], trial["costs"]))
        found.append({**trial, "by": "hand" if number < sampler.manual else "MLP"})
    best = goal.best(rows)[0].number
    return [{**trial, "best": number == best} for number, trial in enumerate(found)]


def layer_after_layer(work: Work) -> list[dict[str, Any]]:
    """Rows of the steps until enough is gone; and the network, retrained in full, as the last row."""
    groups = len(graph.couple(work.start.net, work.context(1).example).free)
    whole, rows = work.before()["params"], []
    candidate = work.start
    for turn in range(groups):
        candidate, row = work.layer_step(turn, groups)
        rows.append({**row, "less": 1 - row["params"] / whole})
        if rows[-1]["less"] >= LESS:
            break
    final = work.finished(f"layers-{work.sizes.share:g}", lambda: candidate)
    return [*rows, {**final, "less": 1 - final["params"] / whole}]


def collect(work: Work, extra: Mapping[str, int] = MappingProxyType({})) -> dict[str, Any]:
    """All experiments.

    Args:
        work: the baseline.
        extra: by name, filters to remove of further networks that are retrained in full.
    """
    half = work.conv.out_channels // 2
    trials = {columns: automatic(work, columns) for columns in VARIANTS}
    chosen = {f"automatic, {c} columns": next(t["removed"] for t in trials[c] if t["best"]) for c in VARIANTS}
    amounts = {"manual": half, **chosen, **extra}
    alone = work.trial(0)
    finals = {"before": {**work.finished("before", lambda: work.start, epochs=0), "removed": 0}}
    for name, removed in amounts.items():
        made = work.finished(f"removed-{removed}", lambda removed=removed: work.pruned(removed))  # type: ignore[misc]
        finals[name] = {**made, "removed": removed}
    layers = layer_after_layer(work)
    finals["layer after layer"] = layers[-1]
    for name, found in timed(finals, work.start.inputs.shape).items():
        finals[name] |= found
    for row in finals.values():
        row.pop("file", None)
    return {
        "network": work.start.arch.name,
        "data": work.data.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "settings": work.settings(),
        "layer": {"path": work.layer, "filters": work.conv.out_channels, "weights": work.conv.weight.numel()},
        "baseline": work.before(),
        "retrained_whole": alone,
        "manual": work.trial(half),
        "trials": trials,
        "finals": finals,
        "layers": layers[:-1],
    }


def timed(finals: dict[str, dict[str, Any]], shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Milliseconds of one image, all in turns; how many times faster than before, and than by hand."""
    models = {name: graph_bytes(row["file"]) for name, row in finals.items()}
    found = latency(models, np.zeros((1, *shape), np.float32), threads=1, rounds=ROUNDS)
    told: dict[str, dict[str, Any]] = {}
    for name, timing in found.items():
        told[name] = {"latency_ms": timing.median_ms}
        for against in ("before", "manual"):
            ratio = Speedup(1, 1, 1) if name == against else speedup(found[against], timing)
            told[name][f"times_{against}"] = [ratio.median, ratio.q1, ratio.q3]
    return told


def trial_lines(facts: dict[str, Any]) -> list[str]:
    """A row for each trial."""
    made = []
    for columns, trials in facts["trials"].items():
        seen: set[int] = set()
        for number, trial in enumerate(trials):
            again = ", had before" if trial["removed"] in seen else ""
            seen.add(trial["removed"])
            costs, mark = trial["costs"], ", wins" if trial["best"] else ""
            made.append(
                f"| {columns} | {number} | {trial['by']}{again}{mark} | {trial['removed']:,} "
                f"| {100 * trial['bare']:.2f} | {100 * trial['top1']:.2f} | {costs['latency_ms']:.2f} "
                f"| {costs['params']:,} | {trial['seconds']:.0f} |"
            )
    return made


def final_lines(facts: dict[str, Any]) -> list[str]:
    """A row for each network that was retrained in full."""
    made, filters = [], facts["layer"]["filters"]
    top1 = facts["finals"]["before"]["top1"]
    for name, row in facts["finals"].items():
        left = f"{filters - row['removed']:,} of {filters:,}" if "removed" in row else "–"
        times = "{:.2f} ({:.2f}..{:.2f})".format(*row["times_before"])
        made.append(
            f"| {name} | {left} | {row['epochs']} | {100 * row['validation']:.2f} | {100 * row['top1']:.2f} "
            f"| {100 * (top1 - row['top1']):.2f} | {row['latency_ms']:.2f} | {times} | {row['test_seconds']:.1f} "
            f"| {row['file_bytes']:,} | {row['params']:,} | {row['macs']:,} | {row['train_seconds'] / 60:.1f} |"
        )
    return made


def layer_lines(facts: dict[str, Any]) -> list[str]:
    """A row for each layer that was pruned after another."""
    first, final = facts["baseline"], facts["finals"]["layer after layer"]
    made = [f"| – | as it comes | {first['params']:,} | 0.0 | – | {100 * first['top1']:.2f} |"]
    for number, row in enumerate(facts["layers"], start=1):
        made.append(
            f"| {number} | {row['layer']} | {row['params']:,} | {100 * row['less']:.1f} | {100 * row['bare']:.2f} "
            f"| {100 * row['top1']:.2f} |"
        )
    test = f"test {100 * facts['finals']['before']['top1']:.2f} → {100 * final['top1']:.2f}"
    return [*made, f"| – | retrained in full | {final['params']:,} | {100 * final['less']:.1f} | – | {test} |"]


def claims(facts: dict[str, Any]) -> list[common.Claim]:
    """What automatic pruning loses and saves; what goes layer after layer."""
    finals = facts["finals"]
    before, found = finals["before"], []
    for name in (f"automatic, {columns} columns" for columns in VARIANTS):
        row = finals[name]
        lost = round(100 * (before["top1"] - row["top1"]), 4)
        found.append(common.at_most(f"{name}: points of top-1 lost on test", lost, WANTED))
        found.append(common.at_most(f"{name}: file, share of before", row["file_bytes"] / before["file_bytes"], 0.99))
        found.append(common.at_most(f"{name}: parameters, share of before", row["params"] / before["params"], 0.99))
    less = finals["layer after layer"]["less"]
    return [*found, common.at_least("layer after layer: share of the parameters gone", less, LESS)]


def show(facts: dict[str, Any]) -> None:
    """All tables."""
    layer, sizes = facts["layer"], facts["settings"]
    whole, alone, manual = facts["baseline"], facts["retrained_whole"], facts["manual"]
    share = 100 * layer["weights"] / whole["params"]
    print(
        f"{facts['network']}, {facts['data']}: {whole['params']:,} parameters, {whole['macs']:,} multiply-adds\n"
        f"One layer: {layer['path']}, {layer['filters']:,} filters, {layer['weights']:,} weights, "
        f"{share:.0f} % of all parameters\n"
        f"Trials: {sizes['sample']:,} training images, {sizes['judged']:,} validation images; as it comes "
        f"{100 * whole['top1']:.2f} %, wanted {100 * whole['top1'] - WANTED:.2f} %; retrained with nothing removed "
        f"{100 * alone['top1']:.2f} %; manual, {manual['removed']:,} removed, {100 * manual['top1']:.2f} %\n"
    )
    print("| columns | trial | amount by | filters removed | top-1 pruned, % | retrained, % | ms | parameters | s |")
    print("|---" * 9 + "|")
    print("\n".join(trial_lines(facts)))
    print(
        "\nRetrained in full\n\n| network | filters left | epochs | top-1 validation, % | top-1 test, % | points lost "
        "| ms | times faster | test images, CPU s | file, bytes | parameters | MACs | minutes trained |"
    )
    print("|---" * 13 + "|")
    print("\n".join(final_lines(facts)))
    for columns in VARIANTS:
        ratio = facts["finals"][f"automatic, {columns} columns"]["times_manual"]
        words = "manual's time over automatic's, {} columns: {:.2f} ({:.2f}..{:.2f}); the paper: equal"
        print(words.format(columns, *ratio))
    print(f"\nLayer after layer, {100 * sizes['share']:g} % of the filters of each\n")
    print("| step | layer | parameters | fewer, % | top-1 pruned, % | retrained, % |\n" + "|---" * 6 + "|")
    print("\n".join(layer_lines(facts)))


def main() -> int:
    """Measure or read, print, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="run folder of filter_mlp_baseline.toml")
    parser.add_argument("--data-root")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/filter-mlp"), help="results so far, networks, checkpoints"
    )
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--control", action="store_true", help="retrain the whole network in full too")
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    if options.baseline is not None:
        torch.set_num_threads(1)
        sizes = Sizes(**{name: getattr(options, name) for name in asdict(Sizes())})
        work = Work(options.baseline, options.data_root, options.out, sizes)
        facts = collect(work, {"before, retrained as the others": 0} if options.control else {})
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    facts = json.loads(RESULTS.read_text())
    show(facts)
    results = {name: facts[name] for name in ("network", "data", "date", "settings", "layer")}
    return common.finish({"benchmark": "filter-mlp", **results}, claims(facts), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
