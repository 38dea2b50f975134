"""A broker that goes away under a running worker: a short outage is lived through, a long one ends the process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer

from sep_stream.runtime import log_reader, topics
from sep_stream.runtime.embedded import EmbeddedKafka
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.sources import publisher
from tests.disks import fill
from tests.worker.harness import (
    COLD_S_MAX,
    RECOVERED,
    SMALL,
    TOPOLOGY,
    Records,
    await_log,
    log_of,
    raw,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, assert_same_events_gave_the_same, play_all, steps
from tests.worker.test_groups import assert_same

pytestmark = pytest.mark.integration

REQUEST_TIMEOUT_S = log_reader.REQUEST_TIMEOUT_S
"""A worker lives through every outage that is shorter."""


def quiet(message: str) -> None:
    """Progress is not looked at."""


def kill(kafka: EmbeddedKafka) -> None:
    process = psutil.Process(kafka.status().pid)
    process.kill()
    process.wait(60)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker of this module's own, which its tests may end."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("own") / "stack")
    yield kafka
    kafka.stop()


@pytest.fixture
def settings(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> Settings:
    settings = Settings.load(brokers=kafka.start(quiet), prefix=prefix, data_dir=tmp_path / "data", **SMALL)
    topics.create(settings, TOPOLOGY)
    return settings


@pytest.mark.parametrize(
    "end", [pytest.param(EmbeddedKafka.stop, marks=pytest.mark.slow, id="stopped"), pytest.param(kill, id="killed")]
)
def test_a_broker_that_comes_back_changes_nothing(
    kafka: EmbeddedKafka,
    settings: Settings,
    undisturbed: Records,
    end: Callable[[EmbeddedKafka], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_reader, "REQUEST_TIMEOUT_S", 120)
    monkeypatch.setattr(publisher, "SILENCE_S_MAX", 120)  # a broker takes its time where tests share the cores
    asked: list[int] = []
    outages_s: list[float] = []

    def go_and_come_back() -> None:
        begun_s = time.monotonic()
        end(kafka)
        gone.set()
        kafka.start(quiet)
        outages_s.append(time.monotonic() - begun_s)

    def ask_meanwhile() -> None:
        gone.wait(120)
        asked.append(LogReader(settings).watermarks(settings.topic("market.events"), 0)[0])

    gone = threading.Event()
    threads = [threading.Thread(target=target) for target in (go_and_come_back, ask_meanwhile)]
    with worker(settings, patient=False) as process:
        for number, step in enumerate(steps(settings, SEED, STEPS)):
            if number == STEPS // 2:
                await_log(settings, process, RECOVERED)
                for thread in threads:
                    thread.start()
            for act in step:
                act()
                time.sleep(0.1)
        for thread in threads:
            thread.join(COLD_S_MAX)
            assert not thread.is_alive()
        # On a machine with much else to do a broker takes longer to come back than a worker's patience.
        assert process.poll() is None or outages_s[0] > REQUEST_TIMEOUT_S, log_of(settings)[-3000:]
    run_until_caught_up(settings)
    # What was sent as the broker died may lie in the log twice: what comes after it has other offsets.
    assert_same_events_gave_the_same(settings, undisturbed, repeats=True)
    assert raw(settings, "dead.letters") == []
    assert asked == [0]


@pytest.mark.slow
def test_bulk_reads_go_on_where_they_were_when_the_broker_comes_back(
    kafka: EmbeddedKafka, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In records and in columns, both in the midst of it."""
    monkeypatch.setattr(log_reader, "SILENCE_S_MAX", 120)
    monkeypatch.setattr(log_reader, "BATCH_RECORDS_MAX", 100)
    config = LogReader._config
    small = {"queued.min.messages": 1, "fetch.message.max.bytes": 1_000}  # little is read ahead
    monkeypatch.setattr(LogReader, "_config", lambda self, **extra: config(self, **extra | small))
    topic = settings.topic("bars")
    producer = Producer(librdkafka(settings, **{"enable.idempotence": True, "batch.num.messages": 100}))
    for k in range(5_000):
        producer.produce(topic, b"%d" % k, partition=0)
    assert producer.flush(60) == 0
    reader = LogReader(settings)
    reads = {way: getattr(reader, way)(topic, 0, 0, 5_000) for way in ("read", "columns")}
    found = {way: [value for batch in islice(batches, 10) for value in batch.values] for way, batches in reads.items()}
    kill(kafka)
    kafka.start(quiet)
    for way, batches in reads.items():
        assert found[way] + [value for batch in batches for value in batch.values] == [b"%d" % k for k in range(5_000)]


@pytest.mark.slow
def test_a_long_outage_ends_the_worker_and_a_supervised_one_comes_back(
    kafka: EmbeddedKafka, settings: Settings, undisturbed: Records, tmp_path: Path
) -> None:
    alone = settings.model_copy(update={"data_dir": tmp_path / "alone", "models_url": settings.models_root()})
    play_all(settings, SEED, STEPS)
    with (
        worker(settings, "--processes", "1") as supervisor,
        worker(alone, "--stages", "convert", patient=False) as process,
    ):
        await_log(alone, process, RECOVERED)
        kill(kafka)
        assert process.wait(COLD_S_MAX) == 1
        told = "(has not answered for 1[5-9] s; |does not answer: )"  # by the watch, or by a recovery that it met
        assert re.search(f"sep-stream: the broker at {settings.brokers} {told}.*sep-stream up", log_of(alone))
        assert "Traceback" not in log_of(alone)
        await_log(settings, supervisor, "restarting")
        kafka.start(quiet)
        run_until_caught_up(settings)
        assert supervisor.poll() is None, log_of(settings)[-3000:]
    assert_same(settings, undisturbed)


@pytest.mark.parametrize("at_work", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_full_disk_of_the_broker_ends_the_worker_and_loses_nothing(
    small_disk: Path, prefix: str, undisturbed: Records, tmp_path: Path, at_work: bool
) -> None:
    """Kafka halts when it can't write."""
    kafka = EmbeddedKafka(small_disk)
    settings = Settings.load(brokers=kafka.start(quiet), prefix=prefix, data_dir=tmp_path / "data", **SMALL)
    topics.create(settings, TOPOLOGY)
    try:
        play_all(settings, SEED, STEPS)
        ballast = small_disk / "ballast"
        if not at_work:
            fill(ballast)
        with worker(settings, patient=False) as process:
            if at_work:
                await_log(settings, process, RECOVERED)
                fill(ballast)
            assert process.wait(COLD_S_MAX) == 1
        assert re.search(f"sep-stream: .*{settings.brokers}", log_of(settings))
        assert "Traceback" not in log_of(settings)
        ballast.unlink()
        assert kafka.start(quiet) == settings.brokers
        if not at_work:
            committed = LogReader(settings).committed(
                f"{prefix}convert", f"{prefix}market.events", range(settings.partitions)
            )
            assert committed == {}
        run_until_caught_up(settings)
        assert_same(settings, undisturbed)
    finally:
        kafka.stop()
