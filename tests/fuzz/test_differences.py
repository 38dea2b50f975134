"""Where the codec and fastavro differ, each on purpose; all else that one refuses, the other refuses too."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import fastavro
import pytest

from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.events import NULL, Reason
from tests.fuzz.strict_avro import FASTAVRO_TAKES, Fault
from tests.market.schema_values import FILLED, LONGEST_VARINT, SCHEMAS, long_bytes, read, signed_bytes, written

FRAME = b"\0" + (7).to_bytes(4, "big")
ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}
TIME = {"type": "long", "logicalType": "timestamp-micros"}

LAX: dict[Fault, tuple[Any, bytes, Any]] = {
    Fault.VARINT: ("long", b"\xff" * 9 + b"\x03", -(2**63)),
    Fault.INT: ("int", long_bytes(2**31), 2**31),
    Fault.BOOLEAN: ("boolean", b"\xff", True),
    Fault.BRANCH_BELOW_ZERO: (["null", "long"], b"\x01\x0a", 5),
    Fault.SYMBOL_BELOW_ZERO: (ENUM, b"\x01", "C"),
}
"""Type of a field, its bytes, and what fastavro reads in them."""

LATEST = "latest_price"


def schema_of(kind: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": "x", "type": kind}]}


def by_fastavro(kind: Any, body: bytes) -> Any:
    stream = io.BytesIO(body)
    record: Any = fastavro.schemaless_reader(stream, fastavro.parse_schema(schema_of(kind)), None)
    assert stream.read() == b""
    return record["x"]


def decoded(kind: Any, body: bytes) -> tuple[Reason, Any]:
    found = BulkCodec(schema_of(kind), 7).decode([FRAME + body])
    return Reason(int(found.errors[0])), found.columns["x"]


def test_every_difference_has_its_case() -> None:
    assert LAX.keys() == FASTAVRO_TAKES.keys()


@pytest.mark.parametrize("fault", LAX, ids=lambda fault: fault.name)
def test_what_fastavro_takes_though_avro_does_not_is_refused(fault: Fault) -> None:
    kind, body, value = LAX[fault]
    assert by_fastavro(kind, body) == value, FASTAVRO_TAKES[fault]
    assert decoded(kind, body)[0] == Reason.MALFORMED


def test_a_varint_longer_than_need_be_is_read_by_both() -> None:
    assert by_fastavro("long", b"\x82" + b"\x80" * 8 + b"\x00") == 1
    assert decoded("long", b"\x82" + b"\x80" * 8 + b"\x00")[1].tolist() == [1]


def test_a_decimal_of_too_many_digits_is_out_of_range_where_fastavro_takes_it() -> None:
    record = FILLED[LATEST] | {"price": 10**18}
    value = written(LATEST, record)
    assert read(LATEST, value) == record
    assert BulkCodec(*SCHEMAS.of(LATEST)).decode([value]).errors.tolist() == [Reason.DECIMAL_RANGE]


def test_a_decimal_of_up_to_38_digits_may_use_all_128_bits_where_fastavro_rounds() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}
    body = b"\x20" + signed_bytes(2**127 - 1)
    assert by_fastavro(kind, body) == Decimal("170141183460469231731687303715.88410573")
    reason, column = decoded(kind, body)
    assert (reason, column.tolist()) == (Reason.OK, [[2**63 - 1, -1]])


def test_a_time_beyond_the_calendar_is_an_integer_where_fastavro_cannot_read_it() -> None:
    """The rules for events then refuse it by its own name."""
    with pytest.raises(OverflowError):
        by_fastavro(TIME, long_bytes(2**62))
    reason, column = decoded(TIME, long_bytes(2**62))
    assert (reason, column.tolist()) == (Reason.OK, [2**62])


def test_the_least_nullable_long_is_null_where_fastavro_reads_it() -> None:
    assert by_fastavro(["null", "long"], b"\2" + LONGEST_VARINT) == NULL
    assert decoded(["null", "long"], b"\2" + LONGEST_VARINT)[1].tolist() == [NULL]
