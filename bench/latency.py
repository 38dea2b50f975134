"""From producing an event that closes a bar to having the bar's signal: `python bench/latency.py`.

Candles, each of which closes a bar, or quotes, of which one in twenty does, of eight instruments go through a worker
that runs all stages with a model in force; a consumer notes when each M1 signal arrives. The baseline is a stock Faust
app of as many hops, per event: three agents in a row, the first decodes with fastavro and hands on what begins a new
minute of its instrument, the others hand on what they get. Client, broker and worker share the cores. The broker has a
collector that does not stop it.
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
from itertools import islice
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

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
from sep_stream.market.timeframes import MINUTE_US
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.model import ModelParameters
from sep_stream.sources.activation import activate
from sep_stream.sources.synthetic import synthetic_candles, synthetic_quotes
from sep_stream.stores.model_store import save_model
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train

CASES: Final = (("quote", 100), ("quote", 1_000), ("candle", 100), ("candle", 1_000))
"""Kind of event, and how many a second."""
HISTORY_DAYS: Final = 10
HOPS: Final = 3
READY_S_MAX: Final = 60.0
HEAT_S: Final = 45.0
"""Of small requests before all else: until a broker's JVM has compiled what it runs, it takes up to twice as long for
each, and a third of a core for compiling."""
WARM_S: Final = 10.0
"""At the same pace before what is measured: caches fill."""
LAST_S_MAX: Final = 10.0
"""After the last event: a signal that has not come by then is missing, and the run fails. What the baseline has not
answered by then counts as infinitely late."""

Identify = Callable[[bytes], Hashable]
"""What a record on the output topic answers, as `bars_closed` names it; None for one of no interest."""


class Pace(NamedTuple):
    """Events of a kind, so many a second, for so long."""

    kind: str
    rate: int
    seconds: float


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    os.environ |= {"KAFKA_HEAP_OPTS": "-Xms512m -Xmx512m", "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseZGC"}
    with broker() as (address, folder):
        heat(fresh_topics(address, folder, "heat."))
        for kind, rate in CASES:
            history, live = market(kind, int(rate * (WARM_S + arguments.seconds) * 1.1))
            found: dict[str, list[tuple[float, float]]] = {"ours": [], "faust": []}
            for run in range(arguments.runs):
                pace = Pace(kind, rate, arguments.seconds)
                settings = fresh_topics(address, folder, f"ours-{kind}-{rate}-{run}.")
                with worker(settings, history):
                    found["ours"].append(latency_ms(settings, "signals", signal_of, pace, live))
                settings = fresh_topics(address, folder, f"faust-{kind}-{rate}-{run}.")
                with faust_hops(settings):
                    found["faust"].append(latency_ms(settings, f"hop{HOPS}", bytes, pace, live))
                ours, faust = found["ours"][-1], found["faust"][-1]
                note(f"run {run + 1} of {rate} {kind}s a second, p50 and p99 in ms: {ours}, Faust {faust}")
            for k, (name, target) in enumerate((("p50", "<= 10 ms"), ("p99", "<= 20 ms"))):
                mine, theirs = ([both[k] for both in found[who]] for who in ("ours", "faust"))
                what = f"{kind} to signal at {rate:,} {kind}s/s, {name}"
                yield Figure.times(what, "ms", mine, f"stock Faust, {HOPS} hops per event", theirs, target)


def heat(settings: Settings) -> None:
    """Each record a request of its own, one after the other in each partition, and read as soon as it is there."""
    topic, done = settings.topic("signals"), threading.Event()
    listener = threading.Thread(target=listen, args=(settings, "signals", bytes, {}, done))
    listener.start()
    producer = Producer(
        librdkafka(settings, **{"linger.ms": 0, "acks": "all", "enable.idempotence": True, "batch.num.messages": 1})
    )
    end_s = time.perf_counter() + HEAT_S
    while time.perf_counter() < end_s:
        for partition in range(settings.partitions):
            producer.produce(topic, bytes(500), partition=partition)
        producer.flush()
    done.set()
    listener.join()


def market(kind: str, events: int) -> tuple[list[EventBatch], EventBatch]:
    """Some days of history, and so many events of what comes next."""
    make = {"candle": synthetic_candles, "quote": synthetic_quotes}[kind]
    days = make(TOPOLOGY.instruments, SYMBOLS, 10_000, SEED)
    history = list(islice(days, HISTORY_DAYS))
    live = [next(days)]
    while sum(map(len, live)) < events + 1_000:
        live.append(next(days))
    return history, EventBatch.concatenate(live)


def bars_closed(events: EventBatch, kind: str) -> list[tuple[str, int] | None]:
    """Symbol and open time of the M1 bar that each event closes, None where it closes none, or the first that is seen
    of an instrument: a candle its own, a quote that of the quote before it."""
    last_s: dict[str, int] = {}
    closed: list[tuple[str, int] | None] = []
    symbols = TOPOLOGY.instruments.symbols
    minutes_s = events.event_time // MINUTE_US * 60
    for position, minute_s in zip(events.instrument.tolist(), minutes_s.tolist(), strict=True):
        symbol = symbols[position]
        before_s = last_s.get(symbol)
        last_s[symbol] = minute_s
        if kind == "candle":
            closed.append((symbol, minute_s))
        else:
            closed.append(None if before_s in (None, minute_s) else (symbol, before_s))
    return closed


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
        try:
            yield
        finally:
            if process.poll() is not None:
                sys.exit(f"{command[1:3]} ended: {log.read_text()[-2000:]}")


def latency_ms(
    settings: Settings, output: str, identify: Identify, pace: Pace, live: EventBatch
) -> tuple[float, float]:
    """p50 and p99 of the time from `produce` to the output's arrival."""
    codec = BulkCodec(*SCHEMAS.of("market_event"))
    closed = bars_closed(live, pace.kind)
    first = 1 + [k for k, bar in enumerate(closed) if bar][len(SYMBOLS)]
    warm = first + int(pace.rate * WARM_S)
    count = warm + int(pace.rate * pace.seconds)
    events = live.take(slice(0, count))
    values = encode_events(codec, TOPOLOGY.instruments, events).values()
    symbols = [TOPOLOGY.instruments[position].symbol for position in events.instrument.tolist()]
    times_ms = (events.event_time // 1_000).tolist()
    answers: list[Hashable] = [
        bar and (bar if output == "signals" else value) for bar, value in zip(closed[:count], values, strict=True)
    ]

    arrived: dict[Hashable, float] = {}
    done = threading.Event()
    listener = threading.Thread(target=listen, args=(settings, output, identify, arrived, done))
    listener.start()
    producer = Producer(librdkafka(settings, **{"linger.ms": 0, "acks": "all", "enable.idempotence": True}))
    topic, sent = settings.topic("market.events"), {}

    def send(k: int) -> None:
        if answers[k] is not None:
            sent[answers[k]] = time.perf_counter()
        producer.produce(topic, values[k], symbols[k].encode(), partition_for(symbols[k].encode(), settings.partitions),
                         timestamp=times_ms[k])  # fmt: skip
        producer.poll(0)

    ready_s = time.perf_counter() + READY_S_MAX
    for k in range(first):
        send(k)
    while not sent.keys() <= arrived.keys() and time.perf_counter() < ready_s:
        time.sleep(0.1)
    begun_s = time.perf_counter()
    for k in range(first, count):
        while (early_s := begun_s + (k - first) / pace.rate - time.perf_counter()) > 0:
            time.sleep(early_s)
        send(k)
    end_s = time.perf_counter() + LAST_S_MAX
    while not sent.keys() <= arrived.keys() and time.perf_counter() < end_s:
        time.sleep(0.1)
    done.set()
    listener.join()
    missing = sum(answer not in arrived for answer in sent)
    if missing:
        told = f"{missing} of {len(sent)} events have no answer on {output}"
        sys.exit(told) if output == "signals" else note(told)
    taken = [(arrived.get(answer, inf) - sent[answer]) * 1000 for answer in answers[warm:] if answer is not None]
    p50, p99 = np.percentile(taken, (50, 99), method="higher").tolist()
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
