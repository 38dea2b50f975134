"""The log as history, on the real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from sep_stream.errors import InputError
from sep_stream.history import EventLog, Span
from sep_stream.market.avro import load_schemas
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime import log_reader
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources.publisher import Publisher
from sep_stream.sources.synthetic import synthetic_candles

pytestmark = pytest.mark.integration

TOPOLOGY = Topology.load()
COLUMNS = ("instrument", "kind", "event_time", "open", "high", "low", "close", "volume", "sequence", "bid", "model")


def candles(symbol: str) -> EventBatch:
    return EventBatch.concatenate(list(synthetic_candles(TOPOLOGY.instruments, [symbol], 2, 1)))


def published(settings: Settings, *batches: EventBatch) -> None:
    schemas = load_schemas(resource("schemas") / "avro")
    topic = settings.topic("market.events")
    with Publisher(librdkafka(settings), schemas, TOPOLOGY.instruments, topic, settings.partitions) as publisher:
        for batch in batches:
            publisher.publish(batch)


def assert_same(found: EventBatch, expected: EventBatch) -> None:
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_what_was_published_is_read_back(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    euro, yen = candles("EUR/USD"), candles("USD/JPY")  # the same partition of eight
    published(settings, euro, yen)
    log = EventLog(settings, TOPOLOGY)
    [batch] = log.batches()
    assert_same(batch, EventBatch.concatenate([euro, yen]))
    assert batch.keys is not None
    assert_same(EventBatch.concatenate(list(log.batches("USDJPY"))), yen)
    assert list(log.batches("CLZ6")) == []


def test_a_stretch_of_time_holds_all_events_of_it_wherever_they_lie(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)
    euro, yen = candles("EUR/USD"), candles("USD/JPY")
    published(settings, euro, yen)
    start_us, stop_us = int(euro.event_time[100]), int(euro.event_time[900])

    def within(batch: EventBatch) -> EventBatch:
        return batch.take(np.flatnonzero((batch.event_time >= start_us) & (batch.event_time < stop_us)))

    log = EventLog(settings, TOPOLOGY)
    found = EventBatch.concatenate(list(log.batches(start_ms=start_us // 1000, stop_ms=stop_us // 1000)))
    assert_same(found, EventBatch.concatenate([within(euro), within(yen)]))
    assert_same(next(log.batches("EUR/USD", start_ms=start_us // 1000, stop_ms=stop_us // 1000)), within(euro))


def test_a_stretch_of_offsets_tells_what_is_no_event(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    euro = candles("EUR/USD")
    published(settings, euro)
    partition = partition_for(b"EUR/USD", settings.partitions)
    producer = Producer(librdkafka(settings))
    producer.produce(settings.topic("market.events"), b"noise", b"EUR/USD", partition, timestamp=1_700_000_000_000)
    assert producer.flush(60) == 0
    log = EventLog(settings, TOPOLOGY)
    [batch] = log.stretch(partition, len(euro) - 1, len(euro) + 1)
    assert batch.offset.tolist() == [len(euro) - 1, len(euro)]
    assert batch.reason.tolist() == [Reason.OK, Reason.BAD_MAGIC]
    assert sum(map(len, log.batches("EUR/USD"))) == len(euro)


def test_several_instruments_are_read_from_their_partitions_alone(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)
    euro, yen, aussie = candles("EUR/USD"), candles("USD/JPY"), candles("AUD/USD")
    published(settings, euro, yen, aussie)
    log = EventLog(settings, TOPOLOGY)
    home = {name: partition_for(name.encode(), settings.partitions) for name in ("EUR/USD", "AUD/USD")}
    assert log.partitions(["EUR_USD", "USDJPY"]) == [home["EUR/USD"]]
    assert log.partitions(["EUR/USD", "AUD/USD"]) == sorted(home.values())
    assert log.partitions() == list(range(settings.partitions))
    assert_same(EventBatch.concatenate(list(log.batches(["EURUSD", "USDJPY"]))), EventBatch.concatenate([euro, yen]))
    both = EventBatch.concatenate(list(log.batches(["USD/JPY", "AUD/USD"])))
    assert_same(both.take(np.flatnonzero(both.instrument == aussie.instrument[0])), aussie)
    assert len(both) == len(yen) + len(aussie)
    with pytest.raises(InputError, match="unknown instrument 'XXX'"):
        list(log.batches(["EUR/USD", "XXX"]))


def test_a_span_of_offsets_is_read_from_a_partition(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    euro, yen = candles("EUR/USD"), candles("USD/JPY")
    published(settings, euro, yen)
    log, partition = EventLog(settings, TOPOLOGY), partition_for(b"EUR/USD", settings.partitions)
    n = len(euro)
    [batch] = log.within(partition, Span(start_offset=n - 5, stop_offset=n + 7))
    assert batch.offset.tolist() == list(range(n - 5, n + 7))
    [batch] = log.within(partition, Span(start_offset=n - 5, stop_offset=n + 7), "USD/JPY")
    assert batch.offset.tolist() == list(range(n, n + 7))
    late_ms = int(yen.event_time[4]) // 1000
    [batch] = log.within(partition, Span(start_ms=late_ms, start_offset=n, stop_offset=n + 7))
    assert batch.offset.tolist() == [n + 4, n + 5, n + 6]
    assert list(log.within(partition, Span(start_offset=10 * n))) == []


def test_a_read_ends_early_only_on_the_callers_word(
    make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first events lie once more at the log's end, as late ones: they are found, unless none are said to come."""
    settings = make_settings(prefix)
    euro, yen = candles("EUR/USD"), candles("USD/JPY")
    published(settings, euro, yen, euro.take(slice(0, 10)))
    monkeypatch.setattr(log_reader, "BATCH_RECORDS_MAX", 200)
    log, stop_ms = EventLog(settings, TOPOLOGY), int(euro.event_time[300]) // 1000
    read: list[EventBatch] = []
    stretch = log.stretch

    def counted(*bounds: int) -> Iterator[EventBatch]:
        for batch in stretch(*bounds):
            read.append(batch)
            yield batch

    monkeypatch.setattr(log, "stretch", counted)
    whole = EventBatch.concatenate(list(log.batches("EUR/USD", stop_ms=stop_ms)))
    assert len(whole) == 310
    assert sum(map(len, read)) == len(euro) + len(yen) + 10
    read.clear()
    early = EventBatch.concatenate(list(log.batches("EUR/USD", stop_ms=stop_ms, late_ms_max=60_000)))
    assert_same(early, whole.take(slice(0, 300)))
    assert 400 < sum(map(len, read)) <= 700
    read.clear()
    both = EventBatch.concatenate(list(log.batches(["EUR/USD", "USD/JPY"], stop_ms=stop_ms, late_ms_max=60_000)))
    assert len(both) == 300 + np.count_nonzero(
        yen.event_time < stop_ms * 1000
    )  # the one that was published later is waited for
    assert sum(map(len, read)) < len(euro) + 800


def test_a_few_wrong_timestamps_end_no_read(
    make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(prefix)
    euro = candles("EUR/USD")
    published(settings, euro.take(slice(0, 10)), euro.take(slice(2000, 2050)), euro.take(slice(10, 1500)))
    monkeypatch.setattr(log_reader, "BATCH_RECORDS_MAX", 20)
    stop_ms = int(euro.event_time[30]) // 1000
    found = EventLog(settings, TOPOLOGY).batches("EUR/USD", stop_ms=stop_ms, late_ms_max=0)
    assert_same(EventBatch.concatenate(list(found)), euro.take(slice(0, 30)))


def test_a_start_before_what_is_left_of_a_log_is_told(
    broker: str, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)
    euro = candles("EUR/USD")
    published(settings, euro)
    partition, topic = partition_for(b"EUR/USD", settings.partitions), settings.topic("market.events")
    admin = AdminClient({"bootstrap.servers": broker})
    for done in admin.delete_records([TopicPartition(topic, partition, 100)]).values():
        done.result(60)
    log, times_ms = EventLog(settings, TOPOLOGY), (euro.event_time // 1000).tolist()
    told = f"{topic}/{partition}: records from .* are asked for, but the log's beginning is deleted: .* at offset 100"
    for start_ms in (0, times_ms[99], times_ms[100]):
        with pytest.raises(InputError, match=told):
            list(log.batches("EUR/USD", start_ms))
    with pytest.raises(InputError, match=told):
        list(log.within(partition, Span(start_offset=99)))
    assert_same(EventBatch.concatenate(list(log.batches("EUR/USD", times_ms[101]))), euro.take(slice(101, None)))
    assert_same(EventBatch.concatenate(list(log.batches("EUR/USD"))), euro.take(slice(100, None)))
    [batch] = log.within(partition, Span(times_ms[100], start_offset=100))
    assert_same(batch, euro.take(slice(100, None)))
