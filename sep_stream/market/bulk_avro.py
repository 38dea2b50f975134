"""Columns to Avro and back: many records of one schema in one pass.

A record schema is compiled into a short program of one instruction a field; one Numba loop interprets it for all
records. It covers what `schemas/avro` uses: the primitive types, enums, decimals over bytes, unions with null, and
nullable nested records, whose fields are columns named `outer.field` with the presence in a column `outer`.

Values are framed as Confluent's clients frame them: magic byte 0, schema id as 4 bytes big-endian, Avro body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError
from sep_stream.market.events import NULL, Reason

HEADER_BYTES: Final = 5

LONG, DOUBLE, FLOAT, BOOLEAN, BYTES, STRING, DECIMAL, WIDE_DECIMAL, RECORD = range(9)

_OP_DTYPE: Final = np.dtype([("op", "<i4"), ("nullable", "<i4"), ("slot", "<i4"), ("limit", "<i8")])
"""slot: row of the kind's column block · limit: symbols of an enum (0: none), digits of a decimal as 10^digits,
instructions inside a nested record."""

_INTEGERS: Final = {"int", "long"}
_VARINT_BYTES_MAX: Final = 10
_BYTES_MAX: Final = {
    LONG: 10,
    DOUBLE: 8,
    FLOAT: 4,
    BOOLEAN: 1,
    BYTES: 5,
    STRING: 5,
    DECIMAL: 10,
    WIDE_DECIMAL: 18,
    RECORD: 0,
}
"""Of an encoded field, without a union's index and the bytes of strings and bytes themselves."""
_OK, _TOMBSTONE, _MAGIC = int(Reason.OK), int(Reason.TOMBSTONE), int(Reason.BAD_MAGIC)
_SCHEMA, _MALFORMED, _RANGE = int(Reason.UNKNOWN_SCHEMA), int(Reason.MALFORMED), int(Reason.DECIMAL_RANGE)


@dataclass(frozen=True, slots=True)
class VarColumn:
    """Strings or bytes of n rows, as stretches of one buffer.

    data: uint8 · start: (n,) int64 · length: (n,) int32, -1 where null. Rows may share bytes.
    """

    data: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]

    @classmethod
    def from_list(cls, values: Sequence[bytes | None]) -> VarColumn:
        length = np.fromiter((-1 if v is None else len(v) for v in values), np.int32, len(values))
        data = np.frombuffer(b"".join(v for v in values if v is not None), np.uint8)
        return cls(data, _starts(np.maximum(length, 0)), length)

    @classmethod
    def from_codes(cls, codes: npt.NDArray[np.int32], table: Sequence[bytes]) -> VarColumn:
        """Row k holds `table[codes[k]]`; -1 is null."""
        words = cls.from_list([*table, None])
        return cls(words.data, words.start[codes], words.length[codes])

    @classmethod
    def from_rows(cls, rows: npt.NDArray[np.uint8]) -> VarColumn:
        """Row k holds the bytes rows[k] of an (n, width) array."""
        n, width = rows.shape
        return cls(
            np.ascontiguousarray(rows).reshape(-1), np.arange(n, dtype=np.int64) * width, np.full(n, width, np.int32)
        )

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: npt.NDArray[np.intp]) -> VarColumn:
        return VarColumn(self.data, self.start[rows], self.length[rows])

    def to_list(self) -> list[bytes | None]:
        data = self.data.tobytes()
        return [
            None if length < 0 else data[start : start + length]
            for start, length in zip(self.start.tolist(), self.length.tolist(), strict=True)
        ]

    def intern(self) -> tuple[npt.NDArray[np.int32], tuple[bytes, ...]]:
        """codes (n,) int32 and table such that row k is `table[codes[k]]`, -1 where null; in order of appearance."""
        codes, first = _intern(self.data, self.start, self.length)
        return codes, tuple(bytes(self.data[self.start[r] : self.start[r] + self.length[r]]) for r in first.tolist())


@dataclass(frozen=True, slots=True)
class Encoded:
    """Framed records one after the other: record k is `data[offsets[k]:offsets[k + 1]]`."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def values(self) -> list[bytes]:
        data, offsets = self.data.tobytes(), self.offsets.tolist()
        return [data[start:stop] for start, stop in pairwise(offsets)]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Columns by name, and why a row has none: errors (n,) uint8 of Reason, its values then NULL, 0 or null."""

    columns: dict[str, Any]
    errors: npt.NDArray[np.uint8]


class BulkCodec:
    """Encodes and decodes records of one schema, column by column.

    Columns: int64 for int, long, timestamps, enums (the symbol's index) and decimals of up to 18 digits (unscaled;
    NULL where null); (n, 2) int64 for wider decimals (high and low half of 128 bits); float64; bool; VarColumn for
    strings and bytes. Raises ConfigurationError for a schema that holds something else.
    """

    def __init__(self, schema: Mapping[str, Any], schema_id: int) -> None:
        self.schema_id = schema_id
        self._compiler = _Compiler()
        self._compiler.record(schema, "", {})
        self._program = np.array(self._compiler.program, _OP_DTYPE)
        self._fixed_bytes_max = HEADER_BYTES + sum(
            _BYTES_MAX[op] + nullable for op, nullable, _, _ in self._compiler.program
        )

    def encode(self, columns: Mapping[str, Any], n: int) -> Encoded:
        """The framed records of n rows; byte for byte what a per-record Avro writer gives."""
        c = self._compiler
        longs, doubles, booleans = (
            np.zeros((max(1, len(names)), n), dtype)
            for names, dtype in ((c.longs, np.int64), (c.doubles, np.float64), (c.booleans, np.uint8))
        )
        for slot, (name, half) in enumerate(c.longs):
            longs[slot] = columns[name] if half < 0 else columns[name][:, half]
        for slot, name in enumerate(c.doubles):
            doubles[slot] = columns[name]
        for slot, name in enumerate(c.booleans):
            booleans[slot] = columns[name]
        data, start, length = _merged([columns[name] for name in c.vars], n)
        bound = n * self._fixed_bytes_max + int(np.maximum(length, 0).sum())
        out, offsets = np.empty(bound, np.uint8), np.empty(n + 1, np.int64)
        size = _encode(self._program, self.schema_id, longs, doubles, booleans, data, start, length, out, offsets)
        return Encoded(out[:size], offsets)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The columns of framed records; total: any bytes give values or a reason."""
        c, n = self._compiler, len(values)
        errors = np.fromiter((_TOMBSTONE if v is None else _OK for v in values), np.uint8, n)
        present = values if not errors.any() else [v or b"" for v in values]
        sizes = np.fromiter(map(len, present), np.int64, n)  # type: ignore[arg-type]
        data = np.frombuffer(b"".join(present), np.uint8)  # type: ignore[arg-type]
        longs = np.empty((max(1, len(c.longs)), n), np.int64)
        doubles = np.empty((max(1, len(c.doubles)), n), np.float64)
        booleans = np.empty((max(1, len(c.booleans)), n), np.uint8)
        start = np.empty((max(1, len(c.vars)), n), np.int64)
        length = np.empty((max(1, len(c.vars)), n), np.int32)
        _decode(
            self._program, self.schema_id, data, _starts(sizes), sizes, errors, longs, doubles, booleans, start, length
        )
        return Decoded(self._named(data, longs, doubles, booleans, start, length), errors)

    def _named(self, data: Any, longs: Any, doubles: Any, booleans: Any, start: Any, length: Any) -> dict[str, Any]:
        c = self._compiler
        columns: dict[str, Any] = {}
        for slot, (name, half) in enumerate(c.longs):
            if half < 0:
                columns[name] = longs[slot]
            elif half == 0:
                columns[name] = np.ascontiguousarray(longs[slot : slot + 2].T)
        columns |= {name: doubles[slot] for slot, name in enumerate(c.doubles)}
        columns |= {name: booleans[slot].view(np.bool_) for slot, name in enumerate(c.booleans)}
        columns |= {name: VarColumn(data, start[slot], length[slot]) for slot, name in enumerate(c.vars)}
        return columns


class _Compiler:
    """Turns a record schema into instructions and the columns that they read and write."""

    def __init__(self) -> None:
        self.program: list[tuple[int, int, int, int]] = []
        self.longs: list[tuple[str, int]] = []
        self.doubles: list[str] = []
        self.booleans: list[str] = []
        self.vars: list[str] = []

    def record(self, schema: Mapping[str, Any], prefix: str, named: dict[str, Any]) -> None:
        for field in schema["fields"]:
            self._field(f"{prefix}{field['name']}", field["type"], named)

    def _field(self, name: str, kind: Any, named: dict[str, Any]) -> None:
        nullable = isinstance(kind, list)
        if nullable:
            if len(kind) != 2 or kind[0] != "null":
                raise ConfigurationError(f"field {name!r}: of unions only [null, type] is supported")
            kind = kind[1]
        if isinstance(kind, str):
            kind = named.get(kind, {"type": kind})
        what = kind["type"]
        if what in ("record", "enum"):
            named[kind["name"]] = named[f"{kind.get('namespace', 'sep.market.v1')}.{kind['name'].split('.')[-1]}"] = (
                kind
            )
        if what == "record":
            self._nested(name, kind, nullable, named)
        elif kind.get("logicalType") == "decimal":
            self._decimal(name, kind["precision"], nullable)
        elif what in _INTEGERS or what == "enum":
            limit = len(kind["symbols"]) if what == "enum" else 0
            self._add(LONG, nullable, len(self.longs), limit)
            self.longs.append((name, -1))
        elif what in ("bytes", "string"):
            self._add(BYTES if what == "bytes" else STRING, nullable, len(self.vars), 0)
            self.vars.append(name)
        elif what in ("double", "float", "boolean") and not nullable:
            names = self.booleans if what == "boolean" else self.doubles
            self._add({"double": DOUBLE, "float": FLOAT, "boolean": BOOLEAN}[what], nullable, len(names), 0)
            names.append(name)
        else:
            raise ConfigurationError(f"field {name!r}: {'nullable ' * nullable}{what} is not supported")

    def _nested(self, name: str, kind: Mapping[str, Any], nullable: bool, named: dict[str, Any]) -> None:
        if not nullable:
            raise ConfigurationError(f"field {name!r}: a nested record must be nullable")
        position = len(self.program)
        self._add(RECORD, True, len(self.booleans), 0)
        self.booleans.append(name)
        self.record(kind, f"{name}.", named)
        op, null, slot, _ = self.program[position]
        self.program[position] = op, null, slot, len(self.program) - position - 1

    def _decimal(self, name: str, precision: int, nullable: bool) -> None:
        wide = precision > 18
        if wide and nullable:
            raise ConfigurationError(f"field {name!r}: a nullable decimal of over 18 digits is not supported")
        self._add(WIDE_DECIMAL if wide else DECIMAL, nullable, len(self.longs), 0 if wide else 10**precision)
        self.longs += [(name, 0), (name, 1)] if wide else [(name, -1)]

    def _add(self, op: int, nullable: bool, slot: int, limit: int) -> None:
        self.program.append((op, int(nullable), slot, limit))


def _starts(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    starts = np.zeros(len(sizes), np.int64)
    np.cumsum(sizes[:-1], out=starts[1:])
    return starts


def _merged(columns: Sequence[VarColumn], n: int) -> tuple[npt.NDArray[np.uint8], Any, Any]:
    """One buffer for all columns, and the columns' starts and lengths in it."""
    start, length = np.zeros((max(1, len(columns)), n), np.int64), np.zeros((max(1, len(columns)), n), np.int32)
    position, parts = 0, []
    for slot, column in enumerate(columns):
        start[slot] = column.start + position
        length[slot] = column.length
        position += len(column.data)
        parts.append(column.data)
    return (np.concatenate(parts) if parts else np.empty(0, np.uint8)), start, length


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _hash(data: Any, start: int, length: int) -> Any:
    """FNV-1a, 64 bits."""
    h = np.uint64(14695981039346656037)
    for k in range(start, start + length):
        h = (h ^ np.uint64(data[k])) * np.uint64(1099511628211)
    return h


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _same(data: Any, a: int, b: int, length: int) -> bool:
    for k in range(length):
        if data[a + k] != data[b + k]:
            return False
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _intern(data: Any, start: Any, length: Any) -> Any:
    n = len(start)
    codes, first = np.full(n, -1, np.int32), np.empty(n, np.int64)
    slots = 16
    while slots < 2 * n:
        slots *= 2
    table = np.full(slots, -1, np.int32)
    found, last = 0, -1
    for k in range(n):
        size = length[k]
        if size < 0:
            continue
        if last >= 0 and length[last] == size and _same(data, start[last], start[k], size):
            codes[k] = codes[last]
            continue
        last = k
        at = np.int64(_hash(data, start[k], size) & np.uint64(slots - 1))
        while table[at] >= 0:
            row = first[table[at]]
            if length[row] == size and _same(data, start[row], start[k], size):
                break
            at = (at + 1) & (slots - 1)
        if table[at] < 0:
            table[at] = found
            first[found] = k
            found += 1
        codes[k] = table[at]
    return codes, first[:found].copy()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _put_long(out: Any, p: int, value: int) -> int:
    v = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> 63)
    while v >= np.uint64(128):
        out[p] = (v & np.uint64(127)) | np.uint64(128)
        v >>= np.uint64(7)
        p += 1
    out[p] = v
    return p + 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _bit_length(value: int) -> int:
    n = 0
    v = np.uint64(value)
    while v:
        v >>= np.uint64(1)
        n += 1
    return n


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _put_decimal(out: Any, p: int, high: int, low: int) -> int:
    """Length and big-endian two's complement, with a sign bit beyond the magnitude's bits."""
    h, v = np.uint64(high), np.uint64(low)
    if high < 0:
        v = ~v + np.uint64(1)
        h = ~h + np.uint64(1 if v == 0 else 0)
    bits = 64 + _bit_length(np.int64(h)) if h else _bit_length(np.int64(v))
    size = (bits + 8) // 8
    p = _put_long(out, p, size)
    for k in range(size - 1, -1, -1):
        if k >= 16:
            out[p] = 255 if high < 0 else 0
        elif k >= 8:
            out[p] = (np.uint64(high) >> np.uint64(8 * (k - 8))) & np.uint64(255)
        else:
            out[p] = (np.uint64(low) >> np.uint64(8 * k)) & np.uint64(255)
        p += 1
    return p


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _encode(
    program: Any, schema_id: int, longs: Any, doubles: Any, booleans: Any, data: Any, start: Any, length: Any,
    out: Any, offsets: Any,
) -> int:  # fmt: skip
    word = np.empty(1, np.float64)
    word_bytes = word.view(np.uint8)
    half = np.empty(1, np.float32)
    half_bytes = half.view(np.uint8)
    p = 0
    for row in range(longs.shape[1]):
        offsets[row] = p
        out[p] = 0
        for k in range(4):
            out[p + 1 + k] = (schema_id >> (24 - 8 * k)) & 255
        p += HEADER_BYTES
        pc = 0
        while pc < len(program):
            op, slot = program[pc].op, program[pc].slot
            if program[pc].nullable:
                if op == RECORD:
                    null = booleans[slot, row] == 0
                elif op == BYTES or op == STRING:
                    null = length[slot, row] < 0
                else:
                    null = longs[slot, row] == NULL
                out[p] = 0 if null else 2
                p += 1
                if null:
                    pc += 1 + (program[pc].limit if op == RECORD else 0)
                    continue
            if op == LONG:
                p = _put_long(out, p, longs[slot, row])
            elif op == DECIMAL:
                p = _put_decimal(out, p, longs[slot, row] >> 63, longs[slot, row])
            elif op == WIDE_DECIMAL:
                p = _put_decimal(out, p, longs[slot, row], longs[slot + 1, row])
            elif op == DOUBLE:
                word[0] = doubles[slot, row]
                out[p : p + 8] = word_bytes
                p += 8
            elif op == FLOAT:
                half[0] = doubles[slot, row]
                out[p : p + 4] = half_bytes
                p += 4
            elif op == BOOLEAN:
                out[p] = booleans[slot, row]
                p += 1
            elif op == BYTES or op == STRING:
                size, at = length[slot, row], start[slot, row]
                p = _put_long(out, p, size)
                for k in range(size):
                    out[p + k] = data[at + k]
                p += size
            pc += 1
    offsets[longs.shape[1]] = p
    return p


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _get_long(data: Any, p: int, end: int) -> Any:
    """(value, next position); the position is -1 where no valid varint stands."""
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


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _get_decimal(data: Any, p: int, size: int) -> Any:
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


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _is_utf8(data: Any, p: int, size: int) -> bool:
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


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _blank(row: int, longs: Any, doubles: Any, booleans: Any, start: Any, length: Any) -> None:
    longs[:, row] = NULL
    doubles[:, row] = 0.0
    booleans[:, row] = 0
    start[:, row] = 0
    length[:, row] = -1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _decode(
    program: Any, schema_id: int, data: Any, starts: Any, sizes: Any, errors: Any, longs: Any, doubles: Any,
    booleans: Any, start: Any, length: Any,
) -> None:  # fmt: skip
    word = np.empty(1, np.float64)
    word_bytes = word.view(np.uint8)
    half = np.empty(1, np.float32)
    half_bytes = half.view(np.uint8)
    for row in range(len(starts)):
        _blank(row, longs, doubles, booleans, start, length)
        if errors[row] != _OK:
            continue
        p, end = starts[row], starts[row] + sizes[row]
        if sizes[row] < HEADER_BYTES or data[p] != 0:
            errors[row] = _MAGIC
            continue
        found = np.int64(0)
        for k in range(4):
            found = (found << 8) | np.int64(data[p + 1 + k])
        if found != schema_id:
            errors[row] = _SCHEMA
            continue
        error = _decode_body(
            program, data, p + HEADER_BYTES, end, row, longs, doubles, booleans, start, length, word, word_bytes, half,
            half_bytes,
        )  # fmt: skip
        if error != _OK:
            errors[row] = error
            _blank(row, longs, doubles, booleans, start, length)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _decode_body(
    program: Any, data: Any, p: int, end: int, row: int, longs: Any, doubles: Any, booleans: Any, start: Any,
    length: Any, word: Any, word_bytes: Any, half: Any, half_bytes: Any,
) -> int:  # fmt: skip
    out_of_range = False
    pc = 0
    while pc < len(program):
        op, slot, limit = program[pc].op, program[pc].slot, program[pc].limit
        pc += 1
        if program[pc - 1].nullable:
            branch, p = _get_long(data, p, end)
            if p < 0 or branch < 0 or branch > 1:
                return _MALFORMED
            if branch == 0:
                if op == RECORD:
                    pc += limit
                continue
        if op == LONG:
            value, p = _get_long(data, p, end)
            if p < 0 or (limit > 0 and (value < 0 or value >= limit)):
                return _MALFORMED
            longs[slot, row] = value
        elif op == DECIMAL or op == WIDE_DECIMAL or op == BYTES or op == STRING:
            size, p = _get_long(data, p, end)
            if p < 0 or size < 0 or size > end - p:
                return _MALFORMED
            if op == BYTES or op == STRING:
                if op == STRING and not _is_utf8(data, p, size):
                    return _MALFORMED
                start[slot, row] = p
                length[slot, row] = size
            else:
                high, low, fits = _get_decimal(data, p, size)
                if op == WIDE_DECIMAL:
                    longs[slot, row] = high
                    longs[slot + 1, row] = low
                else:
                    fits = fits and high == low >> 63 and -limit < low < limit
                    longs[slot, row] = low
                out_of_range |= not fits
            p += size
        elif op == DOUBLE:
            if end - p < 8:
                return _MALFORMED
            word_bytes[:] = data[p : p + 8]
            doubles[slot, row] = word[0]
            p += 8
        elif op == FLOAT:
            if end - p < 4:
                return _MALFORMED
            half_bytes[:] = data[p : p + 4]
            doubles[slot, row] = half[0]
            p += 4
        elif op == BOOLEAN:
            if p >= end or data[p] > 1:
                return _MALFORMED
            booleans[slot, row] = data[p]
            p += 1
        else:
            booleans[slot, row] = 1
    if p != end:
        return _MALFORMED
    return _RANGE if out_of_range else _OK
