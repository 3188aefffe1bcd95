"""What each thing that was done to a network buys when it runs: size only, or speed too; read off the file.

The words say what kind of gain there is, never how much: that is measured (`netpress bench`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.processor import REDUCED

_REMOVED, _REPLACED, _ADDED, _FOLDED, _ROUNDED = "removed", "replaced", "added", "folded", "rounded"
_CONDENSED, _MERGED = "condensed", "merged"
_ALONG = "goes along with another, or changes training only"
EDITS = {
    **dict.fromkeys(("conv", "linear"), _REMOVED),
    **dict.fromkeys(("norm", "crop", "take", "size", "sizes", "pruned", "bias", "dropout"), _ALONG),
    **dict.fromkeys(
        ("svd", "spatial_svd", "cp", "tucker2", "stacked", "grouped", "shuffled", "separable", "fire"), _REPLACED
    ),
    "beside": _ADDED,
    **dict.fromkeys(("condensed", "regrouped", "kernel_sums"), _CONDENSED),
    "indexed": _ALONG,
    "identity": _FOLDED,
    "scaled": _MERGED,
    "round": _ROUNDED,
}
"""By structure edit what it did to the network."""

_INTEGER = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
"""Operators that make activations integers, or compute with them."""

_FORMS = {
    "shared": ("shared values", "size only: no kernel computes with a table"),
    "signs": ("sign patterns", "size only: no kernel here computes with signs, they are floats again before it runs"),
}


@dataclass(frozen=True, slots=True)
class Gain:
    """One thing that was done, and what it buys.

    Attributes:
        what: it was.
        where: how often, in words.
        buys: at run time.
    """

    what: str
    where: str
    buys: str

    def __str__(self) -> str:
        return f"{self.what} ({self.where}): {self.buys}"


def gains(
    tensors: Sequence[Mapping[str, Any]], edits: Sequence[Sequence[Any]], operators: Collection[str]
) -> list[Gain]:
    """What was done to a network, one entry per kind, and what each buys at run time.

    Args:
        tensors: with `form`, `parameters`, `kept` (entries that are stored); `grid_bits` where values are integers, and
            `shape`.
        edits: of the structure, `(operation, module path, numbers...)`.
        operators: of the file's graph.

    >>> for gain in gains([{"form": "shared", "parameters": 9, "kept": 4}], [("conv", "a", 3, 8, 1)], ()): print(gain)
    zeros (1 tensor): size only: dense kernels multiply by them all the same
    shared values (1 tensor): size only: no kernel computes with a table
    removed filters (1 layer): size, and speed on every runtime where widths are multiples of 8; elsewhere time it
    """
    found = []
    if sparse := sum(row["kept"] < row["parameters"] for row in tensors):
        found.append(Gain("zeros", _many(sparse, "tensor"), "size only: dense kernels multiply by them all the same"))
    forms = Counter(row["form"] for row in tensors)
    found += [Gain(what, _many(forms[form], "tensor"), buys) for form, (what, buys) in _FORMS.items() if forms[form]]
    whole = [row for row in tensors if row["form"] == "affine" or row.get("grid_bits")]
    rounded = sum(EDITS.get(edit[0]) == _ROUNDED for edit in edits)
    if whole or rounded:
        where = [_many(len(whole), "tensor"), *([_many(rounded, "rounded value")] if rounded else [])]
        found.append(Gain("integers", ", ".join(where), _integers(whole, operators, rounded=rounded > 0)))
    return found + _structure(edits)


def _integers(whole: Sequence[Mapping[str, Any]], operators: Collection[str], *, rounded: bool) -> str:
    if not rounded and _INTEGER.isdisjoint(operators):
        return "size only: the graph turns them into floats, its activations are floats"
    # biases have one axis, and are added in 32 bits whatever their own
    bits = max((row.get("grid_bits") or 0 for row in whole if len(row.get("shape", ())) > 1), default=0)
    answers = f"; answers are right on all, as weights have at most {REDUCED} bits"
    if bits > REDUCED:
        answers = f', where weights must have {REDUCED} bits or answers are wrong: quantize with kernels = "reduced"'
    return (
        "size, and speed on ONNX Runtime: in full where the processor adds products of 8-bit integers in 32 bits "
        f"(VNNI, AMX, ARM's dot product), in part on other x86 processors{answers}"
    )


def _structure(edits: Sequence[Sequence[Any]]) -> list[Gain]:
    found = []
    if removed := {edit[1] for edit in edits if EDITS.get(edit[0]) == _REMOVED}:
        buys = "size, and speed on every runtime where widths are multiples of 8; elsewhere time it"
        found.append(Gain("removed filters", _many(len(removed), "layer"), buys))
    if kinds := Counter(edit[0] for edit in edits if EDITS.get(edit[0]) == _REPLACED):
        buys = "size, and speed where several small layers run as well as a large one: time it"
        where = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        found.append(Gain("cheaper layers in a layer's place", where, buys))
    if added := sum(EDITS.get(edit[0]) == _ADDED for edit in edits):
        buys = "accuracy only: it costs size and time"
        found.append(Gain("branches beside layers", _many(added, "layer"), buys))
    if folded := sum(EDITS.get(edit[0]) == _FOLDED for edit in edits):
        buys = "little: ONNX Runtime folds those behind convolutions by itself"
        found.append(Gain("folded batch norms", _many(folded, "layer"), buys))
    if kept := sum(EDITS.get(edit[0]) == _CONDENSED for edit in edits):
        buys = "size, and some speed: indices and reordering take part of what fewer multiply-adds save; time it"
        found.append(Gain("condensed convolutions", _many(kept, "layer"), buys))
    if merged := sum(EDITS.get(edit[0]) == _MERGED for edit in edits):
        found.append(Gain("merged batch norms", _many(merged, "layer"), "size only: runtimes merge them by themselves"))
    return found


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
