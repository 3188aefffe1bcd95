"""A method of your own: of every four weights that lie side by side, the two largest stay.

python examples/own_method.py --out runs/own_method
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

import netpress as nxp
from netpress.candidate import Candidate, Context, Record
from netpress.forms import Form
from netpress.methods.targets import targets
from netpress.train import formed


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NOfM:
    """Of every `m` weights that lie side by side, the `n` largest stay.

    Attributes:
        n: weights that stay.
        m: weights of a block; tensors whose rows it does not divide are left alone.
    """

    name: ClassVar[str] = "n_of_m"
    revision: ClassVar[int] = 1  # goes up when results change: finished steps are then done again
    gives: ClassVar[frozenset[str]] = frozenset({"support"})
    preserves: ClassVar[frozenset[str]] = frozenset({"support"})

    n: int = 2
    m: int = 4

    def expand(self) -> list["NOfM"]:
        """One round."""
        return [self]

    def check(self, net: nn.Module) -> None:
        """Any network will do."""

    def apply(self, candidate: Candidate, context: Context) -> Candidate:  # noqa: ARG002  it needs no data
        """Prune once; zeros stay zero."""
        forms = dict(candidate.forms)
        for target in targets(candidate.net):
            weight = candidate.net.get_parameter(target.name).detach()
            if weight[0].numel() % self.m:
                continue
            largest = weight.abs().reshape(-1, self.m).topk(self.n, dim=1).indices
            support = torch.zeros(weight.numel() // self.m, self.m, dtype=torch.bool).scatter(1, largest, value=True)
            kept = forms.get(target.name, Form()).support
            support = support.view_as(weight)
            forms[target.name] = Form(support=support if kept is None else support & kept)
        notes = (f"{len(forms)} tensors",)
        pruned = candidate.but(net=formed(candidate.net, forms), forms=forms)
        return pruned.but(history=(*candidate.history, Record(self.name, asdict(self), notes)))


def main() -> None:
    """Apply it, save, load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/own_method"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    net = nxp.zoo.create("lenet5")
    small = nxp.apply(NOfM(n=1), net, example=torch.zeros(1, 1, 28, 28))
    saved = nxp.save(small, args.out / "small.press")
    again = nxp.load(args.out / "small.press", into=nxp.zoo.create("lenet5"))
    left = sum(int((again.net.get_parameter(name) != 0).sum()) for name in again.forms)
    print(f"{small.history[-1].notes[0]}; {left:,} weights left, {saved.file_bytes:,} bytes")


if __name__ == "__main__":
    main()
