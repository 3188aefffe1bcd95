"""Searches from one command each: what was asked for, what came out, how long it took.

    netpress search lenet5 --data mnist --max-size 20kB --max-drop 0.2 --trials 25 --precision bf16-mixed \
        --data-root DATA --out runs/search-lenet5
    netpress search cifar-resnet20 --weights pretrained --data cifar10 --max-macs 60% --max-drop 1.5 --trials 15 \
        --set sample=5000 --set train.epochs=6 --precision bf16-mixed --data-root DATA --out runs/search-resnet20
    python benchmarks/searches.py runs/search-lenet5 runs/search-resnet20 --check | tee docs/results/searches.txt

One thread (OMP_NUM_THREADS=1). Minutes are from the first line of the baseline's log to the last line of the last
final's: training of the baseline, trials, full retraining and checks are in them. Writes docs/results/searches.json;
without folders it prints and checks what that file holds.
"""

import common  # isort: skip  (sets the number of threads)

import json
from datetime import datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "searches.json"
MOST_MINUTES = {"zoo:lenet5": 30, "zoo:cifar-resnet20": 90}
KEPT = ("title", "network", "sampler", "seed", "date", "machine", "baseline", "goal", "finals", "winner", "verdict")


def collect(folder: Path) -> dict[str, Any]:
    """The row of a search."""
    facts = json.loads((folder / "search.json").read_text())
    logs = [folder / "baseline" / "log.jsonl", folder / facts["finals"][-1]["folder"] / "log.jsonl"]
    first = datetime.fromisoformat(json.loads(logs[0].read_text().splitlines()[0])["time"])
    end = datetime.fromisoformat(json.loads(logs[1].read_text().splitlines()[-1])["time"])
    states = [row["state"] for row in facts["rows"]]
    return {
        **{key: facts[key] for key in KEPT},
        "amounts": len(facts["dimensions"]),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "trial_seconds": sum(row["seconds"] for row in facts["rows"]),
        "minutes": (end - first).total_seconds() / 60,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line per search."""
    heads = ["search", "asked for", "amounts", "trials", "finals", "bytes", "MACs", "deciding top-1, %"]
    heads += ["reported top-1, %", "verdict", "minutes"]
    lines = ["Searches", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        final, before = row["finals"][row["winner"]], row["baseline"]
        asked = ", ".join(f"{name} {value}" for name, value in row["goal"]["asked"].items())
        trials = ", ".join(f"{count} {state}" for state, count in row["trials"].items())
        cells = [f"{row['title'].removeprefix('Search: ')}, seed {row['seed']}", asked, row["amounts"], trials]
        cells += [len(row["finals"]), *(f"{before[m]:,} → {final[m]:,}" for m in ("file_bytes", "macs"))]
        cells += [f"{100 * before['top1']:.2f} → {100 * final['validation_top1']:.2f}"]
        cells += [f"{100 * before['test_top1']:.2f} → {100 * final['top1']:.2f}", row["verdict"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['minutes']:.0f} |")
    return "\n".join(lines)


def claims(rows: list[dict[str, Any]]) -> list[common.Claim]:
    """Every budget is met, in time."""
    held = []
    for row in rows:
        final = row["finals"][row["winner"]]
        limits = final["budget"]
        held += [common.at_most(f"{row['title']}: {x['limit']}", x["measured"], x["allowed"]) for x in limits]
        held.append(common.at_most(f"{row['title']}: minutes", row["minutes"], MOST_MINUTES[row["network"]]))
    return held


def main() -> int:
    """Print and check."""
    rows, check = common.collected(__doc__, RESULTS, collect, key="network")
    print(table(rows))
    return common.finish({"searches": len(rows)}, claims(rows), check=check)


if __name__ == "__main__":
    raise SystemExit(main())
