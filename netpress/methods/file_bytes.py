"""How large the file of a network gets: the tensors are really coded, header and graph are taken from one real file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from netpress import store
from netpress.candidate import Candidate
from netpress.codec import stored
from netpress.forms import Form, symbols


def file_bytes(candidate: Candidate) -> int:
    """Bytes of a candidate's file; writes it, graph included."""
    with tempfile.TemporaryDirectory() as folder:
        return store.save(candidate, Path(folder) / "near.press").file_bytes


def overhead(candidate: Candidate) -> int:
    """Bytes of a candidate's file that are no tensor's; writes the file, graph included."""
    with tempfile.TemporaryDirectory() as folder:
        return store.save(candidate, Path(folder) / "near.press").overhead_bytes


def written(candidate: Candidate) -> dict[str, torch.Tensor]:
    """The tensors that the file holds, by name: tied ones once, counters of batch norms not at all."""
    held = {id(t): (name, t.detach()) for name, t in reversed(candidate.net.state_dict(keep_vars=True).items())}
    return {name: t for name, t in held.values() if name.rpartition(".")[2] != "num_batches_tracked"}


def coded(candidate: Candidate) -> int:
    """Bytes of all tensors as the file holds them.

    To write a graph takes a hundred times as long as to code the tensors, so both are asked for apart.

    >>> from torch import nn
    >>> coded(Candidate(nn.Linear(100, 10))) <= 4 * 1010
    True
    """
    forms = candidate.forms
    return sum(len(stored.pack(symbols(forms.get(n, Form()), t), "auto").data) for n, t in written(candidate).items())
