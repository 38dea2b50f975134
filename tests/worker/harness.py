"""Runs real workers on the real broker and reads what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sep_stream.market.avro import load_schemas
from sep_stream.market.events import EventBatch
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.scoring.model import Model
from sep_stream.sources.activation import activate
from sep_stream.sources.publisher import Publisher
from sep_stream.stores.model_store import save_model
from sep_stream.worker.caught_up import CaughtUp
from sep_stream.worker.runner import STAGES
from tests.forked import Forked
from tests.waiting import PATIENCE_S, until

TOPOLOGY = Topology.load()
SCHEMAS = load_schemas(resource("schemas") / "avro")
OUTPUTS = ("bars", "windows", "metrics", "signals", "patterns", "trading.results", "late", "dead.letters")
WINDOW = {"history": 12, "forward": 8, "samples": 4}
"""Window parameters that fill within minutes."""
SMALL = WINDOW | {"partitions": 2}
"""Beside them two partitions, for the run's broker bears many topics: `markets.SYMBOLS` lie in both."""
RECOVERED = '"state recovered"'
"""What the log says once a convert stage has a partition's state."""
COLD_S_MAX = 600
"""Bound on a wait for a worker. It compiles its loops for a minute, where none before it has."""

Records = dict[str, Counter[tuple[bytes, bytes]]]


@cache
def publisher(brokers: str, topic: str, partitions: int) -> Publisher:
    """One a topic: a new producer takes half a second to get its id."""
    return Publisher({"bootstrap.servers": brokers, "log_level": 0}, SCHEMAS, TOPOLOGY.instruments, topic, partitions)


def publish(settings: Settings, events: EventBatch) -> None:
    assert settings.brokers is not None
    to = publisher(settings.brokers, settings.topic("market.events"), settings.partitions)
    to.publish(events)
    to.flush()


def put_in_force(settings: Settings, model: Model, symbols: Sequence[str], from_s: int) -> None:
    folder = save_model(model, Path(settings.models_root()) / model.model_id)
    activate(settings, SCHEMAS, folder, model.model_id, symbols, from_s)


@contextmanager
def worker(
    settings: Settings,
    *flags: str,
    patient: bool = True,
    before: Callable[[], None] | None = None,
    **environment: str,
) -> Iterator[Forked]:
    """A worker process, ended with its children at the end of the block. Its log goes to data_dir/worker.log.

    before: called in the process first
    patient: it waits for its servers as long as a slow machine needs, and not as long as the program's own limits say
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **settings.environment(), "SEP_LOG_FORMAT": "json", **environment}
    log = settings.data_dir / "worker.log"
    log.touch()
    process = Forked(["worker", *flags], variables, Path.cwd(), log, log, patient, before)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def log_of(settings: Settings) -> str:
    return (settings.data_dir / "worker.log").read_text(errors="replace")


def await_log(settings: Settings, process: Forked, text: str, beyond: int = 0) -> None:
    """Wait until the log holds `text` more than `beyond` times, or the process is gone."""
    until(
        lambda: log_of(settings).count(text) > beyond or process.poll() is not None,
        lambda: f"{text} is not in the log: {log_of(settings)[-2000:]}",
        COLD_S_MAX,
    )


def await_handled(settings: Settings, process: Forked, stages: Sequence[str] = STAGES) -> None:
    """Wait until the stages have handled all that their inputs hold, or the process is gone."""
    names = {topic.name: settings.topic(topic.name) for topic in TOPOLOGY.topics}
    steps = CaughtUp(settings, stages, names).steps()
    until(lambda: process.poll() is not None or next(steps, None) is None, lambda: log_of(settings)[-3000:], COLD_S_MAX)


def run_until_caught_up(settings: Settings, *flags: str, timeout_s: float = COLD_S_MAX) -> None:
    with worker(settings, "--until-caught-up", *flags) as process:
        code = process.wait(timeout_s)
    assert code == 0, log_of(settings)[-3000:]


def records(settings: Settings, topics: Iterable[str] = OUTPUTS) -> Records:
    """How often each (key, value) lies in each topic."""
    return {topic: Counter((key, value) for _, _, key, value, _ in raw(settings, topic)) for topic in topics}


def raw(settings: Settings, topic: str) -> list[tuple[int, int, bytes, bytes, dict[str, bytes]]]:
    """(partition, offset, key, value, headers) of each record, in order within a partition."""
    name, reader = settings.topic(topic), LogReader(settings)
    bounds = {p: reader.watermarks(name, p) for p in reader.partitions(name)}
    missing = sum(high - low for low, high in bounds.values())
    follower = reader.follow(name, {p: low for p, (low, _) in bounds.items()})
    deadline_s = time.monotonic() + PATIENCE_S
    found: list[tuple[int, int, bytes, bytes, dict[str, bytes]]] = []
    while missing > len(found) and time.monotonic() < deadline_s:
        for message in follower.poll(0.2):
            headers = dict(message.headers() or [])
            found.append((message.partition(), message.offset(), message.key(), message.value(), headers))
    follower.close()
    assert len(found) >= missing, f"{name}: {missing - len(found)} records could not be read"
    return sorted(found, key=lambda record: record[:2])


def pieces(events: EventBatch, count: int) -> list[EventBatch]:
    return [events.take(rows) for rows in np.array_split(np.arange(len(events)), count)]


def decoded(settings: Settings, topic: str) -> list[dict[str, Any]]:
    return [SCHEMAS.decode(value)[1] for _, _, _, value, _ in raw(settings, topic)]
