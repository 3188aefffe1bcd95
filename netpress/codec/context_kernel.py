"""The loops of context coding (`context`): whole numbers only, compiled where numba is there.

Every number stays within 64 bits, so that Python's integers and the machine's give the same bits. `docs/format.md`,
section 5, says what they do; the names are those of that page.

    model    slots, each less 2^31: 22 bits of chance that a bit is 1, then 10 bits of how often it was met
    tables   constants (`context_tables`)
    work     registers of the coder; slots and inputs of this entry; weights; what was counted so far
    data     the stream
"""

from typing import Any

from netpress.codec.compiled import compiled, inlined

Ints = Any  # arrays of int32 (model, tables, values), int64 (work) and uint8 (data); without numba lists

# the model: how many contexts each predictor has, and where the first one is
SIZES = (1444, 768, 768, 64, 512, 1152, 768)
FIRST = (0, 1444, 2212, 2980, 3044, 3556, 4708)
CONTEXTS = 5476
MODELS = 7

# kinds of bits
NONZERO, AGAINST, MORE = 0, 1, 2
LENGTHS, MIXED = 17, 10
KINDS = MORE + 2 * MIXED
DIGITS = CONTEXTS * KINDS  # slots outside the mix: digits of sizes, and flags
FLAGS = DIGITS + LENGTHS * 256
SLOTS = FLAGS + 4

# work
LOW, RANGE, CODE, AT = 0, 1, 2, 3
SLOT, INPUT, NEAR, MEAN, WEIGHT = 4, 12, 20, 28, 32
STEPS = WEIGHT + KINDS * MODELS  # weights of the prediction, 8 per tap
MAX_TAPS = 64
COUNTS = STEPS + 8 * MAX_TAPS  # per column, with a zero on both sides
ROOM = 128
"""Bytes that the longest number could take."""

# tables
TOP = 3071
STRETCH, SQUASH, TRUST, RATE, LEVEL, SHARE = 0, 4096, 10240, 11264, 12288, 16384
TABLES = 16448
MOST = 1000
LIMIT = (1 << 22) - 1
BASE = 1 << 31


@inlined
def put(work: Ints, data: Ints, bit: int, chance: int) -> None:
    """Encode a bit of chance / 65536 to be 1. Zeros take the lower part: a tail of them takes no bytes."""
    bound = (work[RANGE] >> 16) * (65536 - chance)
    if bit:
        work[LOW] += bound
        work[RANGE] -= bound
        if work[LOW] >> 32:
            work[LOW] &= 0xFFFFFFFF
            i = work[AT] - 1
            while data[i] == 255:
                data[i] = 0
                i -= 1
            data[i] += 1
    else:
        work[RANGE] = bound
    while work[RANGE] < 1 << 24:
        data[work[AT]] = work[LOW] >> 24
        work[AT] += 1
        work[LOW] = (work[LOW] & 0xFFFFFF) << 8
        work[RANGE] <<= 8


@inlined
def get(work: Ints, data: Ints, chance: int) -> int:
    """Decode a bit."""
    bound = (work[RANGE] >> 16) * (65536 - chance)
    bit = 0
    if work[CODE] < bound:
        work[RANGE] = bound
    else:
        bit = 1
        work[CODE] -= bound
        work[RANGE] -= bound
    while work[RANGE] < 1 << 24:
        work[CODE] <<= 8
        if work[AT] < len(data):
            work[CODE] |= data[work[AT]]
        work[AT] += 1
        work[RANGE] <<= 8
    return bit


@inlined
def learn(model: Ints, tables: Ints, at: int, bit: int) -> None:
    """Move a slot's chance to the bit: fast at first."""
    slot = model[at] + BASE
    seen, chance = slot & 1023, slot >> 10
    chance += ((bit << 22) - chance) * tables[RATE + seen] >> 16
    model[at] = (min(chance, LIMIT) << 10) + seen + (1 if seen < MOST else 0) - BASE


@inlined
def plain(model: Ints, tables: Ints, work: Ints, data: Ints, slot: int, bit: int) -> int:
    """Code a bit with the chance of one slot; bit -1: decode it."""
    chance = min(max((model[slot] + BASE) >> 16, 32), 65535 - 32)
    if bit < 0:
        bit = get(work, data, chance)
    else:
        put(work, data, bit, chance)
    learn(model, tables, slot, bit)
    return bit


@inlined
def mixed(model: Ints, tables: Ints, work: Ints, data: Ints, kind: int, bit: int) -> int:
    """Code a bit with the mixed chance of all predictors, and learn; bit -1: decode it."""
    total = 0
    weights = WEIGHT + kind * MODELS
    for i in range(MODELS):
        slot = model[work[SLOT + i] + kind] + BASE
        x = tables[STRETCH + (slot >> 20)] * tables[TRUST + (slot & 1023)] >> 8
        work[INPUT + i] = x
        total += work[weights + i] * x
    chance = tables[SQUASH + TOP + min(max(total >> 16, -TOP), TOP)]
    if bit < 0:
        bit = get(work, data, chance)
    else:
        put(work, data, bit, chance)
    miss = ((bit << 16) - chance) * 3
    for i in range(MODELS):
        work[weights + i] += (work[INPUT + i] * miss + (1 << 17)) >> 18
        learn(model, tables, work[SLOT + i] + kind, bit)
    return bit


@inlined
def size_of(model: Ints, tables: Ints, work: Ints, data: Ints, kind: int, size: int) -> int:
    """Code a size >= 1 as the number of its binary digits and these; size 0: decode it."""
    count = 0
    while count < LENGTHS - 1:
        more = -1 if not size else (1 if size >> (count + 1) else 0)
        if not mixed(model, tables, work, data, kind + min(count, MIXED - 1), more):
            break
        count += 1
    found = 1
    for i in range(count - 1, -1, -1):
        digit = -1 if not size else size >> i & 1
        slot = DIGITS + 256 * count + min(found, 255)
        found = 2 * found + plain(model, tables, work, data, slot, digit)
    return found


@inlined
def entry(model: Ints, tables: Ints, work: Ints, data: Ints, value: int, decoding: int) -> int:
    """Code one number, whose sign was turned so that a positive one is likelier."""
    if not mixed(model, tables, work, data, NONZERO, -1 if decoding else (1 if value else 0)):
        return 0
    against = mixed(model, tables, work, data, AGAINST, -1 if decoding else (1 if value < 0 else 0))
    kind = MORE + against * MIXED
    size = size_of(model, tables, work, data, kind, 0 if decoding else abs(value))
    return -size if against else size


@inlined
def neighbours(values: Ints, work: Ints, n: int, place: tuple[int, int, int, int], step: tuple[int, int, int]) -> int:
    """Write the eight neighbours behind `NEAR`; the sum of their squares."""
    y, x, column, row = place
    across, taps, width = step
    if taps > 1:
        work[NEAR] = values[n - 1] if x > 0 else 0
        work[NEAR + 1] = values[n - across] if y > 0 else 0
        work[NEAR + 2] = values[n - across - 1] if y > 0 and x > 0 else 0
        work[NEAR + 3] = values[n - across + 1] if y > 0 and x < across - 1 else 0
        work[NEAR + 4] = values[n - 2] if x > 1 else 0
        work[NEAR + 5] = values[n - 2 * across] if y > 1 else 0
    work[NEAR + 6] = values[n - taps] if column > 0 else 0
    work[NEAR + 7] = values[n - width] if row > 0 else 0
    energy = 0
    for i in range(8):
        energy += work[NEAR + i] * work[NEAR + i]
    return energy


@inlined
def predicted(work: Ints, steps: int) -> int:
    """What the neighbours suggest, in sixteenths."""
    total = 0
    for i in range(8):
        total += work[steps + i] * work[NEAR + i]
    return min(max(total >> 12, -(1 << 20)), 1 << 20)


@inlined
def correct(work: Ints, steps: int, miss: int, energy: int) -> None:
    """Move the weights of the prediction against its error (normalised least mean squares)."""
    step = (miss << 16) // (energy + 64)
    for i in range(8):
        moved = work[steps + i] + (step * work[NEAR + i] >> 9)
        work[steps + i] = min(max(moved, -(1 << 18)), 1 << 18)


@inlined
def level(tables: Ints, x: int, most: int) -> int:
    """Sizes in steps that grow: four per octave."""
    return min(tables[LEVEL + min(x, 4095)], most)  # type: ignore[no-any-return]


@inlined
def signed(tables: Ints, x: int) -> int:
    """The same with a sign, 0 to 18."""
    return 9 + level(tables, x, 9) if x >= 0 else 9 - level(tables, -x, 9)


@inlined
def contexts(
    tables: Ints, work: Ints, place: tuple[int, int, int, int], known: tuple[int, int, int], expected: int
) -> None:
    """Choose the slot of each predictor."""
    tap, column, taps, many = place
    row_count, kernel_mean, kernel_count = known
    if taps == 1:
        pair = (level(tables, abs(work[NEAR + 6]), 9) * 19 + level(tables, abs(work[NEAR + 7]), 9)) * 4
        around, likely = 0, 0
    else:
        turn = 1 if expected >= 0 else -1
        pair = (signed(tables, turn * work[NEAR]) * 19 + signed(tables, turn * work[NEAR + 1])) * 4 + min(tap, 3)
        beside = abs(work[NEAR + 2]) + abs(work[NEAR + 3])
        around = level(tables, 2 * (abs(work[NEAR]) + abs(work[NEAR + 1])) + beside, 31)
        likely = level(tables, abs(expected), 63)
    here = work[COUNTS + 1 + column]
    wide = 2 * here + work[COUNTS + column] + work[COUNTS + 2 + column]
    before, mean = level(tables, many, 31), level(tables, work[MEAN] >> 3, 23)
    counts = (level(tables, here, 11) * 12 + level(tables, row_count, 11)) * 8 + min(kernel_count, 7)
    work[SLOT] = (FIRST[0] + pair) * KINDS
    work[SLOT + 1] = (FIRST[1] + around * 24 + level(tables, abs(expected) >> 2, 23)) * KINDS
    work[SLOT + 2] = (FIRST[2] + level(tables, kernel_mean, 31) * 24 + mean) * KINDS
    work[SLOT + 3] = (FIRST[3] + likely) * KINDS
    work[SLOT + 4] = (FIRST[4] + level(tables, here, 15) * 32 + before) * KINDS
    work[SLOT + 5] = (FIRST[5] + counts) * KINDS
    work[SLOT + 6] = (FIRST[6] + level(tables, wide, 23) * 32 + before) * KINDS


@compiled
def row(model: Ints, tables: Ints, work: Ints, data: Ints, values: Ints, shape: tuple[int, int, int, int, int]) -> int:
    """Code one row of the tensor; -1 where the stream has no room left, else 0."""
    r, columns, taps, across, decoding = shape
    n, count, step = r * columns * taps, 0, (across, taps, columns * taps)
    for column in range(columns):
        total, kernel_count, y, x = 0, 0, 0, 0
        for tap in range(taps):
            if not decoding and work[AT] + ROOM > len(data):
                return -1
            energy = neighbours(values, work, n, (y, x, column, r), step)
            steps = STEPS + 8 * min(tap, MAX_TAPS - 1)
            expected = predicted(work, steps) if energy else 0
            mean = total * tables[SHARE + min(tap, MAX_TAPS - 1)] >> 16 if tap else work[MEAN] >> 4
            contexts(tables, work, (tap, column, taps, r * taps), (count, mean, kernel_count), expected)
            value = values[n]
            value = entry(model, tables, work, data, value if expected >= 0 else -value, decoding)
            value = value if expected >= 0 else -value
            values[n] = value
            if energy:
                correct(work, steps, (value << 4) - expected, energy)
            size = min(abs(value), 255)
            total += size
            work[MEAN] += ((size << 8) - work[MEAN]) >> 5
            if value:
                count += 1
                kernel_count += 1
                work[COUNTS + 1 + column] += 1
            n += 1
            x += 1
            if x == across:
                x, y = 0, y + 1
    return 0


@compiled
def run(model: Ints, tables: Ints, work: Ints, data: Ints, values: Ints, shape: tuple[int, int, int, int, int]) -> int:
    """Code all rows; where the stream ends, or -1: it has no room left."""
    rows, columns, taps, across, decoding = shape
    for r in range(rows):
        if row(model, tables, work, data, values, (r, columns, taps, across, decoding)):
            return -1
    return work[AT]  # type: ignore[no-any-return]


@compiled
def flags(model: Ints, tables: Ints, work: Ints, data: Ints, used: Ints, decoding: int) -> None:
    """Code which rows or columns hold anything; each after the two before it."""
    before = 3
    for i in range(len(used)):
        bit = plain(model, tables, work, data, FLAGS + before, -1 if decoding else used[i])
        used[i] = bit
        before = (before << 1 & 2) + bit
