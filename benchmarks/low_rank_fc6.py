"""AlexNet's fc6, 4096 x 9216, at rank 256: SVD by random projection, and the full SVD beside it. Two threads.

    python benchmarks/low_rank_fc6.py --check | tee docs/results/low-rank-fc6.txt

AlexNet's trained weights are not at hand, so the matrix is made to look like such: singular values that fall as a power
over 1,024 directions, plus noise of the same energy, float32. Every run is a process of its own, the two sides in
turns; seconds are wall time of the decomposition alone (the reading of the matrix is not counted), memory is the
process's whole peak, libraries and matrix included.
"""

from __future__ import annotations

import common  # isort: skip  (sets the number of threads)

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS, INPUTS, RANK = 4096, 9216, 256
THREADS = 2
SECONDS, BYTES, EXCESS = 20.0, 2e9, 2e-3


def made() -> np.ndarray[Any, np.dtype[np.float32]]:
    """A matrix whose singular values fall as a power, and noise as large."""
    rng = np.random.default_rng(0)
    directions = 1024
    sizes = np.arange(1, directions + 1, dtype=np.float32) ** -0.7
    left = rng.standard_normal((OUTPUTS, directions), dtype=np.float32)
    right = rng.standard_normal((directions, INPUTS), dtype=np.float32)
    planted = (left * sizes) @ right
    noise = rng.standard_normal((OUTPUTS, INPUTS), dtype=np.float32)
    matrix = planted / planted.std() + noise
    return (0.01 * matrix / matrix.std()).astype(np.float32)


def measured(side: str, path: str) -> dict[str, float]:
    """One decomposition in this process."""
    import torch

    from netpress.factor.svd import factors, spectrum

    torch.set_num_threads(THREADS)
    matrix = torch.from_numpy(np.load(path))
    start, cpu = time.perf_counter(), time.process_time()
    left, right = factors(spectrum(matrix, rank=RANK if side == "randomised" else None), RANK)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    error = float((matrix - left @ right).norm() / matrix.double().norm())
    return {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak, "error": error}


def child(side: str, path: Path) -> dict[str, float]:
    """One decomposition in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--matrix", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measure in turns, print the table, check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--side", choices=("randomised", "full"), help=argparse.SUPPRESS)
    parser.add_argument("--matrix", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measured(args.side, args.matrix)))
        return 0
    rows: dict[str, list[dict[str, float]]] = {"randomised": [], "full": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fc6.npy"
        np.save(path, made())
        for _ in range(args.rounds):
            for side, found in rows.items():
                found.append(child(side, path))
    print(f"{OUTPUTS} x {INPUTS}, rank {RANK}, {THREADS} threads, {args.rounds} rounds: median (least..most)\n")
    print("| SVD | seconds | CPU seconds | peak memory, MB | relative error |")
    print("|---|---|---|---|---|")
    for side, found in rows.items():
        times = [common.spread([run[key] for run in found]).strip() for key in ("seconds", "cpu_seconds")]
        peak = max(run["peak_bytes"] for run in found) / 1e6
        print(f"| {side} | {times[0]} | {times[1]} | {peak:.0f} | {found[0]['error']:.6f} |")
    ours, full = rows["randomised"], rows["full"]
    faster = statistics.median(run["seconds"] for run in full) / statistics.median(run["seconds"] for run in ours)
    claims = [
        common.at_most("seconds, slowest round", max(run["seconds"] for run in ours), SECONDS),
        common.at_most("peak memory of the process, bytes", max(run["peak_bytes"] for run in ours), BYTES),
        common.at_most("error over the least possible, less 1", ours[0]["error"] / full[0]["error"] - 1, EXCESS),
        common.at_least("times faster than the full SVD", faster, 3.0),
    ]
    return common.finish({"threads": THREADS, "rows": rows}, claims, check=args.check)


if __name__ == "__main__":
    raise SystemExit(main())
