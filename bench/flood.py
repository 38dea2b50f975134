"""A flood of records that are no events: `python bench/flood.py`.

The worker's convert stage over a topic of nothing but garbage, of all kinds, a few dozen bytes each. Each record
becomes a dead letter with its reason and bytes; what is measured is the whole work, to the last acknowledged letter.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator
from typing import Final

from _bench import SCHEMAS, SEED, Figure, broker, fresh_topics, main, note
from confluent_kafka import Producer
from convert import worker

from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings

EXPECTED_PER_S: Final = 100_000


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    with broker() as (address, folder):
        settings = fresh_topics(address, folder, "bench.")
        records = send(settings, int(arguments.seconds * EXPECTED_PER_S))
        note(f"{records:,} records published")
        rates = []
        for run in range(arguments.runs):
            rates.append(worker(settings, records)[0])
            reader, letters = LogReader(settings), settings.topic("dead.letters")
            told = sum(reader.watermarks(letters, partition)[1] for partition in range(settings.partitions))
            if told != records:
                raise SystemExit(f"{records:,} records, {told:,} dead letters")
            note(f"run {run + 1}: {rates[-1]:,.0f}/s")
    yield Figure("a flood of garbage to dead letters", "records/s", statistics.median(rates), target=">= 50,000")


def garbage() -> list[bytes | None]:
    """One value of each kind: no magic byte, an unknown schema, cut short, trailing bytes, nothing, a tombstone."""
    choice = random.Random(SEED)
    event_id = SCHEMAS["market_event"].schema_id.to_bytes(4, "big")
    return [
        b"\x01" + choice.randbytes(60),
        b"\x00\x00\x00\x00\x07" + choice.randbytes(60),
        b"\x00" + event_id + b"\x0eEUR/USD",
        b"\x00" + event_id + b"\xff" * 40,
        b"",
        None,
    ]


def send(settings: Settings, count: int) -> int:
    producer = Producer(librdkafka(settings, **{"compression.type": "lz4", "queue.buffering.max.messages": 500_000}))
    topic, kinds = settings.topic("market.events"), garbage()
    for k in range(count):
        while True:
            try:
                producer.produce(topic, kinds[k % len(kinds)], b"EUR/USD", k % settings.partitions)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    return count


if __name__ == "__main__":
    main(__doc__, measure)
