"""Records of a partition as events, and the reasons why some are none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import InputError
from sep_stream.market.avro import load_schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events, encode_events, events_from_records
from sep_stream.market.events import NULL, REASON_TEXT, EventBatch, Kind, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.resources import resource
from sep_stream.runtime.topology import Topology

SCHEMAS = load_schemas(resource("schemas") / "avro")
CODEC = BulkCodec(*SCHEMAS.of("market_event"))
INSTRUMENTS: Instruments = Topology.load().instruments
PARTITIONS = 8
HOME = partition_for(b"EUR/USD", PARTITIONS)
DECIMALS = ("bid", "ask", "price", "open", "high", "low", "close", "volume")
COLUMNS = ("instrument", "kind", "event_time", *DECIMALS, "duration_s", "sequence")
QUOTE: dict[str, Any] = {
    "instrument": "EUR/USD",
    "kind": "QUOTE",
    "event_time": 1_707_091_200_000_000,
    "bid": Decimal("1.10000"),
    "ask": Decimal("1.10012"),
    "source": "feed",
    "sequence": 1,
}


def encoded(**changes: Any) -> bytes:
    return SCHEMAS.encode("market_event", QUOTE | changes)


def decode(keys: Sequence[bytes | None], values: Sequence[bytes | None], partition: int = HOME) -> EventBatch:
    return decode_events(CODEC, INSTRUMENTS, keys, values, np.arange(len(values)), partition, PARTITIONS)


def reasons(batch: EventBatch) -> list[Reason]:
    return [Reason(reason) for reason in batch.reason.tolist()]


def test_a_record_under_its_key_in_its_partition_is_an_event() -> None:
    batch = decode([b"EUR/USD"], [encoded()])
    assert reasons(batch) == [Reason.OK]
    assert (batch.instrument[0], batch.kind[0], batch.event_time[0]) == (0, Kind.QUOTE, QUOTE["event_time"])
    assert (batch.bid[0], batch.ask[0], batch.price[0]) == (1_100_000_000, 1_100_120_000, NULL)


def test_an_instrument_that_is_not_declared_is_unknown() -> None:
    batch = decode([b"XAU/USD"], [encoded(instrument="XAU/USD")], partition_for(b"XAU/USD", PARTITIONS))
    assert reasons(batch) == [Reason.UNKNOWN_INSTRUMENT]


def test_an_alias_is_not_a_canonical_symbol() -> None:
    assert reasons(decode([b"EURUSD"], [encoded(instrument="EURUSD")])) == [Reason.UNKNOWN_INSTRUMENT]


@pytest.mark.parametrize("key", [b"GBP/USD", b"EURUSD", b"EUR/USD ", b"", b"\xff", None])
def test_a_key_that_is_not_the_instrument_is_a_mismatch(key: bytes | None) -> None:
    batch = decode([b"EUR/USD", key, b"EUR/USD"], [encoded()] * 3)
    assert reasons(batch) == [Reason.OK, Reason.KEY_MISMATCH, Reason.OK]


@pytest.mark.parametrize("partition", [p for p in range(PARTITIONS) if p != HOME])
def test_an_event_in_a_partition_that_is_not_its_keys_is_refused(partition: int) -> None:
    assert reasons(decode([b"EUR/USD"], [encoded()], partition)) == [Reason.WRONG_PARTITION]


def test_records_of_several_partitions_are_judged_each_by_its_own() -> None:
    symbols = [symbol.encode() for symbol in INSTRUMENTS.symbols]
    keys = [symbol for symbol in symbols for _ in range(PARTITIONS)]
    values = [encoded(instrument=key.decode()) for key in keys]
    partition = np.tile(np.arange(PARTITIONS), len(symbols))
    batch = decode_events(CODEC, INSTRUMENTS, keys, values, np.arange(len(keys)), partition, PARTITIONS)
    found = {(key, p) for key, p, reason in zip(keys, partition.tolist(), batch.reason, strict=True) if not reason}
    assert found == {(symbol, partition_for(symbol, PARTITIONS)) for symbol in symbols}
    assert {*reasons(batch)} == {Reason.OK, Reason.WRONG_PARTITION}


def test_of_two_faults_the_key_is_told_before_the_partition() -> None:
    assert reasons(decode([b"GBP/USD"], [encoded()], HOME)) == [Reason.KEY_MISMATCH]


@pytest.mark.parametrize("reason", [Reason.KEY_MISMATCH, Reason.WRONG_PARTITION])
def test_what_would_split_an_instrument_is_told_with_its_remedy(reason: Reason) -> None:
    assert "key = instrument" in REASON_TEXT[reason]
    assert "partitioner=murmur2_random" in REASON_TEXT[reason]


def test_every_reason_has_its_text() -> None:
    assert REASON_TEXT.keys() == {*Reason} - {Reason.OK}


def test_a_key_that_names_no_instrument_is_not_hashed_however_long() -> None:
    """Nor kept: what keys hash to is remembered."""
    before = partition_for.cache_info()
    assert reasons(decode([b"k" * 10_000_000], [encoded()])) == [Reason.KEY_MISMATCH]
    assert partition_for.cache_info() == before


def test_what_cannot_be_decoded_keeps_its_reason_and_its_neighbours() -> None:
    values = [encoded(), None, b"{}", encoded()[:-1], encoded() + b"\0", encoded(sequence=2)]
    batch = decode([b"EUR/USD"] * 6, values)
    wrong = [Reason.TOMBSTONE, Reason.BAD_MAGIC, Reason.MALFORMED, Reason.MALFORMED]
    assert reasons(batch) == [Reason.OK, *wrong, Reason.OK]
    assert batch.sequence.tolist() == [1, *[NULL] * 4, 2]


def test_keys_are_not_checked_where_there_is_no_log() -> None:
    batch = decode_events(CODEC, INSTRUMENTS, [None], [encoded()], np.arange(1))
    assert reasons(batch) == [Reason.OK]


def test_original_bytes_and_offsets_stay_with_the_events() -> None:
    values = [encoded(), None]
    batch = decode_events(CODEC, INSTRUMENTS, [b"EUR/USD", b"k"], values, np.array([7, 9]), HOME, PARTITIONS)
    assert (batch.keys, batch.values, batch.offset.tolist()) == ([b"EUR/USD", b"k"], values, [7, 9])


def test_sources_and_models_are_interned() -> None:
    names = [("b", None), ("a", "m1"), ("b", "m0"), ("b", "m1")]
    batch = decode([b"EUR/USD"] * 4, [encoded(source=source, model_id=model) for source, model in names])
    assert (batch.sources, batch.source.tolist()) == (("b", "a"), [0, 1, 0, 0])
    assert (batch.models, batch.model.tolist()) == (("m1", "m0"), [-1, 0, 1, 0])


def test_no_records_are_no_events() -> None:
    assert len(decode([], [])) == 0


UNITS = st.just(NULL) | st.integers(1 - 10**18, 10**18 - 1)


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    n = draw(st.integers(0, 6))

    def column(values: st.SearchStrategy[int], dtype: Any = np.int64) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype)

    names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=1, max_size=3, unique=True)
    sources, models = tuple(draw(names)), tuple(draw(names))
    return EventBatch(
        instrument=column(st.integers(0, len(INSTRUMENTS) - 1), np.int16),
        kind=column(st.integers(0, len(Kind) - 1), np.uint8),
        event_time=column(st.integers(-(2**62), 2**62)),
        **{name: column(UNITS) for name in DECIMALS},
        duration_s=column(st.just(NULL) | st.integers(-(2**31), 2**31 - 1)),
        sequence=column(st.just(NULL) | st.integers(1 - 2**63, 2**63 - 1)),
        source=column(st.integers(0, len(sources) - 1), np.int32),
        model=column(st.integers(-1, len(models) - 1), np.int32),
        reason=np.zeros(n, np.uint8),
        offset=np.arange(n),
        sources=sources,
        models=models,
    )


def named(codes: Any, table: Sequence[str]) -> list[str | None]:
    return [None if code < 0 else table[code] for code in codes.tolist()]


@given(batches())
def test_events_come_back_from_their_records(batch: EventBatch) -> None:
    values = encode_events(CODEC, INSTRUMENTS, batch).values()
    back = decode_events(CODEC, INSTRUMENTS, [None] * len(values), values, batch.offset)
    assert not back.reason.any()
    for name in COLUMNS:
        assert getattr(back, name).tolist() == getattr(batch, name).tolist()
    assert named(back.source, back.sources) == named(batch.source, batch.sources)
    assert named(back.model, back.models) == named(batch.model, batch.models)


def test_every_field_is_encoded_as_fastavro_does() -> None:
    decimals = {name: Decimal(k).scaleb(-3) for k, name in enumerate(DECIMALS, 100)}
    record = {**QUOTE, **decimals, "kind": "BAR", "duration_s": 60, "model_id": "m"}
    assert encode_events(CODEC, INSTRUMENTS, events_from_records(INSTRUMENTS, [record])).values() == [encoded(**record)]


# events given as records


def test_records_given_are_events_with_what_is_left_out_null() -> None:
    batch = events_from_records(
        INSTRUMENTS, [QUOTE, {**QUOTE, "instrument": "USDJPY", "model_id": "m", "sequence": None}]
    )
    assert batch.instrument.tolist() == [0, 2]
    assert (batch.bid.tolist(), batch.price.tolist()) == ([1_100_000_000] * 2, [NULL] * 2)
    assert (batch.sequence.tolist(), batch.model.tolist(), batch.models) == ([1, NULL], [-1, 0], ("m",))
    assert (batch.reason.tolist(), batch.offset.tolist()) == ([0, 0], [0, 1])


def test_a_time_may_be_given_with_its_zone() -> None:
    time = datetime(2024, 2, 5, 0, 0, 0, 1, UTC)
    assert events_from_records(INSTRUMENTS, [QUOTE | {"event_time": time}]).event_time.tolist() == [
        1_707_091_200_000_001
    ]


def test_records_given_are_what_encoding_and_decoding_gives() -> None:
    given_batch = events_from_records(INSTRUMENTS, [QUOTE])
    assert encode_events(CODEC, INSTRUMENTS, given_batch).values() == [encoded()]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"instrument": "XAU/USD"}, "unknown instrument 'XAU/USD'"),
        ({"kind": "TICK"}, "kind: expected one of QUOTE, .* got 'TICK'"),
        ({"bid": Decimal("1.0000000001")}, "bid: expected at most 18 digits, 9 of them decimals, got 1.0000000001"),
        ({"bid": Decimal("1." + "0" * 40 + "1")}, "bid: expected at most 18 digits"),
        ({"bid": -Decimal(2**63) / 10**9}, "bid: expected at most 18 digits"),
        ({"volume": Decimal(10**9)}, "volume: expected at most 18 digits"),
        ({"ask": Decimal("-1000000000")}, "ask: expected at most 18 digits"),
        ({"ask": Decimal("NaN")}, "ask: expected at most 18 digits"),
        ({"ask": Decimal("Infinity")}, "ask: expected at most 18 digits"),
    ],
)
def test_a_record_that_is_no_event_is_told_by_its_field(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        events_from_records(INSTRUMENTS, [QUOTE | changes])


def test_the_widest_decimals_are_held() -> None:
    widest = Decimal("999999999.999999999")
    batch = events_from_records(INSTRUMENTS, [QUOTE | {"bid": -widest, "ask": widest}])
    assert (batch.bid.tolist(), batch.ask.tolist()) == ([1 - 10**18], [10**18 - 1])
