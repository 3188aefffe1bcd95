"""The loops of logistic coding (`logistic`): whole numbers only, compiled where numba is there.

Every number stays within 64 bits, so that Python's integers and the machine's give the same bits. `docs/format.md`,
section 5, says what they do.

    tables    constants (`logistic.tables`)
    settings  of this tensor: least number and how many there are, weights of the expected value and of the spread
    work      what is seen around a number, and what was summed so far
"""

import math
from typing import Any

from netpress.codec.compiled import compiled, inlined

Ints = Any  # arrays of int32 (tables, values) and int64 (the others); without numba lists

# tables
CURVE, INVERSE, OVER, SHARE, TABLES = 0, 4096, 8192, 12288, 12354
# settings
LEAST, COUNT, EXPECT, SPREAD, OFTEN, TAPS = 0, 1, 2, 6, 12, 13
MAX_TAPS = 64
SETTINGS = TAPS + MAX_TAPS
# work
NEAR, SEEN, MEAN, KERNEL, SUMS = 0, 4, 10, 11, 12
FEATURES = 6
LOW = 1 << 16


@inlined
def look(values: Ints, work: Ints, n: int, place: tuple[int, int, int, int], step: tuple[int, int, int]) -> None:
    """Write the four neighbours that the expected value leans on, and their sizes."""
    y, x, column, row = place
    across, taps, width = step
    if taps > 1:
        a = values[n - 1] if x > 0 else 0
        b = values[n - across] if y > 0 else 0
        c = values[n - across - 1] if y > 0 and x > 0 else 0
        d = values[n - across + 1] if y > 0 and x < across - 1 else 0
    else:
        a = values[n - 1] if column > 0 else 0
        b = values[n - width] if row > 0 else 0
        c = values[n - 2] if column > 1 else 0
        d = values[n - 2 * width] if row > 1 else 0
    work[NEAR], work[NEAR + 1], work[NEAR + 2], work[NEAR + 3] = a, b, c, d
    work[SEEN + 3] = 16 * (2 * abs(a) + 2 * abs(b) + abs(c) + abs(d))


@inlined
def weigh(tables: Ints, settings: Ints, work: Ints, tap: int, column: int, share: int) -> int:
    """Write the means; the spread that all of it suggests, in sixteenths."""
    row = work[MEAN] >> 4
    down = work[SUMS + column] * share >> 20 if share else row
    work[SEEN] = (16 * work[KERNEL] + row + down) * tables[SHARE + min(tap, MAX_TAPS - 1) + 2] >> 16
    work[SEEN + 1] = row
    work[SEEN + 2] = down
    work[SEEN + 4] = min(row * down * settings[OFTEN] >> 18, 1 << 16)
    work[SEEN + 5] = 16
    total = 0
    for i in range(FEATURES):
        total += settings[SPREAD + i] * work[SEEN + i]
    return min(max(total * settings[TAPS + min(tap, MAX_TAPS - 1)] >> 13, 1), 4095)  # type: ignore[no-any-return]


@inlined
def expect(settings: Ints, work: Ints) -> int:
    """The value that the neighbours suggest, in 1/64."""
    total = 0
    for i in range(4):
        total += settings[EXPECT + i] * work[NEAR + i]
    return total >> 1


@inlined
def add(work: Ints, column: int, size: int) -> None:
    """Add a size to the sums of its kernel, column and row."""
    work[KERNEL] += size
    work[SUMS + column] += size
    work[MEAN] += ((size << 8) - work[MEAN]) >> 5


@inlined
def below(tables: Ints, settings: Ints, value: int, expected: int, spread: int) -> int:
    """The chance, of 2^16, of all numbers below one."""
    rank, count = value - settings[LEAST], settings[COUNT]
    if rank <= 0:
        return 0
    if rank >= count:
        return 1 << 16
    z = (64 * value - 32 - expected) * tables[OVER + spread] >> 16
    share = tables[CURVE + 2048 + min(max(z, -2048), 2047)] * ((1 << 16) - count) >> 16
    return rank + share  # type: ignore[no-any-return]


@inlined
def find(tables: Ints, settings: Ints, slot: int, expected: int, spread: int) -> tuple[int, int, int]:
    """The number whose part of 2^16 holds a slot, and this part: a guess, then farther and farther beside it."""
    low, start = settings[LEAST], 0
    high, end = low + settings[COUNT], 1 << 16
    probe = ((tables[INVERSE + (slot >> 4)] * spread >> 5) + expected + 32) >> 6
    probe, step, up = min(max(probe, low), high - 1), 1, 1
    edge = below(tables, settings, probe, expected, spread)
    if edge <= slot:
        low, start = probe, edge
    else:
        high, end, up = probe, edge, 0
    while high - low > 1:
        probe = low + step if up else high - step
        if probe <= low or probe >= high:
            probe = (low + high) >> 1
        edge = below(tables, settings, probe, expected, spread)
        if edge <= slot:
            low, start = probe, edge
        else:
            high, end = probe, edge
        step *= 2
    return low, start, end


@compiled
def observe(tables: Ints, settings: Ints, work: Ints, values: Ints, shape: tuple[int, ...], out: Ints) -> None:
    """Write, of every so many-th number: it, its neighbours and the sizes around."""
    rows, columns, taps, across, every = shape
    n, at = 0, 0
    for r in range(rows):
        share = (1 << 24) // (r * taps) if r else 0
        for column in range(columns):
            work[KERNEL], y, x = 0, 0, 0
            for tap in range(taps):
                if n % every == 0:
                    look(values, work, n, (y, x, column, r), (across, taps, columns * taps))
                    weigh(tables, settings, work, tap, column, share)
                    out[at] = values[n]
                    for i in range(4 + FEATURES):
                        out[at + 1 + i] = work[i]
                    at += 5 + FEATURES
                add(work, column, abs(values[n]))
                n += 1
                x += 1
                if x == across:
                    x, y = 0, y + 1


@compiled
def spans(tables: Ints, settings: Ints, work: Ints, values: Ints, shape: tuple[int, ...], out: Ints) -> None:
    """Write of every number its part of 2^16: start, and behind all of these its size."""
    rows, columns, taps, across = shape
    n, half = 0, rows * columns * taps
    for r in range(rows):
        share = (1 << 24) // (r * taps) if r else 0
        for column in range(columns):
            work[KERNEL], y, x = 0, 0, 0
            for tap in range(taps):
                look(values, work, n, (y, x, column, r), (across, taps, columns * taps))
                spread = weigh(tables, settings, work, tap, column, share)
                expected, value = expect(settings, work), values[n]
                start = below(tables, settings, value, expected, spread)
                out[n] = start
                out[half + n] = below(tables, settings, value + 1, expected, spread) - start
                add(work, column, abs(value))
                n += 1
                x += 1
                if x == across:
                    x, y = 0, y + 1


@compiled
def squeeze(parts: Ints, words: Ints, count: int) -> int:
    """Run a rANS coder backwards; words from the end of their array; where they begin, the state in the first two."""
    state, at = LOW, len(words)
    for n in range(count - 1, -1, -1):
        start, size = parts[n], parts[count + n]
        if state >> 16 >= size:
            at -= 1
            words[at] = state & 0xFFFF
            state >>= 16
        state = (state // size << 16) + state % size + start
    words[at - 1] = state >> 16
    words[at - 2] = state & 0xFFFF
    return at - 2


@compiled
def restore(tables: Ints, settings: Ints, work: Ints, words: Ints, values: Ints, shape: tuple[int, ...]) -> int:
    """Decode all numbers; 0, or -1 where the words end early or late."""
    rows, columns, taps, across = shape
    n, at, last, state = 0, 2, len(words), words[1] << 16 | words[0]
    for r in range(rows):
        share = (1 << 24) // (r * taps) if r else 0
        for column in range(columns):
            work[KERNEL], y, x = 0, 0, 0
            for tap in range(taps):
                look(values, work, n, (y, x, column, r), (across, taps, columns * taps))
                spread = weigh(tables, settings, work, tap, column, share)
                expected, slot = expect(settings, work), state & 0xFFFF
                value, start, end = find(tables, settings, slot, expected, spread)
                state = (end - start) * (state >> 16) + slot - start
                if state < LOW:
                    if at == last:
                        return -1
                    state = state << 16 | words[at]
                    at += 1
                values[n] = value
                add(work, column, abs(value))
                n += 1
                x += 1
                if x == across:
                    x, y = 0, y + 1
    return 0 if at == last and state == LOW else -1


@compiled
def choose(
    tables: Ints, settings: Ints, work: Ints, scaled: Ints, values: Ints, shape: tuple[int, int, int, int, float]
) -> None:
    """One number after the other, as `logistic_spans` goes."""
    rows, columns, taps, across, multiplier = shape
    n, least, most = 0, settings[LEAST], settings[LEAST] + settings[COUNT] - 1
    for r in range(rows):
        share = (1 << 24) // (r * taps) if r else 0
        for column in range(columns):
            work[KERNEL], y, x = 0, 0, 0
            for tap in range(taps):
                look(values, work, n, (y, x, column, r), (across, taps, columns * taps))
                spread = weigh(tables, settings, work, tap, column, share)
                expected, best, price = expect(settings, work), 0, math.inf
                floor = math.floor(scaled[n])
                for i in range(3):
                    value = min(max(floor + i if i < 2 else 0, least), most)
                    part = below(tables, settings, value + 1, expected, spread)
                    part -= below(tables, settings, value, expected, spread)
                    cost = (scaled[n] - value) ** 2 + multiplier * (16 - math.log2(part))
                    if cost < price:
                        best, price = value, cost
                values[n] = best
                add(work, column, abs(best))
                n += 1
                x += 1
                if x == across:
                    x, y = 0, y + 1
