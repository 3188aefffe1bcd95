"""The command line: verbs that parse, call one function, and print. Tables to stdout, progress to stderr.

Exit codes: 0 done, 1 a budget is missed, 2 a mistake that the user can mend (one line), 3 ours, 75 a process of several
was lost (the same command goes on), 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import netpress
from netpress import inspect as inspection
from netpress.cli_options import BUDGET, COMMON, LAUNCHED, OPTIONS, SEARCH, Help, Parser
from netpress.errors import NetpressError, RecipeError

if TYPE_CHECKING:
    from netpress.opening import Options
    from netpress.recipe import Recipe
    from netpress.terminal import Terminal

Args = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after `netpress`; None: those of the process.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(argv)
    args.argv = [*(sys.argv[1:] if argv is None else argv)]
    try:
        code: int = args.call(args)
    except NetpressError as error:
        told = error.said_by_launcher and LAUNCHED in os.environ
        return error.exit_code if told else _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("stopped; the same command goes on where this one ended", 130)
    except BrokenPipeError:
        return 0
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("netpress"):
            raise
        return _complain(f"this command needs {error.name}: pip install 'netpress[compress]'", 2)
    except Exception:  # noqa: BLE001  the boundary: whatever reaches it is our fault, and is shown whole
        traceback.print_exc()
        return _complain("this is a mistake of netpress, not yours: please report the lines above", 3)
    return code


def _speaks() -> bool:
    """Whether this process is the one of its run that prints: the first, where `torchrun` started several."""
    return os.environ.get("RANK", "0") == "0"


def _complain(line: str, code: int) -> int:
    if not _speaks() and code != 3:
        return code
    print(f"netpress: {' '.join(line.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    title = "Make a convolutional network small and fast, and prove it."
    parser = Parser(prog="netpress", description=title, formatter_class=Help)
    parser.set_defaults(call=_welcome)
    parser.add_argument("--version", action="version", version=f"netpress {netpress.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, (call, options) in _VERBS.items():
        help_text = (call.__doc__ or "").splitlines()[0]
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        verb.set_defaults(call=call)
        for option in options:
            flags, settings = OPTIONS[option]
            verb.add_argument(*flags, **settings)
    return parser


def _welcome(_args: Args) -> int:
    from netpress.welcome import WELCOME

    print(WELCOME)
    return 0


def _demo(args: Args) -> int:
    """Compress a small network on real handwritten digits; no download, under two minutes."""
    return _finish(args, recipe="demo")


def _run(args: Args) -> int:
    """Run a recipe: a preset's name or a TOML file."""
    return _finish(args, recipe=args.recipe_name, data=args.data)


def _train(args: Args) -> int:
    """Train a network: as its source does where it condenses while it trains, else plainly."""
    from netpress import zoo

    usual = zoo.describe(args.model).recipe if args.model in zoo.names() else "train"
    return _finish(args, recipe=args.recipe or usual, net=args.model, data=args.data)


def _compress(args: Args) -> int:
    """Compress a network of yours into a budget: with a recipe, or by a search that takes so many minutes."""
    limits = _limits(args)
    sized = args.recipe is None and limits.keys() - {"max_drop", "min_top1"} == {"max_size"}
    if args.recipe is None and not sized:
        return _search(args, limits or {"max_drop": "1"})
    if sized:
        args.set = [f"step.0.max_size={args.max_size}", *args.set]  # trained for: it is more than a check at the end
    return _finish(args, recipe=args.recipe or "smallest", net=args.model, data=args.data)


def _search(args: Args, limits: Mapping[str, str] | None = None) -> int:
    """Find the best policy inside a budget: which filters, weights and bits go; retrained in full and judged."""
    if args.nproc is not None:
        raise RecipeError("--nproc is for one training; a search runs several at the same time with --workers")
    from netpress.search.verb import run_search
    from netpress.terminal import Terminal

    with Terminal(quiet=args.quiet or args.json) as terminal:
        limits = _limits(args) if limits is None else limits
        code, text = run_search(args, limits, _settings(args.set), _options(args, terminal), terminal.console)
    print(text)
    return code


def _finish(args: Args, *, recipe: str, net: str | None = None, data: str | None = None) -> int:
    """What `run`, `train`, `compress` and `demo` share: one run, then its verdict."""
    if args.nproc is not None and "WORLD_SIZE" not in os.environ:
        from netpress.launch import launch

        return launch(args.argv, args.nproc)
    from netpress.job import run
    from netpress.opening import named
    from netpress.recipe import quoted, read
    from netpress.terminal import Terminal

    overrides = _settings(args.set)
    overrides |= {f"budget.{limit}": quoted(value) for limit, value in _limits(args).items()}
    if net is not None:
        overrides["network.name"] = quoted(net)
    if getattr(args, "weights", None):
        overrides["network.weights"] = quoted(args.weights)
    with Terminal(quiet=args.quiet or args.json or not _speaks()) as terminal:
        if getattr(args, "dry_run", False):
            return _foretell(args, named(read(recipe, overrides=overrides), None, data), _options(args, terminal))
        done = run(recipe, data=data, out=args.out, options=_options(args, terminal), overrides=overrides)
    if _speaks():
        from netpress.verdict import text

        print(json.dumps({**done.metrics, "folder": str(done.folder)}) if args.json else text(done))
    return 0 if done.met else 1


def _foretell(args: Args, recipe: Recipe, options: Options) -> int:
    from netpress.search.dry_recipe import dry_recipe

    outlook = dry_recipe(recipe, options=options)
    print(json.dumps(outlook.plain()) if args.json else outlook.text())
    return 0


def _options(args: Args, terminal: Terminal) -> Options:
    from netpress.opening import Options

    return Options(
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        data_root=args.data_root,
        fresh=args.fresh,
        trackers=None if args.tracker is None else tuple(args.tracker),
        progress=terminal.progress,
        say=terminal.say,
    )


def _limits(args: Args) -> dict[str, str]:
    """The limits that were given, by name."""
    names = [name.replace("-", "_") for name in BUDGET]
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def _measure(args: Args) -> int:
    """Count a network's parameters, multiply-adds and memory; with weights and --data, its accuracy."""
    from netpress import recipe
    from netpress.measure.target import measure_file, measure_network

    path = Path(args.target)
    if path.suffix == ".press":
        facts = measure_file(path, data=args.data, root=args.data_root)
    else:
        settings = {key: recipe.toml_value(key, text) for key, text in _settings(args.set).items()}
        places = {"weights": args.weights, "data": args.data, "root": args.data_root}
        facts = measure_network(args.target, settings=settings, shape=args.input, **places)
    if args.json:
        print(json.dumps(facts))
        return 0
    head = ["layer", "kind", "params", "macs", "output"]
    if "nonzero" in facts:
        head.insert(3, "nonzero")
    print(inspection.table([[row[h] for h in head] for row in facts.pop("layers")], head))
    for name, value in facts.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    return 0


def _bench(args: Args) -> int:
    """Time networks, .press and .onnx files in turns: milliseconds, images/s, memory, bytes, and which is faster."""
    from netpress.bench import Plan, bench, text
    from netpress.terminal import Terminal

    plan = Plan(shape=args.input, batch=args.batch, threads=args.threads, rounds=args.rounds)
    with Terminal(quiet=args.quiet or args.json) as terminal:
        facts = bench(args.sides, plan, say=terminal.say)
    print(json.dumps(facts) if args.json else text(facts))
    return 0


def _inspect(args: Args) -> int:
    """Show where every byte of a .press file goes."""
    facts = inspection.describe(Path(args.file))
    print(json.dumps(facts) if args.json else inspection.text(facts))
    return 0


def _pack(args: Args) -> int:
    """Write a trained network as a .press file, without loss."""
    from netpress.pack import pack

    saved = pack(args.model, Path(args.weights), Path(args.out), shape=args.input, mean=args.mean, std=args.std)
    print(json.dumps({"file_bytes": saved.file_bytes}) if args.json else f"{args.out}: {saved.file_bytes:,} bytes")
    return 0


def _unpack(args: Args) -> int:
    """Write the tensors of a .press file as .npz or .safetensors."""
    from netpress.unpack import unpack

    count = unpack(Path(args.file), Path(args.out))
    print(json.dumps({"tensors": count}) if args.json else f"{args.out}: {count} tensors")
    return 0


def _export(args: Args) -> int:
    """Write the ONNX model that a .press file holds."""
    from netpress import atomic
    from netpress.runtime import graph_bytes

    size = atomic.write(Path(args.out), graph_bytes(args.file))
    print(json.dumps({"file_bytes": size}) if args.json else f"{args.out}: {size:,} bytes")
    return 0


def _list(args: Args) -> int:
    """List models, data sets, methods and recipes."""
    from netpress.show import listing, listing_text

    facts = listing()
    chosen = {args.what: facts[args.what]} if args.what else facts
    print(json.dumps(chosen) if args.json else listing_text(chosen))
    return 0


def _show(args: Args) -> int:
    """Show a recipe with all its defaults, a method's settings, or a network's numbers or channels."""
    from netpress.show import channels, channels_text, show

    if args.channels:
        rows = channels(args.name, args.input)
        print(json.dumps(rows) if args.json else channels_text(rows))
    else:
        print(show(args.name, plain=args.json))
    return 0


def _check(args: Args) -> int:
    """Check a .press file (bytes, graph, with --data its accuracy without PyTorch) or a recipe."""
    from netpress.checks import check

    facts = check(args.target, data=args.data, root=args.data_root)
    print(json.dumps(facts) if args.json else "\n".join(f"{name}: {value}" for name, value in facts.items()))
    return 0


def _report(args: Args) -> int:
    """Write report.html of the folder of a run or of a search."""
    from netpress.report import write_report
    from netpress.report.search import write_search_report

    folder = Path(args.folder)
    path = write_search_report(folder) if (folder / "search.json").is_file() else write_report(folder)
    print(json.dumps({"report": str(path)}) if args.json else path)
    return 0


def _play(args: Args) -> int:
    """Run a run's networks in a browser, original beside compressed, step by step; nothing leaves this machine."""
    from netpress.play.serve import play

    play(args.run, port=args.port, export_to=args.export_to, say=lambda line: print(line, flush=True))
    return 0


def _reproduce(args: Args) -> int:
    """Rerun a table of the papers, ours beside theirs."""
    from netpress import reproduce
    from netpress.terminal import Terminal

    with Terminal(quiet=args.quiet or args.json) as terminal:
        result = reproduce.run(args.table, out=Path(args.out) if args.out else None, progress=terminal.progress)
    if args.json:
        print(json.dumps(result.plain()))
        return 0
    print(result.text())
    print("\n".join(map(str, result.paths)), end="\n" if result.paths else "")
    return 0


def _diff(args: Args) -> int:
    """Compare two .press files or two run folders: structure, forms, bytes; of runs also accuracy and recipes."""
    from netpress import diff

    facts = diff.compare(args.a, args.b)
    print(json.dumps(facts) if args.json else diff.text(facts))
    return 0


def _doctor(args: Args) -> int:
    """Say what this machine has: versions, processor, data sets, what is missing and what for, what is broken."""
    from netpress import doctor

    facts = doctor.examine(args.data_root)
    print(json.dumps(facts) if args.json else doctor.text(facts))
    return 1 if facts["problems"] else 0


def _completion(args: Args) -> int:
    """Print a script that completes netpress in bash, zsh or fish; its first lines say where it goes."""
    from netpress.completion import script

    print(script(args.shell, _parser()), end="")
    return 0


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {pair!r}: expected key=value, for instance step.0.sparsity=0.9")
        found[key.strip()] = value.strip()
    return found


_VERBS: dict[str, tuple[Callable[[Args], int], tuple[str, ...]]] = {
    "demo": (_demo, ("out-demo", *COMMON)),
    "run": (_run, ("recipe_name", "data", "out!", *COMMON)),
    "train": (_train, ("model", "data!", "train-recipe", "out!", *COMMON)),
    "compress": (_compress, ("model", "data!", "weights", "recipe", "out!", *BUDGET, *SEARCH, "minutes-20", *COMMON)),
    "search": (_search, ("model", "data!", "weights", "out!", *BUDGET, *SEARCH, "minutes", *COMMON)),
    "measure": (_measure, ("target", "set-network", "input", "weights", "data", "data-root", "json")),
    "bench": (_bench, ("sides", "input", "batch", "threads", "rounds", "json", "quiet")),
    "inspect": (_inspect, ("file", "json")),
    "pack": (_pack, ("model", "weights!", "out!", "input", "mean", "std", "json")),
    "unpack": (_unpack, ("file", "out!", "json")),
    "export": (_export, ("file", "out!", "json")),
    "list": (_list, ("what", "json")),
    "show": (_show, ("name", "channels", "input", "json")),
    "check": (_check, ("target", "data", "data-root", "json")),
    "report": (_report, ("folder", "json")),
    "play": (_play, ("run-folder", "port", "export-to")),
    "reproduce": (_reproduce, ("table", "out", "json", "quiet")),
    "diff": (_diff, ("a", "b", "json")),
    "doctor": (_doctor, ("data-root", "json")),
    "completion": (_completion, ("shell",)),
}


if __name__ == "__main__":
    sys.exit(main())
