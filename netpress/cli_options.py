"""What the verbs of the command line take: name -> flags and argparse's settings; and the parser that reads it."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

LAUNCHED = "NETPRESS_LAUNCHED"
"""Set in processes whose launcher says how the run ended, so that they do not say it too."""
_DATA = "digits, mnist, ..., folder:PATH, shards:PATH, npz:PATH or path.py:factory"


class Help(argparse.HelpFormatter):
    """argparse's help, which forgets the verbs' indentation when it places the column beside them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 14


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and stop with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas.

    >>> numbers("0.5,0.25")
    (0.5, 0.25)
    """
    return tuple(float(part) for part in text.split(","))


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers between x or commas.

    >>> sizes("3x32x32")
    (3, 32, 32)
    """
    return tuple(int(part) for part in text.replace("x", ",").split(","))


OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "model": (("model",), {"help": "a zoo name, torchvision:NAME, timm:NAME or path.py:factory"}),
    "target": (("target",), {"help": "a .press file, or what the verb's description says"}),
    "sides": (
        ("sides",),
        {
            "nargs": "+",
            "metavar": "SIDE",
            "help": "a network as for measure, a .press or an .onnx file; the first is the baseline",
        },
    ),
    "batch": (("--batch",), {"type": int, "default": 32, "help": "images per call, beside 1 (32)"}),
    "threads": (("--threads",), {"type": int, "help": "threads, beside 1 (all cores)"}),
    "rounds": (("--rounds",), {"type": int, "default": 31, "help": "how often each is timed (31)"}),
    "file": (("file",), {"help": "a .press file"}),
    "a": (("a",), {"metavar": "A", "help": "a .press file or a run folder"}),
    "b": (("b",), {"metavar": "B", "help": "another of the same kind"}),
    "shell": (("shell",), {"choices": ["bash", "zsh", "fish"]}),
    "folder": (("folder",), {"help": "of a run or of a search"}),
    "run-folder": (("run",), {"metavar": "RUN", "help": "the folder of a run, finished or not"}),
    "port": (("--port",), {"type": int, "default": 8765, "help": "on localhost; 0: a free one (8765)"}),
    "export-to": (("--export",), {"dest": "export_to", "metavar": "DIR", "help": "write a static site and stop"}),
    "name": (("name",), {"help": "of a recipe, method or network"}),
    "channels": (
        ("--channels",),
        {"action": "store_true", "help": "which filters go together, which cannot go and why"},
    ),
    "what": (("what",), {"nargs": "?", "choices": ["models", "data", "methods", "recipes"]}),
    "table": (("table",), {"metavar": "TABLE", "choices": ["sizes"], "help": "sizes: every count the papers print"}),
    "out": (("--out",), {"help": "folder for CSV and HTML"}),
    "recipe_name": (("recipe_name",), {"metavar": "RECIPE", "help": "a preset's name or a TOML file"}),
    "recipe": (
        ("--recipe",),
        {"help": "a preset's name or a TOML file (with --max-size alone smallest, else a search)"},
    ),
    "train-recipe": (("--recipe",), {"help": "a preset's name or a TOML file (the network's own, else train)"}),
    "tracker": (
        ("--tracker",),
        {"action": "append", "metavar": "NAME", "help": "tensorboard, mlflow or wandb; may be given several times"},
    ),
    "data": (("--data",), {"help": _DATA}),
    "data!": (
        ("--data",),
        {"required": True, "help": _DATA},
    ),
    "weights": (("--weights",), {"help": "pretrained, or a .safetensors .pt .pth .th .npz .caffemodel .net"}),
    "weights!": (
        ("--weights",),
        {"required": True, "help": "pretrained, or a .safetensors .pt .pth .th .npz .caffemodel .net"},
    ),
    "out!": (("--out",), {"required": True, "help": "where to write"}),
    "out-demo": (("--out",), {"default": "runs/demo", "help": "run folder (runs/demo)"}),
    "input": (("--input",), {"type": sizes, "help": "shape of one image, for instance 3x32x32"}),
    "set-network": (("--set",), {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "of the network"}),
    "mean": (("--mean",), {"type": numbers, "default": (), "help": "of pixel / 255, per channel: 0.5,0.5,0.5"}),
    "std": (("--std",), {"type": numbers, "default": (), "help": "of pixel / 255, per channel: 0.2,0.2,0.2"}),
    "max-drop": (("--max-drop",), {"metavar": "LIMIT", "help": "points of top-1 below the baseline"}),
    "min-top1": (("--min-top1",), {"metavar": "LIMIT", "help": "per cent of top-1"}),
    "max-size": (("--max-size",), {"metavar": "LIMIT", "help": "of the file: 20kB, 10%%"}),
    "max-params": (("--max-params",), {"metavar": "LIMIT", "help": "parameters that are not zero: 100k, 50%%"}),
    "max-macs": (("--max-macs",), {"metavar": "LIMIT", "help": "multiply-adds: 5M, 50%%"}),
    "max-latency": (("--max-latency",), {"metavar": "LIMIT", "help": "per image: 5ms, 50%%"}),
    "max-activation-memory": (
        ("--max-activation-memory",),
        {"metavar": "LIMIT", "help": "most bytes of activations at the same time, one image, float32: 64kB, 50%%"},
    ),
    "trials": (("--trials",), {"type": int, "metavar": "N", "help": "trials at most (40)"}),
    "minutes": (("--minutes",), {"type": float, "help": "for trials and full retraining, after the baseline"}),
    "minutes-20": (
        ("--minutes",),
        {"type": float, "default": 20.0, "help": "without --recipe: for trials and full retraining (20)"},
    ),
    "sampler": (
        ("--sampler",),
        {"metavar": "NAME", "help": "who chooses: mlp, tpe, cmaes, nsga2, random, greedy"},
    ),
    "executor": (
        ("--executor",),
        {"help": "where trials run: inline (for several workers local), local, ray, or ray://HOST:PORT of a cluster"},
    ),
    "workers": (("--workers",), {"type": int, "default": 1, "metavar": "N", "help": "trials at the same time (1)"}),
    "storage": (("--storage",), {"metavar": "URL", "help": "a database for Optuna, in place of OUT/study.log"}),
    "dry-run": (
        ("--dry-run",),
        {"action": "store_true", "help": "only say what can be reached, and how soon"},
    ),
    "nproc": (("--nproc",), {"type": int, "metavar": "N", "help": "train in N processes, as torchrun does"}),
    "seed": (("--seed",), {"type": int, "default": 0, "metavar": "N", "help": "of all that is random (0)"}),
    "device": (
        ("--device",),
        {"default": "cpu", "choices": ["cpu", "cuda", "mps", "auto"], "help": "where to train (cpu)"},
    ),
    "precision": (
        ("--precision",),
        {"choices": ["32-true", "bf16-mixed", "16-mixed"], "help": "in place of the recipe's"},
    ),
    "data-root": (("--data-root",), {"help": "where data sets lie (else NETPRESS_DATA, else the user's cache)"}),
    "set": (("--set",), {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "change the recipe"}),
    "fresh": (("--fresh",), {"action": "store_true", "help": "throw an earlier run in the folder away"}),
    "json": (("--json",), {"action": "store_true", "help": "one JSON object on stdout"}),
    "quiet": (("--quiet",), {"action": "store_true", "help": "no progress on stderr"}),
}
COMMON = ("seed", "device", "precision", "nproc", "tracker", "data-root", "set", "fresh", "json", "quiet")
SEARCH = ("trials", "sampler", "executor", "workers", "storage", "dry-run")
BUDGET = ("max-drop", "min-top1", "max-size", "max-params", "max-macs", "max-latency", "max-activation-memory")
