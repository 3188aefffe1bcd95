"""A second reader of `.press` files, written from docs/format.md alone: plain Python, nothing of netpress in it.

Slow and trusting; it exists to prove that the page says enough. The dictionary is passed in.
"""

import json
import math
import struct
import zlib

from independent_context import read_context, read_logistic

FORMATS = dict(
    zip(
        [
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
        ],
        "efd?bhiqBHIQ",
        strict=True,
    )
)


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def inflate(packed, dictionary):
    """An inflater without dictionaries reads them too: the trick of section 1."""
    size = len(dictionary)
    stored = bytes([0]) + struct.pack("<HH", size, size ^ 0xFFFF) + dictionary
    return zlib.decompress(stored + packed, -15)[size:] if packed else b""


class Bits:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        value = 0
        for _ in range(count):
            value = value << 1 | self.data[self.at >> 3] >> (7 - self.at % 8) & 1
            self.at += 1
        return value

    def golomb(self, order):
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros + order | self.take(zeros + order)) - (1 << order)

    def presence(self, alphabet):
        present, symbol, run = [], self.golomb(0), 0
        while symbol < alphabet:
            run += 1
            length = self.golomb(0) + 1
            present += range(symbol, symbol + length) if run % 2 else []
            symbol += length
        return present

    def align(self):
        self.at = (self.at + 7) // 8 * 8


def read_bits(data, alphabet, count):
    source, width = Bits(data), (alphabet - 1).bit_length()
    return [source.take(width) for _ in range(count)]


def read_huffman(data, alphabet, count):
    source = Bits(data)
    present = source.presence(alphabet)
    if len(present) == 1:
        return present * count
    length, lengths = (len(present) - 1).bit_length(), []
    for symbol in present:
        folded = source.golomb(0)
        length += (folded + 1) // 2 if folded % 2 else -(folded // 2)
        lengths.append((length, symbol))
    source.align()
    codes, code, before = {}, -1, min(lengths)[0]
    for length, symbol in sorted(lengths):
        code = (code + 1) << (length - before)
        codes[length, code], before = symbol, length
    out = []
    while len(out) < count:
        length = code = 0
        while (length, code) not in codes:
            length, code = length + 1, code << 1 | source.take(1)
        out.append(codes[length, code])
    return out


def read_rans(data, alphabet, count):
    if data[0] == 0x0F:
        return [struct.unpack_from("<H", data, 1)[0]] * count
    lanes, precision = 1 << (data[0] & 15), (data[0] >> 4) + 1
    source = Bits(data[1:])
    present = source.presence(alphabet)
    frequencies, g = [], (1 << precision) // len(present)
    for _ in present[1:]:
        g = source.golomb(max(0, g.bit_length() - 1)) + 1
        frequencies.append(g)
    frequencies.append((1 << precision) - sum(frequencies))
    source.align()
    slots = [(s, f, sum(frequencies[:i])) for i, (s, f) in enumerate(zip(present, frequencies, strict=True))]
    lookup = [entry for entry in slots for _ in range(entry[1])]
    at = 1 + source.at // 8
    states = list(struct.unpack_from(f"<{lanes}I", data, at))
    words = iter(struct.unpack(f"<{(len(data) - at - 4 * lanes) // 2}H", data[at + 4 * lanes :]))
    out = []
    for i in range(count):
        x = states[i % lanes]
        slot = x & (1 << precision) - 1
        symbol, f, c = lookup[slot]
        x = f * (x >> precision) + slot - c
        states[i % lanes] = x if x >= 65536 else x * 65536 + next(words)
        out.append(symbol)
    assert next(words, None) is None
    assert set(states) == {65536}
    return out


def stream(data, alphabet, count, coder):
    if alphabet <= 1 or not count:
        return [0] * count
    return {"bits": read_bits, "huffman": read_huffman, "rans": read_rans}[coder](data, alphabet, count)


def gaps(data, at, width, coder):
    m, at = varint(data, at)
    s, at = varint(data, at)
    p, positions, top = 0, [], (1 << width) - 1
    for g in stream(data[at : at + s], 1 << width, m, coder):
        if g < top:
            positions.append(p + g)
        p += g + (g < top)
    return positions, at + s


def float32(number):
    return struct.unpack("<f", struct.pack("<f", number))[0]


def side(data, at, shape, form, code):
    """Scales of every position, bits, zero point, and the byte behind; `code` is the type they are written in."""
    flags, at = varint(data, at)
    bits = zero_point = 0
    if form != "signs":
        bits, zero_point, at = data[at], data[at + 1], at + 2
    sizes = [size if flags >> (axis + 1) & 1 else 1 for axis, size in enumerate(shape)]
    count = math.prod(sizes)
    scales = struct.unpack_from(f"<{count}{code}", data, at)
    places = [0]
    for size, varies in zip(shape, sizes, strict=True):
        places = [place * varies + (i if varies > 1 else 0) for place in places for i in range(size)]
    return [scales[place] for place in places], bits, zero_point, at + count * struct.calcsize(code)


def front(data, shape, words, form, code):
    """What each code stands for, given its position; how many codes there are; the byte behind."""
    if form in ("signs", "affine"):
        scales, bits, zero_point, at = side(data, 0, shape, form, code)
        if form == "signs":
            return lambda q, i: scales[i] + 0.0 if q else 0.0 - scales[i], 2, at
        return lambda q, i: float32((q - zero_point) * scales[i]), 1 << bits, at
    k, at = varint(data, 0)
    if words[-1] == "grid":
        (step,), bits, zero_point, at = side(data, at, [], "affine", "f")
        source, end = Bits(data[at:]), at + (k * bits + 7) // 8
        table = [float32((source.take(bits) - zero_point) * step) for _ in range(k)]
        return lambda q, _: table[q], k, end
    table = struct.unpack_from(f"<{k}{code}", data, at)
    return lambda q, _: table[q], k, at + k * struct.calcsize(code)


def whole(data, words, n):
    folded, at = varint(data, 0)
    size, at = varint(data, at)
    low, before, out = (folded + 1) // 2 if folded % 2 else -(folded // 2), 0, []
    for symbol in stream(data[at:], size, n, words[1]):
        before = (before + symbol) % size if words[0] == "steps" else symbol
        out.append(low + before)
    return out


def zero(data, form, meaning, k, masked):
    """The code that stands for zero in a context or logistic stream, or would."""
    if form in ("free", "signs"):
        return int(form == "signs")
    if form == "affine":
        return data[varint(data, 0)[1] + 1]
    table = [math.inf if meaning(q, 0) != meaning(q, 0) else meaning(q, 0) for q in range(k)]
    return sum(value < 0 for value in table) if masked else min(range(k), key=lambda q: abs(table[q]), default=0)


def around_zero(data, shape, z, masked, coder):
    """Positions and codes of a context or logistic stream."""
    numbers, close = read_context(data, shape) if coder == "context" else (read_logistic(data, shape), 0)
    if not masked:
        return range(len(numbers)), [v + z for v in numbers]
    positions = [i for i, v in enumerate(numbers) if v]
    return positions, [v + z if v < 0 or close else v + z - 1 for v in (numbers[i] for i in positions)]


def tensor(data, shape, chain, form, dtype):
    """The restored tensor as bytes."""
    words, n, at = chain.split("+"), math.prod(shape), 0
    if words[0] in ("whole", "steps"):
        return struct.pack(f"<{n}{FORMATS[dtype]}", *whole(data, words, n))
    free = form == "free"
    code = "e" if words[-1] == "half" else FORMATS[dtype] if free else "f"
    alphabet, positions, meaning = 1, range(n), None
    if not free:
        meaning, alphabet, at = front(data, shape, words, form, code)
    words, end = words[:-1] if words[-1] in ("half", "grid") else words, len(data)
    if words[0] == "mask" and free:
        s, at = varint(data, at)
        end = at + s
    if words[-1] in ("context", "logistic"):
        z = zero(data, form, meaning, alphabet, words[0] == "mask")
        positions, codes = around_zero(data[at:end], shape, z, words[0] == "mask", words[-1])
        at = end
    elif words[0] == "mask":
        symbols = stream(data[at:end], alphabet + 1, n, words[1])
        positions = [i for i, symbol in enumerate(symbols) if symbol]
        codes, at = [symbol - 1 for symbol in symbols if symbol], end
    else:
        if words[0].startswith("rel"):
            positions, at = gaps(data, at, int(words[0][3:]), words[1])
        if not free:
            codes = stream(data[at:], alphabet, len(positions), words[-1])
    if free:
        values = struct.unpack(f"<{len(positions)}{code}", data[at:])
    else:
        values = [meaning(q, i) for q, i in zip(codes, positions, strict=True)]
    dense = [0] * n
    for position, value in zip(positions, values, strict=True):
        dense[position] = value
    return struct.pack(f"<{n}{FORMATS[dtype]}", *dense)


def read(data, dictionaries):
    """Header fields, tensors as (name, shape, form, dtype, chain, bytes), graph."""
    assert data[:8] == bytes.fromhex("894E5052 0D0A1A0A")
    return read_small(data, dictionaries[2]) if data[8] == 2 else read_chunked(data, dictionaries[1])


def read_chunked(data, dictionary):
    assert data[8:10] == bytes([1, 1])
    at, sizes = 10, []
    for _ in range(4):
        size, at = varint(data, at)
        sizes.append(size)
    chunks, tensors = [], []

    def chunk(size, start):
        nonlocal at
        body = data[at : at + size]
        at += size + 4
        assert zlib.crc32(data[start : at - 4]) == struct.unpack_from("<I", data, at - 4)[0]
        return body

    chunks = [inflate(chunk(sizes[0], 0), dictionary), inflate(chunk(sizes[2], at), dictionary)]
    assert [len(c) for c in chunks] == [sizes[1], sizes[3]]
    header = json.loads(chunks[0])
    header += [[], [], [], [], {}, {}][len(header) - 2 :]
    for row in header[4]:
        name, shape, size, chain, form, dtype = row + [4 * math.prod(row[1]), "raw", "free", "float32"][len(row) - 2 :]
        tensors.append((name, shape, form, dtype, chain, tensor(chunk(size, at), shape, chain, form, dtype)))
    assert at == len(data)
    return header, tensors, chunks[1]


def read_small(data, dictionary):
    assert zlib.crc32(data[:-4]) == struct.unpack_from("<I", data, len(data) - 4)[0]
    # the stream ends itself; what is behind it stays: the same trick again
    size = len(dictionary)
    coder = zlib.decompressobj(-15)
    stored = bytes([0]) + struct.pack("<HH", size, size ^ 0xFFFF) + dictionary
    text, _, graph = coder.decompress(stored + data[9:-4])[size:].partition(b"\0")
    rest, at = coder.unused_data, 0
    header = json.loads(text)
    header += [[], [], [], [], {}, {}, [], []][len(header) - 2 :]
    *header, kinds, places = header
    rows, sizes = [], []
    for (name, shape), place in zip(header[4], places, strict=True):
        chain, form, prefix, dtype = kinds[place] + ["free", "", "float32"][len(kinds[place]) - 1 :]
        rows.append((name, shape, form, dtype, chain, bytes.fromhex(prefix)))
        width = {"raw": struct.calcsize(FORMATS[dtype]), "raw+half": 2}.get(chain) if form == "free" else None
        sizes.append(None if width is None else width * math.prod(shape))
    open_ = [i for i, size in enumerate(sizes) if size is None]
    largest = max(open_, key=lambda i: math.prod(rows[i][1]), default=None)
    for i in open_:
        if i != largest:
            sizes[i], at = varint(rest, at)
    if largest is not None:
        sizes[largest] = len(rest) - at - sum(size or 0 for size in sizes)
    tensors = []
    for (*about, prefix), size in zip(rows, sizes, strict=True):
        _, shape, form, dtype, chain = about
        tensors.append((*about, tensor(prefix + rest[at : at + size], shape, chain, form, dtype)))
        at += size
    assert at == len(rest)
    return header, tensors, graph
