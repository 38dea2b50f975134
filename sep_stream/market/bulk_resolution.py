"""Records of one schema into the columns of another, by Avro's rules for schema resolution.

The schema that records were written with is compiled into a program once. Stretches of fields that both schemas
encode alike are read by the loop that reads our own records; the rest has instructions of its own. Reordered fields
need none: each value goes into its column, wherever it stands in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numba as nb
import numpy as np
import numpy.typing as npt

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
    OP,
    RECORD,
    SLOT,
    STRING,
    WIDE_DECIMAL,
    blank,
    get_fields,
    get_long,
    in_range,
)
from sep_stream.market.events import Reason

(
    SYMBOL, REAL, WIDER_REAL, SET_LONG, SET_BITS, SET_BOOLEAN, SET_VAR, SKIP_LONG, SKIP_BYTES, SKIP_FIXED, BRANCH, JUMP,
    BLOCK, ITEM, CALL, RETURN, END,
) = range(RECORD + 1, RECORD + 18)  # fmt: skip
"""Instructions beside those of `get_fields`."""

ARGUMENT: Final = 4
"""The column of an instruction after those of `get_fields`: a value, a place in the program or in the table."""
DEPTH_MAX: Final = 64
"""Arrays, maps and named types within one another, in a field that is left out; a record with more is refused."""

_SINGLE, _DOUBLE = 4, 8
_OK, _MALFORMED, _RANGE = int(Reason.OK), int(Reason.MALFORMED), int(Reason.DECIMAL_RANGE)


class Columns(Protocol):
    """The columns that a program fills, as the compiler of the reader's schema lays them out.

    program: its instructions · at: the instruction of each field by its dotted name · kinds: the field's type,
    without null · declared: the field · members: names of a record's fields by their prefix
    """

    program: list[tuple[int, int, int, int]]
    at: dict[str, int]
    kinds: dict[str, Mapping[str, Any]]
    declared: dict[str, Mapping[str, Any]]
    members: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Resolution:
    """A compiled program. table: places and symbols that instructions point to · constants: the bytes of defaults"""

    program: npt.NDArray[np.int64]
    table: npt.NDArray[np.int64]
    constants: bytes


def compile_resolution(columns: Columns, writer: Mapping[str, Any]) -> Resolution:
    """The program that reads records of a writer's schema into the reader's columns.

    writer: as fastavro parses it; one that `reading_faults` has nothing against
    """
    compiler = _Compiler(columns, writer)
    return Resolution(
        np.array(compiler.program, np.int64).reshape(-1, 5), np.array(compiler.table, np.int64),
        bytes(compiler.constants),
    )  # fmt: skip


class _Compiler:
    def __init__(self, columns: Columns, writer: Mapping[str, Any]) -> None:
        self.program: list[list[int]] = []
        self.table: list[int] = []
        self.constants = bytearray()
        self._columns = columns
        self._named = _named_types(writer)
        self._routines: dict[str, list[int]] = {}
        """Calls of each named type that is skipped; their places are filled in once the routine has one."""
        self._record(writer, "")
        self._add(END)
        self._write_routines()
        self._mark_stretches()

    def _record(self, writer: Mapping[str, Any], prefix: str) -> None:
        """The fields of a record into those of the reader's record with that prefix."""
        names = self._columns.members[prefix]
        own = {field["name"] for field in writer["fields"]}
        by_written_name = {
            written: name
            for name in names
            for written in [_written_name(self._columns.declared[name], own)]
            if written is not None
        }
        for field in writer["fields"]:
            name = by_written_name.get(field["name"])
            if name is None:
                self._skip(field["type"])
            else:
                self._value(name, field["type"])
        for name in names:
            if name not in by_written_name.values():
                self._default(name)

    def _value(self, name: str, kind: Any) -> None:
        """A written value into the column of a field."""
        op, nullable, slot, limit = self._columns.program[self._columns.at[name]]
        kind = self._definition(kind)
        if _is_read_alike(op, nullable, kind):
            self._add(op, slot, limit, nullable=nullable)
            return
        if isinstance(kind, list):
            self._branches(kind, lambda branch: self._value(name, branch))
            return
        what = _type(kind)
        if what == "null":
            return  # columns are null to begin with
        if op == RECORD:
            self._add(SET_BOOLEAN, slot, argument=1)
            self._record(kind, f"{name}.")
        elif op == ENUM:
            self._add(SYMBOL, slot, len(kind["symbols"]), argument=len(self.table))
            self.table += _symbols(self._columns.kinds[name], kind["symbols"])
        elif op == BITS and what in ("int", "long"):
            self._add(REAL, slot, limit, argument=INT if what == "int" else LONG)
        elif op == BITS and what == "float" and limit == _DOUBLE:
            self._add(WIDER_REAL, slot)
        elif op in (INT, LONG):
            self._add(INT if what == "int" else LONG, slot)
        elif op in (BYTES, STRING):
            # a string keeps its promise to be UTF-8, whatever it is read as
            self._add(STRING if op == STRING or what == "string" else BYTES, slot)
        else:
            self._add(op, slot, limit)

    def _default(self, name: str) -> None:
        """What a field holds that was not written."""
        op, _, slot, limit = self._columns.program[self._columns.at[name]]
        value = self._columns.declared[name]["default"]
        if value is None:
            return
        if op in (INT, LONG):
            self._add(SET_LONG, slot, argument=value)
        elif op == ENUM:
            self._add(SET_LONG, slot, argument=self._columns.kinds[name]["symbols"].index(value))
        elif op == DECIMAL:
            self._add(SET_LONG, slot, argument=_unscaled(value))
        elif op == WIDE_DECIMAL:
            self._add(SET_LONG, slot, argument=_unscaled(value) >> 64)
            self._add(SET_LONG, slot + 1, argument=_signed(_unscaled(value)))
        elif op == BITS:
            word = np.float32(value).view(np.uint32) if limit == _SINGLE else np.float64(value).view(np.int64)
            self._add(SET_BITS, slot, argument=int(word))
        elif op == BOOLEAN:
            self._add(SET_BOOLEAN, slot, argument=int(value))
        else:
            text = value.encode() if op == STRING else value.encode("latin-1")
            self._add(SET_VAR, slot, len(text), argument=len(self.constants))
            self.constants += text

    def _skip(self, kind: Any) -> None:
        """A value that the reader has no field for."""
        if _is_empty(kind, self._named):
            return  # else empty records within one another could take any time
        if isinstance(kind, str) and kind in self._named:
            self._routines.setdefault(kind, []).append(len(self.program))
            self._add(CALL)
            return
        if isinstance(kind, list):
            self._branches(kind, self._skip)
            return
        kind = self._definition(kind)
        match _type(kind):
            case "int" | "long" | "enum":
                self._add(SKIP_LONG)
            case "boolean":
                self._add(SKIP_FIXED, limit=1)
            case "float":
                self._add(SKIP_FIXED, limit=_SINGLE)
            case "double":
                self._add(SKIP_FIXED, limit=_DOUBLE)
            case "fixed":
                self._add(SKIP_FIXED, limit=kind["size"])
            case "bytes" | "string":
                self._add(SKIP_BYTES)
            case "array":
                self._blocks([kind["items"]])
            case "map":
                self._blocks(["string", kind["values"]])
            case _:
                for field in kind["fields"]:
                    self._skip(field["type"])

    def _blocks(self, kinds: Sequence[Any]) -> None:
        """An array's or a map's items, skipped. Items without bytes are not counted through, however many they are."""
        head = len(self.program)
        self._add(BLOCK)
        for kind in kinds:
            self._skip(kind)
        is_empty = all(_is_empty(kind, self._named) for kind in kinds)
        self._add(JUMP, argument=head) if is_empty else self._add(ITEM, argument=head)
        self.program[head][LIMIT] = int(is_empty)
        self.program[head][ARGUMENT] = len(self.program)

    def _branches(self, kinds: Sequence[Any], write: Callable[[Any], None]) -> None:
        """A union: a jump to what its branch does, and from there to its end."""
        at = len(self.table)
        self._add(BRANCH, limit=len(kinds), argument=at)
        self.table += [0] * len(kinds)
        jumps = []
        for k, kind in enumerate(kinds):
            self.table[at + k] = len(self.program)
            write(kind)
            jumps.append(len(self.program))
            self._add(JUMP)
        for jump in jumps:
            self.program[jump][ARGUMENT] = len(self.program)

    def _write_routines(self) -> None:
        """What skips each named type that is referred to; a routine may refer to others."""
        done: dict[str, int] = {}
        while waiting := [name for name in self._routines if name not in done]:
            for name in waiting:
                done[name] = len(self.program)
                self._skip(self._named[name])
                self._add(RETURN)
        for name, calls in self._routines.items():
            for call in calls:
                self.program[call][ARGUMENT] = done[name]

    def _mark_stretches(self) -> None:
        """Each instruction of `get_fields` has where those after it end as its argument."""
        last = len(self.program)
        for pc in range(len(self.program) - 1, -1, -1):
            if self.program[pc][OP] > RECORD:
                last = pc
            else:
                self.program[pc][ARGUMENT] = last

    def _definition(self, kind: Any) -> Any:
        """The type itself, where a name or nothing but a type stands for it."""
        while isinstance(kind, Mapping) and isinstance(kind["type"], Mapping | list):
            kind = kind["type"]
        return self._named.get(kind, kind) if isinstance(kind, str) else kind

    def _add(self, op: int, slot: int = 0, limit: int = 0, *, nullable: int = 0, argument: int = 0) -> None:
        self.program.append([op, nullable, slot, limit, argument])


def _named_types(schema: Any) -> dict[str, Any]:
    """Every named type of a parsed schema, by its full name."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, list):
            waiting += kind
        elif isinstance(kind, dict):
            if "name" in kind:
                found[kind["name"]] = kind
            waiting += [field["type"] for field in kind.get("fields", ())]
            waiting += [kind[part] for part in ("type", "items", "values") if isinstance(kind.get(part), dict | list)]
    return found


def _written_name(field: Mapping[str, Any], written: set[str]) -> str | None:
    """The name, or else the alias, under which a writer has a field."""
    return next((name for name in (field["name"], *field.get("aliases", ())) if name in written), None)


def _type(kind: Any) -> str:
    inner = kind["type"] if isinstance(kind, Mapping) else kind
    return inner if isinstance(inner, str) else _type(inner)


def _is_read_alike(op: int, nullable: int, kind: Any) -> bool:
    """Whether a value was written just as the reader itself writes it, so that `get_fields` reads it.

    Records and enums are not compared: their fields and symbols may be others.
    """
    if nullable:
        if not isinstance(kind, list) or len(kind) != 2 or kind[0] != "null":
            return False
        kind = kind[1]
    elif isinstance(kind, list):
        return False
    same = {LONG: "long", INT: "int", BOOLEAN: "boolean", BYTES: "bytes", STRING: "string", DECIMAL: "bytes"}
    return same.get(op) == _type(kind)


def _is_empty(kind: Any, named: Mapping[str, Any]) -> bool:
    """Whether every value of a type has no bytes at all. A type within itself has some, or it could have no value."""
    within: set[str] = set()
    waiting = [kind]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, str) and kind in named:
            if kind in within:
                continue
            within.add(kind)
            kind = named[kind]
        if isinstance(kind, list):
            return False
        what = _type(kind)
        if what == "record":
            waiting += [field["type"] for field in kind["fields"]]
        elif what != "null" and not (what == "fixed" and kind["size"] == 0):
            return False
    return True


def _symbols(reader: Mapping[str, Any], written: Sequence[str]) -> list[int]:
    """The reader's index of each symbol that was written; its default for one that it does not have."""
    known = {symbol: k for k, symbol in enumerate(reader["symbols"])}
    default = known.get(reader.get("default", ""), -1)
    return [known.get(symbol, default) for symbol in written]


def _unscaled(default: str) -> int:
    """A decimal's default: JSON has its bytes as characters."""
    return int.from_bytes(default.encode("latin-1"), "big", signed=True)


def _signed(value: int) -> int:
    """The low 64 bits of an integer, as a signed one."""
    low = value & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low


@nb.njit(cache=True, nogil=True, error_model="numpy")
def resolve(
    program: Any, table: Any, data: Any, constants: int, rows: Any, starts: Any, sizes: Any, errors: Any, longs: Any,
    bits: Any, booleans: Any, start: Any, length: Any,
) -> None:  # fmt: skip
    """Fills the columns and errors of some rows, which were blank. constants: where in data the program's begin"""
    places, items = np.empty(DEPTH_MAX, np.int64), np.empty(DEPTH_MAX, np.int64)
    double, single = np.empty(1, np.float64), np.empty(1, np.float32)
    for row in rows:
        p, end = starts[row], starts[row] + sizes[row]
        p, is_in_range = _resolved(
            program, table, data, constants, p + HEADER_BYTES, end, row, longs, bits, booleans, start, length, places,
            items, double, single,
        )  # fmt: skip
        errors[row] = _OK
        if p != end or not is_in_range:
            errors[row] = _MALFORMED if p != end else _RANGE
            blank(row, longs, bits, booleans, start, length)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _resolved(
    program: Any, table: Any, data: Any, constants: int, p: int, end: int, row: int, longs: Any, bits: Any,
    booleans: Any, start: Any, length: Any, places: Any, items: Any, double: Any, single: Any,
) -> Any:  # fmt: skip
    """(next position, is in range); the position is -1 where bytes are no such record."""
    is_in_range = True
    depth = 0
    pc = 0
    double_bits, single_bits = double.view(np.uint64), single.view(np.uint32)
    while True:
        op, slot, limit, argument = program[pc, OP], program[pc, SLOT], program[pc, LIMIT], program[pc, ARGUMENT]
        if op <= RECORD:
            p, fits = get_fields(program, pc, argument, data, p, end, row, longs, bits, booleans, start, length)
            if p < 0:
                return np.int64(-1), True
            is_in_range &= fits
            pc = argument
            continue
        pc += 1
        if op == END:
            return np.int64(p), is_in_range
        if op == SET_LONG:
            longs[slot, row] = argument
        elif op == SET_BITS:
            bits[slot, row] = np.uint64(argument)
        elif op == SET_BOOLEAN:
            booleans[slot, row] = argument
        elif op == SET_VAR:
            start[slot, row] = constants + argument
            length[slot, row] = limit
        elif op == JUMP:
            pc = argument
        elif op == SKIP_FIXED or op == WIDER_REAL:
            size = 4 if op == WIDER_REAL else limit
            if end - p < size:
                return np.int64(-1), True
            if op == WIDER_REAL:
                word = np.uint32(0)
                for k in range(4):
                    word |= np.uint32(np.uint32(data[p + k]) << np.uint32(8 * k))
                single_bits[0] = word
                double[0] = single[0]
                bits[slot, row] = double_bits[0]
            p += size
        elif op == CALL:
            if depth == DEPTH_MAX:
                return np.int64(-1), True
            places[depth] = pc
            depth += 1
            pc = argument
        elif op == RETURN:
            depth -= 1
            pc = places[depth]
        elif op == ITEM:
            items[depth - 1] -= 1
            if items[depth - 1] > 0:
                pc = argument + 1
            else:
                depth -= 1
                pc = argument
        else:
            value, p = get_long(data, p, end)
            if p < 0:
                return np.int64(-1), True
            if op == SYMBOL or op == BRANCH:
                if value < 0 or value >= limit:
                    return np.int64(-1), True
                if op == BRANCH:
                    pc = table[argument + value]
                else:
                    longs[slot, row] = table[argument + value]
            elif op == REAL:
                if not in_range(argument, 0, value):
                    return np.int64(-1), True
                double[0] = value
                if limit == 8:
                    bits[slot, row] = double_bits[0]
                else:
                    single[0] = double[0]
                    bits[slot, row] = single_bits[0]
            elif op == SKIP_BYTES:
                if value < 0 or value > end - p:
                    return np.int64(-1), True
                p += value
            elif op == BLOCK:
                if value < 0:  # then the size of the block follows, which nobody needs who reads its items
                    value = -value
                    size, p = get_long(data, p, end)
                    if p < 0 or value < 0 or size < 0:
                        return np.int64(-1), True
                if value == 0:
                    pc = argument
                elif limit == 0:
                    if depth == DEPTH_MAX:
                        return np.int64(-1), True
                    items[depth] = value
                    depth += 1
