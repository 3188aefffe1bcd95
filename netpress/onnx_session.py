"""ONNX Runtime sessions for measuring: one place for their options, so that all sides run under the same ones."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from netpress.codec.onnx_bytes import RACING


def open_session(model: bytes | Path, *, threads: int) -> onnxruntime.InferenceSession:
    """Open an ONNX model on the CPU; its threads sleep when they have nothing to do.

    Threads that spin while they wait take the time of whatever is measured next, and hide what waiting costs.

    Args:
        model: its bytes, or the path of its file.
        threads: within an operation; operations run one after the other. A graph with `RACING` in it runs in one.

    Raises:
        Exception: whatever ONNX Runtime raises; its exceptions have no common class of their own.
    """
    source = model if isinstance(model, bytes) else model.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if RACING.encode() in source else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and said once, by the caller
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )
