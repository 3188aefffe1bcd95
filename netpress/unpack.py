"""The tensors of a `.press` file for other programs; needs numpy only for `.npz`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from netpress import atomic
from netpress.codec import container
from netpress.errors import FileError


def unpack(file: Path, out: Path) -> int:
    """Write all tensors, tied ones under each of their names, as `.npz` or `.safetensors`.

    Returns:
        How many tensors were written.

    Raises:
        FileError: the file is damaged, or `out` has another ending.
    """
    press = container.read(file)
    tensors = {tensor.name: np.ascontiguousarray(tensor.restore()) for tensor in press.tensors}
    tensors |= {other: tensors[name].copy() for other, name in press.header.aliases.items()}
    if out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **tensors)  # type: ignore[arg-type]
        atomic.write(out, buffer.getvalue())
    elif out.suffix == ".safetensors":
        from safetensors.numpy import save

        atomic.write(out, save(tensors))
    else:
        raise FileError(f"{out}: expected a name that ends in .npz or .safetensors")
    return len(tensors)
