"""Entropy coding of sparse shared weights: size against the bound and general compressors, speed on one core.

    python benchmarks/coding.py [--check] [--rounds 7]

10^7 Laplacian weights, 90 % pruned by magnitude, the kept ones share 32 values (k-means, optimal start). Bound: entropy
of the zero pattern plus entropy of the indices, both taken from this very draw. Speeds count the dense float32 tensor.
"""

import common  # isort: skip  (sets the number of threads)

import argparse
import lzma
import statistics
import sys

import numpy as np
import zstandard
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from netpress.codec import bits, chains, huffman, kmeans, rans, relative_index, stored

SIZE, KEPT, K = 10**7, 10**6, 32
BITS_PER_WEIGHT, ABOVE_BOUND, ENCODE_MB, DECODE_MB = 0.920, 1.008, 150.0, 250.0


def draw() -> stored.Stored:
    """The tensor as it would be stored."""
    weights = np.random.default_rng(0).laplace(size=SIZE).astype(np.float32)
    limit = np.partition(np.abs(weights), SIZE - KEPT)[SIZE - KEPT]
    positions = np.flatnonzero(np.abs(weights) >= limit)
    shared = kmeans.cluster(weights[positions], K, init="optimal")
    return stored.Stored((SIZE,), "shared", "float32", positions, codes=shared.index, table=shared.table)


def entropy(counts: NDArray[np.integer]) -> float:
    """Bits of all symbols together."""
    used = counts[counts > 0].astype(np.float64)
    return float((used * np.log2(used.sum() / used)).sum())


def sizes(tensor: stored.Stored) -> dict[str, int]:
    """Bytes by method; every one of ours holds the positions, the indices, and the table of 32 float32."""
    assert tensor.positions is not None
    assert tensor.codes is not None
    out: dict[str, int] = {}
    table = 4 * K
    for b in range(relative_index.MIN_BITS, relative_index.MAX_BITS + 1):
        gaps = relative_index.encode(tensor.positions, b)
        items = gaps.codes.size
        out[f"relative index {b} bits, fixed width"] = table + -(-items * (b + bits.width(K)) // 8)
        symbols = relative_index.gaps(tensor.positions, b)
        for name, coder in (("Huffman", huffman), ("rANS", rans)):
            coded = coder.encode(symbols, 1 << b), coder.encode(tensor.codes, K)
            out[f"relative index {b} bits + {name}"] = table + sum(map(len, coded))
    dense = np.zeros(SIZE, np.uint8)
    dense[tensor.positions] = tensor.codes + 1
    out["dense symbols, Huffman"] = table + len(huffman.encode(dense, K + 1))
    out["dense symbols, rANS"] = table + len(rans.encode(dense, K + 1))
    for codec in ("bits", "huffman", "rans", "auto"):
        packed = stored.pack(tensor, codec)
        out[f".press, codec {codec} ({packed.chain})"] = len(packed.data)
    floats = stored.restore(tensor).tobytes()
    for what, raw in (("dense indices, one byte each", dense.tobytes()), ("float32", floats)):
        out[f"zstd -19 of {what}"] = len(zstandard.ZstdCompressor(level=19).compress(raw))
        out[f"xz -6 of {what}"] = len(lzma.compress(raw, preset=6))
    return out


def check_round_trip(tensor: stored.Stored) -> None:
    """What is measured must come back to the bit."""
    packed = stored.pack(tensor, "rans")
    back = stored.unpack(packed.data, shape=(SIZE,), form="shared", dtype="float32", chain=packed.chain)
    assert stored.restore(back).tobytes() == stored.restore(tensor).tobytes()
    assert tensor.positions is not None
    gaps = relative_index.encode(tensor.positions, 5)
    assert np.array_equal(relative_index.decode(gaps, SIZE), tensor.positions)


def speeds(tensor: stored.Stored, rounds: int) -> dict[str, list[float]]:
    """CPU seconds: bytes to dense float32 and back; `pack` tries several chains, `chain` writes the chosen one."""
    assert tensor.positions is not None
    assert tensor.codes is not None
    positions, codes = tensor.positions, tensor.codes
    packed = {codec: stored.pack(tensor, codec) for codec in ("rans", "huffman")}
    width = int(chains.parse(packed["rans"].chain, "shared").place.removeprefix("rel"))

    def encode(codec: str) -> tuple[object, bytes]:
        coder = rans if codec == "rans" else huffman
        return chains.write_gaps(positions, width, (codec,)), coder.encode(codes, K)

    def decode(codec: str) -> object:
        p = packed[codec]
        return stored.restore(stored.unpack(p.data, shape=(SIZE,), form="shared", dtype="float32", chain=p.chain))

    return common.interleaved(
        {
            "rANS encode": lambda: encode("rans"),
            "rANS decode": lambda: decode("rans"),
            "Huffman encode": lambda: encode("huffman"),
            "Huffman decode": lambda: decode("huffman"),
            "rANS pack (tries two places)": lambda: stored.pack(tensor, "rans"),
        },
        rounds,
    )


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with threadpool_limits(1):
        tensor = draw()
        assert tensor.codes is not None
        bound = (entropy(np.array([SIZE - KEPT, KEPT])) + entropy(np.bincount(tensor.codes))) / SIZE
        print(f"{SIZE:,} weights, {KEPT:,} kept, {K} shared values: bound {bound:.4f} bits a weight\n")
        check_round_trip(tensor)
        found = sizes(tensor)
        print(f"{'':50}{'bytes':>12}{'bits/weight':>13}{'above bound':>13}")
        for name, size in found.items():
            rate = 8 * size / SIZE
            print(f"{name:50}{size:12,}{rate:13.4f}{rate / bound - 1:13.2%}")
        seconds = speeds(tensor, options.rounds)
    print(f"\n{'':30}CPU seconds (range)        MB of float32 a second")
    speed = {name: 4 * SIZE / 1e6 / statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:28}{common.spread(times)}  {speed[name]:8.0f}")
    ours = next(size for name, size in found.items() if name.startswith(".press, codec rans"))
    others = min(size for name, size in found.items() if name.startswith(("zstd", "xz")))
    claims = [
        common.at_most("rANS: bits a weight", 8 * ours / SIZE, BITS_PER_WEIGHT),
        common.at_most("rANS: bits a weight / bound", 8 * ours / SIZE / bound, ABOVE_BOUND),
        common.at_least("best of zstd and xz / rANS: bytes", others / ours, 1.0),
        common.at_least("rANS encode: MB of float32 a second", speed["rANS encode"], ENCODE_MB),
        common.at_least("rANS decode: MB of float32 a second", speed["rANS decode"], DECODE_MB),
    ]
    results: dict[str, object] = {
        "benchmark": "coding",
        "bound_bits_per_weight": bound,
        "bytes": found,
        "mb_per_s": speed,
    }
    return common.finish(results, claims, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
