"""When a stage has nothing left to read, on the real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.worker import caught_up
from sep_stream.worker.caught_up import STALLED_LOOKS, CaughtUp

pytestmark = pytest.mark.integration


def transaction(settings: Settings, partition: int, records: int, commit: bool) -> None:
    producer = Producer(librdkafka(settings, **{"transactional.id": f"{settings.prefix}test"}))
    producer.init_transactions(60)
    producer.begin_transaction()
    for _ in range(records):
        producer.produce(settings.topic("market.events"), b"x", b"k", partition)
    assert producer.flush(60) == 0
    (producer.commit_transaction if commit else producer.abort_transaction)(60)


def commit(settings: Settings, partition: int, offset: int) -> None:
    consumer = Consumer(librdkafka(settings, **{"group.id": f"{settings.prefix}convert"}))
    place = TopicPartition(settings.topic("market.events"), partition, offset)
    consumer.commit(offsets=[place], asynchronous=False)
    consumer.close()


def looks(settings: Settings, count: int) -> list[bool]:
    return list(islice(of_convert(settings).steps(), count))


def of_convert(settings: Settings) -> CaughtUp:
    found = CaughtUp(settings, ["convert"], {"market.events": settings.topic("market.events")})
    found.mark_start()
    return found


def test_aborted_records_and_markers_at_the_end_are_not_waited_for(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix, partitions=2)
    transaction(settings, 0, 1, commit=True)
    transaction(settings, 0, 3, commit=False)
    transaction(settings, 1, 2, commit=False)  # where nothing was ever committed
    commit(settings, 0, 1)
    found = looks(settings, 3 * STALLED_LOOKS)
    assert found[-1]
    assert not any(found[:-1])


def test_a_record_among_them_is_waited_for(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix, partitions=1)
    transaction(settings, 0, 2, commit=False)
    transaction(settings, 0, 1, commit=True)
    assert not any(looks(settings, 3 * STALLED_LOOKS))


def test_progress_is_handled_of_all_that_the_input_held_at_the_start(
    make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(prefix, partitions=2)
    publish_plain(settings, 0, 5)
    publish_plain(settings, 1, 2)
    found = of_convert(settings)
    assert found.progress() == {"convert": "0/7"}
    publish_plain(settings, 1, 4)
    commit(settings, 0, 3)
    assert found.progress() == {"convert": "3/7"}
    commit(settings, 0, 5)
    commit(settings, 1, 6)
    shown: list[dict[str, str]] = []
    monkeypatch.setattr(caught_up, "PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setattr(caught_up, "log", SimpleNamespace(info=lambda _, **progress: shown.append(progress)))
    asyncio.run(found.wait())
    assert shown == [{"convert": "11/11"}]  # it is done, so its total is what the input holds now


def publish_plain(settings: Settings, partition: int, records: int) -> None:
    producer = Producer(librdkafka(settings))
    for _ in range(records):
        producer.produce(settings.topic("market.events"), b"x", b"k", partition)
    assert producer.flush(60) == 0
