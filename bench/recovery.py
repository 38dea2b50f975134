"""From kill −9 to the next bar, with 1 M and with 20 M events in the log: `python bench/recovery.py`.

A worker with a group instance of its own has handled the whole log; it is killed, started again, and an event is
published that closes a bar: the time is from the start of the new process to that bar's arrival. The baseline is a
stock Faust app whose table is recovered from a changelog of as many updates as the smaller log has events: from the
start of its process to the first event that it handles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from _bench import BASELINES, SYMBOLS, TOPOLOGY, Figure, broker, fresh_topics, main, note, publish, quotes, running
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from sep_stream.market.events import EventBatch
from sep_stream.market.timeframes import MINUTE_US
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.worker.caught_up import CaughtUp

SMALL, LARGE = 1_000_000, 20_000_000
OUTPUT_S_MAX: Final = 120.0
CAUGHT_UP_S_MAX: Final = 600.0


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    with broker() as (address, folder):
        for events in (SMALL, LARGE):
            settings = fresh_topics(address, folder, f"ours{events}.")
            last: EventBatch | None = None

            def batches(count: int = events) -> Iterator[EventBatch]:
                nonlocal last
                for batch in quotes(count):
                    last = batch
                    yield batch

            held = publish(settings, batches())
            assert last is not None
            note(f"{held:,} quotes published")
            ours = next_output_s(settings, last, arguments.runs)
            yield Figure(f"kill to next bar, {events // 10**6} M events in the log", "s", statistics.median(ours),
                         target="<= 5 s, flat")  # fmt: skip
            if events == SMALL:
                small = ours
        table = [table_recovery_s(fresh_topics(address, folder, f"table{run}.")) for run in range(arguments.runs)]
        what = f"the same, {SMALL // 10**6} M"
        yield Figure.times(what, "s", small, f"stock Faust table of {SMALL // 10**6} M updates", table, "")


def next_output_s(settings: Settings, last: EventBatch, runs: int) -> list[float]:
    found: list[float] = []
    command = [sys.executable, "-m", "sep_stream", "worker", "--stages", "convert"]
    environment = {**os.environ, **settings.environment(), "SEP_GROUP_INSTANCE": "bench"}
    with running(command, environment, settings.data_dir):
        await_caught_up(settings)
    one = last.take(np.flatnonzero(last.instrument == last.instrument[-1])[-1:])
    for run in range(1, runs + 1):
        ends = bar_ends(settings)
        at = replace(one, event_time=one.event_time + run * MINUTE_US, sequence=one.sequence + run)
        begun_s = time.perf_counter()
        with running(command, environment, settings.data_dir) as (_, log):
            publish(settings, iter([at]))
            while bar_ends(settings) == ends:
                if time.perf_counter() - begun_s > OUTPUT_S_MAX:
                    sys.exit(f"no bar within {OUTPUT_S_MAX:.0f} s: {log.read_text()[-2000:]}")
                time.sleep(0.02)
            found.append(time.perf_counter() - begun_s)
            note(f"next bar after {found[-1]:.2f} s")
            await_caught_up(settings)
    return found


def await_caught_up(settings: Settings) -> None:
    caught_up = CaughtUp(settings, ["convert"], {t.name: settings.topic(t.name) for t in TOPOLOGY.topics})
    caught_up.mark_start()
    end_s = time.perf_counter() + CAUGHT_UP_S_MAX
    for reached in caught_up.steps():
        if not reached and time.perf_counter() > end_s:
            sys.exit("the worker does not catch up")
        time.sleep(0.1)


def bar_ends(settings: Settings) -> list[int]:
    reader = LogReader(settings)
    return [reader.watermarks(settings.topic("bars"), partition)[1] for partition in range(settings.partitions)]


def table_recovery_s(settings: Settings) -> float:
    """A table's changelog is filled; then the app is started and a single event waits for it."""
    topic, changelog = settings.topic("market.events"), f"bench-{settings.prefix}state-changelog"
    admin = AdminClient(librdkafka(settings))
    made = admin.create_topics([NewTopic(changelog, settings.partitions, 1, config={"cleanup.policy": "compact"})])
    made[changelog].result(30)
    state = json.dumps(
        {"open": 1.1, "high": 1.2, "low": 1.0, "close": 1.1, "volume": 20, "closes": [1.1] * 64}
    ).encode()
    producer = Producer(librdkafka(settings, **{"compression.type": "lz4", "partitioner": "murmur2_random",
                                                "queue.buffering.max.messages": 500_000}))  # fmt: skip
    keys = [json.dumps(symbol).encode() for symbol in SYMBOLS]
    for k in range(SMALL):
        while True:
            try:
                producer.produce(changelog, state, keys[k % len(keys)])
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    producer.produce(topic, b"event", b"EUR/USD")
    producer.flush()
    command = [sys.executable, str(BASELINES / "faust_table.py"), str(settings.brokers), settings.prefix, topic]
    begun_s = time.perf_counter()
    with running(command, dict(os.environ), settings.data_dir) as (process, log):
        while "first event handled" not in log.read_text():
            if process.poll() is not None or time.perf_counter() - begun_s > CAUGHT_UP_S_MAX:
                sys.exit(f"the Faust table failed: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        return time.perf_counter() - begun_s


if __name__ == "__main__":
    main(__doc__, measure)
