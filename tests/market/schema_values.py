"""Values for any schema of the package: as hypothesis strategies, as fastavro's records and as columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import numpy as np
from hypothesis import strategies as st

from sep_stream.market.avro import Schemas, load_schemas
from sep_stream.market.bulk_avro import BulkCodec, VarColumn
from sep_stream.market.events import NULL
from sep_stream.runtime.resources import resource

Record = dict[str, Any]

SCHEMAS: Schemas = load_schemas(resource("schemas") / "avro")
NAMES = [schema.name for schema in SCHEMAS]
CODECS = {name: BulkCodec(*SCHEMAS.of(name)) for name in NAMES}

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
EXTREME_LONGS = [0, -1, 1, 63, 64, -64, -65, 2**31 - 1, -(2**31), LONG_MAX, LONG_MIN + 1]
EXTREME_FLOATS = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, -5e-324, 1.7976931348623157e308, 0.1]
LONGEST_VARINT = b"\xff" * 9 + b"\x01"
WILD_VARINTS = [b"\xff" * 10, b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x02", b"\x80", b"\xff" * 40]
EXTREME_DECIMALS = [0, 1, -1, 127, 128, -127, -128, -129, 255, 256, 32767, 32768, -32768, -32769]


def bare(schema: Any) -> Any:
    """The same schema without logical types: fastavro then takes and gives what is on the wire."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if isinstance(schema, dict):
        return {key: bare(value) for key, value in schema.items() if key not in ("logicalType", "precision", "scale")}
    return schema


BARE: dict[str, Any] = {schema.name: fastavro.parse_schema(bare(schema.raw)) for schema in SCHEMAS}
"""fastavro's, with decimals as the bytes that are on the wire and times as integers."""


def long_bytes(value: int) -> bytes:
    """Avro's zigzag varint."""
    z, out = (value << 1) ^ (value >> 63), bytearray()
    while z > 127:
        out.append(z & 127 | 128)
        z >>= 7
    return bytes([*out, z])


def signed_bytes(unscaled: int) -> bytes:
    """Big-endian two's complement as the Avro specification asks, with room for the sign."""
    return unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True)


class Walk:
    """The fields of a schema, with names resolved and nested fields named `outer.field`."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._named: dict[str, Any] = {}
        self.fields = self._of(schema)

    def _of(self, record: Mapping[str, Any]) -> list[tuple[str, bool, Any]]:
        return [(field["name"], *self._kind(field["type"])) for field in record["fields"]]

    def _kind(self, kind: Any) -> tuple[bool, Any]:
        nullable = isinstance(kind, list)
        kind = kind[1] if nullable else kind
        if isinstance(kind, str):
            kind = self._named.get(kind.rpartition(".")[2], {"type": kind})
        if "name" in kind:
            self._named[kind["name"]] = kind
        if kind["type"] == "record":
            return nullable, {"type": "record", "fields": self._of(kind)}
        return nullable, kind


WALKS = {name: Walk(SCHEMAS[name].raw).fields for name in NAMES}


def records(name: str) -> st.SearchStrategy[Record]:
    """Records of the bare schema: decimals and enums as unscaled integer and symbol, times as integers."""
    return _fields(WALKS[name])


def _fields(fields: Sequence[tuple[str, bool, Any]]) -> st.SearchStrategy[Record]:
    return st.fixed_dictionaries({
        name: st.none() | _values(kind) if nullable else _values(kind) for name, nullable, kind in fields
    })  # fmt: skip


def _values(kind: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if kind["type"] == "record":
        return _fields(kind["fields"])
    if kind.get("logicalType") == "decimal":
        most = 10 ** kind["precision"] - 1
        return st.integers(-most, most) | st.sampled_from([*EXTREME_DECIMALS, most, -most])
    return {
        "enum": lambda: st.sampled_from(kind["symbols"]),
        "int": lambda: st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 2**31 - 1, -(2**31)]),
        "long": lambda: st.integers(LONG_MIN + 1, LONG_MAX) | st.sampled_from(EXTREME_LONGS),
        "double": lambda: st.floats() | st.sampled_from(EXTREME_FLOATS),
        "float": lambda: st.floats(width=32),
        "boolean": st.booleans,
        "bytes": lambda: st.binary(max_size=20),
        "string": lambda: st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    }[kind["type"]]()


def wire_record(name: str, record: Record) -> Record:
    """The record as fastavro writes it by the bare schema."""
    return _wire(WALKS[name], record)


def _wire(fields: Sequence[tuple[str, bool, Any]], record: Record) -> Record:
    return {name: _wire_value(kind, record[name]) for name, _, kind in fields}


def _wire_value(kind: Mapping[str, Any], value: Any) -> Any:
    if value is None:
        return None
    if kind["type"] == "record":
        return _wire(kind["fields"], value)
    return signed_bytes(value) if kind.get("logicalType") == "decimal" else value


def written(name: str, record: Record) -> bytes:
    """The framed record as fastavro writes it."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, BARE[name], wire_record(name, record))
    return header(name) + out.getvalue()


def header(name: str) -> bytes:
    return b"\0" + SCHEMAS[name].schema_id.to_bytes(4, "big")


def columns(name: str, rows: Sequence[Record]) -> dict[str, Any]:
    """The records as the codec takes them."""
    return _columns(WALKS[name], rows, "")


def _columns(fields: Sequence[tuple[str, bool, Any]], rows: Sequence[Record | None], prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, _, kind in fields:
        values = [None if row is None else row[name] for row in rows]
        if kind["type"] == "record":
            result[prefix + name] = np.array([value is not None for value in values], np.bool_)
            result |= _columns(kind["fields"], values, f"{prefix}{name}.")
        else:
            result[prefix + name] = _column(kind, values)
    return result


def _column(kind: Mapping[str, Any], values: Sequence[Any]) -> Any:
    what = kind["type"]
    if kind.get("logicalType") == "decimal" and kind["precision"] > 18:
        return np.array([halves(value or 0) for value in values], np.int64).reshape(-1, 2)
    if what in ("double", "float"):
        return np.array([0.0 if value is None else value for value in values], np.float64)
    if what == "boolean":
        return np.array([bool(value) for value in values], np.bool_)
    if what == "string":
        return VarColumn.from_list([None if value is None else value.encode() for value in values])
    if what == "bytes" and "logicalType" not in kind:
        return VarColumn.from_list(values)
    if what == "enum":
        values = [None if value is None else kind["symbols"].index(value) for value in values]
    return np.array([NULL if value is None else value for value in values], np.int64)


def halves(value: int) -> tuple[int, int]:
    """High and low 64 bits of 128, as signed integers."""
    low = value & (2**64 - 1)
    return value >> 64, low - 2**64 if low >= 2**63 else low


def row_of(name: str, decoded: Mapping[str, Any], row: int) -> Record:
    """A decoded row as a record."""
    return row_by(WALKS[name], decoded, row, "")


def row_by(fields: Sequence[tuple[str, bool, Any]], decoded: Mapping[str, Any], row: int, prefix: str) -> Record:
    record: Record = {}
    for name, nullable, kind in fields:
        column = decoded[prefix + name]
        if kind["type"] == "record":
            record[name] = row_by(kind["fields"], decoded, row, f"{prefix}{name}.") if column[row] else None
        else:
            record[name] = _value(kind, column, row, nullable)
    return record


def _value(kind: Mapping[str, Any], column: Any, row: int, nullable: bool) -> Any:
    if isinstance(column, VarColumn):
        [value] = column.take(np.array([row])).to_list()
        return value.decode() if value is not None and kind["type"] == "string" else value
    if column.ndim == 2:
        high, low = column[row].tolist()
        return (high << 64) | (low & (2**64 - 1))
    value = column[row].item()
    if nullable and value == NULL:
        return None
    return kind["symbols"][value] if kind["type"] == "enum" else value


def read(name: str, value: bytes) -> Record:
    """A framed value as fastavro reads it, decimals unscaled, a nullable long of NULL's value as null.

    Raises for bytes that are not wholly the record.
    """
    body = io.BytesIO(value[5:])
    record: Any = fastavro.schemaless_reader(body, BARE[name], None)
    assert not body.read(1)
    return unscaled_by(WALKS[name], record)


def unscaled_by(fields: Sequence[tuple[str, bool, Any]], record: Record) -> Record:
    result = {}
    for name, nullable, kind in fields:
        value = record[name]
        if nullable and type(value) is int and value == NULL:
            value = None
        if value is not None and kind["type"] == "record":
            value = unscaled_by(kind["fields"], value)
        elif value is not None and kind.get("logicalType") == "decimal":
            value = int.from_bytes(value, "big", signed=True)
        result[name] = value
    return result


def _filled(name: str) -> Record:
    """A record with every field filled."""
    some = {"int": 60, "long": -300, "double": 0.25, "boolean": True, "bytes": b"\xff\0", "string": "a€"}

    def of(fields: Any) -> Record:
        return {field: value(kind) for field, _, kind in fields}

    def value(kind: Any) -> Any:
        if kind["type"] == "record":
            return of(kind["fields"])
        if "logicalType" in kind:
            return 123_456
        return kind["symbols"][1] if kind["type"] == "enum" else some[kind["type"]]

    return of(WALKS[name])


FILLED = {name: _filled(name) for name in NAMES}


def same(a: Any, b: Any) -> bool:
    """Equal and of the same type; floats to the last bit, all NaN alike."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes() or (a != a and b != b)
    return type(a) is type(b) and a == b


def is_blank(column: Any) -> bool:
    """Whether a decoded column holds nothing at all."""
    if isinstance(column, VarColumn):
        return column.to_list() == [None] * len(column)
    return not np.any(column != (NULL if column.dtype == np.int64 else 0))
