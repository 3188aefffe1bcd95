"""A data set made by a function in the user's own Python file."""

from collections.abc import Mapping
from pathlib import Path

from netpress import user_file
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
    made = user_file.call(path, function, error=DataError)
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
