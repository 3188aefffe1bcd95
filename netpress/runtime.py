"""Run a `.press` file without PyTorch: numpy and ONNX Runtime only, for the device.

Shape letters: N images, C channels, H rows, W columns, K outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from netpress.codec import container, onnx_bytes
from netpress.codec.container import Press, Tensor
from netpress.codec.header import Header
from netpress.codec.quantized import quantized
from netpress.errors import DataError, FileError

Logits = NDArray[np.float32]
Images = NDArray[np.uint8] | NDArray[np.float32]


def graph_bytes(path: str | Path) -> bytes:
    """The stored network as a complete ONNX model: the file's graph with its tensors restored into it.

    Args:
        path: of a `.press` file.

    Returns:
        A serialised ModelProto; every ONNX tool reads it.

    Raises:
        FileError: the file is damaged, hostile, from a newer version, or holds no graph.
    """
    press = container.read(path)
    try:
        return _model(press)
    except FileError as error:
        raise FileError(f"{path}: {error}") from None


class Session:
    """A network that is ready to run.

        session = Session("lenet5.press")
        session.run(pixels)                    # uint8 [N, C, H, W] -> logits [N, K]
        session.classify(pixels, top=3)        # [[("7", 0.998), ("1", 0.001), ("9", 0.000)], ...]

    Args:
        path: of a `.press` file.
        threads: of ONNX Runtime within one operator; 0 means one per core. A graph that adds into places chosen by an
            index (`KernelSums`) runs in one: see `onnx_bytes.RACING`.

    Attributes:
        header: what the file says of the network.
        file_bytes: size of the file.

    Raises:
        FileError: the file is damaged, hostile, from a newer version, or holds no graph.
    """

    header: Header
    file_bytes: int

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        press = container.read(path)
        self.header = press.header
        self.file_bytes = Path(path).stat().st_size
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is said once, by us
        try:
            facts = onnx_bytes.check(press.graph)
            self._input = facts.inputs[0]
            options.intra_op_num_threads = 1 if onnx_bytes.RACING in facts.operators else threads
            providers = ["CPUExecutionProvider"]
            self._session = onnxruntime.InferenceSession(_model(press), options, providers=providers)
        except FileError as error:
            raise FileError(f"{path}: {error}") from None
        except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
            raise FileError(f"{path}: ONNX Runtime refuses the graph: {_first_line(error)}") from error

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return self.header.input_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Label of each output; empty where the file names none."""
        return self.header.classes

    def run(self, x: Images) -> Logits:
        """Evaluate the network.

        uint8 pixels are normalised first: (x / 255 - mean) / std, per channel; float32 is taken as normalised.

        Args:
            x: images [N, C, H, W] or one image [C, H, W], uint8 or float32.

        Returns:
            Logits [N, K], float32.

        Raises:
            DataError: another shape or type, or ONNX Runtime fails on these images.
        """
        batch = normalise(x, self.header)
        try:
            (logits, *_) = self._session.run(None, {self._input: batch})
        except Exception as error:
            raise DataError(f"ONNX Runtime fails on images of shape {batch.shape}: {_first_line(error)}") from error
        result: Logits = logits
        return result

    def classify(self, x: Images, top: int = 5) -> list[list[tuple[str, float]]]:
        """The most probable classes of each image.

        p = exp(z - max z) / sum exp(z - max z)

        Args:
            x: as `run`.
            top: how many classes to return, at most K.

        Returns:
            Per image: (label, probability), most probable first; equal ones in the order of the outputs.

        Raises:
            DataError: as `run`, or outputs that are not [N, K] with K labels.
        """
        logits = self.run(x).astype(np.float64)
        if logits.ndim != 2 or (self.classes and len(self.classes) != logits.shape[1]):
            raise DataError(f"expected outputs [N, {len(self.classes) or 'K'}] to classify, got {list(logits.shape)}")
        labels = self.classes or tuple(str(index) for index in range(logits.shape[1]))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        order = np.argsort(-shares, axis=1, kind="stable")[:, : max(top, 0)]
        return [[(labels[k], float(row[k])) for k in best] for row, best in zip(shares, order, strict=True)]


def normalise(x: Images, header: Header) -> NDArray[np.float32]:
    """Check images and bring them to what the network takes.

    >>> from netpress.codec.header import Arch
    >>> header = Header(Arch("zoo", "tiny"), (1, 1, 2), mean=(0.5,), std=(0.25,))
    >>> normalise(np.array([[[0, 255]]], np.uint8), header)
    array([[[[-2.,  2.]]]], dtype=float32)

    Args:
        x: images [N, C, H, W] or one image [C, H, W]; uint8 pixels, or float32 that is normalised already.
        header: of the network.

    Returns:
        float32 [N, C, H, W].

    Raises:
        DataError: another shape or type.
    """
    images = np.asarray(x)
    if images.shape == header.input_shape:
        images = images[np.newaxis]
    shape = ", ".join(str(size) for size in header.input_shape)
    if images.shape[1:] != header.input_shape or not len(images):
        raise DataError(f"images: expected shape [N, {shape}] or [{shape}], got {list(images.shape)}")
    if images.dtype == np.float32:
        return images.astype(np.float32, copy=False)
    if images.dtype != np.uint8:
        raise DataError(f"images: expected uint8 pixels or normalised float32, got {images.dtype}")
    result = images.astype(np.float32) / np.float32(255)
    axes = (-1,) + (1,) * (len(header.input_shape) - 1)
    if header.mean:
        result -= np.array(header.mean, np.float32).reshape(axes)
    if header.std:
        result /= np.array(header.std, np.float32).reshape(axes)
    return result


def _model(press: Press) -> bytes:
    """The checked graph with the tensors that it wants."""
    tensors = {}
    for name in onnx_bytes.check(press.graph).wanted:
        index = onnx_bytes.tensor_index(name)
        if index >= len(press.tensors):
            raise FileError(f"graph: wants tensor {name}, the file holds {len(press.tensors)}")
        tensors[name] = _tensor(press.tensors[index], name)
    return onnx_bytes.with_initializers(press.graph, tensors)


def _tensor(tensor: Tensor, name: str) -> NDArray[np.generic]:
    """What the graph calls `name`: the restored tensor, or a part of one on an integer grid."""
    _, _, part = name.partition(".")
    if not part:
        return tensor.restore()
    try:
        found: NDArray[np.generic] = getattr(quantized(tensor.unpack()), part)
    except FileError as error:
        raise FileError(f"graph: wants {name}, tensor {tensor.name!r}: {error}") from None
    return found


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
