"""Trials per minute of a search with two workers against one: on Ray, and in processes of this machine.

    python benchmarks/search_ray.py --check | tee docs/results/search-ray.txt

A trial trains a small convolutional network on random images, in one thread, for about `--seconds` alone on this
machine; how many steps that is, is measured once and the same for all. A turn starts an executor, lets every worker
run a short trial (which imports PyTorch), and takes the wall time of `--tasks` trials with as many in flight as there
are workers. All sides in turns, every other round in reverse. It needs two idle cores: the ratio is what this measures.
Where both are threads of one core, two processes without any executor show what two workers could reach at most.

Rates are medians of rounds, ratios are of turns of the same round. All sides must measure the same losses.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import common

from netpress.processor import processor, usable_cores
from netpress.search.executors import Executor, Task, open_executor

ALONE = "no executor"
SIDES = ((ALONE, 1), (ALONE, 2), ("ray", 1), ("ray", 2), ("local", 1), ("local", 2))
LIMIT, OF_MACHINE = 1.7, 0.9
"""Times as many trials with two workers, where each has a core of its own; share of what this machine's cores give."""


@dataclass(frozen=True, slots=True)
class Training:
    """Steps of SGD, from weights and on images that the trial's seed gives."""

    threads: int = 1
    device: str = "cpu"

    def run(self, policy: Mapping[str, Any], rung: int, state: bytes) -> tuple[dict[str, Any], bytes]:  # noqa: ARG002
        """Train; the last loss."""
        import torch
        from torch import nn
        from torch.nn.functional import cross_entropy

        torch.manual_seed(policy["seed"])
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
        optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9)
        for _ in range(policy["steps"]):
            loss = cross_entropy(net(torch.randn(64, 3, 32, 32)), torch.randint(10, (64,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {"loss": loss.item()}, b""


def steps_that_take(seconds: float) -> int:
    """How many, here and now."""
    work = Training()
    work.run({"seed": 0, "steps": 10}, 0, b"")
    begin = time.perf_counter()
    work.run({"seed": 0, "steps": 60}, 0, b"")
    return max(1, round(60 * seconds / (time.perf_counter() - begin)))


def run_all(executor: Executor, tasks: list[Task]) -> dict[int, float]:
    """Losses by number."""
    losses: dict[int, float] = {}
    waiting, flying = list(reversed(tasks)), 0
    while waiting or flying:
        while waiting and flying < executor.workers:
            executor.submit(waiting.pop())
            flying += 1
        done = executor.wait()
        flying -= 1
        if done.error:
            raise SystemExit(f"trial {done.task.number}: {done.error}")
        losses[done.task.number] = done.numbers["loss"]
    return losses


def share(ready: Any, numbers: list[int], steps: int, answers: Any) -> None:
    """What one process without an executor does: its trials, one after the other, once all processes are ready."""
    import torch

    torch.set_num_threads(1)
    work = Training()
    work.run({"seed": 0, "steps": max(20, steps // 5)}, 0, b"")
    ready.wait()
    begin = time.time()
    losses = {number: work.run({"seed": number, "steps": steps}, 0, b"")[0]["loss"] for number in numbers}
    answers.put((begin, time.time(), losses))


def alone(workers: int, tasks: int, steps: int) -> tuple[float, dict[int, float]]:
    """Trials per minute of so many processes that know nothing of each other."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(workers), context.Queue()
    parts = [list(range(tasks))[i::workers] for i in range(workers)]
    processes = [context.Process(target=share, args=(ready, part, steps, answers)) for part in parts]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, end, _ in found) - min(begin for begin, _, _ in found)
    return 60 * tasks / seconds, {number: loss for _, _, losses in found for number, loss in losses.items()}


def turn(name: str, workers: int, *, tasks: int, steps: int) -> tuple[float, dict[int, float]]:
    """Trials per minute of one side, and what they measured."""
    if name == ALONE:
        return alone(workers, tasks, steps)
    executor = open_executor(name, Training(), workers=workers)
    try:
        run_all(executor, [Task(-1 - i, {"seed": i, "steps": max(20, steps // 5)}) for i in range(2 * workers)])
        begin = time.perf_counter()
        losses = run_all(executor, [Task(i, {"seed": i, "steps": steps}) for i in range(tasks)])
        return 60 * tasks / (time.perf_counter() - begin), losses
    finally:
        executor.close()


def measure(rounds: int, tasks: int, steps: int) -> dict[str, list[float]]:
    """Trials per minute of all sides, by `name workers`."""
    rates: dict[str, list[float]] = {f"{name} {workers}": [] for name, workers in SIDES}
    expected: dict[int, float] = {}
    for i in range(rounds):
        for name, workers in SIDES if i % 2 == 0 else SIDES[::-1]:
            rate, losses = turn(name, workers, tasks=tasks, steps=steps)
            expected = expected or losses
            if losses != expected:
                raise SystemExit(f"{name} with {workers} workers measured other losses")
            rates[f"{name} {workers}"].append(rate)
            print(f"round {i + 1}, {name} with {workers}: {rate:.1f} trials per minute", file=sys.stderr, flush=True)
    return rates


def main() -> int:
    """Measure, print, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one trial")
    parser.add_argument("--check", action="store_true", help="exit 1 where a ratio is too small")
    options = parser.parse_args()
    steps = steps_that_take(options.seconds)
    print(f"{processor()}, {usable_cores()} cores, {options.tasks} trials of {steps} steps, {options.rounds} rounds\n")
    rates = measure(options.rounds, options.tasks, steps)
    print("| executor | 1 worker, trials per minute | 2 workers | times, by round |\n" + "|---" * 4 + "|")
    claims, middle = [], dict[str, float]()
    for name in dict.fromkeys(name for name, _ in SIDES):
        one, two = rates[f"{name} 1"], rates[f"{name} 2"]
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        middle[name] = statistics.median(ratios)
        shown = f"{middle[name]:.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        print(f"| {name} | {common.spread(one)} | {common.spread(two)} | {shown} |")
    own_cores = middle[ALONE] >= LIMIT
    for name in (name for name in middle if name != ALONE):
        of_machine = middle[name] / middle[ALONE]
        claims.append(common.at_least(f"{name}: two workers over one, share of the machine's", of_machine, OF_MACHINE))
        if own_cores:
            claims.append(common.at_least(f"{name}: two workers over one", middle[name], LIMIT))
    if not own_cores:
        print(f"\nNot decided here: {LIMIT} times with a core for each worker; two processes reach {middle[ALONE]:.2f}")
    facts = {"benchmark": "search-ray", "processor_name": processor(), "cores": usable_cores()}
    facts |= {"steps": steps, "tasks": options.tasks, "rounds": options.rounds, "trials_per_minute": rates}
    return common.finish(facts, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
