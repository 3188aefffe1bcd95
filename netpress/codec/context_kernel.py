"""The loops of context coding, `context`: plain arithmetic on whole numbers, compiled where numba is there.

Every number stays within 64 bits, so that Python's integers and the machine's give the same bits. `docs/format.md`,
section 5, has all of it; the names here are those of that page.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec.compiled import compiled

Ints = NDArray[np.integer]

MODELS = 6
UNARY = 14
ESCAPES = 17
SIGNIFICANT, MORE, LENGTH, REST = 0, 1, 1 + UNARY, 1 + UNARY + ESCAPES
KINDS = 1 + UNARY + 2 * ESCAPES
CONTEXTS = (512, 512, 512, 1024, 64, 32)
FIRST = (0, 512, 1024, 1536, 2560, 2624)
TOTAL = 2656
LIMIT = 255
TOP = 3071

LOW, RANGE, CODE, AT = 0, 1, 2, 3
FULL = -1


class State(NamedTuple):
    """What the coder knows; every field is an array or, without numba, a list."""

    chance: Ints
    seen: Ints
    weight: Ints
    input: Ints
    slot: Ints
    coder: Ints
    data: Ints
    squash: Ints
    stretch: Ints
    trust: Ints
    rate: Ints


@compiled
def level(x: int) -> int:
    """Four steps per octave: 0 1 2 3 4 5 6 7 8 8 9 9 10 10 11 11 12 ...; no jumps."""
    octave = 0
    while x >= 8:
        x >>= 1
        octave += 4
    return octave + x


@compiled
def put(s: State, bit: int, chance: int) -> None:
    """Encode one bit, whose chance to be 1 is chance / 65536."""
    c = s.coder
    bound = (c[RANGE] >> 16) * chance
    if bit:
        c[RANGE] = bound
    else:
        c[LOW] += bound
        c[RANGE] -= bound
        if c[LOW] >> 32:
            c[LOW] &= 0xFFFFFFFF
            i = c[AT] - 1
            while s.data[i] == 255:
                s.data[i] = 0
                i -= 1
            s.data[i] += 1
    while c[RANGE] < 1 << 24:
        s.data[c[AT]] = c[LOW] >> 24
        c[AT] += 1
        c[LOW] = (c[LOW] & 0xFFFFFF) << 8
        c[RANGE] <<= 8


@compiled
def get(s: State, chance: int) -> int:
    """Decode one bit."""
    c = s.coder
    bound = (c[RANGE] >> 16) * chance
    bit = 0
    if c[CODE] < bound:
        bit = 1
        c[RANGE] = bound
    else:
        c[CODE] -= bound
        c[RANGE] -= bound
    while c[RANGE] < 1 << 24:
        c[CODE] <<= 8
        if c[AT] < len(s.data):
            c[CODE] |= s.data[c[AT]]
        c[AT] += 1
        c[RANGE] <<= 8
    return bit


@compiled
def decide(s: State, kind: int, bit: int) -> int:
    """Code one bit of a kind with the mixed chance of all models, and learn; bit -1: decode it."""
    total = 0
    for i in range(MODELS):
        j = s.slot[i] + kind
        s.input[i] = s.stretch[s.chance[j] >> 6] * s.trust[s.seen[j]] >> 8
        total += s.weight[kind * MODELS + i] * s.input[i]
    chance = s.squash[min(max(total >> 16, -TOP), TOP) + TOP]
    if bit < 0:
        bit = get(s, chance)
    else:
        put(s, bit, chance)
    miss = (bit << 16) - chance
    for i in range(MODELS):
        s.weight[kind * MODELS + i] += (s.input[i] * miss + (1 << 15)) >> 16
        j = s.slot[i] + kind
        n = s.seen[j]
        s.chance[j] = min(s.chance[j] + (((bit << 22) - s.chance[j]) * s.rate[n] >> 16), (1 << 22) - 1)
        if n < LIMIT:
            s.seen[j] = n + 1
    return bit


@compiled
def magnitude(s: State, size: int) -> int:
    """Code how large a number is that is not zero; size 0: decode it."""
    at = 1
    while at <= UNARY:
        if not decide(s, MORE + at - 1, (1 if size > at else 0) if size else -1):
            return at
        at += 1
    rest = size - UNARY if size else 0
    bits = 0
    while bits < ESCAPES - 1 and decide(s, LENGTH + bits, (1 if rest >> (bits + 1) else 0) if size else -1):
        bits += 1
    found = 1
    for i in range(bits - 1, -1, -1):
        found = 2 * found + decide(s, REST + i, rest >> i & 1 if size else -1)
    return UNARY + found


@compiled
def entry(s: State, value: int, decoding: int) -> int:
    """Code one number."""
    if not decide(s, SIGNIFICANT, -1 if decoding else (1 if value else 0)):
        return 0
    if decoding:
        negative = get(s, 1 << 15)
    else:
        negative = 1 if value < 0 else 0
        put(s, negative, 1 << 15)
    size = magnitude(s, abs(value))
    return -size if negative else size


@compiled
def contexts(s: State, values: Ints, at: tuple[int, int, int, int], means: tuple[int, int, int], taps: int) -> None:
    """Choose each model's slot from the neighbours of an entry and the running means."""
    n, m, width, tap = at
    near = abs(values[n - 1]) if m > 0 else 0
    left = abs(values[n - taps]) if m >= taps else 0
    above = abs(values[n - width]) if n >= width else 0
    local = 2 * (near + left + above)
    local += abs(values[n - 2]) if m > 1 else 0
    local += abs(values[n - 2 * taps]) if m >= 2 * taps else 0
    local += abs(values[n - 2 * width]) if n >= 2 * width else 0
    column, row, across = means
    s.slot[0] = (FIRST[0] + min(level(column >> 2), 31) * 16 + min(level(row >> 4), 15)) * KINDS
    s.slot[1] = (FIRST[1] + min(level(near), 7) * 64 + min(level(left), 7) * 8 + min(level(above), 7)) * KINDS
    s.slot[2] = (FIRST[2] + min(level(across >> 2), 31) * 16 + min(level(local), 15)) * KINDS
    s.slot[3] = (FIRST[3] + min(tap, 63) * 16 + min(level(local >> 1), 15)) * KINDS
    s.slot[4] = (FIRST[4] + min(level(local), 63)) * KINDS
    s.slot[5] = (FIRST[5] + min(level(row >> 3), 31)) * KINDS


@compiled
def run(s: State, values: Ints, shape: tuple[int, int, int], means: tuple[Ints, Ints], decoding: int) -> int:
    """Code all numbers; the position in the data, or `FULL` where these have no room."""
    rows, columns, taps = shape
    width = columns * taps
    fine, coarse = means
    n = 0
    for r in range(rows):
        row = 0
        for m in range(width):
            column, tap = m // taps, m % taps
            contexts(s, values, (n, m, width, tap), (fine[m], row, coarse[column]), taps)
            values[n] = entry(s, values[n], decoding)
            size = min(abs(values[n]), 255) << 8
            fine[m] += (size - fine[m]) >> (3 if r else 1)
            coarse[column] += (size - coarse[column]) >> 5
            row += (size - row) >> 4
            n += 1
        if not decoding and s.coder[AT] + 64 * width > len(s.data):
            return FULL
    return int(s.coder[AT])
