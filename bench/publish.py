"""Publishing columns of quotes, beside a loop of fastavro and `produce`: `python bench/publish.py`.

Both send the same events of a synthetic market to topics of their own on the same broker, idempotent, acks=all and
lz4, with the same queue; the time is until the broker has all of them. Ours is `Publisher.publish`, from columns; the
loop encodes each event's record with `fastavro.schemaless_writer`.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import fastavro
from _bench import SCHEMAS, TOPOLOGY, Figure, broker, fresh_topics, main, note, quotes
from confluent_kafka import Producer

from sep_stream.market.events import EventBatch
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.sources.publisher import QUEUE_MESSAGES_MAX, Publisher

EVENTS: Final = 300_000
"""Made beforehand and sent over and over; what they are as records is made beforehand too."""
NANO: Final = Decimal(1).scaleb(-9)


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    batches = list(quotes(EVENTS))
    records = [record for batch in batches for record in records_of(batch)]
    ours: list[float] = []
    loop: list[float] = []
    with broker() as (address, folder):
        for run in range(arguments.runs):
            settings = fresh_topics(address, folder, f"bench{run}.")
            ours.append(columns_per_s(settings, batches, arguments.seconds))
            settings = fresh_topics(address, folder, f"loop{run}.")
            loop.append(records_per_s(settings, records, arguments.seconds))
            note(f"run {run + 1}: ours {ours[-1]:,.0f}/s, loop {loop[-1]:,.0f}/s")
    yield Figure.rates("publishing, one process", "events/s", ours, "fastavro and produce", loop, ">= 3x")


def records_of(batch: EventBatch) -> Iterator[dict[str, Any]]:
    columns = (batch.instrument, batch.event_time, batch.bid, batch.ask, batch.sequence)
    for position, time_us, bid, ask, sequence in zip(*(c.tolist() for c in columns), strict=True):
        yield {
            "instrument": TOPOLOGY.instruments[position].symbol, "kind": "QUOTE", "event_time": time_us,
            "bid": bid * NANO, "ask": ask * NANO, "source": batch.sources[0], "sequence": sequence,
        }  # fmt: skip


def columns_per_s(settings: Settings, batches: Sequence[EventBatch], seconds: float) -> float:
    topic = settings.topic("market.events")
    publisher = Publisher(librdkafka(settings), SCHEMAS, TOPOLOGY.instruments, topic, settings.partitions)
    begun_s = time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        for batch in batches:
            publisher.publish(batch)
    publisher.flush()
    return publisher.acknowledged / (time.perf_counter() - begun_s)


def records_per_s(settings: Settings, records: Sequence[dict[str, Any]], seconds: float) -> float:
    topic, schema = settings.topic("market.events"), SCHEMAS["market_event"]
    head = b"\x00" + schema.schema_id.to_bytes(4, "big")
    producer = Producer(
        librdkafka(
            settings,
            **{
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "batch.num.messages": 50_000,
                "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
                "partitioner": "murmur2_random",
            },
        )
    )
    sent, begun_s = 0, time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        for record in records:
            body = io.BytesIO()
            fastavro.schemaless_writer(body, schema.parsed, record)
            while True:
                try:
                    producer.produce(
                        topic, head + body.getvalue(), record["instrument"], timestamp=record["event_time"] // 1000
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            sent += 1
        producer.poll(0)
    producer.flush(30)
    return sent / (time.perf_counter() - begun_s)


if __name__ == "__main__":
    main(__doc__, measure)
