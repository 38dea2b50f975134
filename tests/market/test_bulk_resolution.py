"""Records of other writers into the reader's columns: the bulk codec against fastavro, which knows both schemas."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.events import Reason
from sep_stream.market.evolution import reading_faults
from sep_stream.market.writers import WriterSchemas, with_default_values
from tests.market.evolutions import NODE, evolutions, values
from tests.market.schema_values import (
    NAMES,
    Record,
    Walk,
    bare,
    is_blank,
    long_bytes,
    row_by,
    same,
    unscaled_by,
)

OURS, THEIRS, UNKNOWN = 7, 2**31 + 8, 9
WRITTEN_BY = {schema_id: b"\0" + schema_id.to_bytes(4, "big") for schema_id in (OURS, THEIRS, UNKNOWN)}


def encoded(schema: Any, record: Record) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(bare(schema)), record)
    return out.getvalue()


def by_fastavro(writer: Any, reader: Any, body: bytes) -> Record | None:
    """What fastavro reads, decimals unscaled; None where it refuses."""
    parsed = with_default_values(fastavro.parse_schema(bare(reader)))
    try:
        found: Any = fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(bare(writer)), parsed)
    except UnicodeDecodeError:
        return None
    return _singles(reader, unscaled_by(Walk(reader).fields, found))


def _singles(reader: Any, record: Record) -> Record:
    """Floats of 4 bytes are as exact as 4 bytes are: fastavro keeps an integer's 53 bits."""
    singles = [field["name"] for field in reader["fields"] if field["type"] == "float"]
    with np.errstate(over="ignore"):
        return record | {name: float(np.float32(record[name])) for name in singles}


def codec_of(reader: Any, writer: Any) -> BulkCodec:
    return BulkCodec(reader, OURS, (), WriterSchemas({THEIRS: json.dumps(writer)}))


def read_one(reader: Any, writer: Any, body: bytes) -> tuple[int, dict[str, Any]]:
    decoded = codec_of(reader, writer).decode([WRITTEN_BY[THEIRS] + body])
    return int(decoded.errors[0]), decoded.columns


def record(*fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields]}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12)
@given(data=st.data())
def test_what_others_wrote_is_read_as_fastavro_reads_it_among_records_of_ours(name: str, data: st.DataObject) -> None:
    writer, reader = data.draw(evolutions(name))
    assert reading_faults(reader, writer) == []
    theirs = [encoded(writer, row) for row in data.draw(st.lists(values(writer), min_size=1, max_size=3))]
    ours = [encoded(reader, row) for row in data.draw(st.lists(values(reader), max_size=1))]
    bodies = [(THEIRS, body) for body in theirs] + [(OURS, body) for body in ours] + [(UNKNOWN, theirs[0])]
    order = data.draw(st.permutations(bodies))
    decoded = codec_of(reader, writer).decode([WRITTEN_BY[schema_id] + body for schema_id, body in order])
    for k, (schema_id, body) in enumerate(order):
        reason = Reason(int(decoded.errors[k]))
        if schema_id == UNKNOWN:
            assert reason == Reason.UNKNOWN_SCHEMA
            continue
        expected = by_fastavro(writer if schema_id == THEIRS else reader, reader, body)
        if reason == Reason.DECIMAL_RANGE:
            continue  # decimals of any size are written here
        assert (reason == Reason.OK) == (expected is not None), reason
        if expected is not None:
            assert same(row_by(Walk(reader).fields, decoded.columns, k, ""), expected)


@pytest.mark.parametrize("name", ["market_event", "metrics"])
@settings(max_examples=5)
@given(data=st.data())
def test_what_is_damaged_is_refused_or_read_and_never_read_outside(name: str, data: st.DataObject) -> None:
    """A record that is cut, or goes on, is refused, and leaves its neighbour as it is."""
    writer, reader = data.draw(evolutions(name))
    body = encoded(writer, data.draw(values(writer)))
    damaged = [body[:cut] for cut in range(len(body))] + [body + b"\0"]
    damaged += [body[:k] + bytes([byte]) + body[k + 1 :] for k, byte in enumerate(data.draw(st.binary(max_size=20)))]
    codec = codec_of(reader, writer)
    decoded = codec.decode([WRITTEN_BY[THEIRS] + value for value in damaged])
    assert (decoded.errors[: len(body) + 1] != Reason.OK).all()
    for k, value in enumerate(damaged):
        alone = codec.decode([WRITTEN_BY[THEIRS] + value])
        assert alone.errors[0] == decoded.errors[k]
        if alone.errors[0] != Reason.OK:
            assert all(map(is_blank, alone.columns.values()))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ({"type": "array", "items": "null"}, long_bytes(2**62) + b"\0"),
        ({"type": "array", "items": "long"}, long_bytes(-2) + long_bytes(2) + b"\2\4" + long_bytes(1) + b"\6\0"),
        ({"type": "map", "values": {"type": "fixed", "name": "F", "size": 0}}, long_bytes(1) + b"\2a\0"),
        ({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}, long_bytes(2**40) + b"\0"),
        (NODE, b"\2\2\2\2\2\0"),
    ],
    ids=["nulls without end", "a block with its size", "a map of nothing", "empty records", "a list"],
)
def test_a_field_that_is_left_out_takes_no_time_that_its_bytes_do_not(kind: Any, body: bytes) -> None:
    reader = record(("x", "long"))
    error, columns = read_one(reader, record(("theirs", kind), ("x", "long")), body + long_bytes(5))
    assert (error, columns["x"].tolist()) == (Reason.OK, [5])


@pytest.mark.parametrize(
    "body",
    [long_bytes(-(2**63)) + b"\2\2\2", long_bytes(2**62) + b"\2\2\2", long_bytes(-1) + long_bytes(-1) + b"\2\0\2"],
    ids=["a count without its opposite", "more than there is", "a size below zero"],
)
def test_a_block_that_counts_what_can_not_be_is_malformed(body: bytes) -> None:
    writer = record(("theirs", {"type": "array", "items": "long"}), ("x", "long"))
    assert read_one(record(("x", "long")), writer, body)[0] == Reason.MALFORMED


def test_what_is_left_out_is_followed_to_a_bounded_depth() -> None:
    writer, reader = record(("theirs", NODE), ("x", "long")), record(("x", "long"))
    for depth, expected in ((60, Reason.OK), (100_000, Reason.MALFORMED)):
        assert read_one(reader, writer, b"\2\2" * depth + b"\2\0" + long_bytes(5))[0] == expected


@pytest.mark.parametrize(
    ("reader", "writer", "body"),
    [
        (record(("x", "long")), record(("x", "string")), b"\2a"),
        (record(("x", "long")), record(("x", ["null", "long"])), b"\2\2"),
        (record(("x", "long")), record(("y", "long")), b"\2"),
        (
            record(("x", {"type": "long", "logicalType": "timestamp-micros"})),
            record(("x", {"type": "long", "logicalType": "timestamp-millis"})), b"\2",
        ),
        (
            record(("x", {"type": "enum", "name": "E", "symbols": ["A"]})),
            record(("x", {"type": "enum", "name": "E", "symbols": ["A", "B"]})), b"\0",
        ),
    ],
    ids=["type", "null", "missing", "unit", "symbol"],
)  # fmt: skip
def test_a_writer_that_can_not_be_read_is_a_reason_of_its_own(reader: Any, writer: Any, body: bytes) -> None:
    error, columns = read_one(reader, writer, body)
    assert error == Reason.INCOMPATIBLE_SCHEMA
    assert is_blank(columns["x"])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"type": "record"}', '"long"', '{"type": "fixed", "name": "R"}', "1"])
def test_an_id_of_what_is_no_record_is_unknown(text: str) -> None:
    codec = BulkCodec(record(("x", "long")), OURS, (), WriterSchemas({THEIRS: text}))
    assert codec.decode([WRITTEN_BY[THEIRS] + b"\2"]).errors.tolist() == [Reason.UNKNOWN_SCHEMA]


def test_an_id_that_is_met_is_asked_for_once_with_all_others_of_the_batch() -> None:
    asked: list[list[int]] = []

    def ask(ids: Any) -> dict[int, str]:
        asked.append(list(ids))
        return {THEIRS: json.dumps(record(("x", "int")))}

    codec = BulkCodec(record(("x", "long")), OURS, (), WriterSchemas(ask=ask))
    batch = [WRITTEN_BY[schema_id] + b"\2" for schema_id in (OURS, THEIRS, UNKNOWN, THEIRS)]
    assert codec.decode(batch).errors.tolist() == [Reason.OK, Reason.OK, Reason.UNKNOWN_SCHEMA, Reason.OK]
    assert codec.decode([batch[1]]).columns["x"].tolist() == [1]
    assert codec.decode([batch[0]]).columns["x"].tolist() == [1]
    assert asked == [[UNKNOWN, THEIRS]]


def test_a_version_that_is_known_counts_before_the_pinned_id_that_it_has() -> None:
    """As where a schema grew and kept its pinned id, under which the registry has the version before."""
    earlier = WriterSchemas({OURS: json.dumps(record(("x", "int")))})
    later = record(("y", ["null", "long"]), ("x", "long"))
    later["fields"][0]["default"] = None
    decoded = BulkCodec(later, THEIRS, (OURS,), earlier).decode(
        [WRITTEN_BY[OURS] + b"\4", WRITTEN_BY[THEIRS] + b"\0\6"]
    )
    assert decoded.columns["x"].tolist() == [2, 3]
