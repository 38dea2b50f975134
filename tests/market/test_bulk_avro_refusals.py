"""Columns that a schema can't hold: told by row and field, never written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import BulkCodec, VarColumn
from sep_stream.market.events import NULL, Reason
from tests.market.schema_values import long_bytes

ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 9}
WIDE_DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}
FRAME = b"\0" + (7).to_bytes(4, "big")


def codec_of(*kinds: Any) -> BulkCodec:
    """For records of fields `x0`, `x1`, ... of these types."""
    fields = [{"name": f"x{k}", "type": kind} for k, kind in enumerate(kinds)]
    return BulkCodec({"type": "record", "name": "R", "fields": fields}, 7)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 2**31),
        ("int", -(2**31) - 1),
        ("int", NULL),
        (["null", "int"], 2**31),
        (ENUM, 3),
        (ENUM, -1),
        (ENUM, NULL),
        (DECIMAL, 10**18),
        (DECIMAL, -(10**18)),
        (DECIMAL, NULL),
        (["null", DECIMAL], 10**18),
    ],
)
def test_a_number_outside_its_type_is_told_by_row_and_field(kind: Any, value: int) -> None:
    columns = {"x0": np.zeros(3, np.int64), "x1": np.array([0, 0, value])}
    with pytest.raises(InputError, match="R: row 2, field 'x1': "):
        codec_of("long", kind).encode(columns, 3)


@pytest.mark.parametrize("kind", ["string", "bytes"])
def test_a_null_that_the_schema_does_not_allow_is_told(kind: str) -> None:
    with pytest.raises(InputError, match="R: row 1, field 'x0': the value is null"):
        codec_of(kind).encode({"x0": VarColumn.from_list([b"a", None])}, 2)


@pytest.mark.parametrize(("start", "length"), [(0, 4), (3, 1), (-1, 1), (2**62, 1)])
def test_bytes_that_lie_outside_their_buffer_are_not_read(start: int, length: int) -> None:
    column = VarColumn(np.arange(3, dtype=np.uint8), np.array([start]), np.array([length], np.int32))
    with pytest.raises(InputError, match="row 0, field 'x0'"):
        codec_of("bytes").encode({"x0": column}, 1)


def test_columns_of_an_absent_record_do_not_count() -> None:
    inner = {"type": "record", "name": "S", "fields": [{"name": "e", "type": ENUM}, {"name": "s", "type": "string"}]}
    columns = {"x0": np.array([False]), "x0.e": np.array([NULL]), "x0.s": VarColumn.from_list([None])}
    assert codec_of(["null", inner]).encode(columns, 1).values() == [FRAME + b"\0"]
    with pytest.raises(InputError, match=r"field 'x0\.e'"):
        codec_of(["null", inner]).encode(columns | {"x0": np.array([True])}, 1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(2**31 - 1, Reason.OK), (-(2**31), Reason.OK), (2**31, Reason.MALFORMED), (-(2**31) - 1, Reason.MALFORMED)],
)
def test_an_int_has_32_bits(value: int, reason: Reason) -> None:
    assert codec_of("int").decode([FRAME + long_bytes(value)]).errors.tolist() == [reason]


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("long", np.full(50, -(2**63))),
        ("int", np.full(50, -(2**31))),
        (DECIMAL, np.full(50, 1 - 10**18)),
        (["null", DECIMAL], np.full(50, 1 - 10**18)),
        (WIDE_DECIMAL, np.tile(np.array([-(2**63), 0]), (50, 1))),
        ("bytes", VarColumn.from_list([b"x" * 9000] * 50)),
    ],
)
def test_the_longest_encodings_have_room(kind: Any, column: Any) -> None:
    codec = codec_of(kind)
    encoded = codec.encode({"x0": column}, 50)
    assert encoded.data.size == encoded.offsets[50]
    back = codec.decode(encoded.values()).columns["x0"]
    if isinstance(column, VarColumn):
        assert back.to_list() == column.to_list()
    else:
        assert back.tolist() == column.tolist()


def test_columns_may_share_a_buffer() -> None:
    a, b = VarColumn.from_list([b"aa", b"b"]), VarColumn.from_list([b"c", None])
    swapped = a.take(np.array([1, 0]))
    values = codec_of("bytes", ["null", "bytes"], "bytes").encode({"x0": a, "x1": b, "x2": swapped}, 2).values()
    assert values == [FRAME + b"\x04aa\x02\x02c\x02b", FRAME + b"\x02b\x00\x04aa"]


def test_names_without_a_namespace_are_those_of_the_record_around_them() -> None:
    fields = [{"name": "x", "type": ENUM}, {"name": "y", "type": "E"}, {"name": "z", "type": ["null", "other.E"]}]
    schema = {"type": "record", "name": "R", "namespace": "other", "fields": fields}
    columns = {"x": np.array([2]), "y": np.array([1]), "z": np.array([0])}
    codec = BulkCodec(schema, 7)
    assert codec.encode(columns, 1).values() == [FRAME + b"\x04\x02\x02\x00"]
    with pytest.raises(InputError, match="field 'y'"):
        codec.encode(columns | {"y": np.array([3])}, 1)
