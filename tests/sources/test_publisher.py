"""The publisher on the real broker: right partitions, times and bytes; a broker that is gone or refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from sep_stream.market.avro import load_schemas
from sep_stream.market.decode import events_from_records
from sep_stream.market.events import EventBatch
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources.publisher import DeliveryError, Publisher
from sep_stream.sources.synthetic import synthetic_candles

pytestmark = pytest.mark.integration

TOPOLOGY = Topology.load()
SCHEMAS = load_schemas(resource("schemas") / "avro")


def publisher(settings: Settings, **kafka: Any) -> Publisher:
    topic = settings.topic("market.events")
    return Publisher(librdkafka(settings) | kafka, SCHEMAS, TOPOLOGY.instruments, topic, settings.partitions)


def candles(days: int = 1) -> EventBatch:
    return EventBatch.concatenate(list(synthetic_candles(TOPOLOGY.instruments, ["EUR/USD", "GBP/USD"], days, 1)))


def quote(seconds: int) -> EventBatch:
    record = {"instrument": "EUR/USD", "kind": "QUOTE", "event_time": seconds * 10**6, "source": "test"}
    return events_from_records(TOPOLOGY.instruments, [record | {"bid": Decimal("1.1"), "ask": Decimal("1.2")}])


def test_records_lie_where_any_kafka_client_would_put_them(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings, batch = make_settings(prefix), candles()
    with publisher(settings) as p:
        p.publish(batch)
    assert p.acknowledged == len(batch)
    reader, topic = LogReader(settings), settings.topic("market.events")
    for symbol in ("EUR/USD", "GBP/USD"):
        partition = partition_for(symbol.encode(), settings.partitions)
        low, high = reader.watermarks(topic, partition)
        mine = batch.take(np.flatnonzero(batch.instrument == TOPOLOGY.instruments.position(symbol)))
        found = [
            (key, value, at)
            for b in reader.read(topic, partition, low, high)
            for key, value, at in zip(b.keys, b.values, b.timestamps_ms.tolist(), strict=True)
            if key == symbol.encode()
        ]
        assert [at for *_, at in found] == (mine.event_time // 1000).tolist()
        records = [SCHEMAS.decode(value or b"")[1] for _, value, _ in found]
        assert [r["close"] for r in records] == [Decimal(c).scaleb(-9) for c in mine.close.tolist()]
        assert [r["sequence"] for r in records] == mine.sequence.tolist()


def test_an_event_far_in_the_future_is_refused(make_settings: Callable[..., Settings], prefix: str) -> None:
    with pytest.raises(DeliveryError, match="over a day in the future"), publisher(make_settings(prefix)) as p:
        p.publish(quote(int(time.time()) + 3 * 86_400))
