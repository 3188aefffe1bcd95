"""Read `.press` files, compare them and run them as a device does: numpy and ONNX Runtime, no PyTorch.

python examples/on_device.py runs/a/model.press runs/b/model.press
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from netpress.inspect import describe, table
from netpress.runtime import Session


def numbers(path: Path) -> list[object]:
    """What one file is: name, network, bytes, parameters, those that are not zero, times smaller than float32."""
    facts = describe(path)
    counts = [facts[key] for key in ("file_bytes", "parameters", "nonzero")]
    return [path.name, facts["network"], *counts, f"{facts['ratio']:.1f}x"]


def milliseconds(session: Session, pixels: np.ndarray, *, calls: int = 50) -> float:
    """Median time of one image."""
    times = []
    for call in range(calls):
        began = time.perf_counter()
        session.run(pixels[call % len(pixels)])
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def main() -> None:
    """Print a table of the files, where the bytes of each go, and how far their answers agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, help=".npy of uint8 images (N, C, H, W); else random ones")
    args = parser.parse_args()

    print(table([numbers(path) for path in args.files], ["file", "network", "bytes", "numbers", "not zero", "smaller"]))
    answers = []
    for path in args.files:
        facts, session = describe(path), Session(path, threads=1)
        parts = {**facts["around"], **facts["parts"]}
        print(f"\n{path.name}: {', '.join(f'{part} {count:,}' for part, count in parts.items() if count)}")
        for gain in facts["gains"]:
            print(f"  {gain['what']}: {gain['buys']}")
        random = np.random.default_rng(0).integers(0, 256, (100, *session.input_shape), dtype=np.uint8)
        pixels = np.load(args.images) if args.images else random
        answers.append(session.run(pixels).argmax(1))
        print(f"  {milliseconds(session, pixels):.3f} ms an image; first answers {answers[-1][:10].tolist()}")
    if len(answers) > 1:
        print(f"\nthe same class: {(answers[0] == answers[-1]).mean():.1%} of the images")
    print(f"PyTorch was imported: {'torch' in sys.modules}")


if __name__ == "__main__":
    main()
