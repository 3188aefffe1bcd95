"""Caffe's files of weights (`.caffemodel`), read from their bytes: no Caffe, no protobuf package, nothing is run.

The file is one Protocol Buffers message (https://protobuf.dev/programming-guides/encoding/), a row of fields: a key
(field number * 8 + wire type) and a value. Of Caffe's `NetParameter` only the layers' names, types and blobs are read;
everything else is skipped. Field numbers are those of `caffe.proto`, whose old layers (V1) are read as well.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_AXES = 32


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a kind of layer message keeps what we read."""

    name: int
    kind: int
    blobs: int
    linear: int | bytes  # the value of `kind` that marks a fully connected layer


_LAYERS = {  # field of NetParameter -> form of its layers
    2: _Form(name=4, kind=5, blobs=6, linear=14),
    100: _Form(name=1, kind=2, blobs=7, linear=b"InnerProduct"),
}


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read every layer that has weights.

    Args:
        path: the file.

    Returns:
        `LAYER.weight` and `LAYER.bias` as float32; convolutions (out, in / groups, rows, columns), fully connected
        layers (out, in). Both orders of axes are PyTorch's own.

    Raises:
        ValueError: the bytes are cut, or are something else.
    """
    tensors: dict[str, Tensor] = {}
    for number, value in _fields(memoryview(path.read_bytes())):
        if (form := _LAYERS.get(number)) is None:
            continue
        name, kind, blobs = _layer(_expect_bytes(value), form)
        if len(blobs) > 2:
            raise ValueError(f"layer {name} has {len(blobs)} blobs; only weights and biases are read")
        for what, blob in zip(("weight", "bias"), blobs, strict=False):
            array = _blob(blob, flat=kind == form.linear or what == "bias")
            tensors[f"{name}.{what}"] = torch.from_numpy(array)
    if not tensors:
        raise ValueError("no layer with weights in it: is it a Caffe model?")
    return tensors


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message in order, groups refused; no value reaches beyond the message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if wire == _BYTES:
            size, at = _varint(data, at)
        if not 0 <= size <= len(data) - at:
            raise ValueError(f"byte {at}: field {key >> 3} of wire type {wire} does not fit into its message")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError(f"byte {at}: a number is cut or longer than 10 bytes")


def _layer(data: memoryview, form: _Form) -> tuple[str, int | bytes, list[memoryview]]:
    """Name, type and blobs of one layer."""
    name, kind, blobs = "", b"", list[memoryview]()
    found: int | bytes = kind
    for number, value in _fields(data):
        if number == form.name:
            name = bytes(_expect_bytes(value)).decode()
        elif number == form.kind:
            found = value if isinstance(value, int) else bytes(value)
        elif number == form.blobs:
            blobs.append(_expect_bytes(value))
    return name, found, blobs


def _blob(data: memoryview, *, flat: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """One array; `flat` takes off the axes of length 1 that old files have in front of matrices and vectors."""
    legacy: dict[int, int] = {}  # num, channels, height, width: what stood for a shape before there was one
    shape: list[int] | None = None
    floats = bytearray()
    for number, value in _fields(data):
        if number in (1, 2, 3, 4) and isinstance(value, int):
            legacy[number] = value
        elif number == 5:  # packed or one by one: little-endian float32 both ways
            floats += _expect_bytes(value)
        elif number == 7:
            shape = _shape(_expect_bytes(value))
        elif number == 8:
            raise ValueError("a blob of double precision; only float32 is read")
    if shape is None:
        shape = [legacy.get(axis, 1) for axis in (1, 2, 3, 4)]
        while flat and len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    if max(shape, default=0) > len(floats) or 4 * math.prod(shape) != len(floats):
        raise ValueError(f"a blob of shape {shape} with {len(floats)} bytes")
    return np.frombuffer(floats, "<f4").reshape(shape).astype(np.float32)


def _shape(data: memoryview) -> list[int]:
    """The axes of a BlobShape, packed or one by one."""
    axes: list[int] = []
    for number, value in _fields(data):
        if number != 1:
            continue
        if isinstance(value, int):
            axes.append(value)
        else:
            at = 0
            while at < len(value) and len(axes) <= _MAX_AXES:
                axis, at = _varint(value, at)
                axes.append(axis)
    if len(axes) > _MAX_AXES:
        raise ValueError(f"a blob of more than {_MAX_AXES} axes")
    return axes


def _expect_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"expected bytes, got the number {value}")
    return value
