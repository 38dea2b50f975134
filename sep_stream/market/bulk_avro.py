"""Columns to Avro and back: many records of one schema in one pass.

A record schema is compiled into a short program of one instruction a field; one Numba loop interprets it for all
records. It covers what `schemas/avro` uses: the primitive types, enums, decimals over bytes, unions with null, and
nullable nested records, whose fields are columns named `outer.field` with the presence in a column `outer`.

Values are framed as Confluent's clients frame them: magic byte 0, schema id as 4 bytes big-endian, Avro body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, overload

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError, InputError
from sep_stream.market.avro_bytes import (
    BITS,
    BOOLEAN,
    BYTES,
    DECIMAL,
    ENUM,
    HEADER_BYTES,
    INT,
    LIMIT,
    LONG,
    NULLABLE,
    OP,
    RECORD,
    SLOT,
    STRING,
    WIDE_DECIMAL,
    blank,
    get_fields,
    in_range,
    inlined,
)
from sep_stream.market.bulk_resolution import Resolution, compile_resolution, resolve
from sep_stream.market.events import NULL, Reason
from sep_stream.market.evolution import reading_faults
from sep_stream.market.writers import Writer, WriterSchemas

_FLOAT_BYTES: Final = {"float": 4, "double": 8}
_BYTES_MAX: Final = {
    LONG: 10,
    INT: 5,
    ENUM: 5,
    BITS: 8,
    BOOLEAN: 1,
    BYTES: 5,
    STRING: 5,
    DECIMAL: 9,
    WIDE_DECIMAL: 18,
    RECORD: 0,
}
"""Of an encoded field, without a union's index and the bytes of strings and bytes themselves."""
_OK, _TOMBSTONE, _MAGIC = int(Reason.OK), int(Reason.TOMBSTONE), int(Reason.BAD_MAGIC)
_SCHEMA, _MALFORMED, _RANGE = int(Reason.UNKNOWN_SCHEMA), int(Reason.MALFORMED), int(Reason.DECIMAL_RANGE)


@dataclass(frozen=True, slots=True)
class VarColumn(Sequence[bytes | None]):
    """Strings or bytes of n rows, as stretches of one buffer.

    data: uint8, read-only · start: (n,) int64 · length: (n,) int32, -1 where null. Rows may share bytes.
    """

    data: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        # Compiled code is made once for buffers that may be written and once for those that may not: have one kind.
        if self.data.flags.writeable:
            readonly = self.data.view()
            readonly.flags.writeable = False
            object.__setattr__(self, "data", readonly)

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> VarColumn:
        """These values, as they are where they are a column already."""
        return values if isinstance(values, cls) else cls.from_list(values)

    @classmethod
    def from_list(cls, values: Sequence[bytes | None]) -> VarColumn:
        present: Any = values
        null: list[int] = []
        try:
            length = np.fromiter(map(len, present), np.int32, len(values))
        except TypeError:  # asking each whether it is None would take longer than all the rest here
            null = [k for k, value in enumerate(values) if value is None]
            present = [value or b"" for value in values]
            length = np.fromiter(map(len, present), np.int32, len(values))
        start = np.empty(len(values), np.int64)
        _lay_out(length, start)
        if null:
            length[null] = -1
        return cls(np.frombuffer(b"".join(present), np.uint8), start, length)

    @classmethod
    def from_codes(cls, codes: npt.NDArray[np.int32], table: Sequence[bytes]) -> VarColumn:
        """Row k holds `table[codes[k]]`; -1 is null."""
        words = cls.from_list([*table, None])
        return cls(words.data, words.start[codes], words.length[codes])

    @classmethod
    def repeated(cls, value: bytes, n: int) -> VarColumn:
        """Each of n rows holds the value."""
        return cls(np.frombuffer(value, np.uint8), np.zeros(n, np.int64), np.full(n, len(value), np.int32))

    @classmethod
    def from_rows(cls, rows: npt.NDArray[np.uint8]) -> VarColumn:
        """Row k holds the bytes rows[k] of an (n, width) array."""
        n, width = rows.shape
        length = np.full(n, width, np.int32)
        start = np.empty(n, np.int64)
        _lay_out(length, start)
        return cls(np.ascontiguousarray(rows).reshape(-1), start, length)

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, row: int) -> bytes | None: ...
    @overload
    def __getitem__(self, row: slice) -> VarColumn: ...
    def __getitem__(self, row: int | slice) -> bytes | VarColumn | None:
        if isinstance(row, slice):
            return self.take(row)
        start, length = int(self.start[row]), int(self.length[row])
        return None if length < 0 else self.data[start : start + length].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        return iter(self.to_list())

    def take(self, rows: slice | npt.NDArray[np.integer[Any]]) -> VarColumn:
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
        stretches = zip(self.start[first].tolist(), self.length[first].tolist(), strict=True)
        return codes, tuple(self.data[start : start + length].tobytes() for start, length in stretches)


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
    NULL where null: a nullable long of -2^63 reads as null); (n, 2) int64 for wider decimals (high and low half of
    128 bits); float64; bool; VarColumn for strings and bytes. Raises ConfigurationError for a schema that holds
    something else.

    schema_id: what records are written with · also: other ids under which they are read · writers: the schemas of
    records with still other ids, which are read into the same columns by Avro's rules for schema resolution
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        schema_id: int,
        also: Sequence[int] = (),
        writers: WriterSchemas | None = None,
    ) -> None:
        self._schema, self._schema_id, self._writers = schema, schema_id, writers
        others = {} if writers is None else dict(writers.known())
        self.ids = np.array([k for k in (schema_id, *also) if k not in others], np.int64)
        self._name = schema["name"]
        self._resolutions: dict[int, Resolution | None] = {}
        self._compiler = _Compiler()
        self._compiler.record(schema, "", {})
        self._program = np.array(self._compiler.program, np.int64).reshape(-1, 4)
        self._fixed_bytes_max = HEADER_BYTES + sum(
            _BYTES_MAX[op] + nullable for op, nullable, _, _ in self._compiler.program
        )

    def encode(self, columns: Mapping[str, Any], n: int) -> Encoded:
        """The framed records of n rows; byte for byte what a per-record Avro writer gives.

        Columns of a nested record count only in rows where it is present; strings are taken to be UTF-8. Raises
        InputError with the row and field of a value that the schema can't hold: a null where it allows none, an
        enum's index, an int or a decimal out of range.
        """
        c = self._compiler
        columns_of_longs = [columns[name] if half < 0 else columns[name][:, half] for name, half in c.longs]
        words = [np.asarray(columns[name], f"<f{size}").view(f"<u{size}") for name, size in c.floats]
        strings = [columns[name] for name in c.vars]
        data, base = _merged(strings)
        out, offsets, written, instruction = _encode(
            self._program, self._schema_id, self._fixed_bytes_max, _block(columns_of_longs, n, np.int64),
            _block(words, n, np.uint64), _block([columns[name] for name in c.booleans], n, np.uint8), data, base,
            _block([column.start for column in strings], n, np.int64),
            _block([column.length for column in strings], n, np.int32),
        )  # fmt: skip
        if written < n:
            raise InputError(
                f"{self._name}: row {written}, field {c.names[instruction]!r}: "
                "the value is null or outside its type's range"
            )
        return Encoded(out, offsets)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The columns of framed records; total: any bytes give values or a reason.

        Stricter than fastavro: docs/decisions/strict-decoding.md.
        """
        framed = VarColumn.of(values)
        c, n = self._compiler, len(values)
        errors = np.empty(n, np.uint8)
        longs, bits = np.empty((len(c.longs), n), np.int64), np.empty((len(c.floats), n), np.uint64)
        booleans = np.empty((len(c.booleans), n), np.uint8)
        start, length = np.empty((len(c.vars), n), np.int64), np.empty((len(c.vars), n), np.int32)
        columns = longs, bits, booleans, start, length
        _decode(self._program, self.ids, framed.data, framed.start, framed.length, errors, *columns)
        foreign = np.flatnonzero(errors == _SCHEMA)
        data = self._resolve(framed, foreign, errors, columns) if len(foreign) and self._writers else framed.data
        return Decoded(self._named(data, *columns), errors)

    def _resolve(
        self, framed: VarColumn, rows: npt.NDArray[np.int64], errors: npt.NDArray[np.uint8], columns: Sequence[Any]
    ) -> npt.NDArray[np.uint8]:
        """Fill the rows that others wrote; the bytes that the columns now point into."""
        at = framed.start[rows]
        ids = sum(framed.data[at + k].astype(np.int64) << (32 - 8 * k) for k in range(1, HEADER_BYTES))
        different, which = np.unique(ids, return_inverse=True)
        places, buffers, size = {}, [framed.data], len(framed.data)
        for schema_id, writer in self._writers_of(different.tolist()).items():
            if schema_id not in self._resolutions:
                self._resolutions[schema_id] = self._compiled(writer)
            found = self._resolutions[schema_id]
            places[schema_id] = found, size
            if found is not None and found.constants:
                buffers.append(np.frombuffer(found.constants, np.uint8))
                size += len(found.constants)
        data = np.concatenate(buffers) if len(buffers) > 1 else framed.data
        for k, schema_id in enumerate(different.tolist()):
            if schema_id in places:
                found, constants = places[schema_id]
                theirs = rows[which == k]
                errors[theirs] = Reason.INCOMPATIBLE_SCHEMA
                if found is not None:
                    resolve(
                        found.program, found.table, data, constants, theirs, framed.start, framed.length, errors,
                        *columns,
                    )  # fmt: skip
        return data

    def _writers_of(self, ids: Sequence[int]) -> dict[int, Writer]:
        """Those of the ids that are schemas of this record."""
        found = self._writers.find(ids) if self._writers is not None else {}
        return {schema_id: writer for schema_id, writer in found.items() if writer.record == self._name}

    def _compiled(self, writer: Writer) -> Resolution | None:
        """None where this schema can't read what was written with that one."""
        if reading_faults(self._schema, writer.raw):
            return None
        return compile_resolution(self._compiler, writer.parsed)

    def _named(self, data: Any, longs: Any, bits: Any, booleans: Any, start: Any, length: Any) -> dict[str, Any]:
        c = self._compiler
        columns: dict[str, Any] = {}
        for slot, ((name, half), column) in enumerate(zip(c.longs, longs, strict=True)):
            if half < 0:
                columns[name] = column
            elif half == 0:
                columns[name] = np.ascontiguousarray(longs[slot : slot + 2].T)
        for (name, size), column in zip(c.floats, bits, strict=True):
            columns[name] = column.view(np.float64) if size == 8 else _as_singles(column)
        columns |= zip(c.booleans, booleans.view(np.bool_), strict=True)
        for name, at, size in zip(c.vars, start, length, strict=True):
            columns[name] = VarColumn(data, at, size)
        return columns


def _as_singles(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    return words.astype("<u4").view("<f4").astype(np.float64)


class _Compiler:
    """Turns a record schema into instructions and the columns that they read and write."""

    def __init__(self) -> None:
        self.program: list[tuple[int, int, int, int]] = []
        self.names: list[str] = []
        self.longs: list[tuple[str, int]] = []
        self.floats: list[tuple[str, int]] = []
        self.booleans: list[str] = []
        self.vars: list[str] = []
        # What the compiler of another writer's schema asks for, by field.
        self.at: dict[str, int] = {}
        self.kinds: dict[str, Mapping[str, Any]] = {}
        self.declared: dict[str, Mapping[str, Any]] = {}
        self.members: dict[str, list[str]] = {}

    def record(self, schema: Mapping[str, Any], prefix: str, named: dict[str, Any]) -> None:
        names = self.members[prefix] = [f"{prefix}{field['name']}" for field in schema["fields"]]
        for name, field in zip(names, schema["fields"], strict=True):
            self.declared[name] = field
            self._field(name, field["type"], schema.get("namespace", ""), named)

    def _field(self, name: str, kind: Any, namespace: str, named: dict[str, Any]) -> None:
        nullable = isinstance(kind, list)
        if nullable:
            if len(kind) != 2 or kind[0] != "null":
                raise ConfigurationError(f"field {name!r}: of unions only [null, type] is supported")
            kind = kind[1]
        if isinstance(kind, str):
            kind = named.get(kind) or named.get(f"{namespace}.{kind}") or {"type": kind}
        self.kinds[name] = kind
        what = kind["type"]
        if what in ("record", "enum"):
            kind = {"namespace": namespace, **kind}
            named[f"{kind['namespace']}.{kind['name']}"] = kind
        if what == "record":
            self._nested(name, kind, nullable, named)
        elif kind.get("logicalType") == "decimal":
            self._decimal(name, kind["precision"], nullable)
        elif what in ("int", "long", "enum"):
            op = {"int": INT, "long": LONG, "enum": ENUM}[what]
            self._add(name, op, nullable, len(self.longs), len(kind.get("symbols", ())))
            self.longs.append((name, -1))
        elif what in ("bytes", "string"):
            self._add(name, BYTES if what == "bytes" else STRING, nullable, len(self.vars), 0)
            self.vars.append(name)
        elif what in _FLOAT_BYTES and not nullable:
            self._add(name, BITS, nullable, len(self.floats), _FLOAT_BYTES[what])
            self.floats.append((name, _FLOAT_BYTES[what]))
        elif what == "boolean" and not nullable:
            self._add(name, BOOLEAN, nullable, len(self.booleans), 0)
            self.booleans.append(name)
        else:
            raise ConfigurationError(f"field {name!r}: {'nullable ' * nullable}{what} is not supported")

    def _nested(self, name: str, kind: Mapping[str, Any], nullable: bool, named: dict[str, Any]) -> None:
        if not nullable:
            raise ConfigurationError(f"field {name!r}: a nested record must be nullable")
        position = len(self.program)
        self._add(name, RECORD, True, len(self.booleans), 0)
        self.booleans.append(name)
        self.record(kind, f"{name}.", named)
        op, null, slot, _ = self.program[position]
        self.program[position] = op, null, slot, len(self.program) - position - 1

    def _decimal(self, name: str, precision: int, nullable: bool) -> None:
        wide = precision > 18
        if wide and nullable:
            raise ConfigurationError(f"field {name!r}: a nullable decimal of over 18 digits is not supported")
        self._add(name, WIDE_DECIMAL if wide else DECIMAL, nullable, len(self.longs), 0 if wide else 10**precision)
        self.longs += [(name, 0), (name, 1)] if wide else [(name, -1)]

    def _add(self, name: str, op: int, nullable: bool, slot: int, limit: int) -> None:
        self.names.append(name)
        self.at[name] = len(self.program)
        self.program.append((op, int(nullable), slot, limit))


def _block(columns: Sequence[npt.NDArray[Any]], n: int, dtype: Any) -> npt.NDArray[Any]:
    """Columns (n,) as the rows of an array of that dtype."""
    block = np.empty((len(columns), n), dtype)
    if columns:
        np.concatenate(columns, out=block.reshape(-1))
    return block


def _merged(columns: Sequence[VarColumn]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """One buffer for all columns, and where each column's own begins in it."""
    buffers: dict[int, npt.NDArray[np.uint8]] = {}  # decoded columns share one
    base: dict[int, int] = {}
    size = 0
    for column in columns:
        key = id(column.data)
        if key not in buffers:
            buffers[key], base[key] = column.data, size
            size += len(column.data)
    data = np.concatenate(list(buffers.values())) if buffers else np.empty(0, np.uint8)
    return data, np.array([base[id(column.data)] for column in columns], np.int64)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _lay_out(length: Any, start: Any) -> None:
    """Where stretches of these lengths begin that lie one after the other."""
    at = 0
    for k in range(len(length)):
        start[k] = at
        at += length[k]


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
    program: Any, schema_id: int, fixed_bytes_max: int, longs: Any, bits: Any, booleans: Any, data: Any, base: Any,
    start: Any, length: Any,
) -> Any:  # fmt: skip
    """(bytes, offsets, rows written, instruction): fewer rows than there are if that instruction met a value outside
    its type. base: (columns,), what is added to the starts of each"""
    n = longs.shape[1]
    size_max = n * fixed_bytes_max
    for column in length:
        for size in column:
            size_max += max(size, 0)
    out, offsets = np.empty(size_max, np.uint8), np.zeros(n + 1, np.int64)
    p = 0
    for row in range(n):
        out[p] = 0
        for k in range(4):
            out[p + 1 + k] = (schema_id >> (24 - 8 * k)) & 255
        p += HEADER_BYTES
        pc = 0
        while pc < len(program):
            op, slot, limit = program[pc, OP], program[pc, SLOT], program[pc, LIMIT]
            if program[pc, NULLABLE]:
                if op == RECORD:
                    null = booleans[slot, row] == 0
                elif op == BYTES or op == STRING:
                    null = length[slot, row] < 0
                else:
                    null = longs[slot, row] == NULL
                out[p] = 0 if null else 2
                p += 1
                if null:
                    pc += 1 + (limit if op == RECORD else 0)
                    continue
            if op == LONG or op == INT or op == ENUM:
                if not in_range(op, limit, longs[slot, row]):
                    return out, offsets, row, pc
                p = _put_long(out, p, longs[slot, row])
            elif op == DECIMAL:
                if not in_range(op, limit, longs[slot, row]):
                    return out, offsets, row, pc
                p = _put_decimal(out, p, longs[slot, row] >> 63, longs[slot, row])
            elif op == WIDE_DECIMAL:
                p = _put_decimal(out, p, longs[slot, row], longs[slot + 1, row])
            elif op == BITS:
                word = bits[slot, row]
                for k in range(limit):
                    out[p + k] = (word >> np.uint64(8 * k)) & np.uint64(255)
                p += limit
            elif op == BOOLEAN:
                out[p] = booleans[slot, row]
                p += 1
            elif op == BYTES or op == STRING:
                size, at = length[slot, row], base[slot] + start[slot, row]
                if size < 0 or at < 0 or at + size > len(data):
                    return out, offsets, row, pc
                p = _put_long(out, p, size)
                for k in range(size):
                    out[p + k] = data[at + k]
                p += size
            pc += 1
        offsets[row + 1] = p
    return out[:p], offsets, n, 0


@inlined
def _is_one_of(ids: Any, found: int) -> bool:
    for known in ids:
        if known == found:
            return True
    return False


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _decode(
    program: Any, ids: Any, data: Any, starts: Any, sizes: Any, errors: Any, longs: Any, bits: Any, booleans: Any,
    start: Any, length: Any,
) -> None:  # fmt: skip
    """Fills all columns and errors; rows with an error are blank. sizes: -1 for a tombstone"""
    longs[:], bits[:], booleans[:], start[:], length[:] = NULL, 0, 0, 0, -1
    for row in range(len(starts)):
        errors[row] = _OK
        if sizes[row] < 0:
            errors[row] = _TOMBSTONE
            continue
        p, end = starts[row], starts[row] + sizes[row]
        if sizes[row] < HEADER_BYTES or data[p] != 0:
            errors[row] = _MAGIC
            continue
        found = np.int64(0)
        for k in range(4):
            found = (found << 8) | np.int64(data[p + 1 + k])
        if not _is_one_of(ids, found):
            errors[row] = _SCHEMA
            continue
        p, is_in_range = get_fields(
            program, 0, len(program), data, p + HEADER_BYTES, end, row, longs, bits, booleans, start, length
        )
        if p != end or not is_in_range:
            errors[row] = _MALFORMED if p != end else _RANGE
            blank(row, longs, bits, booleans, start, length)
