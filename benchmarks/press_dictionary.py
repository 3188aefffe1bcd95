"""How the preset dictionary 2 of the `.press` format was made: headers and graphs of the zoo, likeliest last.

    python benchmarks/press_dictionary.py > netpress/codec/dictionary_2.py

What deflate would find in a likelier one anyway is left out. The exporter of another PyTorch may write other graphs,
and a released dictionary never changes: run it to make the next one, not this one again.
"""

from __future__ import annotations

import hashlib
import sys

import torch

from netpress import store, zoo
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.dictionary import DICTIONARIES
from netpress.codec.header import Arch, Header, Row, dump_small
from netpress.data.arrays import Split
from netpress.methods.fold_batch_norm import FoldBatchNorm
from netpress.methods.quantize import Quantize

DIGITS, GRAY = tuple("0123456789"), ((0.1307,), (0.3081,))
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COLOUR = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))

PLAIN, FOLDED, INTEGERS = (), (FoldBatchNorm(),), (Quantize(),)
PIECES = (
    *(("densenet121", PLAIN), ("googlenet", PLAIN), ("mobilenet-v1", PLAIN), ("mobilenet-v2", PLAIN)),
    *(("squeezenet", PLAIN), ("vgg16", PLAIN), ("resnet18", PLAIN), ("condensenet-cifar", PLAIN)),
    *(("sepnet-r-small", PLAIN), ("mlperf-tiny-mobilenet", PLAIN), ("condensenet-50", PLAIN)),
    *(("cifar-vgg16-bn", PLAIN), ("mlperf-tiny-resnet8", PLAIN), ("cifar-resnet20", INTEGERS)),
)
"""Networks of which a beginning is taken: what small files of their like repeat."""
HEADER_BYTES, GRAPH_BYTES = 600, 800
LIKELY = (
    *(("lenet5", INTEGERS), ("cifar-resnet20", FOLDED), ("cifar-resnet20", PLAIN), ("condensenet-mnist-3", PLAIN)),
    *(("condensenet-mnist-1", PLAIN), ("mnist-modification-2", PLAIN), ("mnist-modification-1", PLAIN)),
    *(("mnist-initial", PLAIN), ("lenet-300-100", PLAIN), ("lenet5", PLAIN)),
)
WHOLE = 2
"""The last ones, which no break may cut: a break costs two or three bytes."""


def grid(flags: int, bits: int) -> str:
    """How the payload of integers begins, in hex: symmetric ones."""
    return bytes([flags, bits, 1 << (bits - 1)]).hex()


KINDS = tuple(
    f'["{chain}","{form}"' + (f',"{prefix}"' if prefix else "") + "]"
    for chain, form, prefix in (
        *((c, "free", "") for c in ("whole+rans", "steps+rans", "mask+rans", "mask+rans+half", "mask+context")),
        *((f"rel{b}+{c}", "shared", "") for b in range(3, 9) for c in ("bits", "huffman", "rans")),
        *((f"{c}+grid", "shared", "") for c in ("bits", "rans", "mask+rans", "rel5+rans", "context", "mask+context")),
        *(
            (c, "shared", "")
            for c in ("bits", "huffman", "rans", "mask+rans", "context", "context+half", "mask+context")
        ),
        *((c, "signs", p) for c in ("bits", "context", "mask+rans", "mask+context") for p in ("06", "07")),
        *((c, "affine", "") for c in ("bits+half", "mask+rans+half", "mask+rans", "rel5+rans+bits", "rel4+rans")),
        *((c, "affine", grid(f, b)) for f in (3, 2) for b in (3, 4, 8) for c in ("context", "mask+context")),
        *(("context", "affine", grid(f, b)) for f in (1, 0) for b in range(2, 9)),
        *(
            (f"{c}+half", "affine", grid(f, b))
            for c in ("context", "mask+context")
            for f in (1, 0)
            for b in range(2, 9)
        ),
        *((c, "affine", grid(f, b)) for b in (4, 8) for f in (1, 0) for c in ("rans", "bits+half", "bits")),
        *(("mask+context", "affine", grid(f, b)) for f in (1, 0) for b in range(2, 9)),
    )
)
PLACES = ("0,0,0,1,1,1,1", "0,1,0,0,0,0,0,1", "0,1,0,2,0,2,0,1", "0,1,2,1,2,1,2,1")
WORDS = ",".join(KINDS) + "".join(f"],[{each}]" for each in PLACES)


def main() -> int:
    """Write the module to stdout, and to stderr what went in."""
    torch.set_num_threads(1)
    dictionary = b""
    for place, (name, method) in enumerate(reversed(PIECES + LIKELY)):
        raw, least, short = document(name, method), 32, 0
        if place < WHOLE:
            least = len(raw)
        elif place >= len(LIKELY):
            header, _, graph = raw.partition(b"\0")
            raw, least, short = header[:HEADER_BYTES] + b"\0" + graph[:GRAPH_BYTES], 12, 6
        fresh = new_parts(raw, dictionary, least=least, short=short)
        dictionary = fresh + dictionary
        print(f"{name}: {len(raw)} bytes, {len(fresh)} of them new", file=sys.stderr)
    older = DICTIONARIES[1].partition(b"[[")[0]  # operators, attributes, words; not the networks behind them
    print(module(new_parts(older + WORDS.encode(), dictionary, least=16, short=0) + dictionary))
    return 0


def document(name: str, method: tuple[FoldBatchNorm | Quantize, ...]) -> bytes:
    """Header and graph of a network as version 2 writes them, without sizes."""
    variant = zoo.describe(name)
    gray, usual = variant.shape[0] == 1, variant.num_classes == 10
    inputs = Inputs(variant.shape, *(GRAY if gray else COLOUR if usual else ((), ())))
    classes = DIGITS if gray else OBJECTS if usual else ()
    candidate = Candidate(zoo.create(name).eval(), arch=Arch("zoo", name), inputs=inputs, classes=classes)
    images = torch.randint(256, (100, *variant.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(100) % 10)
    context = Context(torch.zeros(1, *variant.shape), split, split)
    for step in method:
        candidate = step.apply(candidate, context)
    named, aliases = store._named(candidate.net)
    graph = store._graph(candidate, named, aliases)[0]
    rows = tuple(row(n, tensor, coded=n in candidate.forms or not method) for n, tensor in named.items())
    header = Header(candidate.arch, inputs.shape, inputs.mean, inputs.std, classes)
    return dump_small(header, rows) + b"\0" + graph


def row(name: str, tensor: torch.Tensor, *, coded: bool) -> Row:
    """The row of a tensor in the form that it is likely to have."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if not coded or dtype != "float32" or name.startswith("running_"):
        return Row(name, shape, dtype=dtype)
    if len(shape) > 1:
        return Row(name, shape, chain="mask+context", form="affine", prefix=b"\x01\x04\x08")
    return Row(name, shape, chain="context", form="affine", prefix=b"\x01\x08\x80")


def new_parts(raw: bytes, dictionary: bytes, *, least: int, short: int) -> bytes:
    """What of `raw` neither the dictionary nor the parts before it contain.

    Args:
        raw: header and graph of one network.
        dictionary: of the likelier ones.
        least: shorter repetitions stay.
        short: shorter parts are left out.
    """
    parts, at = [bytearray()], 0
    while at < len(raw):
        known, length = b"\xff".join([*map(bytes, parts), dictionary]), least
        if at + length > len(raw) or raw[at : at + length] not in known:
            parts[-1].append(raw[at])
            at += 1
            continue
        while at + length < len(raw) and raw[at : at + length + 1] in known:
            length += 1
        at += length
        if parts[-1]:
            parts.append(bytearray())
    return b"".join(bytes(part) for part in parts if len(part) >= short)


def module(dictionary: bytes) -> str:
    """The source of a module that holds it."""
    lines, at = [], 0
    while at < len(dictionary):
        size = 100
        while len(repr(dictionary[at : at + size])) > 114:
            size -= 1
        lines.append(f"    {dictionary[at : at + size]!r}")
        at += size
    digest = hashlib.sha256(dictionary).hexdigest()[:16]
    head = (
        f'"""Preset dictionary 2: {len(dictionary):,} bytes, made by `benchmarks/press_dictionary.py`."""\n\nBYTES = ('
    )
    return "\n".join([head, *lines, ")", f"# SHA-256 begins with {digest}"])


if __name__ == "__main__":
    sys.exit(main())
