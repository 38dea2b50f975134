"""Avro as its specification reads it, byte after byte: which bytes are a record, and what is wrong with others.

fastavro, the other oracle, is laxer in the faults of FASTAVRO_TAKES.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sep_stream.market.events import NULL, Reason
from tests.market.schema_values import WALKS, Record, header

HEADER_BYTES = 5


class Fault(Enum):
    """What is wrong with bytes that are no record."""

    END = auto()
    """They end before the record does."""
    VARINT = auto()
    """An integer has more than 64 bits."""
    LENGTH = auto()
    """A length is negative or leads past the end."""
    BRANCH = auto()
    """A union has two branches."""
    BRANCH_BELOW_ZERO = auto()
    SYMBOL = auto()
    """An enum has no symbol of this index."""
    SYMBOL_BELOW_ZERO = auto()
    INT = auto()
    """An int has more than 32 bits."""
    BOOLEAN = auto()
    """A boolean is neither 0 nor 1."""
    UTF8 = auto()
    MORE = auto()
    """There are bytes behind the record."""


FASTAVRO_TAKES = {
    Fault.VARINT: "drops the bits past the 64th",
    Fault.INT: "reads every int as a long",
    Fault.BOOLEAN: "takes any byte but 0 for true",
    Fault.BRANCH_BELOW_ZERO: "counts branches from the end, as Python's lists do",
    Fault.SYMBOL_BELOW_ZERO: "counts symbols from the end, as Python's lists do",
}
"""Faults with which fastavro may read a record all the same, and what it makes of them. The codec refuses these bytes:
other readers of the log read something else in them, or nothing."""


@dataclass(frozen=True, slots=True)
class Token:
    """A stretch of a framed value that stands for one thing.

    kind: branch, long, int, symbol, length, body, boolean or double
    """

    kind: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Reading:
    """reason: what the codec must say · record: None unless that is OK · fault: of the body, if there is one"""

    reason: Reason
    record: Record | None
    fault: Fault | None
    tokens: Sequence[Token]


class _FaultError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def reading(name: str, value: bytes | None) -> Reading:
    """A framed value by a schema of the package."""
    if value is None:
        return Reading(Reason.TOMBSTONE, None, None, ())
    if len(value) < HEADER_BYTES or value[0] != 0:
        return Reading(Reason.BAD_MAGIC, None, None, ())
    if value[:HEADER_BYTES] != header(name):
        return Reading(Reason.UNKNOWN_SCHEMA, None, None, ())
    body = _Body(value)
    try:
        record = body.fields(WALKS[name])
        if body.p != len(value):
            raise _FaultError(Fault.MORE)
    except _FaultError as error:
        return Reading(Reason.MALFORMED, None, error.fault, body.tokens)
    if body.out_of_range:
        return Reading(Reason.DECIMAL_RANGE, None, None, body.tokens)
    return Reading(Reason.OK, record, None, body.tokens)


class _Body:
    def __init__(self, value: bytes) -> None:
        self.value, self.p = value, HEADER_BYTES
        self.tokens: list[Token] = []
        self.out_of_range = False

    def fields(self, fields: Sequence[tuple[str, bool, Any]]) -> Record:
        return {name: self.one(kind, nullable) for name, nullable, kind in fields}

    def one(self, kind: Mapping[str, Any], nullable: bool) -> Any:
        if nullable:
            branch = self.long("branch")
            if branch not in (0, 1):
                raise _FaultError(Fault.BRANCH_BELOW_ZERO if branch < 0 else Fault.BRANCH)
            if branch == 0:
                return None
        value = self.of(kind)
        # the one value of a nullable long that stands for null in its column
        return None if nullable and kind["type"] == "long" and value == NULL else value

    def of(self, kind: Mapping[str, Any]) -> Any:
        what = kind["type"]
        if what == "record":
            return self.fields(kind["fields"])
        if what == "long":
            return self.long("long")
        if what == "int":
            value = self.long("int")
            if not -(2**31) <= value < 2**31:
                raise _FaultError(Fault.INT)
            return value
        if what == "enum":
            index = self.long("symbol")
            if not 0 <= index < len(kind["symbols"]):
                raise _FaultError(Fault.SYMBOL_BELOW_ZERO if index < 0 else Fault.SYMBOL)
            return kind["symbols"][index]
        if what == "boolean":
            [byte] = self.take(1, "boolean")
            if byte > 1:
                raise _FaultError(Fault.BOOLEAN)
            return byte == 1
        if what == "double":
            return struct.unpack("<d", self.take(8, "double"))[0]
        body = self.sized()
        if kind.get("logicalType") == "decimal":
            return self.decimal(int.from_bytes(body, "big", signed=True), kind["precision"])
        if what == "string":
            try:
                return body.decode()
            except UnicodeDecodeError:
                raise _FaultError(Fault.UTF8) from None
        return body

    def decimal(self, unscaled: int, precision: int) -> int:
        """Wide ones may use all of 128 bits."""
        fits = abs(unscaled) < 10**precision if precision <= 18 else -(2**127) <= unscaled < 2**127
        self.out_of_range |= not fits
        return unscaled

    def long(self, kind: str) -> int:
        start, z, shift = self.p, 0, 0
        while True:
            if self.p >= len(self.value):
                raise _FaultError(Fault.END)
            byte = self.value[self.p]
            self.p += 1
            z |= (byte & 127) << shift
            shift += 7
            if z >= 2**64 or (shift == 70 and byte > 127):
                raise _FaultError(Fault.VARINT)
            if byte < 128:
                self.tokens.append(Token(kind, start, self.p))
                return z >> 1 ^ -(z & 1)

    def sized(self) -> bytes:
        size = self.long("length")
        if not 0 <= size <= len(self.value) - self.p:
            raise _FaultError(Fault.LENGTH)
        return self.take(size, "body")

    def take(self, size: int, kind: str) -> bytes:
        if size > len(self.value) - self.p:
            raise _FaultError(Fault.END)
        self.tokens.append(Token(kind, self.p, self.p + size))
        self.p += size
        return self.value[self.p - size : self.p]
