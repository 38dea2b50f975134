"""The log read in bulk, decoded and converted, beside reading alone: `python bench/log.py`.

One topic with quotes of eight instruments. Ours is `EventLog.stretch` through `MarketDataConverter.feed`, as a replay
does it. The baselines read the same records with confluent-kafka's `consume`, tuned alike: one does nothing with
them, the other decodes each with fastavro.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from typing import Final

import fastavro
from _bench import SCHEMAS, TOPOLOGY, Figure, broker, fresh_topics, main, note, publish, quotes
from confluent_kafka import Consumer, Message, TopicPartition

from sep_stream.convert import MarketDataConverter
from sep_stream.history import EventLog
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings

EVENTS: Final = 8_000_000
"""Read over and over until the time asked for is up."""
AT_ONCE: Final = 10_000

Pass = Callable[[float], int]
"""Reads the topic once, or until the moment given (perf_counter); how many records it saw."""


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    with broker() as (address, folder):
        settings = fresh_topics(address, folder, "bench.")
        events = publish(settings, quotes(min(EVENTS, int(arguments.seconds * 1_000_000))))
        note(f"{events:,} quotes published")
        passes: dict[str, Pass] = {
            "ours": lambda until_s: converted(settings, until_s),
            "consume": lambda until_s: consumed(settings, until_s, None),
            "fastavro": lambda until_s: consumed(settings, until_s, decoded),
        }
        for read in passes.values():
            read(time.perf_counter() + 1)  # compiles, and warms the page cache
        rates: dict[str, list[float]] = {name: [] for name in passes}
        for run in range(arguments.runs):
            for name, read in passes.items():
                rates[name].append(per_second(read, arguments.seconds))
            note(f"run {run + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    what, unit = "EventLog, decode and convert", "events/s"
    yield Figure.rates(what, unit, rates["ours"], "consume alone", rates["consume"], ">= 0.4x")
    yield Figure.rates(what, unit, rates["ours"], "consume and fastavro", rates["fastavro"], ">= 8x")


def per_second(read: Pass, seconds: float) -> float:
    begun_s = time.perf_counter()
    seen = 0
    while time.perf_counter() - begun_s < seconds:
        seen += read(begun_s + seconds)
    return seen / (time.perf_counter() - begun_s)


def converted(settings: Settings, until_s: float) -> int:
    log, reader = EventLog(settings, TOPOLOGY, SCHEMAS), LogReader(settings)
    converter = MarketDataConverter(TOPOLOGY.instruments, settings.convert_parameters())
    topic, seen = settings.topic("market.events"), 0
    for partition in reader.partitions(topic):
        for batch in log.stretch(partition, *reader.watermarks(topic, partition)):
            converter.feed(batch)
            seen += len(batch)
            if time.perf_counter() > until_s:
                return seen
    return seen


def consumed(settings: Settings, until_s: float, handle: Callable[[Message], None] | None) -> int:
    consumer = Consumer(
        librdkafka(
            settings,
            **{
                "group.id": "bench",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": 10,
                "queued.min.messages": 50_000,
            },
        )
    )
    topic, seen = settings.topic("market.events"), 0
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p))[1] for p in range(settings.partitions)}
    for partition, end in ends.items():
        consumer.assign([TopicPartition(topic, partition, 0)] if end else [])
        left = end
        while left and time.perf_counter() <= until_s:
            first = consumer.poll(0.25)
            if first is None:
                continue
            messages = [first, *consumer.consume(AT_ONCE - 1, 0)]
            for message in messages if handle else ():
                handle(message)
            left -= len(messages)
            seen += len(messages)
    consumer.close()
    return seen


def decoded(message: Message) -> None:
    fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), SCHEMAS["market_event"].parsed, None)


if __name__ == "__main__":
    main(__doc__, measure)
