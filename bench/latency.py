"""From producing a candle to having its signal, at 100 and 1,000 events a second: `python bench/latency.py`.

Candles of eight instruments, one a step, through a worker that runs all three stages with a model in force; a
consumer notes when each M1 signal arrives. The baseline is a stock Faust app of as many hops, per event: three agents
in a row, the first decodes with fastavro, each hands the value on. Client, broker and worker share the cores. The
broker has a collector that does not stop it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from _bench import (
    BASELINES,
    EVENT_SCHEMA,
    SCHEMAS,
    SEED,
    SYMBOLS,
    TOPOLOGY,
    Figure,
    broker,
    fresh_topics,
    main,
    note,
    publish,
    running,
)
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sep_stream.convert import MarketDataConverter
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events
from sep_stream.market.events import EventBatch
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.model import ModelParameters
from sep_stream.sources.activation import activate
from sep_stream.sources.synthetic import synthetic_candles
from sep_stream.stores.model_store import save_model
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train

RATES: Final = (100, 1_000)
HISTORY_DAYS: Final = 10
HOPS: Final = 3
READY_S_MAX: Final = 60.0
WARM_S: Final = 5.0
"""At the same pace before what is measured: caches fill, and the broker's JVM compiles."""
LAST_S_MAX: Final = 10.0
"""After the last event: a signal that has not come by then is missing, and the run fails."""

Identify = Callable[[bytes], Hashable]
"""What a record on the output topic answers, in the terms of `Candle.answer`; None for one of no interest."""


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    live_days = 2 + int(max(RATES) * (WARM_S + arguments.seconds) * 1.1) // (1400 * len(SYMBOLS))
    days = list(synthetic_candles(TOPOLOGY.instruments, SYMBOLS, HISTORY_DAYS + live_days, SEED))
    history, live = days[:HISTORY_DAYS], EventBatch.concatenate(days[HISTORY_DAYS:])
    os.environ |= {"KAFKA_HEAP_OPTS": "-Xms512m -Xmx512m", "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseZGC"}
    with broker() as (address, folder):
        for rate in RATES:
            found: dict[str, list[tuple[float, float]]] = {"ours": [], "faust": []}
            for run in range(arguments.runs):
                settings = fresh_topics(address, folder, f"ours{rate}-{run}.")
                with worker(settings, history):
                    found["ours"].append(latency_ms(settings, "signals", signal_of, rate, arguments.seconds, live))
                settings = fresh_topics(address, folder, f"faust{rate}-{run}.")
                with faust_hops(settings):
                    found["faust"].append(latency_ms(settings, f"hop{HOPS}", bytes, rate, arguments.seconds, live))
                note(f"run {run + 1} at {rate}/s, p50 and p99 in ms: {found['ours'][-1]}, Faust {found['faust'][-1]}")
            for k, (name, target) in enumerate((("p50", "<= 10 ms"), ("p99", "<= 20 ms"))):
                ours, faust = ([both[k] for both in found[who]] for who in ("ours", "faust"))
                what = f"candle to signal at {rate:,}/s, {name}"
                yield Figure.times(what, "ms", ours, f"stock Faust, {HOPS} hops per event", faust, target)


def signal_of(value: bytes) -> Hashable:
    record = SCHEMAS.decode(value)[1]
    return (record["instrument"], int(record["bar_open_time"].timestamp())) if record["timeframe"] == "M1" else None


@contextmanager
def worker(settings: Settings, history: Sequence[EventBatch]) -> Iterator[None]:
    """A worker of all stages that has handled the history and has a model in force."""
    converter = MarketDataConverter(TOPOLOGY.instruments, settings.convert_parameters())
    cut_s = int(history[-1].event_time[-1]) // 1_000_000 + 60
    model = train(closed_bars(converter, history), ModelParameters(), cut_s)
    publish(settings, iter(history))
    activate(settings, SCHEMAS, save_model(model, Path(settings.models_root()) / model.model_id), model.model_id,
             SYMBOLS, cut_s)  # fmt: skip
    catch_up = [sys.executable, "-m", "sep_stream", "worker"]
    environment = {**os.environ, **settings.environment()}
    subprocess.run([*catch_up, "--until-caught-up"], env=environment, capture_output=True, check=True)
    with staying(catch_up, environment, settings):
        yield


@contextmanager
def faust_hops(settings: Settings) -> Iterator[None]:
    names = [settings.topic(f"hop{k}") for k in range(1, HOPS + 1)]
    admin = AdminClient(librdkafka(settings))
    for future in admin.create_topics([NewTopic(name, settings.partitions, 1) for name in names]).values():
        future.result(30)
    command = [sys.executable, str(BASELINES / "faust_hops.py"), str(settings.brokers), str(EVENT_SCHEMA),
               settings.topic("market.events"), *names]  # fmt: skip
    with staying(command, dict(os.environ), settings):
        yield


@contextmanager
def staying(command: Sequence[str], environment: dict[str, str], settings: Settings) -> Iterator[None]:
    """A process that has to be there still when the block ends."""
    with running(command, environment, settings.data_dir) as (process, log):
        yield
        if process.poll() is not None:
            sys.exit(f"{command[1:3]} ended: {log.read_text()[-2000:]}")


def latency_ms(
    settings: Settings, output: str, identify: Identify, rate: int, seconds: float, live: EventBatch
) -> tuple[float, float]:
    """p50 and p99 of the time from `produce` to the output's arrival."""
    codec = BulkCodec(*SCHEMAS.of("market_event"))
    first = len(SYMBOLS) * 2
    warm = first + int(rate * WARM_S)
    count = min(len(live), warm + int(rate * seconds))
    events = live.take(slice(0, count))
    values = encode_events(codec, TOPOLOGY.instruments, events).values()
    symbols = [TOPOLOGY.instruments[position].symbol for position in events.instrument.tolist()]
    opens_s = (events.event_time // 1_000_000).tolist()
    answers: list[Hashable] = list(zip(symbols, opens_s, strict=True)) if output == "signals" else list(values)

    arrived: dict[Hashable, float] = {}
    done = threading.Event()
    listener = threading.Thread(target=listen, args=(settings, output, identify, arrived, done))
    listener.start()
    producer = Producer(librdkafka(settings, **{"linger.ms": 0, "acks": "all", "enable.idempotence": True}))
    topic, sent = settings.topic("market.events"), {}

    def send(k: int) -> None:
        sent[answers[k]] = time.perf_counter()
        producer.produce(topic, values[k], symbols[k].encode(), partition_for(symbols[k].encode(), settings.partitions),
                         timestamp=opens_s[k] * 1000)  # fmt: skip
        producer.poll(0)

    ready_s = time.perf_counter() + READY_S_MAX
    for k in range(first):
        send(k)
    while len(arrived) < first and time.perf_counter() < ready_s:
        time.sleep(0.1)
    begun_s = time.perf_counter()
    for k in range(first, count):
        while (early_s := begun_s + (k - first) / rate - time.perf_counter()) > 0:
            time.sleep(early_s)
        send(k)
    end_s = time.perf_counter() + LAST_S_MAX
    while len(arrived) < count and time.perf_counter() < end_s:
        time.sleep(0.1)
    done.set()
    listener.join()
    missing = [answer for answer in sent if answer not in arrived]
    if missing:
        sys.exit(f"{len(missing)} of {count} events have no answer on {output}")
    taken = [(arrived[answer] - sent[answer]) * 1000 for answer in answers[warm:]]
    p50, p99 = np.percentile(taken, (50, 99)).tolist()
    return round(p50, 2), round(p99, 2)


def listen(
    settings: Settings, output: str, identify: Identify, arrived: dict[Hashable, float], done: threading.Event
) -> None:
    consumer = Consumer(librdkafka(settings, **{"group.id": "bench", "enable.auto.commit": False}))
    topic = settings.topic(output)
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(settings.partitions)])
    raw: list[tuple[float, bytes]] = []
    while not done.is_set():
        message: Message | None = consumer.poll(0.05)
        if message is None:
            take_in(raw, identify, arrived)
        elif message.error() is None:
            raw.append((time.perf_counter(), message.value()))
    take_in(raw, identify, arrived)
    consumer.close()


def take_in(raw: list[tuple[float, bytes]], identify: Identify, arrived: dict[Hashable, float]) -> None:
    """Decode when nothing comes, so that decoding delays no arrival."""
    for at_s, value in raw:
        arrived.setdefault(identify(value), at_s)
    raw.clear()


if __name__ == "__main__":
    main(__doc__, measure)
