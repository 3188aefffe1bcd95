"""k-means in one dimension against scikit-learn, against the exact optimum, and on 10^8 values.

    python benchmarks/kmeans.py [--check] [--rounds 7]

Ours runs until nothing changes, at most 10,000 steps. scikit-learn runs with one start (n_init=1), its default
tolerance and steps, its faster algorithm for one dimension ("lloyd"; "elkan" took 1.6 times as long when tried), on one
thread, from its default start and from the linear one. From the linear start it can end lower than ours: it moves empty
clusters elsewhere, while ours keeps them, as in the method that we follow. The least inertia comes from "optimal".
"""

import common  # isort: skip  (sets the number of threads)

import argparse
import json
import resource
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from netpress.codec import kmeans

SIZE, HUGE = 10**6, 10**8
SPEEDUP, MEMORY_GB, SECONDS = 20.0, 2.5, 8.0
INITS: tuple[kmeans.Init, ...] = ("optimal", "linear", "density", "forgy")


def draw(size: int, kind: str = "laplace") -> NDArray[np.float32]:
    """Weights in chunks, so that no float64 copy of all of them raises the peak memory."""
    rng = np.random.default_rng(0)
    out = np.empty(size, np.float32)
    for i in range(0, size, SIZE):
        out[i : i + SIZE] = getattr(rng, kind)(size=min(SIZE, size - i))
    return out


def exact_inertia(values: NDArray[np.float32], k: int) -> float:
    """Least possible inertia: the recurrence over the sorted values themselves, each layer by divide and conquer.

    Apart from the idea this shares nothing with the package: no histogram, no Lloyd, plain recursion over ranges.
    """
    w = np.sort(values.astype(np.float64)) - values.mean(dtype=np.float64)
    s1, s2 = np.concatenate([[0], np.cumsum(w)]), np.concatenate([[0], np.cumsum(w * w)])
    ends = np.arange(1, w.size + 1)
    cost = np.concatenate([[0.0], s2[1:] - s1[1:] ** 2 / ends])
    for _ in range(k - 1):
        before, cost = cost, np.zeros(w.size + 1)
        todo = [(1, w.size, 0, w.size - 1)]  # ends first..last, whose last cluster begins within low..high
        while todo:
            first, last, low, high = todo.pop()
            if first > last:
                continue
            i = (first + last) // 2
            h = np.arange(low, min(high, i - 1) + 1)
            total = before[h] + s2[i] - s2[h] - (s1[i] - s1[h]) ** 2 / (i - h)
            best = int(total.argmin())
            cost[i] = total[best]
            todo += [(first, i - 1, low, low + best), (i + 1, last, low + best, high)]
    return float(cost[-1])


def check_exact_inertia() -> None:
    """The recurrence without divide and conquer, on few values, must agree."""
    w = np.sort(draw(200).astype(np.float64))
    single = np.array([[((w[h:i] - w[h:i].mean()) ** 2).sum() if h < i else 0 for i in range(201)] for h in range(201)])
    cost = single[0]
    for _ in range(6):
        cost = np.array([min(cost[h] + single[h, i] for h in range(i + 1)) for i in range(201)])
    assert abs(cost[-1] / exact_inertia(w.astype(np.float32), 7) - 1) < 1e-6


def theirs(values: NDArray[np.float32], k: int, init: str) -> float:
    """Inertia that scikit-learn reaches."""
    column = values.reshape(-1, 1)
    start = np.linspace(values.min(), values.max(), k, dtype=np.float32).reshape(-1, 1) if init == "linear" else init
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged within its 300 steps
        return float(KMeans(k, init=start, n_init=1, random_state=0).fit(column).inertia_)


def against_sklearn(k: int, rounds: int) -> tuple[dict[str, object], list[common.Claim]]:
    """Time both, print a table; claims: ours against each of theirs, and inertia."""
    values = draw(SIZE)
    found: dict[str, float] = {}

    def ours(init: kmeans.Init) -> None:
        found[f"netpress {init}"] = kmeans.cluster(values, k, init=init).inertia

    def other(init: str) -> None:
        found[f"sklearn {init}"] = theirs(values, k, init)

    sides: dict[str, Callable[[], object]] = {
        "netpress linear": lambda: ours("linear"),
        "netpress optimal": lambda: ours("optimal"),
        "sklearn linear": lambda: other("linear"),
        "sklearn k-means++": lambda: other("k-means++"),
    }
    seconds = common.interleaved(sides, rounds)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"\n{SIZE:,} Laplacian float32 values, k = {k}\n{'':22}CPU seconds (range)        inertia")
    for name, times in seconds.items():
        print(f"{name:20}{common.spread(times)}  {found[name]:10.2f}")
    of_theirs = [name for name in median if name.startswith("sklearn")]
    pairs = {
        "linear / linear": median["sklearn linear"] / median["netpress linear"],
        "k-means++ / optimal": median["sklearn k-means++"] / median["netpress optimal"],
        "fastest / optimal": min(median[name] for name in of_theirs) / median["netpress optimal"],
    }
    claims = [common.at_least(f"k={k}: CPU time, scikit-learn {n}", v, SPEEDUP) for n, v in pairs.items()]
    best = min(found[name] for name in of_theirs)
    claims.append(
        common.at_most(f"k={k}: inertia, optimal / best of scikit-learn", found["netpress optimal"] / best, 1)
    )
    return {"cpu_seconds": median, "inertia": found}, claims


def against_optimum() -> tuple[dict[str, object], list[common.Claim]]:
    """Inertia above the exact least one, k = 32, 10^5 values."""
    check_exact_inertia()
    rows: dict[str, object] = {}
    claims = []
    print("\n100,000 float32 values, k = 32: inertia above the exact optimum")
    for kind in ("laplace", "normal"):
        values = draw(10**5, kind)
        least = exact_inertia(values, 32)
        above = {
            init: kmeans.cluster(values, 32, init=init).inertia / least - 1
            for init in ("optimal", "linear", "density", "forgy")
        }
        print(f"{kind:10}" + "".join(f"{init} {excess:.2e}   " for init, excess in above.items()))
        rows[kind] = above
        claims.append(common.at_most(f"{kind}: inertia of optimal above the least", above["optimal"], 1e-4))
    return rows, claims


def huge(init: kmeans.Init) -> None:
    """Child process: 10^8 values, k = 256; CPU seconds and growth of the peak memory, with the indices."""
    values = draw(HUGE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: list[kmeans.Clustering] = []
    seconds = common.cpu_seconds(lambda: result.append(kmeans.cluster(values, 256, init=init)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    row = {"cpu_seconds": seconds, "memory_gb": grown, "inertia": result[0].inertia, "steps": result[0].iterations}
    print(json.dumps(row))


def of_huge() -> tuple[dict[str, object], list[common.Claim]]:
    """Run the child for two starts; claims: time and memory."""
    rows: dict[str, object] = {}
    claims = []
    print(f"\n{HUGE:,} Laplacian float32 values, k = 256, indices included")
    for init in ("linear", "optimal"):
        child = subprocess.run([sys.executable, __file__, "--huge", init], capture_output=True, check=True, text=True)
        row = json.loads(child.stdout)
        rows[init] = row
        print(f"{init:10}{row['cpu_seconds']:6.2f} CPU seconds   {row['memory_gb']:.2f} GB more   {row['steps']} steps")
        claims.append(common.at_most(f"10^8 values, {init}: CPU seconds", row["cpu_seconds"], SECONDS))
        claims.append(common.at_most(f"10^8 values, {init}: GB beyond the input", row["memory_gb"], MEMORY_GB))
    return rows, claims


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--huge", choices=INITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.huge:
        huge(options.huge)
        return 0
    results: dict[str, object] = {"benchmark": "kmeans", "rounds": options.rounds}
    results["optimum"], claims = against_optimum()
    results["huge"], more = of_huge()
    claims += more
    with threadpool_limits(1):
        for k in (32, 256):
            results[f"k{k}"], more = against_sklearn(k, options.rounds)
            claims += more
    return common.finish(results, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
