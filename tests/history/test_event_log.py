"""The log as history, on the real broker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from confluent_kafka import Producer

from sep_stream.history import EventLog
from sep_stream.market.avro import load_schemas
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.partitioner import partition_for
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
    assert producer.flush(10) == 0
    log = EventLog(settings, TOPOLOGY)
    [batch] = log.stretch(partition, len(euro) - 1, len(euro) + 1)
    assert batch.offset.tolist() == [len(euro) - 1, len(euro)]
    assert batch.reason.tolist() == [Reason.OK, Reason.BAD_MAGIC]
    assert sum(map(len, log.batches("EUR/USD"))) == len(euro)
