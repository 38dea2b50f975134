"""What the worker asks of its Kafka clients: nothing is lost, reordered, or read before it is committed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from sep_stream.errors import DependencyError
from sep_stream.runtime import log_reader
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.worker import group_reader, outbox
from sep_stream.worker.group_reader import GroupReader
from sep_stream.worker.input_log import KafkaInputLog
from sep_stream.worker.outbox import Outbox, Outgoing
from tests.worker.memory_log import HeldProducer, outbox_of, played

MOCK_BROKER = {"bootstrap.servers": "in this process", "test.mock.num.brokers": 1, "log_level": 0}
"""librdkafka's own stand-in for a cluster."""
ANSWERS_WITHIN_S = 20


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(brokers="127.0.0.1:1", prefix="p.", data_dir=tmp_path)


class Away:
    """A consumer of a broker that is away, which keeps its configuration."""

    made: list[dict[str, Any]]

    def __init__(self, config: dict[str, Any]) -> None:
        self.made.append(config)

    def assign(self, partitions: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))

    def close(self) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Configurations of the consumers that were made."""
    monkeypatch.setattr(Away, "made", found := [], raising=False)
    for module in (group_reader, log_reader):
        monkeypatch.setattr(module, "Consumer", Away)
    return found


def recover(settings: Settings) -> None:
    log = KafkaInputLog(settings, "p.events", "p.state", "p.convert", 1.0)
    with pytest.raises(DependencyError):
        list(log.records(0, 0, 1))


def read(settings: Settings) -> None:
    with pytest.raises(DependencyError):
        list(LogReader(settings).read("p.models", 0, 0, 1))


def fetch(settings: Settings) -> None:
    receiver: Any = None
    GroupReader(settings, "p.convert", ["p.events"], receiver, "")


READERS = [fetch, read, recover]


@pytest.mark.parametrize("reader", READERS)
def test_records_of_transactions_that_were_not_committed_are_never_read(
    settings: Settings, made: list[dict[str, Any]], reader: Callable[[Settings], None]
) -> None:
    """A state rebuilt from others' records than those it was fed at first would be another."""
    reader(settings)
    assert [config["isolation.level"] for config in made] == ["read_committed"]


@pytest.mark.parametrize("reader", READERS)
def test_no_consumer_commits_or_goes_on_elsewhere_by_itself(
    settings: Settings, made: list[dict[str, Any]], reader: Callable[[Settings], None]
) -> None:
    reader(settings)
    assert [config["enable.auto.commit"] for config in made] == [False]
    assert [config["auto.offset.reset"] for config in made] == ["error"]


def test_the_producer_waits_for_all_replicas_and_keeps_the_order() -> None:
    """Without idempotence a batch can land after the one before it failed: a reader would lose that one."""
    outbox_of(producer := HeldProducer())
    assert producer.config["enable.idempotence"] is True
    assert producer.config["acks"] == "all"
    assert "max.in.flight" not in producer.config
    assert producer.config.get("retries", 1) > 0


def test_no_given_setting_weakens_the_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(outbox, "Producer", made.append)
    Outbox({"enable.idempotence": False, "acks": 1, "client.id": "kept"})
    [config] = made
    assert (config["enable.idempotence"], config["acks"], config["client.id"]) == (True, "all", "kept")


def test_the_producer_that_librdkafka_makes_is_idempotent() -> None:
    """As its own statistics say: only an idempotent producer gets an id from the broker."""
    ids: list[int] = []

    def note(statistics: str) -> None:
        ids.append(json.loads(statistics).get("eos", {}).get("producer_id", -1))

    async def play() -> None:
        outbox = Outbox(MOCK_BROKER | {"stats_cb": note, "statistics.interval.ms": 20})
        await (await outbox.send([Outgoing("t", 0, b"k", b"v")])).future
        deadline_s = time.monotonic() + ANSWERS_WITHIN_S
        while max(ids, default=-1) < 0 and time.monotonic() < deadline_s:
            outbox._producer.poll(0.02)
        assert max(ids) >= 0

    played(play())


@pytest.mark.parametrize("real", [True, False], ids=["librdkafka", "stand-in"])
def test_the_stand_in_reports_as_the_real_producer_does(real: bool) -> None:
    """Each record once, in the order of its partition; a send is done with the last of them."""

    async def play() -> None:
        producer = HeldProducer(on_poll=lambda: producer.report())
        outbox = Outbox(MOCK_BROKER) if real else outbox_of(producer)
        reported: list[bytes] = []
        send = outbox._producer.produce

        class Noting:
            def __len__(self) -> int:
                return len(real_producer)

            def poll(self, timeout_s: float) -> int:
                return real_producer.poll(timeout_s)

            def produce(self, topic: str, value: bytes, *rest: Any, on_delivery: Any, **more: Any) -> None:
                def report(error: Any, message: Any) -> None:
                    assert error is None
                    assert (message.topic(), message.partition()) == (topic, 0)
                    reported.append(value)
                    on_delivery(error, message)

                send(topic, value, *rest, on_delivery=report, **more)

        real_producer = outbox._producer
        outbox._producer = Noting()
        values = [b"%d" % k for k in range(50)]
        delivery = await outbox.send(Outgoing("t", 0, b"k", value) for value in values)
        assert reported == []
        await delivery.future
        assert reported == values
        assert len(real_producer) == 0

    played(play())


def test_a_real_refusal_fails_the_delivery() -> None:
    """The stand-in for a cluster has four partitions a topic."""

    async def play() -> None:
        outbox = Outbox(MOCK_BROKER)
        delivery = await outbox.send([Outgoing("t", 0, b"k", b"v"), Outgoing("t", 99, b"k", b"v")])
        with pytest.raises(DependencyError, match=r"t/99: the broker did not take a record: .*[Uu]nknown partition"):
            await delivery.future

    played(play())
