"""Golden files of the format: what they hold, and how they were written.

`python tests/golden_files.py` writes those of the current version again, and their expected contents beside them. Do so
only before a version is released: afterwards a reader has to read exactly these bytes, for ever.
"""

import hashlib
import json
from pathlib import Path
from unittest import mock

import numpy as np
from graphs import model, node

from netpress.codec import chains, container, context_chain, logistic, sides, stored, whole_numbers
from netpress.codec.container import Press, Tensor
from netpress.codec.header import Arch, Header
from netpress.codec.sides import Side
from netpress.codec.stored import Stored
from netpress.runtime import Session

FOLDER = Path(__file__).parent / "golden"
DTYPES = (
    "float16",
    "float32",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)


def numbers(count, salt=0):
    """Arithmetic instead of a random generator: the same for ever."""
    return (np.arange(count) * 7919 + 104729 * salt) % 1009


def sparse(shape, form, *, table=9, salt=0):
    elements = int(np.prod(shape))
    positions = np.flatnonzero(numbers(elements, salt) < 180)
    if salt % 2:
        positions = positions[(positions < 5) | (positions > elements // 2)]  # long gaps: fillers
    if form == "free":
        return stored.free(((numbers(elements, salt) - 500) / 300).astype(np.float32).reshape(shape), positions)
    codes = numbers(len(positions), salt + 1) ** 2 % table
    return Stored(shape, "shared", "float32", positions, codes, ((np.arange(table) - 4) / 7).astype(np.float32))


def with_chain(name, value, place, coder):
    with mock.patch.object(chains, "places", return_value=[place]):
        return Tensor.of(name, value, coder)


def in_full(name, value):
    """Whole numbers as versions before 1.2 wrote them."""
    with mock.patch.object(whole_numbers, "write", return_value=None):
        return Tensor.of(name, value)


def before_contexts(build):
    """What versions before 2.3 wrote: no chain of context coding."""

    def older():
        with mock.patch.object(context_chain, "may_pay", return_value=False):
            return build()

    return older


@before_contexts
def every_chain():
    tensors = []
    places = ["mask", *(f"rel{b}" for b in chains.GAP_BITS)]
    for salt, place in enumerate(places):
        for coder in chains.CODERS:
            for form in ("free", "shared"):
                value = sparse((6, 40), form, salt=salt)
                tensors.append(with_chain(f"{form}.{place}.{coder}", value, place, coder))
    for coder in chains.CODERS:
        codes, table = numbers(300) ** 2 % 33, (np.arange(33) / 31).astype(np.float32)
        tensors.append(Tensor.of(f"everywhere.{coder}", Stored((300,), "shared", "float32", None, codes, table), coder))
        same = Stored((50,), "shared", "float16", None, np.full(50, 2), np.float32([1, 2, 0.1]))
        tensors.append(Tensor.of(f"constant.{coder}", same, coder))
        empty = stored.free(np.zeros((3, 4), np.float32), np.zeros(0, np.int64))
        tensors.append(Tensor.of(f"pruned.{coder}", empty, coder))
    for dtype in DTYPES:
        raw = (numbers(24) % 251).astype(np.uint8)
        tensors.append(in_full(f"type.{dtype}", stored.free(raw.astype(dtype).reshape(2, 3, 4))))
    tensors.append(Tensor.of("half", stored.free(np.float32([0.5, -0.0, 65504, np.inf, 6e-8 * 0]))))
    tensors.append(in_full("scalar", stored.free(np.array(-3))))
    tensors.append(Tensor.of("nothing", stored.free(np.zeros((2, 0, 5), np.float32))))
    flat = sparse((40, 40), "shared")
    flat = Stored(
        flat.shape,
        "shared",
        "float32",
        flat.positions,
        np.arange(len(flat.positions)) % 32,
        (np.arange(32) / 31).astype(np.float32),
    )
    tensors.append(with_chain("two.coders", flat, "rel7", "auto"))
    tensors.append(
        Tensor.of("half.table", Stored((4,), "shared", "float32", None, np.arange(4), np.float32([0, 1, -2, 3])))
    )
    about = Header(
        Arch(
            "own", "EveryChain", {"widths": [1, 2], "bias": True}, (("select", "a.b", 0, (1, 3)), ("dropout", "", 0.5))
        ),
        (1, 2, 3),
        mean=(0.25,),
        std=(0.5,),
        classes=("Zwölf", ""),
        aliases={"tied": "scalar"},
        meta={"note": "golden", "numbers": [1, -2.5, None]},
    )
    return Press(about, tuple(tensors), b"")


@before_contexts
def long_streams():
    """Interleaved rANS (a million symbols that say little: 32 lanes), and Huffman codes of many lengths."""
    table = ((np.arange(16) - 7) / 3).astype(np.float32)
    index = np.arange(1_100_000)
    rare = np.where(index * 7919 % 1_100_003 < 150, index % 16, 3)
    lanes = Tensor.of("lanes", Stored((1100, 1000), "shared", "float32", None, rare, table), "rans")
    halving = 15 - np.log2(numbers(4000) * 65 + 1).astype(np.int64)
    lengths = Tensor.of("lengths", Stored((4000,), "shared", "float32", None, halving, table), "huffman")
    return Press(Header(Arch("zoo", "long"), (1,)), (lanes, lengths))


@before_contexts
def small_network():
    """A network that runs: convolution, pooling, two linear layers."""
    graph = model(
        [
            node("Conv", "x t0 t1", "0", pads=[1, 1, 1, 1]),
            node("Relu", "0", "1"),
            node("MaxPool", "1", "2", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "2", "3"),
            node("Gemm", "3 t2 t3", "y", transB=1),
        ],
        shape=(1, 8, 8),
        outputs=3,
    )
    bias = ((numbers(7) - 500) / 1000).astype(np.float32)
    tensors = (
        Tensor.of("conv.weight", sparse((4, 1, 3, 3), "free")),
        Tensor.of("conv.bias", stored.free(bias[:4])),
        Tensor.of("fc.weight", sparse((3, 64), "shared")),
        Tensor.of("fc.bias", stored.free(bias[4:].astype(np.float16).astype(np.float32))),
    )
    about = Header(Arch("own", "Small"), (1, 8, 8), (0.1307,), (0.3081,), ("a", "b", "c"))
    return Press(about, tensors, graph.SerializeToString())


def sided(shape, form, *, axes=(), bits=0, salt=0, everywhere=False, trained=False):
    """Signs, integers, or a table on a grid."""
    elements = int(np.prod(shape))
    positions = None if everywhere else sparse(shape, "free", salt=salt).positions
    count = elements if positions is None else len(positions)
    size = (1,) if form == "shared" else sides.scale_shape(shape, axes)
    scale = ((numbers(int(np.prod(size)), salt) + 1) / 1013).astype(np.float32).reshape(size)
    side = Side(scale, axes, trained, bits, (1 << bits) // 2)
    codes = numbers(count, salt + 1) ** 2 % (9 if form == "shared" else side.alphabet)
    table = sides.values(side, numbers(9, salt) % side.alphabet, (1,)) if form == "shared" else None
    return Stored(shape, form, "float32", positions, codes, table, side=side)


@before_contexts
def patterns_and_integers():
    """What version 1.1 added, in every chain; and a graph that takes integers."""
    tensors = []
    for salt, place in enumerate(["mask", *(f"rel{b}" for b in chains.GAP_BITS)]):
        for coder in chains.CODERS:
            for form, bits in (("signs", 0), ("affine", 2 + salt), ("shared", 8 - salt)):
                axes = () if form == "shared" else ((), (0,), (0, 1))[salt % 3]
                value = sided((4, 6, 3, 3), form, axes=axes, bits=bits, salt=salt, trained=salt % 2 == 0)
                tensors.append(with_chain(f"{form}.{place}.{coder}", value, place, coder))
    for coder in chains.CODERS:
        for form, bits in (("signs", 0), ("affine", 8), ("shared", 5)):
            tensors.append(Tensor.of(f"{form}.{coder}", sided((5, 7), form, bits=bits, everywhere=True), coder))
    half = Side(np.float32([[0.5, 0, -2]]), (1,), True)
    tensors.append(Tensor.of("half", Stored((2, 3), "signs", "float32", None, np.arange(6) % 2, side=half)))
    edges = Side(np.float32([2.0**-126, 2.0**119]), (0,), False, 8, 255)
    tensors.append(Tensor.of("edges", Stored((2,), "affine", "float32", None, np.array([0, 0]), side=edges)))
    tensors.append(Tensor.of("nothing", sided((0, 3), "signs", axes=(0,), everywhere=True)))
    return Press(Header(Arch("own", "PatternsAndIntegers"), (1,)), tuple(tensors))


@before_contexts
def integer_network():
    """A network that runs on integers: a convolution per channel, a linear layer with a table, one of signs."""
    graph = model(
        [
            node("DequantizeLinear", "t0.codes t0.scale t0.zero", "0", axis=0),
            node("Conv", "x 0 t1", "1", pads=[1, 1, 1, 1]),
            node("Relu", "1", "2"),
            node("GlobalAveragePool", "2", "3"),
            node("Flatten", "3", "4"),
            node("DequantizeLinear", "t2.codes t2.scale t2.zero", "5"),
            node("Gemm", "4 5", "6", transB=1),
            node("Gemm", "6 t3", "y", transB=1),
        ],
        shape=(1, 8, 8),
        outputs=3,
    )
    tensors = (
        Tensor.of("conv.weight", sided((4, 1, 3, 3), "affine", axes=(0,), bits=8, trained=True)),
        Tensor.of("conv.bias", stored.free(((numbers(4) - 500) / 1000).astype(np.float32))),
        Tensor.of("fc1.weight", sided((6, 4), "shared", bits=4)),
        Tensor.of("fc2.weight", sided((3, 6), "signs", axes=(0,), everywhere=True)),
    )
    return Press(Header(Arch("own", "Integers"), (1, 8, 8), (0.1307,), (0.3081,)), tensors, graph.SerializeToString())


@before_contexts
def whole_numbers_and_steps():
    """What version 1.2 added: integers as symbols, in every chain and type."""
    tensors = []
    rising = np.concatenate([np.flatnonzero(numbers(90, salt) < 250) for salt in range(8)])
    for place in chains.WHOLE:
        for coder in chains.CODERS:
            with mock.patch.object(chains, "WHOLE", (place,)), mock.patch.object(stored, "WHOLE", (place,)):
                tensors.append(Tensor.of(f"{place}.{coder}", stored.free(rising - 40), coder))
    for salt, dtype in enumerate(t for t in DTYPES if "int" in t):
        offset = 100 * (salt % 2) - (0 if dtype[0] == "u" else 128)
        values = (numbers(200, salt) % (20 + salt) + offset).astype(dtype).reshape(10, 20)
        tensors.append(Tensor.of(f"type.{dtype}", stored.free(values)))
    tensors.append(Tensor.of("constant", stored.free(np.full((3, 50), -(2**40)))))
    tensors.append(Tensor.of("far.apart", stored.free(np.array([0, 1 << 16]))))
    tensors.append(Tensor.of("nothing", stored.free(np.zeros((0, 4), np.int64))))
    return Press(Header(Arch("own", "WholeNumbers"), (1,)), tuple(tensors))


def leaning(shape, salt=0):
    """Small numbers that lean on their neighbours, as kernels do; some rows and columns hold nothing."""
    elements = int(np.prod(shape))
    values = (numbers(elements, salt) % 7 - 3).reshape(shape)
    if len(shape) > 2:
        values = np.clip(np.cumsum(values, axis=-1) // 2, -40, 40)
    else:
        values = values * (numbers(elements, salt + 1) < 200).reshape(shape)
    if len(shape) > 1:
        values[1::3] = 0
        values[:, 2::4] = 0
    return values


def with_weights(weights, taps=0):
    """Logistic coding with given weights: fitted ones might differ from machine to machine in their last bit."""
    numbers = (9, [*weights, *range(50, 50 + taps)])
    return mock.patch.object(logistic, "fit", return_value=numbers)


def logistics():
    """Of version 2.3 too: logistic coding."""
    tensors = []
    weights = [60, 50, -20, -9, 30, 18, -9, 20, 17, 15]
    for salt, shape in enumerate([(6, 5, 3, 3), (30, 40), (70,), (2, 3, 80), (4, 1, 2, 5), (1, 1)]):
        values = leaning(shape, salt).reshape(-1) + 40
        taps = min(int(np.prod(shape[2:])), 64) if len(shape) > 2 else 0
        table = (np.arange(-40, 41) / 8).astype(np.float32)
        side = Side(np.float32([0.25]).reshape((1,) * len(shape)), (), False, 8, 50)
        for form, found in (
            ("table", Stored(shape, "shared", "float32", None, values, table)),
            ("affine", Stored(shape, "affine", "float32", None, values, side=side)),
        ):
            with with_weights(weights, taps):
                tensors.append(Tensor.of(f"{form}.{'x'.join(map(str, shape))}", found, "logistic"))
    return Press(Header(Arch("own", "Logistics"), (1,)), tuple(tensors), b"")


def contexts():
    """What version 2.3 added: context coding, of every form, with and without a support, in every way."""
    tensors = []
    for salt, shape in enumerate([(6, 5, 3, 3), (30, 40), (40, 30), (70,), (3, 4, 80), (4, 1, 5, 5), (0, 4), (1, 2)]):
        values = leaning(shape, salt).reshape(-1)
        inside = np.flatnonzero(values)
        table = (np.arange(-40, 41) / 8).astype(np.float32)
        side = Side(np.float32([0.25]).reshape((1,) * len(shape)), (), False, 8, 100)
        signs = Side(np.float32([0.75]).reshape((1,) * len(shape)))
        name, codes = "x".join(map(str, shape)), values + 40
        for support in (None, inside):
            kept, kind = (codes, "everywhere") if support is None else (codes[inside], "inside")
            for form, found in (
                ("table", Stored(shape, "shared", "float32", support, kept, table)),
                ("affine", Stored(shape, "affine", "float32", support, kept + 60, side=side)),
                ("signs", Stored(shape, "signs", "float32", support, (kept > 40) * 1, side=signs)),
            ):
                tensors.append(Tensor.of(f"{form}.{kind}.{name}", found, "context"))
        tensors.append(Tensor.of(f"free.{name}", stored.free((values / 8).reshape(shape), inside), "context"))
    positions = np.arange(0, 60, 2)
    zero_inside = Stored((5, 12), "affine", "float32", positions, numbers(30) % 5, side=Side(np.float32([[1]]), bits=3))
    tensors.append(Tensor.of("zero.inside", zero_inside, "context"))
    fine = (np.arange(-2000, 2048) / 16).astype(np.float32)
    large = Stored((9, 9), "shared", "float32", None, numbers(81) * 4, fine)
    on_grid = sided((8, 9), "shared", bits=6, everywhere=True)
    tensors += [Tensor.of("large", large, "context"), Tensor.of("grid", on_grid, "context")]
    return Press(Header(Arch("own", "Contexts"), (1,)), tuple(tensors), b"")


FILES = {  # name, which begins with the version of the frame -> what it holds
    "v1-every-chain": every_chain,
    "v1-integer-network": integer_network,
    "v1-long-streams": long_streams,
    "v1-patterns-and-integers": patterns_and_integers,
    "v1-small-network": small_network,
    "v1-whole-numbers": whole_numbers_and_steps,
    "v2-contexts": contexts,
    "v2-every-chain": every_chain,
    "v2-logistics": logistics,
    "v2-integer-network": integer_network,
    "v2-patterns-and-integers": patterns_and_integers,
    "v2-small-network": small_network,
}


def version(name):
    """Of the frame around header, graph and tensors."""
    return int(name[1])


def pixels():
    return (numbers(128) % 256).astype(np.uint8).reshape(2, 1, 8, 8)


def digest(tensor):
    """The little-endian bytes of a restored tensor in hex, or their SHA-256 where that is shorter."""
    raw = tensor.restore().astype(np.dtype(tensor.dtype).newbyteorder("<")).tobytes()
    return raw.hex() if len(raw) <= 256 else "sha256:" + hashlib.sha256(raw).hexdigest()


def contents(path):
    """What a reader must find, as JSON."""
    press = container.read(path)
    about = press.header
    found = {
        "file_bytes": path.stat().st_size,
        "network": [about.arch.source, about.arch.name, about.arch.settings, about.arch.edits],
        "header": [about.input_shape, about.mean, about.std, about.classes, about.aliases, about.meta],
        "tensors": [[t.name, t.shape, t.form, t.dtype, t.chain, digest(t)] for t in press.tensors],
    }
    if press.graph:
        found["logits"] = Session(path, threads=1).run(pixels()).tolist()
    return json.loads(json.dumps(found))


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, build in FILES.items():
        path = FOLDER / f"{name}.press"
        path.write_bytes(container.dumps(build(), version=version(name)))
        path.with_suffix(".json").write_text(json.dumps(contents(path), indent=0) + "\n")
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
