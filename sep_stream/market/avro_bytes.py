"""Avro values out of bytes and into columns, for the compiled loops of the bulk codec.

Nothing is read outside the bytes from a position to the end that the caller names.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

from sep_stream.market.events import NULL

HEADER_BYTES: Final = 5
"""Confluent's frame: the magic byte and a 4-byte big-endian schema id."""

LONG, INT, ENUM, BITS, BOOLEAN, BYTES, STRING, DECIMAL, WIDE_DECIMAL, RECORD = range(10)
"""How a value is encoded, and which kind of column it goes into."""
OP, NULLABLE, SLOT, LIMIT = range(4)
"""Columns of an instruction. Slot: row of the kind's column block. Limit: symbols of an enum, bytes of a float or
double, 10^digits of a decimal, instructions inside a nested record."""


_VARINT_BYTES_MAX: Final = 10
INT_MIN, INT_MAX = -(2**31), 2**31 - 1

inlined = nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")
"""Inlined by Numba itself: a call that hands on arrays takes longer than most of these functions do."""


@inlined
def in_range(op: int, limit: int, value: int) -> bool:
    """Whether an integer is one of its type."""
    if op == INT:
        return INT_MIN <= value <= INT_MAX
    if op == ENUM:
        return 0 <= value < limit
    if op == DECIMAL:
        return -limit < value < limit
    return True


@inlined
def get_long(data: Any, p: int, end: int) -> Any:
    """(value, next position); the position is -1 where no valid varint stands."""
    if p < end and data[p] < 128:
        return np.int64(data[p] >> 1) ^ -np.int64(data[p] & 1), np.int64(p + 1)
    v = np.uint64(0)
    for k in range(_VARINT_BYTES_MAX):
        if p >= end:
            return np.int64(0), np.int64(-1)
        byte = np.uint64(data[p])
        p += 1
        if k == _VARINT_BYTES_MAX - 1 and byte > np.uint64(1):
            return np.int64(0), np.int64(-1)
        v |= (byte & np.uint64(127)) << np.uint64(7 * k)
        if byte < np.uint64(128):
            return np.int64(v >> np.uint64(1)) ^ -np.int64(v & np.uint64(1)), np.int64(p)
    return np.int64(0), np.int64(-1)


@inlined
def get_branch(data: Any, p: int, end: int) -> Any:
    """(index, next position) of a union of null and one type; the position is -1 where no such index stands."""
    if p < end and (data[p] == 0 or data[p] == 2):
        return np.int64(data[p] >> 1), np.int64(p + 1)
    branch, p = get_long(data, p, end)
    if branch < 0 or branch > 1:
        return branch, np.int64(-1)
    return branch, p


@inlined
def get_decimal(data: Any, p: int, size: int) -> Any:
    """(high, low, fits) of big-endian two's complement bytes; fits: in 128 bits."""
    negative = size > 0 and data[p] >= 128
    high = np.uint64(0xFFFFFFFFFFFFFFFF) if negative else np.uint64(0)
    low = high
    fill = np.uint8(255 if negative else 0)
    for k in range(size - 16):
        if data[p + k] != fill:
            return np.int64(0), np.int64(0), False
    if size > 16 and (data[p + size - 16] >= 128) != negative:
        return np.int64(0), np.int64(0), False
    for k in range(max(0, size - 16), size):
        high = (high << np.uint64(8)) | (low >> np.uint64(56))
        low = (low << np.uint64(8)) | np.uint64(data[p + k])
    return np.int64(high), np.int64(low), True


@inlined
def is_utf8(data: Any, p: int, size: int) -> bool:
    """Well-formed as Unicode defines it: no overlong forms, surrogates or values past U+10FFFF."""
    end = p + size
    while p < end:
        lead = data[p]
        if lead < 0x80:
            p += 1
            continue
        if 0xC2 <= lead <= 0xDF:
            more, low, high = 1, 0x80, 0xBF
        elif 0xE0 <= lead <= 0xEF:
            more, low, high = 2, 0xA0 if lead == 0xE0 else 0x80, 0x9F if lead == 0xED else 0xBF
        elif 0xF0 <= lead <= 0xF4:
            more, low, high = 3, 0x90 if lead == 0xF0 else 0x80, 0x8F if lead == 0xF4 else 0xBF
        else:
            return False
        if p + more >= end or not low <= data[p + 1] <= high:
            return False
        for k in range(2, more + 1):
            if data[p + k] & 0xC0 != 0x80:
                return False
        p += more + 1
    return True


@inlined
def blank(row: int, longs: Any, bits: Any, booleans: Any, start: Any, length: Any) -> None:
    longs[:, row] = NULL
    bits[:, row] = 0
    booleans[:, row] = 0
    start[:, row] = 0
    length[:, row] = -1


@inlined
def get_fields(
    program: Any, pc: int, last: int, data: Any, p: int, end: int, row: int, longs: Any, bits: Any, booleans: Any,
    start: Any, length: Any,
) -> Any:  # fmt: skip
    """(next position, is in range) of the values of instructions pc up to last, which go into their columns.

    The position is -1 where bytes are not such values. Not in range: a decimal has more digits than its precision.
    """
    out_of_range = False
    while pc < last:
        op, slot, limit, nullable = program[pc, OP], program[pc, SLOT], program[pc, LIMIT], program[pc, NULLABLE]
        pc += 1
        if nullable:
            branch, p = get_branch(data, p, end)
            if p < 0:
                return np.int64(-1), True
            if branch == 0:
                if op == RECORD:
                    pc += limit
                continue
        if op == LONG or op == INT or op == ENUM:
            value, p = get_long(data, p, end)
            if p < 0 or not in_range(op, limit, value):
                return np.int64(-1), True
            longs[slot, row] = value
        elif op == DECIMAL and p < end and 2 <= data[p] <= 16 and data[p] & 1 == 0 and data[p] >> 1 < end - p:
            size = int(data[p] >> 1)  # of 1 to 8 bytes, as nearly all are: no need of 128 bits
            low = np.int64(np.int8(data[p + 1]))
            for k in range(p + 2, p + 1 + size):
                low = (low << 8) | np.int64(data[k])
            longs[slot, row] = low
            out_of_range |= not in_range(op, limit, low)
            p += 1 + int(size)
        elif op == DECIMAL or op == WIDE_DECIMAL or op == BYTES or op == STRING:
            size, p = get_long(data, p, end)
            if p < 0 or size < 0 or size > end - p:
                return np.int64(-1), True
            if op == BYTES or op == STRING:
                if op == STRING and not is_utf8(data, p, size):
                    return np.int64(-1), True
                start[slot, row] = p
                length[slot, row] = size
            else:
                high, low, fits = get_decimal(data, p, size)
                if op == WIDE_DECIMAL:
                    longs[slot, row] = high
                    longs[slot + 1, row] = low
                else:
                    fits = fits and high == low >> 63 and in_range(op, limit, low)
                    longs[slot, row] = low
                out_of_range |= not fits
            p += size
        elif op == BITS:
            if end - p < limit:
                return np.int64(-1), True
            word = np.uint64(0)
            for k in range(limit):
                word |= np.uint64(data[p + k]) << np.uint64(8 * k)
            bits[slot, row] = word
            p += limit
        elif op == BOOLEAN:
            if p >= end or data[p] > 1:
                return np.int64(-1), True
            booleans[slot, row] = data[p]
            p += 1
        else:
            booleans[slot, row] = 1
    return np.int64(p), not out_of_range
