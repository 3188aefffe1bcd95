"""Trained weight sharing: k-means on a layer's weights, then training of the table (Han, Mao, Dally 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from netpress.candidate import Candidate, Context, Record
from netpress.codec.kmeans import cluster
from netpress.errors import ModelError
from netpress.forms import Form, Shared, inside
from netpress.methods.searching import Amounts, Estimate, Knob, Searched, shared_bits
from netpress.methods.targets import check_keys, choose, targets
from netpress.train.bind import formed
from netpress.train.checkpoint import finite
from netpress.train.schedule import draw

Bits = Annotated[int, Field(ge=1, le=12)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WeightShare:
    """Let the weights of a layer share at most 2^bits values; pruned zeros stay zero and outside the table.

        minimise sum_c sum_{w in c} (w - c)^2      over the layer's non-zero weights

    Training afterwards moves the table: dL/dc_k = sum over members of dL/dw; the members stay where they are.

    Attributes:
        bits: of an index, 1 to 12; a table gives layers their own: by path, pattern, `conv`, `linear`, `default`.
        init: first centroids: `forgy` (random weights), `density` (equal steps of the distribution), `linear` (equal
            steps from least to largest, the paper's best), `optimal` (dynamic programme on a histogram).

    Differs from the paper: places of the table that no weight uses are left out.

    >>> WeightShare(bits={"conv": 8, "linear": 5}).init
    'linear'
    """

    name: ClassVar[str] = "weight_share"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset({"shared"})
    preserves: ClassVar[frozenset[str]] = frozenset({"support", "shared"})

    bits: Bits | dict[str, Bits] = 5
    init: Literal["forgy", "density", "linear", "optimal"] = "linear"

    def expand(self) -> list[WeightShare]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Refuse a table that names a layer which `net` does not have."""
        check_keys(self.bits, net, "weight_share.bits")

    @classmethod
    def searched(cls, candidate: Candidate, _context: Context, settings: Mapping[str, Any]) -> Searched:
        """Bits for the convolutions and for the linear layers."""
        found = list(targets(candidate.net))
        kinds = {target.kind: 0 for target in found}
        for target in found:
            kinds[target.kind] += candidate.net.get_parameter(target.name).numel()

        def foresee(amounts: Amounts, before: Estimate) -> Estimate:
            parts = {}
            for target in found:
                if (bits := amounts.get(target.kind)) is not None:
                    part = before.parts[target.name]
                    table = 4.0 * min(2 ** int(bits), part.entries * part.density)
                    parts[target.name] = replace(part, bits=shared_bits(int(bits)), table=table)
            return before.changed(parts)

        def tuned(amounts: Amounts) -> WeightShare | None:
            some: Any = {kind: bits for kind, bits in amounts.items() if bits is not None}
            return cls(**settings, bits=some) if some else None

        values = (3, 4, 5, 6, 7, 8, None)
        return Searched(tuple(Knob(k, (k,), values, size, k) for k, size in kinds.items()), tuned, foresee)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """Cluster the weights of every chosen layer.

        Raises:
            ModelError: a weight is not finite.
            RecipeError: `bits` names no layer.
        """
        if (bad := finite(candidate.net)) is not None:
            raise ModelError(f"{bad} holds NaN or an infinity: its weights cannot be clustered")
        self.check(candidate.net)
        forms, notes = dict(candidate.forms), []
        for number, target in enumerate(targets(candidate.net)):
            bits = choose(self.bits, target)
            if bits is None:
                continue
            form = forms.get(target.name, Form())
            if form.support is not None and not form.support.any():
                continue  # a network can come in with a layer that is masked whole: nothing to cluster
            w = candidate.net.get_parameter(target.name).detach()
            seed = draw(context.seed, context.step, number) % 2**32
            found = cluster(inside(form, w).cpu().numpy(), 2**bits, init=self.init, seed=seed)
            used, index = np.unique(found.index, return_inverse=True)
            values = Shared(index=torch.from_numpy(index.astype(np.int64)), size=len(used))
            forms[target.name] = Form(support=form.support, values=values)
            notes.append(f"{target.name}: {len(used)} values, inertia {found.inertia:.4g}")
        record = Record(self.name, asdict(self), tuple(notes))
        return candidate.but(net=formed(candidate.net, forms), forms=forms, history=(*candidate.history, record))


METHODS = (WeightShare,)
EXAMPLES = (
    WeightShare(bits=4),
    WeightShare(bits={"conv": 3, "linear": 2}, init="density"),
    WeightShare(bits=2, init="optimal"),
)
