"""A trained network's weights as coded integers, against the coder of the MPEG standard (nncodec), at equal error.

    pip install --no-deps nncodec==2.1.3
    python benchmarks/coding_resnet56.py --weights DATA/weights/resnet-cifar10/resnet56-4bfd9763.th [--check]

The 55 convolutions of a trained ResNet-56. Reference error: k-means with 32 shared values per layer, the least error
that they can have. Everything else is brought to the same squared error: layer by layer, or all layers together (one
step for all, which is how nncodec goes). Bytes are those of whole files, names and shapes included, `.press` and
nncodec's bitstream; both are read back and their error is measured on what came out. nncodec runs at its defaults
(`nncargs`) but for a finer density of steps, which the error asks for; of its package only the codec is loaded, not
the wrappers of PyTorch, TensorFlow and data sets. Speeds count quantising and writing the file, and reading it to
float32.
"""

import common  # isort: skip  (sets the number of threads)

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from netpress.codec import container, kmeans
from netpress.codec.header import Arch, Header
from netpress.codec.sides import Side
from netpress.codec.stored import Codec, Stored
from netpress.rate_distortion import chosen

K, DENSITY, STEPS = 32, 5, 16
FASTER, WITHIN = 2.0, 1.02
Weights = dict[str, np.ndarray]


def load(path: Path) -> Weights:
    """The convolutions of a checkpoint."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("module."): w.numpy() for name, w in state.items() if w.ndim == 4}


def squared(weights: Weights, restored: Weights) -> float:
    """Error of all weights together."""
    return sum(float(((restored[name].astype(np.float64) - w) ** 2).sum()) for name, w in weights.items())


# --- ours -------------------------------------------------------------------------------------------------------------


def press(tensors: dict[str, Stored], codec: Codec) -> bytes:
    """A whole file."""
    written = tuple(container.Tensor.of(name, value, codec) for name, value in tensors.items())
    return container.dumps(container.Press(Header(Arch("own", "ResNet"), (3, 32, 32)), written, b""))


def read(data: bytes) -> Weights:
    """What a file holds."""
    return {tensor.name: tensor.restore() for tensor in container.loads(data).tensors}


def shared(w: np.ndarray, index: np.ndarray) -> Stored:
    """A table of centroids in 16 bits, and who takes which."""
    used, codes = np.unique(index, return_inverse=True)
    codes = codes.reshape(-1)
    means = np.bincount(codes, w.reshape(-1)) / np.bincount(codes)
    assert len(used) == len(means)
    table = means.astype(np.float16).astype(np.float32)
    return Stored(w.shape, "shared", "float32", None, codes, table)


def on_grid(w: np.ndarray, step: float, multiplier: float = 0.0) -> Stored:
    """Integers of a step, which is widened where they would not fit a byte, and set anew to fit them best."""
    step = max(step, float(np.ptp(w)) / 254)
    q = chosen(w, step, multiplier=multiplier) if multiplier else np.rint(w / np.float32(step)).astype(np.int32)
    low, high = int(q.min()), int(q.max())
    if multiplier:
        flat = q.reshape(-1).astype(np.float64)
        step = float(flat @ w.reshape(-1)) / max(float(flat @ flat), 1.0)
    bits = max((high - low).bit_length(), 2)
    side = Side(np.float32([step]).reshape((1,) * w.ndim), bits=bits, zero_point=min(max(-low, 0), (1 << bits) - 1))
    return Stored(w.shape, "affine", "float32", None, q.reshape(-1) + side.zero_point, side=side)


def largest(error: Callable[[float], float], limit: float, low: float, high: float) -> float:
    """The largest step whose error stays within the limit."""
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if error(middle) <= limit else (low, middle)
    return low


def layer_by_layer(weights: Weights) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """32 shared values per layer, and grids with centroids at the same error of every layer."""
    means, grids = {}, {}
    for name, w in weights.items():
        flat = w.reshape(-1)
        means[name] = shared(w, kmeans.cluster(flat, K, init="optimal").index)
        limit = squared({name: w}, {name: restored(means[name])})

        def grid(step: float, w: np.ndarray = w) -> Stored:
            return shared(w, np.rint(w.reshape(-1) / step).astype(np.int64))

        deviation = float(w.std())
        step = largest(
            lambda s, w=w, grid=grid: float(((restored(grid(s)) - w).astype(np.float64) ** 2).sum()),  # type: ignore[misc]
            limit,
            deviation / 100,
            2 * deviation,
        )
        grids[name] = grid(step)
    return means, grids


def restored(value: Stored) -> np.ndarray:
    """A stored tensor's values."""
    return container.Tensor.of("", value, "bits").restore()


def one_step(weights: Weights, limit: float, multiplier: float) -> tuple[float, dict[str, Stored]]:
    """One step for all layers, at the same error of all together."""

    def grids(step: float) -> dict[str, Stored]:
        return {name: on_grid(w, step, multiplier) for name, w in weights.items()}

    def error(step: float) -> float:
        return squared(weights, {name: restored(value) for name, value in grids(step).items()})

    step = largest(error, limit, 1e-3, 1e-1)
    return step, grids(step)


# --- nncodec ----------------------------------------------------------------------------------------------------------


def nncodec() -> Any:
    """Its codec, without the wrappers that ask for more packages; None where it is not installed."""
    found = importlib.util.find_spec("nncodec")
    if found is None or found.origin is None:
        return None
    root, wrappers = types.ModuleType("nncodec"), types.ModuleType("nncodec.framework")
    root.__path__ = [str(Path(found.origin).parent)]
    modules = {"nncodec": root, "nncodec.framework": wrappers}
    for name in ("tensorflow_model", "pytorch_model", "use_case_init"):
        modules[f"nncodec.framework.{name}"] = part = types.ModuleType(name)
        setattr(wrappers, name, part)
    sys.modules.update(modules)
    from nncodec import nnc

    return nnc


def quietly(work: Callable[[], Any]) -> Any:
    """It prints as it goes."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


def compress(nnc: Any, weights: Weights, qp: int, *, dependent: bool) -> bytes:
    """A bitstream, at the defaults of its `nncargs`."""
    settings = {"qp": qp, "qp_density": DENSITY, "use_dq": dependent, "row_skipping": True, "param_opt": True}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.nnc")
        return bytes(
            quietly(lambda: nnc.compress(dict(weights), bitstream_path=path, return_bitstream=True, **settings))
        )


def decompress(nnc: Any, data: bytes) -> Weights:
    """Its tensors."""
    found = quietly(lambda: nnc.decompress(bytearray(data)))
    return found if isinstance(found, dict) else found[0]


def its_best(nnc: Any, weights: Weights, limit: float, *, dependent: bool) -> tuple[int, float]:
    """The coarsest quantisation within the limit; bytes at exactly the limit, between it and the next one."""
    points: dict[int, tuple[float, int]] = {}

    def error(qp: int) -> float:
        data = compress(nnc, weights, qp, dependent=dependent)
        points[qp] = squared(weights, decompress(nnc, data)), len(data)
        return points[qp][0]

    low, high = -12 << DENSITY, -2 << DENSITY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if error(middle) <= limit else (low, middle)
    (e0, b0), (e1, b1) = points[low], points[high]
    share = np.log(limit / e0) / np.log(e1 / e0)
    return low, b0 + float(share) * (b1 - b0)


# --- the table --------------------------------------------------------------------------------------------------------


def sizes(weights: Weights, nnc: Any) -> tuple[dict[str, float], dict[str, float], float, dict[bool, int]]:
    """Bytes and error by method; the step, and nncodec's, at which all layers together have the reference's error."""
    means, grids = layer_by_layer(weights)
    found: dict[str, float] = {}
    errors: dict[str, float] = {}

    def add(name: str, tensors: dict[str, Stored], codec: Codec) -> None:
        data = press(tensors, codec)
        found[name], errors[name] = len(data), squared(weights, read(data))

    add("k-means, 32 values + rANS", means, "rans")
    add("k-means, 32 values + auto", means, "auto")
    add("grid, centroids + rANS", grids, "rans")
    add("grid, centroids + auto", grids, "auto")
    limit = errors["k-means, 32 values + rANS"]
    step, alike = one_step(weights, limit, 0.0)
    for codec in ("rans", "context", "logistic", "auto"):
        add(f"one step + {codec}", alike, codec)
    add("one step, error and bits + auto", one_step(weights, limit, 0.09)[1], "auto")
    qps = {}
    for dependent in (False, True) if nnc else ():
        name = f"nncodec, dependent quantisation {'on' if dependent else 'off'}"
        qps[dependent], found[name] = its_best(nnc, weights, limit, dependent=dependent)
        errors[name] = limit
    return found, {name: error / limit for name, error in errors.items()}, step, qps


def speeds(weights: Weights, nnc: Any, step: float, qps: dict[bool, int], rounds: int) -> dict[str, list[float]]:
    """CPU seconds: float32 weights to a file's bytes, and back."""
    alike = {name: on_grid(w, step) for name, w in weights.items()}
    files = {codec: press(alike, codec) for codec in ("logistic", "context")}
    sides: dict[str, Callable[[], object]] = {}
    for codec in ("logistic", "context"):
        sides[f"{codec} encode"] = lambda codec=codec: press(  # type: ignore[misc]
            {name: on_grid(w, step) for name, w in weights.items()}, codec
        )
        sides[f"{codec} decode"] = lambda codec=codec: read(files[codec])  # type: ignore[misc]
    for dependent, qp in qps.items():
        data = compress(nnc, weights, qp, dependent=dependent)
        name = f"nncodec {'with' if dependent else 'without'} DQ"
        sides[f"{name} encode"] = lambda qp=qp, dependent=dependent: compress(  # type: ignore[misc]
            nnc, weights, qp, dependent=dependent
        )
        sides[f"{name} decode"] = lambda data=data: decompress(nnc, data)  # type: ignore[misc]
    return common.interleaved(sides, rounds)


def claims_of(found: dict[str, float], seconds: dict[str, list[float]], nnc: Any) -> list[common.Claim]:
    """What the page says; those against nncodec only where it ran."""
    best, plain = found["one step + auto"], found["grid, centroids + rANS"]
    out = [
        common.at_most("grid, centroids + auto / + rANS: bytes", found["grid, centroids + auto"] / plain, 0.9),
        common.at_most("one step + auto / k-means + rANS: bytes", best / found["k-means, 32 values + rANS"], 0.85),
    ]
    if not nnc:
        return out
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for dependent, limit in (("off", 1.0), ("on", WITHIN)):
        other = found[f"nncodec, dependent quantisation {dependent}"]
        out.append(common.at_most(f"one step + auto / nncodec with it {dependent}: bytes", best / other, limit))
        out.append(
            common.at_most(
                f"one step + logistic / nncodec with it {dependent}: bytes", found["one step + logistic"] / other, limit
            )
        )
    for what in ("encode", "decode"):
        for name in ("without", "with"):
            ratio = middle[f"nncodec {name} DQ {what}"] / middle[f"logistic {what}"]
            out.append(common.at_least(f"nncodec {name} DQ / logistic {what}: CPU time", ratio, FASTER))
    return out


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="resnet56-4bfd9763.th")
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        weights, nnc = load(options.weights), nncodec()
        count = sum(w.size for w in weights.values())
        found, errors, step, qps = sizes(weights, nnc)
        seconds = speeds(weights, nnc, step, qps, options.rounds)
    print(f"{len(weights)} convolutions, {count:,} weights; error 1 is that of {K} shared values per layer\n")
    print(f"{'':42}{'bytes':>10}{'bits/weight':>13}{'error':>9}")
    for name, size in found.items():
        print(f"{name:42}{size:10,.0f}{8 * size / count:13.4f}{errors[name]:9.4f}")
    print("" if nnc else "nncodec: not run (not installed)")
    print(f"\n{'':30}CPU seconds (range)        million weights a second")
    speed = {name: count / 1e6 / statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:28}{common.spread(times)}  {speed[name]:8.1f}")
    results = {"benchmark": "coding-resnet56", "bytes": found, "million_per_s": speed}
    return common.finish(results, claims_of(found, seconds, nnc), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
