"""`netpress doctor`: what this machine has, what is missing and what for, and what is broken. Needs numpy only."""

from __future__ import annotations

import importlib
import os
import platform
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import netpress
from netpress.processor import REDUCED, integer_instructions, processor, usable_cores

BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Instructions that multiply bfloat16, as PyTorch names them; without them `bf16-mixed` works, but is not fast."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that something of netpress needs.

    Attributes:
        name: as pip knows it.
        minimum: oldest version that works; empty where any does.
        extra: of netpress, which brings it; "" is netpress itself, None: no extra does.
        what: it is for.
        module: as Python imports it; empty where that is the name.
        optional: whether all of its extra works without it.
    """

    name: str
    minimum: str
    extra: str | None
    what: str
    module: str = ""
    optional: bool = False

    @property
    def imported(self) -> str:
        """The name that Python imports."""
        return self.module or self.name

    @property
    def install(self) -> str:
        """The command that brings it."""
        if self.extra is None:
            return f"pip install {self.name}"
        return f"pip install 'netpress[{self.extra}]'" if self.extra else "pip install netpress"


PACKAGES = (
    Package("numpy", "1.26", "", "everything"),
    Package("onnxruntime", "1.20", "", "running .press files"),
    Package("torch", "2.10", "compress", "networks, training, every method"),
    Package("lightning-fabric", "2.5", "compress", "devices, precision, several processes", "lightning_fabric"),
    Package("onnx", "1.17", "compress", "graphs inside files"),
    Package("onnxscript", "0.5", "compress", "graphs inside files"),
    Package("numba", "0.61", "compress", "compiled coders: the same bytes, sooner", optional=True),
    Package("optuna", "4.4", "compress", "searches"),
    Package("cmaes", "0.11", "compress", "searches: the sampler cmaes"),
    Package("filelock", "3.16", "compress", "searches of several processes"),
    Package("pydantic", "2.10", "compress", "recipes"),
    Package("tomli-w", "1.1", "compress", "recipes", "tomli_w"),
    Package("rich", "14.1", "compress", "progress in the terminal"),
    Package("plotly", "6", "compress", "figures of reports"),
    Package("jinja2", "3.1", "compress", "pages of reports"),
    Package("pillow", "10", "compress", "folders of images", "PIL"),
    Package("safetensors", "0.4", "compress", "weights and checkpoints"),
    Package("scikit-learn", "1.5", "compress", "the digits of the demo", "sklearn"),
    Package("scipy", "1.13", "compress", "channel labels, ranks, samplers"),
    Package("webdataset", "1.0", "stream", "data: shards:PATH"),
    Package("tensorboard", "2.17", "trackers", "--tracker tensorboard"),
    Package("mlflow-skinny", "2.20", "mlflow", "--tracker mlflow", "mlflow"),
    Package("wandb", "0.19", "wandb", "--tracker wandb"),
    Package("ray", "2.40", "ray", "--executor ray: searches on a cluster"),
    Package("torchvision", "", None, "networks torchvision:NAME"),
    Package("timm", "", None, "networks timm:NAME"),
)


def examine(root: str | None = None) -> dict[str, Any]:
    """Look at this machine and at what is installed.

    Args:
        root: where data sets lie; None: NETPRESS_DATA, else the user's cache.

    Returns:
        Plain data: `netpress python system processor memory runtime torch numba packages data problems`. torch, numba:
        None where they are missing; data: None without PyTorch, which opens all sets. problems: what is broken and how
        to mend it, one line each; what is missing as a whole is no problem.
    """
    problems: list[str] = []
    packages = [_look(package, problems) for package in PACKAGES]
    have = {row["name"] for row in packages if row["installed"]}
    exact = integer_instructions()
    return {
        "netpress": netpress.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": {
            "name": processor(),
            "cores": usable_cores(),
            "integers": list(exact),
            "weight_bits": 8 if exact else REDUCED,
        },
        "memory": memory(),
        "runtime": _try("onnxruntime", _runtime, have, problems),
        "torch": _try("torch", _torch, have, problems),
        "numba": _try("numba", lambda numba: {"version": numba.__version__}, have, problems),
        "packages": packages,
        "data": _data(root, have, problems),
        "problems": [*problems, *_halves(packages)],
    }


def _look(package: Package, problems: list[str]) -> dict[str, Any]:
    """Whether a package is there, in which version; one that is too old is a problem."""
    try:
        installed = find_spec(package.imported) is not None
    except (ImportError, ValueError):
        installed = False
    found = ""
    if installed:
        with suppress(PackageNotFoundError):
            found = version(package.name)
    if found and _numbers(found) < _numbers(package.minimum):
        newer = package.install.replace("install", "install -U")
        problems.append(f"{package.name} {found} is older than {package.minimum}: {newer}")
    return {
        "name": package.name,
        "installed": installed,
        "version": found,
        "for": package.what,
        "install": package.install,
    }


def _numbers(text: str) -> tuple[int, ...]:
    """A version as numbers.

    >>> _numbers("2.13.0+cpu") >= _numbers("2.10")
    True
    """
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _halves(packages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Problems of an installation of which a part is missing."""
    missing = {row["name"] for row in packages if not row["installed"]}
    needed = {""} if "torch" in missing else {"", "compress"}
    lacking = [p for p in PACKAGES if p.extra in needed and p.name in missing and not p.optional]
    return [f"{package.name} is missing ({package.what}): {package.install}" for package in lacking]


def _try(name: str, facts: Any, have: Iterable[str], problems: list[str]) -> dict[str, Any] | None:
    """What is to be said of an installed package; that it breaks when it is imported is a problem."""
    if name not in have:
        return None
    try:
        found: dict[str, Any] = facts(importlib.import_module(name))
    except Exception as error:  # noqa: BLE001  a broken package raises what it likes
        text = textwrap.shorten(str(error), 200)
        problems.append(f"{name} is installed but broken: {type(error).__name__}: {text}; install it again")
        return None
    return found


def _runtime(onnxruntime: Any) -> dict[str, Any]:
    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return {"version": onnxruntime.__version__, "providers": names}


def _torch(torch: Any) -> dict[str, Any]:
    told = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cards": cards,
        "mps": bool(torch.backends.mps.is_available()),
        "bf16": [name for name in BF16 if told.get(name)],
        "bf16_cards": bool(cards) and bool(torch.cuda.is_bf16_supported()),
    }


def _data(root: str | None, have: Iterable[str], problems: Iterable[str]) -> dict[str, Any] | None:
    """Where data sets lie and which are whole; without PyTorch, which opens them all, there is nothing to say."""
    if "torch" not in have or any(line.startswith("torch is installed but broken") for line in problems):
        return None
    try:
        from netpress.data import data_root
        from netpress.data.present import present
    except ImportError:
        return None  # a package of the extra is missing, which is told already
    place = data_root(root)
    return {"root": str(place), "exists": place.is_dir(), "sets": present(place)}


def memory() -> dict[str, int | None]:
    """Bytes of memory that this process may use, and those that are free; None where the system does not say."""
    total = available = None
    with suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for place in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        with suppress(OSError, ValueError):
            limit = int((Path("/sys/fs/cgroup") / place).read_text())
            total = limit if total is None else min(total, limit)
    with suppress(OSError):
        if found := re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE):
            available = 1024 * int(found[1])
    return {"total_bytes": total, "free_bytes": min(available, total) if available and total else available}


def text(facts: Mapping[str, Any]) -> str:
    """What `examine` found, for people, in 80 columns."""
    rows = [
        ("processor", _processor(facts["processor"])),
        ("memory", _memory(facts["memory"])),
        ("integers", _integers(facts["processor"])),
        ("ONNX Runtime", _runtime_words(facts["runtime"])),
        ("PyTorch", _torch_words(facts["torch"])),
        ("numba", _numba_words(facts["numba"])),
        *_data_rows(facts["data"]),
    ]
    lines = [f"netpress {facts['netpress']}, Python {facts['python']}, {facts['system']}", ""]
    lines += [_wrapped(f"{name:<14}", words) for name, words in rows]
    missing = [row for row in facts["packages"] if not row["installed"]]
    for install in dict.fromkeys(row["install"] for row in missing):
        lines += ["", f"not installed: {install}"]
        lines += [_wrapped(f"  {row['name']:<18}", row["for"]) for row in missing if row["install"] == install]
    lines += ["", *(_wrapped("BROKEN  ", line) for line in facts["problems"])]
    if not facts["problems"]:
        lines.append("all that is needed works" if facts["torch"] else _wrapped("", _ONLY))
    return "\n".join(lines)


_ONLY = "files can be run, inspected and unpacked; to compress, too: pip install 'netpress[compress]'"


def _wrapped(head: str, words: str) -> str:
    return textwrap.fill(words, 80, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def _processor(facts: Mapping[str, Any]) -> str:
    return f"{facts['name']}, {facts['cores']} usable core{'s' if facts['cores'] != 1 else ''}"


def _memory(facts: Mapping[str, int | None]) -> str:
    total, free = facts["total_bytes"], facts["free_bytes"]
    if total is None:
        return "not known"
    return f"{total / 1e9:.1f} GB" + ("" if free is None else f", {free / 1e9:.1f} free")


def _integers(facts: Mapping[str, Any]) -> str:
    if facts["integers"]:
        return f"{' '.join(facts['integers'])}: 8-bit products add up exactly"
    return f"no instruction that adds 8-bit products exactly, so weights get {facts['weight_bits']} bits"


def _runtime_words(facts: Mapping[str, Any] | None) -> str:
    return "missing or broken" if facts is None else f"{facts['version']}, providers: {', '.join(facts['providers'])}"


def _torch_words(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "none: needed to compress, not to run files"
    said = os.environ.get("OMP_NUM_THREADS")
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}" + (
        f" (OMP_NUM_THREADS={said})" if said else ""
    )
    cards = ", ".join(facts["cards"]) or ("mps" if facts["mps"] else "no GPU")
    bf16 = f"bf16 fast ({' '.join(facts['bf16'])})" if facts["bf16"] else "bf16 works, but not fast, on this processor"
    return f"{facts['version']}, {threads}, {cards}; {bf16}"


def _numba_words(facts: Mapping[str, Any] | None) -> str:
    return "none: coders are slow, and give the same bytes" if facts is None else f"{facts['version']}, coders compiled"


def _data_rows(facts: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if facts is None:
        return [("data", "sets are opened by PyTorch only")]
    there = ", ".join(name for name, whole in facts["sets"].items() if whole)
    rest = ", ".join(name for name, whole in facts["sets"].items() if not whole)
    place = facts["root"] + ("" if facts["exists"] else " (made when a set is first fetched)")
    rows = [("data root", f"{place}; another by --data-root or NETPRESS_DATA")]
    rows += [("  there", there)] if there else []
    return rows + ([("  not there", f"{rest}")] if rest else [])
