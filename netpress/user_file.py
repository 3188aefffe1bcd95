"""Call a function of the user's own Python file: `path.py:factory` for networks and data sets."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from netpress.errors import NetpressError


def call(path: Path, function: str, *, error: type[NetpressError], **settings: Any) -> Any:
    """Run a Python file and call a function of it. Name only files you trust. The file may import its neighbours.

    Args:
        path: the Python file.
        function: the function's name.
        error: class of the error to raise.
        settings: arguments of the function.

    Returns:
        What the function returns.

    Raises:
        NetpressError: of class `error`: no such file or function, or it raised; one line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "mine.py"
    ...     _ = file.write_text("def make(n): return 2 * n")
    ...     call(file, "make", error=NetpressError, n=3)
    6
    """
    where = f"{path}:{function}"
    if not path.is_file():
        raise error(f"{path}: no such file; expected a Python file with a function {function!r}")
    try:
        with _importable(path) as module:
            if not callable(made := getattr(module, function, None)):
                raise error(f"{where}: no function {function!r}; {_near(module, function)}")
            return made(**settings)
    except NetpressError:
        raise
    except Exception as reason:  # the user's own code may raise anything
        text = " ".join(str(reason).split())[:200]
        raise error(f"{where}: raised {type(reason).__name__}: {text}") from reason


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """Run the file as a module that can be found by name (data classes look it up) and can import its neighbours."""
    name = f"_netpress_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        del sys.modules[name]


def _near(module: ModuleType, function: str) -> str:
    there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    near = difflib.get_close_matches(function, there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}the file has {', '.join(there[:10]) or 'none'}"
