"""Context and logistic coding once more, from docs/format.md alone: plain Python, nothing of netpress in it."""

import math
import struct
from collections import defaultdict


def clamp(x, least, most):
    return min(max(x, least), most)


def level(x, most):
    x = min(x, 4095)
    octave = max(x.bit_length() - 3, 0)
    return min(4 * octave + (x >> octave), most)


def stretch(j):
    return round(256 * math.log((j + 0.5) / (4095.5 - j)))


def squash(t):
    return max(1, math.floor(65536 / (1 + math.exp(-t / 256))))


class Slot:
    def __init__(self):
        self.c, self.n = 1 << 21, 0

    def learn(self, b):
        self.c = min(self.c + (((b << 22) - self.c) * (655360 // (10 * self.n + 16)) >> 16), (1 << 22) - 1)
        self.n = min(self.n + 1, 1000)

    def vote(self):
        trust = 256 * (5 * self.n + 4) // (5 * self.n + 6) if self.n else 0
        return stretch(self.c >> 10) * trust >> 8


class Coder:
    def __init__(self, data):
        self.data, self.range, self.at = data, 1 << 32, 5
        self.code = int.from_bytes(data[1:5] + bytes(4 - len(data[1:5])), "big")
        self.slots = defaultdict(Slot)
        self.weights = defaultdict(lambda: 11000)

    def bit(self, p):
        bound = (self.range >> 16) * (65536 - p)
        b = int(self.code >= bound)
        if b:
            self.code -= bound
        self.range = self.range - bound if b else bound
        while self.range < 1 << 24:
            self.code = self.code << 8 | (self.data[self.at] if self.at < len(self.data) else 0)
            self.range <<= 8
            self.at += 1
        return b

    def plain(self, *name):
        slot = self.slots[name]
        b = self.bit(clamp(slot.c >> 6, 32, 65503))
        slot.learn(b)
        return b

    def mixed(self, contexts, kind):
        slots = [self.slots["mixed", i, context, kind] for i, context in enumerate(contexts)]
        votes = [slot.vote() for slot in slots]
        total = sum(self.weights[kind, i] * x for i, x in enumerate(votes))
        p = squash(clamp(total >> 16, -3071, 3071))
        b = self.bit(p)
        for i, (slot, x) in enumerate(zip(slots, votes, strict=True)):
            self.weights[kind, i] += (x * 3 * ((b << 16) - p) + (1 << 17)) >> 18
            slot.learn(b)
        return b

    def flags(self, count):
        out, s = [], 3
        for _ in range(count):
            out.append(self.plain("flag", s))
            s = 2 * (s % 2) + out[-1]
        return out

    def number(self, contexts):
        if not self.mixed(contexts, 0):
            return 0
        a, length, size = self.mixed(contexts, 1), 0, 1
        while length < 16 and self.mixed(contexts, 2 + 10 * a + min(length, 9)):
            length += 1
        for _ in range(length):
            size = 2 * size + self.plain("digit", length, min(size, 255))
        return -size if a else size


def tensor(coder, rows, columns, taps, across):
    """The numbers of a tensor by (row, column, tap)."""
    v = defaultdict(int)
    q = defaultdict(lambda: [25000, 25000, -12500, 0, 0, 0, 0, 0])
    counts, mean = defaultdict(int), 0
    for r in range(rows):
        row_count = 0
        for j in range(columns):
            kernel_sum = kernel_count = 0
            for tap in range(taps):
                y, x = divmod(tap, across)
                places = [(y, x - 1), (y - 1, x), (y - 1, x - 1), (y - 1, x + 1), (y, x - 2), (y - 2, x)]
                a = [v[r, j, b * across + c] if b >= 0 and 0 <= c < across else 0 for b, c in places]
                a += [v[r, j - 1, tap], v[r - 1, j, tap]]
                energy = sum(number * number for number in a)
                weights, m = q[min(tap, 63)], 0
                if energy:
                    m = clamp(sum(w * n for w, n in zip(weights, a, strict=True)) >> 12, -(1 << 20), 1 << 20)
                turn = 1 if m >= 0 else -1
                h = kernel_sum * ((1 << 20) // min(tap, 63)) >> 16 if tap else mean >> 4
                s = [abs(n) for n in a]
                beside = 4 * (19 * level(s[6], 9) + level(s[7], 9))
                g = [9 + (1 if turn * n >= 0 else -1) * level(abs(n), 9) for n in a[:2]]
                here, both = counts[j], 2 * counts[j] + counts[j - 1] + counts[j + 1]
                found = coder.number(
                    [
                        beside if taps == 1 else 4 * (19 * g[0] + g[1]) + min(tap, 3),
                        24 * level(2 * s[0] + 2 * s[1] + s[2] + s[3], 31) + level(abs(m) >> 2, 23),
                        24 * level(h, 31) + level(mean >> 3, 23),
                        0 if taps == 1 else level(abs(m), 63),
                        32 * level(here, 15) + level(r * taps, 31),
                        8 * (12 * level(here, 11) + level(row_count, 11)) + min(kernel_count, 7),
                        32 * level(both, 23) + level(r * taps, 31),
                    ]
                )
                v[r, j, tap] = value = found * turn
                if energy:
                    d = (16 * value - m) * 65536 // (energy + 64)
                    q[min(tap, 63)] = [
                        clamp(w + (d * n >> 9), -(1 << 18), 1 << 18) for w, n in zip(weights, a, strict=True)
                    ]
                size = min(abs(value), 255)
                mean += (256 * size - mean) >> 5
                kernel_sum += size
                row_count, kernel_count, counts[j] = (n + bool(value) for n in (row_count, kernel_count, counts[j]))
    return v


def dims(shape):
    """Rows, columns, taps, taps side by side."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1, 1
    return shape[0], shape[1], math.prod(shape[2:]), shape[-1] if len(shape) > 2 else 1


def read_context(data, shape):
    """The numbers in row-major order, and bit 0 of the first byte."""
    way, n = data[0] if data else 0, math.prod(shape)
    assert way < 8
    assert data[-1:] != bytes(1)
    if not n:
        assert len(data) < 2
        return [], way & 1
    rows, columns, taps, across = dims(shape)
    turned = way & 2 and len(shape) > 1
    outer, inner = (columns, rows) if turned else (rows, columns)
    coder = Coder(data)
    used = [1] * outer, [1] * inner
    if way & 4:
        used = coder.flags(outer), coder.flags(inner)
    r, c = ([i for i, bit in enumerate(part) if bit] for part in used)
    v = tensor(coder, len(r), len(c), taps, across)
    assert len(data) <= coder.at
    out = [0] * n
    for i, place in enumerate(r):
        for j, other in enumerate(c):
            row, column = (other, place) if turned else (place, other)
            start = (row * columns + column) * taps
            out[start : start + taps] = [v[i, j, tap] for tap in range(taps)]
    return out, way & 1


def curve(z):
    return math.floor(65536 / (1 + math.exp(-clamp(z, -2048, 2047) / 128)))


def read_logistic(data, shape):
    """The numbers in row-major order."""
    rows, columns, taps, across = dims(shape)
    numbers, at, often = [], 1, data[0]
    for _ in range(2):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        numbers.append(value)
    low, count = -(numbers[0] + 1) // 2 if numbers[0] % 2 else numbers[0] // 2, numbers[1]
    weights, at = struct.unpack_from("10b", data, at), at + 10
    factors = list(data[at : at + min(taps, 64)]) if taps > 1 else [64]
    at += len(factors) if taps > 1 else 0
    words = list(struct.unpack(f"<{(len(data) - at) // 2}H", data[at:]))
    state = words.pop(0) + (words.pop(0) << 16)
    v, sums, mean, q = defaultdict(int), [0] * columns, 0, 65536 // often
    for r in range(rows):
        for j in range(columns):
            kernel = 0
            for tap in range(taps):
                y, x = divmod(tap, across)
                places = [(y, x - 1), (y - 1, x), (y - 1, x - 1), (y - 1, x + 1)]
                a = [v[r, j, b * across + c] if b >= 0 and 0 <= c < across else 0 for b, c in places]
                if taps == 1:
                    a = [v[r, j - 1, 0], v[r - 1, j, 0], v[r, j - 2, 0], v[r - 2, j, 0]]
                s = [abs(n) for n in a]
                row = mean >> 4
                column = sums[j] * ((1 << 24) // (r * taps)) >> 20 if r else row
                around = [
                    (16 * kernel + row + column) * (65536 // (min(tap, 63) + 2)) >> 16,
                    row,
                    column,
                    16 * (2 * s[0] + 2 * s[1] + s[2] + s[3]),
                    min(row * column * q >> 18, 65536),
                    16,
                ]
                total = sum(w * n for w, n in zip(weights[4:], around, strict=True))
                spread = clamp(total * factors[min(tap, 63)] >> 13, 1, 4095)
                m = sum(w * n for w, n in zip(weights[:4], a, strict=True)) >> 1

                def start(value, m=m, spread=spread):
                    if not low < value < low + count:
                        return 0 if value <= low else 65536
                    z = (64 * value - 32 - m) * (2097152 // spread) >> 16
                    return value - low + (curve(z) * (65536 - count) >> 16)

                slot = state % 65536
                value = max(n for n in range(low, low + count) if start(n) <= slot)
                state = (start(value + 1) - start(value)) * (state >> 16) + slot - start(value)
                if state < 65536:
                    state = (state << 16) + words.pop(0)
                v[r, j, tap] = value
                kernel += abs(value)
                sums[j] += abs(value)
                mean += (256 * abs(value) - mean) >> 5
    assert not words
    assert state == 65536
    return [v[r, j, tap] for r in range(rows) for j in range(columns) for tap in range(taps)]
