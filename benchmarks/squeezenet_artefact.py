"""SqueezeNet as the authors of Deep Compression published it (`.net`), as a `.press` file with the same values.

python benchmarks/squeezenet_artefact.py --data-root DATA --check | tee docs/results/squeezenet-artefact.txt

One thread. The accuracy that the paper states needs ImageNet's validation images, which are not at hand. What is: those
of Tiny ImageNet, 64 x 64 pixels, enlarged to 227 x 227. They tell whether weights, their order, the normalisation and
the order of channels and classes are right, not how good the network is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import torch
import zstandard

from netpress import pack, store, zoo
from netpress.codec import container, deep_compression, stored
from netpress.data import open as open_data
from netpress.runtime import Session
from netpress.weights.artefact import layers
from netpress.weights.known import KNOWN

NETWORK = "squeezenet-caffe"
CODERS = ("bits", "huffman", "rans", "context", "auto")
BYTES, NONZERO, SECONDS, TOP1 = 550_000, 415_921, 0.3, 8.0
PRINTED = 0.66e6  # SqueezeNet's paper, table 2: 8 bits, a third of the weights
DECODE = """
import json, sys, time
sys.modules["torch"] = None
from netpress.codec import container
def restore():
    return [tensor.restore() for tensor in container.read(sys.argv[1]).tensors]
restore()
seconds = []
for _ in range(7):
    start = time.process_time()
    restore()
    seconds.append(time.process_time() - start)
print(json.dumps(seconds))
"""


def by_hand(data: bytes, shapes: list[tuple[int, ...]]) -> Iterator[np.ndarray]:
    """The file's tensors from its description, without netpress."""
    at = 0

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal at
        found = np.frombuffer(data, kind, count, at)
        at += found.nbytes
        return found

    for count, shape in zip(take("<u4", len(shapes)).tolist(), shapes, strict=True):
        table, bias, codes, gaps = (
            take("<f4", 256),
            take("<f4", shape[0]),
            take("u1", count),
            take("u1", -(-count // 2)),
        )
        steps = np.stack([gaps & 15, gaps >> 4], 1).ravel()[:count].astype(int)
        dense = np.zeros(int(np.prod(shape)), np.uint8)
        dense[np.cumsum(steps + 1) - 1] = codes
        yield from (table[dense].reshape(shape), bias)
    assert at == len(data)


def bound(found: dict[str, stored.Stored]) -> float:
    """Bytes of every layer's codes, zeros among them, by their entropy, and of tables and biases as float32."""
    total = 0.0
    for tensor in found.values():
        if tensor.codes is None:
            total += np.asarray(tensor.values).nbytes
            continue
        assert tensor.table is not None
        counts = np.bincount(tensor.codes)
        elements = int(np.prod(tensor.shape))
        shares = np.array([elements - counts.sum(), *counts]) / elements
        shares = shares[shares > 0]
        total += -elements * float((shares * np.log2(shares)).sum()) / 8 + tensor.table.nbytes
    return total


def class_indices(root: Path) -> np.ndarray:
    """ImageNet's index of every class of the Tiny ImageNet that lies here, in its order."""
    archive = next((root / "tiny-imagenet").glob("*.tar.xz"))
    with tarfile.open(archive) as files:
        member = files.extractfile("tiny-imagenet-200/wnids.txt")
        assert member is not None
        ids = sorted(member.read().decode().split())
    timm = importlib.util.find_spec("timm")
    assert timm is not None
    assert timm.origin is not None
    order = (Path(timm.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    assert len(order) == 1000
    return np.array([order.index(each) for each in ids])


def images(session: Session, root: Path, count: int) -> list[dict[str, float]]:
    """Top-1 and top-5 among all 1000 classes, with both orders of channels."""
    test = open_data("tiny_imagenet", str(root)).test
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:count]
    labels = class_indices(root)[test.labels[chosen].numpy()]
    ranks: dict[str, list[np.ndarray]] = {"BGR": [], "RGB": []}
    for some in chosen.split(50):
        large = torch.nn.functional.interpolate(test.images[some].float(), size=227, mode="bicubic")
        pixels = large.clamp(0, 255).round().to(torch.uint8).numpy()
        ranks["BGR"].append(np.argsort(-session.run(np.ascontiguousarray(pixels[:, ::-1])), axis=1)[:, :5])
        ranks["RGB"].append(np.argsort(-session.run(pixels), axis=1)[:, :5])
    rows = []
    for order, parts in ranks.items():
        hits = np.concatenate(parts) == labels[:, None]
        rows.append(
            {"order": order, "images": count, "top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}
        )
    return rows


def sizes(data: bytes, press: Path, parts: dict[str, float]) -> None:
    """Print how many bytes each way takes."""
    print("Bytes\n\n| file | bytes | bits a weight | times smaller than float32 |\n|---|---|---|---|")
    rows = {
        "float32": 4 * parts["params"],
        "printed in SqueezeNet's paper, table 2": PRINTED,
        "the published `.net`": len(data),
        "`.net`, zstd -19": len(zstandard.ZstdCompressor(level=19).compress(data)),
        "`.net`, xz -9": len(lzma.compress(data, preset=9)),
    }
    for codec in CODERS:
        rows[f"`.press`, {codec}"] = store.recode(press, press.with_name("again.press"), codec=codec)  # type: ignore[arg-type]
    rows["codes by entropy, tables and biases as they are"] = round(parts["bound"])
    for name, size in rows.items():
        print(f"| {name} | {size:,.0f} | {8 * size / parts['params']:.3f} | {4 * parts['params'] / size:.2f} |")
    parts.update({name: float(size) for name, size in rows.items()})


def main() -> int:
    """Pack the published file, compare it, time it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True, type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    remote = next(known.file for known in KNOWN if known.network == NETWORK)
    assert remote is not None
    source = options.data_root / remote.path
    data, net = source.read_bytes(), zoo.create(NETWORK, device="meta")
    expected = list(by_hand(data, [layer.shape for layer in layers(net)]))
    found = deep_compression.read(data, layers(net))
    parts = {"params": float(sum(array.size for array in expected)), "bound": bound(found)}
    nonzero = sum(int(np.count_nonzero(array)) for array in expected[::2])
    with tempfile.TemporaryDirectory() as folder:
        press = Path(folder) / "squeezenet.press"
        saved = pack.pack(NETWORK, source, press)
        tensors = [tensor.restore() for tensor in container.read(press).tensors]
        other = sum(a.tobytes() != b.tobytes() for a, b in zip(tensors, expected, strict=True))
        sizes(data, press, parts)
        words = [sys.executable, "-c", DECODE, str(press)]
        seconds = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        rows = images(Session(press, threads=1), options.data_root, options.images)
    print(
        f"\n{len(data):,} bytes of `.net`: {len(expected) // 2} layers, {nonzero:,} weights that are not zero, {other}"
    )
    print(f"tensors with other bits in the `.press` file; header, graph and checksums {saved.overhead_bytes:,} bytes")
    print(f"all tensors from the file, CPU seconds: {common.spread(seconds).strip()}")
    print("\nImages\n\n| order of channels | images of Tiny ImageNet, enlarged | top-1, % of 1000 classes | top-5, % |")
    print("|---|---|---|---|")
    for row in rows:
        print(f"| {row['order']} | {row['images']:,} | {100 * row['top1']:.2f} | {100 * row['top5']:.2f} |")
    claims = [
        common.at_most("bytes of the .press file", saved.file_bytes, BYTES),
        common.at_most("tensors with other bits", other, 0),
        common.at_most("weights that are not zero, off", abs(nonzero - NONZERO), 0),
        common.at_most("CPU seconds to restore all tensors", statistics.median(seconds), SECONDS),
        common.at_least("top-1 on enlarged images, %", 100 * rows[0]["top1"], TOP1),
        common.at_least("top-1, BGR over RGB", rows[0]["top1"] / max(rows[1]["top1"], 1e-9), 1.5),
    ]
    result = {"benchmark": "squeezenet-artefact", "bytes": parts, "seconds": seconds, "images": rows}
    return common.finish(result, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
