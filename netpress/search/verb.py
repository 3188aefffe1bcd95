"""What the command line does for `netpress search`, and for `compress` without a recipe."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from netpress.budget import Budget, told
from netpress.errors import RecipeError
from netpress.opening import Options
from netpress.recipe import NetworkSpec, mistakes, toml_value
from netpress.search.dry import dry_run
from netpress.search.goal import Goal
from netpress.search.job import Asked, Found, Searching, search
from netpress.search.live import Live

_NETWORK = "network.settings."


def run_search(
    args: Namespace, limits: Mapping[str, str], settings: Mapping[str, str], options: Options, console: Console
) -> tuple[int, str]:
    """One search, or what it would be.

    Args:
        args: of the command line.
        limits: of the budget, as they were typed.
        settings: `--set`: dotted key of the plan -> TOML value; `network.settings.KEY` of the network.
        options: of the run.
        console: where the live table is drawn.

    Returns:
        The exit code, 0 inside the budget, 1 not; and what to print.
    """
    budget = budget_of(limits)
    values = {key: toml_value(key, text) for key, text in settings.items()}
    own = {key.removeprefix(_NETWORK): values.pop(key) for key in [*values] if key.startswith(_NETWORK)}
    plan: dict[str, Any] = {**values}
    for name in ("trials", "sampler"):
        if getattr(args, name) is not None:
            plan[name] = getattr(args, name)
    network = NetworkSpec(name=args.model, settings=own, weights=args.weights)
    how = Searching(
        plan=plan,
        minutes=args.minutes,
        executor=args.executor,
        workers=args.workers,
        storage=args.storage,
        command=shlex.join(["netpress", *args.argv]),
        watch=lambda goal, trials: _live(goal, trials, args, options, console),
    )
    if args.dry_run:
        facts = dry_run(Asked.of(network, args.data, budget), how=how, options=options)
        return 0, json.dumps(facts.plain()) if args.json else facts.text()
    found = search(network, args.data, budget=budget, out=args.out, how=how, options=options)
    text = json.dumps({**found.facts, "folder": str(found.folder)}) if args.json else verdict(found)
    return 0 if found.met else 1, text


def budget_of(limits: Mapping[str, str]) -> Budget:
    """The budget that was typed.

    Raises:
        RecipeError: a number or a unit is wrong.

    >>> budget_of({"max_drop": "0.5"}).max_drop
    0.5
    """
    from pydantic import ValidationError

    try:
        return Budget.model_validate(dict(limits))
    except ValidationError as error:
        raise RecipeError("; ".join(mistakes(error, "budget", known=Budget.model_fields))) from error


def _live(goal: Goal, trials: int, args: Namespace, options: Options, console: Console) -> Live:
    drawn = None if args.quiet or args.json else console
    return Live(goal, trials=trials, minutes=args.minutes, say=options.say, console=drawn)


def verdict(found: Found) -> str:
    """The end of a search in a few lines."""
    facts = found.facts
    lines = [f"{len(facts['rows'])} trials: {_states(facts['rows'])}"]
    for final in facts["finals"]:
        if "error" in final:
            lines.append(f"{final['folder']}: trial {final['trial']}: {final['error']}")
            continue
        lines.append(
            f"{final['folder']}: trial {final['trial']}: {final['file_bytes']:,} bytes, "
            f"{final['macs']:,} multiply-adds, top-1 {final['top1']:.2%} (validation {final['validation_top1']:.2%})"
        )
    if found.run is None:
        return "\n".join([*lines, "no policy could be retrained in full: MISSED"])
    chosen, baseline = facts["finals"][facts["winner"]], facts["baseline"]
    lines += told(chosen["budget"])
    points = 100 * (chosen["top1"] - baseline["test_top1"])
    lines.append(
        f"{'' if found.met else 'the nearest: '}{4 * baseline['params'] / chosen['file_bytes']:.1f}x smaller, "
        f"{baseline['macs'] / max(chosen['macs'], 1):.2f}x fewer multiply-adds, "
        f"top-1 {chosen['top1']:.2%} ({points:+.2f} points on test)"
    )
    lines.append(f"file   {found.folder / 'model.press'}\nreport {found.folder / 'report.html'}")
    return "\n".join(lines)


def _states(rows: list[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
