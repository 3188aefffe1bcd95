"""A data set made by a function in the user's own Python file."""

import difflib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from netpress.data.arrays import FOUR, SIX, from_arrays
from netpress.data.types import Data, build
from netpress.errors import DataError


def load(path: Path, function: str) -> Data:
    """Run the user's Python file, call a function of it without arguments, and take what it returns.

    This runs that file: name only files you trust. The function returns a `Data`, a mapping as `arrays.from_arrays`
    takes it, or a tuple `x_train, y_train[, x_val, y_val], x_test, y_test`. The file may import its neighbours.

    Args:
        path: the Python file.
        function: the function's name.

    Raises:
        DataError: no such file or function, it raised, or it returned something else.
    """
    where = f"{path}:{function}"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a Python file with a function {function!r}")
    try:
        with _importable(path) as module:
            made = _call(module, function, where)
    except DataError:
        raise
    except Exception as error:  # the user's own code may raise anything
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: raised {type(error).__name__}: {text}") from error
    if isinstance(made, Data):
        # Made again, so that its checks are run and its fingerprint is right.
        splits = (made.train, made.validation, made.test)
        return build(made.name, splits, classes=made.classes, note=made.note, statistics=(made.mean, made.std))
    name = f"{path.name}:{function}"
    if isinstance(made, Mapping):
        return from_arrays(name, made)
    if isinstance(made, tuple) and len(made) in {len(FOUR), len(SIX)}:
        return from_arrays(name, dict(zip(FOUR if len(made) == len(FOUR) else SIX, made, strict=True)))
    got = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
    raise DataError(f"{where}: expected a netpress Data, or {len(FOUR)} or {len(SIX)} arrays, got {got}")


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """Run the file as a module that can be found by name (data classes look it up) and can import its neighbours."""
    name = f"_netpress_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path}: not a Python file")
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


def _call(module: ModuleType, function: str, where: str) -> object:
    call = getattr(module, function, None)
    if callable(call):
        return call()
    there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    near = difflib.get_close_matches(function, there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(f"{where}: no function {function!r}; {hint}the file has {', '.join(there[:10]) or 'none'}")
