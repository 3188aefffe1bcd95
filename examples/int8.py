"""8-bit integers with a check of accuracy: float against integers, in PyTorch and on integer kernels without it.

python examples/int8.py --out runs/int8
"""

import argparse
from pathlib import Path

import torch

import netpress as nxp
from netpress import export
from netpress.candidate import Candidate, Context, Inputs
from netpress.runtime import Session
from netpress.train import Training, evaluate, fit


def main() -> None:
    """Train, quantize with a gate on accuracy, save, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    data = nxp.data.open("digits")
    inputs, example = Inputs(data.shape, data.mean, data.std), torch.zeros(1, *data.shape)
    start = Candidate(nxp.zoo.create("lenet5"), inputs=inputs)
    net = fit(
        start, Training(epochs=args.epochs, batch=64), Context(example, train=data.train, validation=data.validation)
    ).candidate.net

    method = nxp.methods.Quantize(max_drop=0.5, kernels="reduced")  # reduced: right on every processor
    seen = {"train": data.train, "validation": data.validation}  # the test images decide nothing
    whole = nxp.apply(method, net, example=example, inputs=inputs, **seen)
    print(*whole.history[-1].notes, sep="\n")

    before, after = nxp.save(start.but(net=net), args.out / "float.press"), nxp.save(whole, args.out / "int8.press")
    labels = data.test.labels.numpy()
    runtime = float((Session(args.out / "int8.press").run(data.test.images.numpy()).argmax(1) == labels).mean())
    print(f"float {evaluate(net, data.test, inputs).top1:.2%}, {before.file_bytes:,} bytes")
    print(f"integers {evaluate(whole.net, data.test, inputs).top1:.2%}, {after.file_bytes:,} bytes")
    print(f"integers without PyTorch {runtime:.2%}")
    parity = export.check(args.out / "int8.press", whole, data.test)  # raises where the two differ too often
    print(f"the same class on {parity.same_top1:.2%} of {parity.images} images")


if __name__ == "__main__":
    main()
