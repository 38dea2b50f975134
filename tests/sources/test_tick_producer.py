"""`TickProducer` on the real broker: what it sends, what it refuses, what it tells of events not taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from threading import Thread
from typing import Any

import numpy as np
import pytest

from sep_stream.errors import ConfigurationError, InputError, SepError
from sep_stream.history import EventLog
from sep_stream.market.avro import load_schemas
from sep_stream.market.events import EventBatch, Kind, Reason
from sep_stream.runtime import topics
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources import publisher
from sep_stream.sources.publisher import DeliveryError
from sep_stream.sources.tick_producer import TickProducer
from tests.worker.harness import raw

pytestmark = pytest.mark.integration

TOPOLOGY = Topology.load()
SCHEMAS = load_schemas(resource("schemas") / "avro")
AT = datetime(2024, 2, 5, 0, 0, 0, 250_123, UTC)
AT_US = 1_707_091_200_250_123


@pytest.fixture(scope="module")
def shared(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings.load(brokers=broker, prefix="ticks.", data_dir=tmp_path_factory.mktemp("ticks"))
    topics.create(settings, TOPOLOGY)
    return settings


@pytest.fixture(scope="module")
def producer(shared: Settings) -> Iterator[TickProducer]:
    with TickProducer(shared, "feed") as producer:
        yield producer


def log(settings: Settings) -> EventBatch:
    return EventBatch.concatenate(list(EventLog(settings, TOPOLOGY).batches()))


def many(n: int, instrument: int = 0) -> EventBatch:
    times = AT_US + np.arange(n, dtype=np.int64) * 1_000
    bid = 1_100_010_000 + np.arange(n, dtype=np.int64) % 50 * 10_000
    return EventBatch.of(Kind.QUOTE, instrument, times, "feed", bid=bid, ask=bid + 120_000, sequence=np.arange(n))


def test_each_kind_of_event_is_sent_as_fastavro_writes_it(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    minute = AT.replace(second=0, microsecond=0)
    with TickProducer(settings, "feed") as producer:
        producer.quote("EURUSD", AT, "1.07812", Decimal("1.07824"), sequence=1)
        producer.trade("EUR/USD", AT_US, 2, volume="0.5")
        producer.candle("EUR_USD", minute, "1.1", "1.3", "1.0", "1.2", volume=7, bid="1.19", ask="1.21", sequence=2)
        producer.heartbeat("EUR/USD", AT.astimezone(timezone(timedelta(hours=5))), sequence=3)
        assert producer.flush() == 4
    common = {"instrument": "EUR/USD", "event_time": AT_US, "source": "feed"}
    ohlc = {"open": "1.1", "high": "1.3", "low": "1.0", "close": "1.2", "volume": "7", "bid": "1.19", "ask": "1.21"}
    records: list[dict[str, Any]] = [
        common | {"kind": "QUOTE", "bid": Decimal("1.07812"), "ask": Decimal("1.07824"), "sequence": 1},
        common | {"kind": "TRADE", "price": Decimal(2), "volume": Decimal("0.5")},
        common
        | {"kind": "BAR", "event_time": minute, "duration_s": 60, "sequence": 2}
        | {name: Decimal(text) for name, text in ohlc.items()},
        common | {"kind": "HEARTBEAT", "sequence": 3},
    ]
    found = raw(settings, "market.events")
    assert [value for *_, value, _ in found] == [SCHEMAS.encode("market_event", record) for record in records]
    assert {key for _, _, key, _, _ in found} == {b"EUR/USD"}
    [batch] = LogReader(settings).read(settings.topic("market.events"), found[0][0], 0, 4)
    assert batch.timestamps_ms.tolist() == [AT_US // 1000] * 2 + [AT_US // 1000 // 60_000 * 60_000, AT_US // 1000]


def test_a_batch_is_sent_as_its_events_are_one_by_one(make_settings: Callable[..., Settings], prefix: str) -> None:
    batches, singles = make_settings(prefix), make_settings(f"s{prefix}")
    events = many(50)
    with TickProducer(batches, "feed") as producer:
        producer.publish(events)
    with TickProducer(singles, "feed") as producer:
        for k, (time_us, bid, ask) in enumerate(
            zip(events.event_time.tolist(), events.bid.tolist(), events.ask.tolist(), strict=True)
        ):
            producer.quote("EUR/USD", time_us, Decimal(bid).scaleb(-9), Decimal(ask).scaleb(-9), sequence=k)
    assert raw(batches, "market.events") == raw(singles, "market.events")


QUOTE: dict[str, Any] = {"instrument": "EUR/USD", "event_time": AT, "bid": "1.1", "ask": "1.2"}
CANDLE: dict[str, Any] = {"instrument": "EUR/USD", "open_time": AT.replace(microsecond=0)} | dict.fromkeys(
    ("open", "high", "low", "close"), "1.1"
)


@pytest.mark.parametrize(
    ("method", "arguments", "told"),
    [
        ("quote", QUOTE | {"instrument": "EUR/XXX"}, "unknown instrument 'EUR/XXX'"),
        ("quote", QUOTE | {"bid": 1.1}, "bid: expected an exact number as str, Decimal or int, got float 1.1; a float"),
        ("quote", QUOTE | {"bid": True}, "bid: .*got bool"),
        ("quote", QUOTE | {"bid": None}, "bid: .*got NoneType"),
        ("quote", QUOTE | {"bid": "1,1"}, "bid: expected a decimal number, got '1,1'"),
        ("quote", QUOTE | {"ask": "NaN"}, "ask: .*got NaN"),
        ("quote", QUOTE | {"ask": Decimal("Infinity")}, "ask: .*got Infinity"),
        ("quote", QUOTE | {"ask": "1.2000000001"}, "ask: expected at most 18 digits, 9 of them decimals"),
        ("quote", QUOTE | {"ask": "1000000000"}, "ask: expected at most 18 digits"),
        ("quote", QUOTE | {"bid": "1.3"}, "ask is below bid; got bid 1.3, ask 1.2"),
        ("quote", QUOTE | {"bid": "0"}, "zero or negative.*; got bid 0, ask 1.2"),
        ("quote", QUOTE | {"volume": "-1"}, "volume is negative; got .*volume -1"),
        ("quote", QUOTE | {"event_time": AT.replace(tzinfo=None)}, "event_time: .* has no zone"),
        ("quote", QUOTE | {"event_time": 1_707_091_200_250}, "event_time: .* no count of µs"),
        ("quote", QUOTE | {"event_time": 1.5e15}, "event_time: expected an integer, got float"),
        ("quote", QUOTE | {"event_time": -1}, "event_time: expected microseconds"),
        ("quote", QUOTE | {"event_time": 2**62}, "event_time: expected microseconds"),
        ("quote", QUOTE | {"event_time": 4_000_000_000_000_000}, "event_time: 2096-.* is over 24 hours in the future"),
        ("quote", QUOTE | {"sequence": "7"}, "sequence: expected an integer, got str"),
        ("quote", QUOTE | {"sequence": 2**63}, "sequence: expected an integer of 64 bits"),
        ("trade", {"instrument": "CLZ6", "event_time": AT, "price": "-37.63"}, "zero or negative.*price -37.63"),
        ("candle", CANDLE | {"open_time": AT}, "a whole minute"),
        ("candle", CANDLE | {"high": "1.0"}, "high is below low.*high 1, low 1.1"),
        ("candle", CANDLE | {"bid": "1.0"}, "bid, ask: a candle carries both or none"),
        ("heartbeat", {"instrument": "", "event_time": AT}, "unknown instrument ''"),
    ],
)
def test_what_the_pipeline_would_refuse_is_not_sent(
    producer: TickProducer, shared: Settings, method: str, arguments: dict[str, Any], told: str
) -> None:
    before = producer.flush()
    with pytest.raises(InputError, match=told):
        getattr(producer, method)(**arguments)
    assert producer.flush() == before


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("instrument", 99, "row 7: instrument: 99 is no position"),
        ("instrument", -1, "row 7: instrument: -1"),
        ("bid", 2_000_000_000, "row 7: EUR/USD at 2024-02-05T00:00:00.257123.*: ask is below bid"),
        ("volume", 10**18, "row 7, field 'volume'"),
        ("event_time", 4_000_000_000_000_000, "event_time: 2096"),
    ],
)
def test_of_a_batch_with_a_bad_row_nothing_is_sent(producer: TickProducer, column: str, value: int, told: str) -> None:
    batch, before = many(20), producer.flush()
    getattr(batch, column)[7] = value
    if column == "volume":
        batch.volume[np.arange(20) != 7] = 0
    with pytest.raises(InputError, match=told):
        producer.publish(batch)
    assert producer.flush() == before


def test_an_empty_batch_is_nothing(producer: TickProducer) -> None:
    before = producer.flush()
    producer.publish(many(0))
    assert producer.flush() == before


def test_more_events_than_the_queue_holds_are_all_taken_in_order(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings, events = make_settings(prefix), many(publisher.QUEUE_MESSAGES_MAX + 1_000)
    with TickProducer(settings, "feed") as producer:
        producer.publish(events)
        assert producer.flush() == len(events)
    assert np.array_equal(log(settings).sequence, events.sequence)


def test_threads_share_a_producer(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    with TickProducer(settings, "feed") as producer:
        threads = [Thread(target=lambda k=k: [producer.publish(many(10, k)) for _ in range(20)]) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert producer.flush() == 800
    found = log(settings)
    for k in range(4):
        assert found.sequence[found.instrument == k].tolist() == list(range(10)) * 20


def test_after_a_refused_event_nothing_later_is_taken(
    make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the refused one, published again, would be a duplicate: its sequence would lie below the log's last."""
    settings = make_settings(prefix)
    monkeypatch.setattr(TickProducer, "_check_future", lambda self, batch: None)  # as where this machine's clock is off
    events = many(3_000)
    events.event_time[1_000] = int(time.time() + 10 * 86_400) * 1_000_000
    producer = TickProducer(settings, "feed")

    def publish_all() -> None:
        for first in range(0, len(events), 100):
            producer.publish(events.take(slice(first, first + 100)))
            if first == 500:
                assert producer.flush() == 600
        producer.flush()

    with pytest.raises(DeliveryError, match="over a day in the future") as caught:
        publish_all()
    with pytest.raises(DeliveryError):
        producer.quote("EUR/USD", AT, "1.1", "1.2")
    with pytest.raises(DeliveryError):
        producer.flush()
    taken = log(settings).sequence
    assert taken.tolist() == list(range(len(taken)))
    assert 600 <= len(taken) <= 1_000
    assert caught.value.acknowledged == len(taken)
    [untaken] = caught.value.untaken
    assert untaken.instrument == "EUR/USD"
    first = len(taken) + (len(taken) == 1_000)  # the refused one's own time is days later
    assert untaken.event_time == AT + timedelta(milliseconds=first)
    assert f"{untaken.count:,} of EUR/USD from" in str(caught.value)


def test_a_flush_that_takes_too_long_ends_the_producer(
    make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, kafka = make_settings(prefix), publisher.Producer
    # Nothing is sent for a minute, so that the broker can't take it before the flush, however late that is.
    monkeypatch.setattr(publisher, "Producer", lambda config: kafka(config | {"linger.ms": 60_000}))
    producer = TickProducer(settings, "feed")
    producer.publish(many(1_000))
    with pytest.raises(DeliveryError, match="not all were taken within 0 s") as caught:
        producer.flush(0)
    assert caught.value.acknowledged + caught.value.untaken[0].count == 1_000


def test_an_error_in_the_block_is_raised_once_what_was_published_is_taken(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)

    def publish_and_fail() -> None:
        with TickProducer(settings, "feed") as producer:
            producer.publish(many(100))
            raise KeyError("of the program")

    with pytest.raises(KeyError, match="of the program"):
        publish_and_fail()
    assert (log(settings).reason == Reason.OK).sum() == 100


@pytest.mark.parametrize(
    ("settings", "source", "error", "told"),
    [
        ({"prefix": "none."}, "feed", ConfigurationError, "topic 'none.market.events' is not there"),
        ({}, "", InputError, "source: expected the feed's name"),
    ],
)
def test_what_it_needs_is_told(
    broker: str, settings: dict[str, Any], source: str, error: type[SepError], told: str
) -> None:
    with pytest.raises(error, match=told):
        TickProducer(Settings.load(brokers=broker, **settings), source)
