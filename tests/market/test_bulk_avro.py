"""The bulk codec against fastavro, record by record and byte by byte, for every schema of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sep_stream.errors import ConfigurationError
from sep_stream.market.bulk_avro import BulkCodec, Decoded, VarColumn
from sep_stream.market.events import NULL, Reason
from tests.market.schema_values import (
    CODECS,
    EXTREME_DECIMALS,
    FILLED,
    LONG_MAX,
    LONG_MIN,
    LONGEST_VARINT,
    NAMES,
    WILD_VARINTS,
    columns,
    halves,
    header,
    is_blank,
    long_bytes,
    read,
    records,
    row_of,
    same,
    signed_bytes,
    written,
)

FRAME = b"\0" + (7).to_bytes(4, "big")
"""Of the small schemas that tests make themselves."""
MALFORMED = int(Reason.MALFORMED)


def codec_of(kind: Any) -> BulkCodec:
    """For records of one field `x` of this type."""
    return BulkCodec({"type": "record", "name": "R", "fields": [{"name": "x", "type": kind}]}, 7)


def decimal(precision: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 9}


def sized(body: bytes) -> bytes:
    return long_bytes(len(body)) + body


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_records_are_encoded_byte_for_byte_as_fastavro_does(name: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(records(name), max_size=4))
    encoded = CODECS[name].encode(columns(name, rows), len(rows))
    assert encoded.values() == [written(name, row) for row in rows]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_what_fastavro_wrote_is_decoded_to_the_same_values(name: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(records(name), max_size=4))
    decoded = CODECS[name].decode([written(name, row) for row in rows])
    assert decoded.errors.tolist() == [Reason.OK] * len(rows)
    for k, row in enumerate(rows):
        assert same(row_of(name, decoded.columns, k), row)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(data=st.data())
def test_what_is_decoded_is_encoded_to_the_same_bytes(name: str, data: st.DataObject) -> None:
    values = [written(name, row) for row in data.draw(st.lists(records(name), max_size=3))]
    codec = CODECS[name]
    assert codec.encode(codec.decode(values).columns, len(values)).values() == values


@pytest.mark.parametrize("name", NAMES)
def test_no_records_are_no_bytes_and_empty_columns(name: str) -> None:
    assert CODECS[name].encode(columns(name, []), 0).values() == []
    decoded = CODECS[name].decode([])
    assert len(decoded.errors) == 0
    assert all(len(column) == 0 for column in decoded.columns.values())


@pytest.mark.parametrize("name", ["window", "metrics"])
def test_of_nested_records_each_may_be_absent(name: str) -> None:
    rows = [
        FILLED[name] | {"m5": m5, "m15": m15}
        for m5 in (None, FILLED[name]["m5"])
        for m15 in (None, FILLED[name]["m15"])
    ]
    values = [written(name, row) for row in rows]
    assert CODECS[name].encode(columns(name, rows), 4).values() == values
    decoded = CODECS[name].decode(values)
    assert decoded.columns["m5"].tolist() == [False, False, True, True]
    assert decoded.columns["m15"].tolist() == [False, True, False, True]
    assert all(same(row_of(name, decoded.columns, k), row) for k, row in enumerate(rows))


@pytest.mark.parametrize("value", [0, 1, -1, 63, 64, -64, -65, 2**62, LONG_MAX, LONG_MIN + 1, LONG_MIN])
def test_longs_keep_their_value_up_to_the_extremes(value: int) -> None:
    codec = codec_of("long")
    [encoded] = codec.encode({"x": np.array([value])}, 1).values()
    assert encoded == FRAME + long_bytes(value)
    assert codec.decode([encoded]).columns["x"].tolist() == [value]


@pytest.mark.parametrize("value", [*EXTREME_DECIMALS, 10**18 - 1, 1 - 10**18])
def test_decimals_are_twos_complement_with_room_for_the_sign(value: int) -> None:
    codec = codec_of(decimal(18))
    [encoded] = codec.encode({"x": np.array([value])}, 1).values()
    assert encoded == FRAME + sized(signed_bytes(value))
    assert codec.decode([encoded]).columns["x"].tolist() == [value]


@pytest.mark.parametrize("value", [0, 1, -1, -128, 10**18 - 1, 1 - 10**18])
@pytest.mark.parametrize("size", [9, 15, 16, 17, 30])
def test_a_decimal_may_repeat_its_sign(value: int, size: int) -> None:
    """Java's producers write the shortest form, others need not."""
    decoded = codec_of(decimal(18)).decode([FRAME + sized(value.to_bytes(size, "big", signed=True))])
    assert decoded.errors.tolist() == [Reason.OK]
    assert decoded.columns["x"].tolist() == [value]


def test_a_decimal_of_no_bytes_is_zero() -> None:
    decoded = codec_of(decimal(18)).decode([FRAME + sized(b"")])
    assert decoded.columns["x"].tolist() == [0]


@pytest.mark.parametrize(
    "value", [10**18, -(10**18), 2**63 - 1, 2**63, -(2**63), 2**64 + 5, 10**30, -(10**30), 2**127, 1 << 200]
)
def test_a_decimal_of_over_18_digits_is_out_of_range(value: int) -> None:
    good = FRAME + sized(signed_bytes(5))
    decoded = codec_of(decimal(18)).decode([good, FRAME + sized(signed_bytes(value)), good])
    assert decoded.errors.tolist() == [Reason.OK, Reason.DECIMAL_RANGE, Reason.OK]
    assert decoded.columns["x"].tolist() == [5, NULL, 5]


def test_a_decimal_out_of_range_before_broken_bytes_is_malformed() -> None:
    """Only what is otherwise a record of the schema is said to be out of range."""
    fields = [{"name": "x", "type": decimal(18)}, {"name": "y", "type": "long"}]
    codec = BulkCodec({"type": "record", "name": "R", "fields": fields}, 7)
    assert codec.decode([FRAME + sized(signed_bytes(10**18)) + b"\x80"]).errors.tolist() == [MALFORMED]


EDGES = [2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64, 10**38 - 1, 2**127 - 1]
WIDE_CODEC = codec_of(decimal(38))
WIDE = [0, -1, 127, -128, *EDGES, *(-edge for edge in EDGES), -(2**127)]


@pytest.mark.parametrize("value", WIDE)
def test_wide_decimals_are_held_in_two_halves(value: int) -> None:
    [encoded] = WIDE_CODEC.encode({"x": np.array([halves(value)])}, 1).values()
    assert encoded == FRAME + sized(signed_bytes(value))
    assert WIDE_CODEC.decode([encoded]).columns["x"].tolist() == [list(halves(value))]


@given(st.integers(-(2**127), 2**127 - 1), st.integers(0, 4))
def test_any_128_bits_come_back_from_however_many_bytes(value: int, more: int) -> None:
    size = len(signed_bytes(value)) + more
    decoded = WIDE_CODEC.decode([FRAME + sized(value.to_bytes(size, "big", signed=True))])
    assert decoded.columns["x"].tolist() == [list(halves(value))]


@pytest.mark.parametrize("value", [2**127, -(2**127) - 1, 1 << 200, -(1 << 200)])
def test_a_wide_decimal_of_over_128_bits_is_out_of_range(value: int) -> None:
    decoded = WIDE_CODEC.decode([FRAME + sized(signed_bytes(value))])
    assert decoded.errors.tolist() == [Reason.DECIMAL_RANGE]


@pytest.mark.parametrize(("index", "reason"), [(-1, MALFORMED), (0, 0), (2, 0), (3, MALFORMED), (LONG_MAX, MALFORMED)])
def test_an_enum_is_one_of_its_symbols(index: int, reason: int) -> None:
    codec = codec_of({"type": "enum", "name": "E", "symbols": ["A", "B", "C"]})
    assert codec.decode([FRAME + long_bytes(index)]).errors.tolist() == [reason]


@pytest.mark.parametrize("value", [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 2.2e-308, 1.797e308])
def test_doubles_keep_every_bit(value: float) -> None:
    codec = codec_of("double")
    encoded = codec.encode({"x": np.array([value])}, 1).values()
    assert encoded == [FRAME + np.float64(value).tobytes()]
    assert codec.decode(encoded).columns["x"].tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize("value", [0.0, -0.0, float("inf"), float("-inf"), 1e-45, 3.4e38, 0.1])
def test_floats_are_single_on_the_wire_and_double_in_columns(value: float) -> None:
    codec = codec_of("float")
    encoded = codec.encode({"x": np.array([value])}, 1).values()
    assert encoded == [FRAME + np.float32(value).tobytes()]
    assert codec.decode(encoded).columns["x"].tolist() == [float(np.float32(value))]


@pytest.mark.parametrize("byte", [b"\2", b"\xff"])
def test_a_boolean_is_0_or_1(byte: bytes) -> None:
    assert codec_of("boolean").decode([FRAME + b"\0", FRAME + b"\1", FRAME + byte]).errors.tolist() == [0, 0, MALFORMED]


STRINGS = codec_of("string")


@given(st.binary(max_size=8) | st.text(max_size=8).map(lambda text: text.encode(errors="surrogatepass")))
@example(b"\xc0\x80").via("overlong")
@example(b"\xe0\x9f\xbf").via("overlong")
@example(b"\xf0\x8f\xbf\xbf").via("overlong")
@example(b"\xed\xa0\x80").via("surrogate")
@example(b"\xf4\x90\x80\x80").via("past U+10FFFF")
@example(b"\xf4\x8f\xbf\xbf").via("U+10FFFF")
@example(b"\xe2\x82").via("cut short")
@example(b"a\x80").via("continuation alone")
def test_a_string_is_utf8_as_python_understands_it(body: bytes) -> None:
    try:
        body.decode()
        expected = [int(Reason.OK)]
    except UnicodeDecodeError:
        expected = [MALFORMED]
    assert STRINGS.decode([FRAME + sized(body)]).errors.tolist() == expected


def test_bytes_need_not_be_utf8() -> None:
    assert codec_of("bytes").decode([FRAME + sized(b"\xff\0")]).columns["x"].to_list() == [b"\xff\0"]


# whatever comes: a reason each, and the neighbours are untouched


def decoded_between(name: str, values: Sequence[bytes | None]) -> Decoded:
    """Each value decoded between two good records, which are checked; the result holds the values alone."""
    good = written(name, FILLED[name])
    decoded = CODECS[name].decode([v for value in values for v in (good, value)] + [good])
    assert not decoded.errors[::2].any()
    assert all(same(row_of(name, decoded.columns, 2 * k), FILLED[name]) for k in range(len(values) + 1))
    odd = np.arange(len(values)) * 2 + 1
    taken = {n: c.take(odd) if isinstance(c, VarColumn) else c[odd] for n, c in decoded.columns.items()}
    return Decoded(taken, decoded.errors[odd])


def check_against_fastavro(name: str, values: Sequence[bytes]) -> None:
    """What is accepted is what fastavro reads; what is refused has a reason and no values."""
    decoded = decoded_between(name, values)
    for k, (value, error) in enumerate(zip(values, decoded.errors.tolist(), strict=True)):
        Reason(error)
        if error == Reason.OK:
            assert same(row_of(name, decoded.columns, k), read(name, value))
    refused = np.flatnonzero(decoded.errors)
    for column in decoded.columns.values():
        assert is_blank(column.take(refused) if isinstance(column, VarColumn) else column[refused])


@pytest.mark.parametrize("name", NAMES)
def test_a_record_cut_anywhere_is_refused(name: str) -> None:
    whole = written(name, FILLED[name])
    errors = decoded_between(name, [whole[:size] for size in range(len(whole))]).errors.tolist()
    assert errors == [Reason.BAD_MAGIC] * 5 + [MALFORMED] * (len(whole) - 5)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_behind_a_record_are_refused(name: str) -> None:
    whole = written(name, FILLED[name])
    assert decoded_between(name, [whole + b"\0", whole + whole]).errors.tolist() == [MALFORMED, MALFORMED]


@pytest.mark.parametrize("name", NAMES)
def test_any_bit_may_flip(name: str) -> None:
    whole = written(name, FILLED[name])
    step = 1 + len(whole) // 64
    flipped = [
        whole[:k] + bytes([whole[k] ^ 1 << bit]) + whole[k + 1 :]
        for k in range(0, len(whole), step)
        for bit in range(8)
    ]
    check_against_fastavro(name, flipped)


@pytest.mark.parametrize("name", NAMES)
@given(bodies=st.lists(st.binary(max_size=60), min_size=1, max_size=10))
def test_any_bytes_may_come(name: str, bodies: list[bytes]) -> None:
    check_against_fastavro(name, [*bodies, *(header(name) + body for body in bodies)])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(data=st.data())
def test_a_record_may_be_damaged_anywhere(name: str, data: st.DataObject) -> None:
    whole = written(name, data.draw(records(name)))
    values = []
    for damage in data.draw(
        st.lists(st.binary(max_size=3) | st.sampled_from([*WILD_VARINTS, LONGEST_VARINT]), min_size=1, max_size=6)
    ):
        at = data.draw(st.integers(5, len(whole)))
        gone = data.draw(st.integers(0, 3))
        values.append(whole[:at] + damage + whole[at + gone :])
    check_against_fastavro(name, values)


@pytest.mark.parametrize("kind", ["string", "bytes", decimal(18), decimal(38)])
@pytest.mark.parametrize("size", [2, 2**31, 2**32, LONG_MAX, LONG_MAX - 4, -1, LONG_MIN])
def test_a_length_past_the_end_or_below_zero_is_refused(kind: Any, size: int) -> None:
    good = FRAME + sized(b"a")
    decoded = codec_of(kind).decode([good, FRAME + long_bytes(size) + b"a", good])
    assert decoded.errors.tolist() == [0, MALFORMED, 0]


@pytest.mark.parametrize("kind", ["long", "string", ["null", "long"]])
@pytest.mark.parametrize("varint", WILD_VARINTS)
def test_a_varint_of_over_64_bits_or_without_end_is_refused(kind: Any, varint: bytes) -> None:
    assert codec_of(kind).decode([FRAME + varint]).errors.tolist() == [MALFORMED]


def test_the_longest_varint_is_the_smallest_long() -> None:
    assert codec_of("long").decode([FRAME + LONGEST_VARINT]).columns["x"].tolist() == [LONG_MIN]


def test_a_nullable_long_of_the_value_that_stands_for_null_is_null() -> None:
    decoded = codec_of(["null", "long"]).decode([FRAME + b"\2" + LONGEST_VARINT])
    assert (decoded.errors.tolist(), decoded.columns["x"].tolist()) == ([Reason.OK], [NULL])


@pytest.mark.parametrize("branch", [-1, 2, LONG_MAX])
def test_a_union_has_two_branches(branch: int) -> None:
    assert codec_of(["null", "long"]).decode([FRAME + long_bytes(branch) + b"\0"]).errors.tolist() == [MALFORMED]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.TOMBSTONE),
        (b"", Reason.BAD_MAGIC),
        (FRAME[:4], Reason.BAD_MAGIC),
        (b"\1" + FRAME[1:] + b"\2", Reason.BAD_MAGIC),
        (b'{"x": 1}', Reason.BAD_MAGIC),
        (b"\0\0\0\0\x08\2", Reason.UNKNOWN_SCHEMA),
        (b"\0\xff\xff\xff\xff\2", Reason.UNKNOWN_SCHEMA),
        (FRAME, Reason.MALFORMED),
        (FRAME + b"\2", Reason.OK),
    ],
)
def test_a_frame_is_the_magic_byte_and_the_schemas_id(value: bytes | None, reason: Reason) -> None:
    good = FRAME + b"\2"
    assert codec_of("long").decode([good, value, good]).errors.tolist() == [Reason.OK, reason, Reason.OK]


@pytest.mark.parametrize(
    "kind",
    [
        ["string", "null"],
        ["null", "long", "string"],
        ["null", "double"],
        ["null", "boolean"],
        ["null", decimal(38)],
        {"type": "array", "items": "long"},
        {"type": "map", "values": "long"},
        {"type": "record", "name": "S", "fields": []},
    ],
)
def test_a_schema_that_is_not_covered_is_refused_by_its_fields_name(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="field 'x'"):
        codec_of(kind)


def test_records_are_read_under_every_id_of_their_schema_and_written_under_the_first() -> None:
    kind = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}]}
    codec = BulkCodec(kind, 7, (2**30, 9))
    values = [b"\0" + schema_id.to_bytes(4, "big") + b"\x02" for schema_id in (7, 2**30, 9, 8)]
    found = codec.decode(values)
    assert found.errors.tolist() == [Reason.OK, Reason.OK, Reason.OK, Reason.UNKNOWN_SCHEMA]
    assert found.columns["x"].tolist() == [1, 1, 1, NULL]
    assert codec.encode({"x": np.array([1])}, 1).values() == values[:1]
