"""`netpress check`: is a file whole, does it run without PyTorch, does it say the same; is a recipe right."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from netpress.codec import container
from netpress.errors import FileError
from netpress.runtime import Session


def check(target: str, *, data: str | None = None, root: str | None = None) -> dict[str, Any]:
    """Look at every byte of a `.press` file, or read a recipe; PyTorch is needed for recipes and for `data` only.

    Args:
        target: a `.press` file, a recipe's name or a TOML file.
        data: data set on whose test split file and network must agree.
        root: where data sets lie.

    Returns:
        What was found, as plain data.

    Raises:
        FileError: the file is damaged, does not run, or says something else than the network.
        RecipeError: all mistakes of the recipe.
    """
    path = Path(target)
    if path.suffix != ".press":
        from netpress.recipe import read

        steps = [step.name for step in read(target).steps()]
        return {"recipe": target, "steps": ", ".join(steps) or "none"}
    press = container.read(path)
    for tensor in press.tensors:
        tensor.restore()
    facts: dict[str, Any] = {"file": target, "tensors": len(press.tensors), "bytes": path.stat().st_size}
    if not press.graph:
        return facts | {"graph": "none: opens in PyTorch only"}
    answers = Session(path).run(np.zeros((1, *press.header.input_shape), np.float32))
    if not np.isfinite(answers).all():
        raise FileError(f"{path}: answers with NaN or infinities to a zero image")
    return facts | {"graph": "runs"} | (_parity(path, data, root) if data else {})


def _parity(path: Path, data: str, root: str | None) -> dict[str, Any]:
    from netpress import export, store
    from netpress.data import open as open_data

    opened = open_data(data, root)
    candidate = store.load(path)
    images = opened.test.images  # on disc where the set is streamed: never all at once
    session = Session(path)
    rows = [session.run(images[i : i + 500].numpy()).argmax(1) for i in range(0, len(images), 500)]
    right = float((np.concatenate(rows) == opened.test.labels.numpy()).mean())
    return {"top1 without PyTorch": right, **asdict(export.check(path, candidate, opened.test))}
