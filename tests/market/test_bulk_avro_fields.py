"""Every field of every schema in turn: each value that its type has, and each way to be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.events import Reason
from tests.market.schema_values import (
    CODECS,
    EXTREME_DECIMALS,
    EXTREME_FLOATS,
    EXTREME_LONGS,
    FILLED,
    NAMES,
    SCHEMAS,
    WALKS,
    Record,
    columns,
    header,
    is_blank,
    long_bytes,
    read,
    row_of,
    same,
    signed_bytes,
    written,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICKS = {"timestamp-micros": timedelta(microseconds=1), "timestamp-millis": timedelta(milliseconds=1)}

Path = tuple[str, ...]
"""A field's name, and before it that of the nested record around it."""


@dataclass(frozen=True)
class Field:
    path: Path
    nullable: bool
    kind: Mapping[str, Any]


def fields_of(name: str) -> list[Field]:
    """All fields of a schema, those of nested records after the record's own."""

    def of(fields: Sequence[tuple[str, bool, Any]], outer: Path) -> Iterator[Field]:
        for field, nullable, kind in fields:
            yield Field((*outer, field), nullable, kind)
            if kind["type"] == "record":
                yield from of(kind["fields"], (*outer, field))

    return list(of(WALKS[name], ()))


FIELDS = [pytest.param(name, field, id=f"{name}.{'.'.join(field.path)}") for name in NAMES for field in fields_of(name)]


def with_value(record: Record, path: Path, value: Any) -> Record:
    first, *rest = path
    return record | {first: with_value(record[first], tuple(rest), value) if rest else value}


def values_of(kind: Mapping[str, Any]) -> list[Any]:
    """Every symbol of an enum; the ends and the middle of other types."""
    if kind["type"] == "record":
        return []
    if kind.get("logicalType") == "decimal":
        most = 10 ** kind["precision"] - 1
        return [*EXTREME_DECIMALS, most, -most]
    return {
        "enum": lambda: list(kind["symbols"]),
        "int": lambda: [0, -1, 2**31 - 1, -(2**31)],
        "long": lambda: EXTREME_LONGS,
        "double": lambda: EXTREME_FLOATS,
        "boolean": lambda: [False, True],
        "bytes": lambda: [b"", b"\0", bytes(range(256)), b"x" * 70_000],
        "string": lambda: ["", "\0", "é€𝄞", "x" * 70_000],
    }[kind["type"]]()


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_each_value_of_a_field_is_written_and_read_as_fastavro_does(name: str, field: Field) -> None:
    nulls = [None] if field.nullable else []
    rows = [with_value(FILLED[name], field.path, value) for value in [*nulls, *values_of(field.kind)]]
    values = [written(name, row) for row in rows]
    assert CODECS[name].encode(columns(name, rows), len(rows)).values() == values
    decoded = CODECS[name].decode(values)
    assert not decoded.errors.any()
    for k, (row, value) in enumerate(zip(rows, values, strict=True)):
        assert same(row_of(name, decoded.columns, k), row)
        assert same(read(name, value), row)


def encoding(fields: Sequence[tuple[str, bool, Any]], record: Record, path: Path, wrong: bytes) -> bytes:
    """The record's body with other bytes in place of one field's, its branch included."""
    body = b""
    for name, nullable, kind in fields:
        if path == (name,):
            body += wrong
            continue
        body += b"\2" * nullable
        inner = path[1:] if path[:1] == (name,) else ()
        body += (
            encoding(kind["fields"], record[name], inner, wrong)
            if kind["type"] == "record"
            else encoded(kind, record[name])
        )
    return body


def encoded(kind: Mapping[str, Any], value: Any) -> bytes:
    if kind.get("logicalType") == "decimal":
        value = signed_bytes(value)
    match kind["type"]:
        case "int" | "long":
            return long_bytes(value)
        case "enum":
            return long_bytes(kind["symbols"].index(value))
        case "double":
            return np.float64(value).tobytes()
        case "boolean":
            return b"\1" if value else b"\0"
    body = value.encode() if kind["type"] == "string" else value
    return long_bytes(len(body)) + body


def wrong_bytes(field: Field) -> dict[str, bytes]:
    """Bytes that are no value of the field, by what is wrong with them."""
    kind, branch = field.kind, b"\2" * field.nullable
    lengths = {
        "a length below zero": branch + long_bytes(-1),
        "a length past the end": branch + long_bytes(10**6),
        "the greatest length": branch + long_bytes(2**63 - 1),
    }
    wrong = {
        "enum": {
            "a symbol past the last": branch + long_bytes(len(kind.get("symbols", ()))),
            "a symbol below the first": branch + long_bytes(-1),
            "a symbol of another size": branch + long_bytes(2**32),
        },
        "int": {
            "more than 32 bits": branch + long_bytes(2**31),
            "less than 32 bits": branch + long_bytes(-(2**31) - 1),
        },
        "boolean": {"neither 0 nor 1": branch + b"\2"},
        "string": {**lengths, "no UTF-8": branch + b"\4\xc3\x28", "half a character": branch + b"\2\xc3"},
        "bytes": lengths,
    }.get(kind["type"], {})
    if kind["type"] in ("int", "long", "enum", "string", "bytes"):
        wrong["more than 64 bits"] = branch + b"\xff" * 9 + b"\x02"
        wrong["more than ten bytes"] = branch + b"\x80" * 10 + b"\0"
    if field.nullable:
        wrong["a third branch"] = b"\4"
        wrong["a branch below zero"] = b"\1"
        wrong["a branch of more than 64 bits"] = b"\x82" + b"\x80" * 9 + b"\0"
    return wrong


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_each_wrong_form_of_a_field_is_refused_between_sound_neighbours(name: str, field: Field) -> None:
    sound, wrong = written(name, FILLED[name]), wrong_bytes(field)
    assert wrong or field.kind["type"] == "double"
    values = [header(name) + encoding(WALKS[name], FILLED[name], field.path, body) for body in wrong.values()]
    decoded = CODECS[name].decode([v for value in values for v in (value, sound)])
    assert decoded.errors.tolist() == [Reason.MALFORMED, Reason.OK] * len(wrong)
    for column in decoded.columns.values():
        assert is_blank(column.take(np.arange(len(wrong)) * 2) if isinstance(column, VarColumn) else column[::2])


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_the_bytes_around_a_field_are_where_they_should_be(name: str, field: Field) -> None:
    """The helper of the test above puts in what it says: with the field's own bytes it gives the record."""
    value = FILLED[name]
    for part in field.path:
        value = value[part]
    own = b"\2" * field.nullable
    own += (
        encoding(field.kind["fields"], value, (), b"") if field.kind["type"] == "record" else encoded(field.kind, value)
    )
    assert header(name) + encoding(WALKS[name], FILLED[name], field.path, own) == written(name, FILLED[name])


def logical(fields: Sequence[tuple[str, bool, Any]], record: Record) -> Record:
    """The record as fastavro takes and gives it by the declared schema: Decimal and datetime."""

    def of(kind: Mapping[str, Any], value: Any) -> Any:
        if value is None:
            return None
        if kind["type"] == "record":
            return logical(kind["fields"], value)
        if kind.get("logicalType") == "decimal":
            return Decimal(value).scaleb(-kind["scale"])
        return EPOCH + value * TICKS[kind["logicalType"]] if kind.get("logicalType") in TICKS else value

    return {name: of(kind, record[name]) for name, _, kind in fields}


@pytest.mark.parametrize("name", NAMES)
def test_logical_types_are_those_of_the_declared_schema(name: str) -> None:
    record = logical(WALKS[name], FILLED[name])
    [value] = CODECS[name].encode(columns(name, [FILLED[name]]), 1).values()
    assert SCHEMAS.encode(name, record) == value
    assert SCHEMAS.decode(value) == (name, record)


def test_the_schemas_use_no_logical_type_but_these() -> None:
    used = {field.kind.get("logicalType") for name in NAMES for field in fields_of(name)}
    assert used == {None, "decimal", *TICKS}


BIG = 10_000_000


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [("market_event", ("source",), "€" * (BIG // 3)), ("rejected", ("value",), b"\xff" * BIG)],
)
def test_ten_megabytes_are_read_whole_and_not_a_byte_less(name: str, path: Path, value: Any) -> None:
    sound, row = written(name, FILLED[name]), with_value(FILLED[name], path, value)
    whole = written(name, row)
    decoded = CODECS[name].decode([sound, whole, whole[:-1], sound])
    assert decoded.errors.tolist() == [Reason.OK, Reason.OK, Reason.MALFORMED, Reason.OK]
    assert same(row_of(name, decoded.columns, 1), row)
    assert CODECS[name].encode(columns(name, [row]), 1).values() == [whole]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("byte", [b"\0", b"\x80", b"\xff"])
def test_ten_megabytes_of_one_byte_are_no_record(name: str, byte: bytes) -> None:
    sound = written(name, FILLED[name])
    decoded = CODECS[name].decode([header(name) + byte * BIG, sound])
    assert decoded.errors.tolist() == [Reason.MALFORMED, Reason.OK]


def test_a_decimal_of_ten_megabytes_is_what_its_bytes_say() -> None:
    zeros, ones = bytes(BIG), b"\x01" + bytes(BIG)
    bodies = [
        encoding(WALKS["latest_price"], FILLED["latest_price"], ("price",), long_bytes(len(body)) + body)
        for body in (zeros, ones)
    ]
    decoded = CODECS["latest_price"].decode([header("latest_price") + body for body in bodies])
    assert decoded.errors.tolist() == [Reason.OK, Reason.DECIMAL_RANGE]
    assert decoded.columns["price"][0] == 0
