"""A fetcher reads on where each partition was placed, and numbers what it hands over."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message
from faust.types import TP

from sep_stream.errors import DependencyError
from sep_stream.runtime.settings import Settings
from sep_stream.worker import fetcher
from sep_stream.worker.fetcher import Batch, Fetcher, OffsetGone, Start
from tests.worker.memory_log import INPUT, all_goes_on, played

A, B = TP(INPUT, 0), TP(INPUT, 1)
SECONDS = 5.0


class Consumer:
    """In place of librdkafka's: hands out what a test puts in, and waits for it in the thread that asks."""

    made: list[Consumer]

    def __init__(self, config: dict[str, Any]) -> None:
        self.made.append(self)
        self.assigned: list[dict[tuple[str, int], int]] = []
        self._there = deque[Message]()
        self._change = threading.Condition()

    def put(self, partition: int, *offsets: int) -> None:
        self.put_messages(*(Message(topic=INPUT, partition=partition, offset=offset, value=b"v") for offset in offsets))

    def put_messages(self, *messages: Message) -> None:
        with self._change:
            self._there.extend(messages)
            self._change.notify()

    def consume(self, count: int, timeout_s: float) -> list[Message]:
        with self._change:
            if timeout_s:
                self._change.wait_for(lambda: self._there, SECONDS)
            return [self._there.popleft() for _ in range(min(count, len(self._there)))]

    def assign(self, places: Any) -> None:
        self.assigned.append({(place.topic, place.partition): place.offset for place in places})

    def close(self) -> None:
        pass


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> list[Consumer]:
    monkeypatch.setattr(Consumer, "made", made := [], raising=False)
    monkeypatch.setattr(fetcher, "Consumer", Consumer)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(brokers="127.0.0.1:1", data_dir=tmp_path)


def shown(batches: list[Batch]) -> list[tuple[int, list[int], int, int, int]]:
    return [(b.partition, b.records.offsets.tolist(), b.next_offset, b.epoch, b.number) for b in batches]


def test_fetches_of_an_epoch_are_numbered_and_go_on_where_the_last_one_ended(
    settings: Settings, consumer: list[Consumer]
) -> None:
    async def play() -> None:
        fetcher = Fetcher(settings, "g", 10)
        [kafka] = consumer
        await fetcher.place({A: Start(1, 5), B: Start(4, 0)})
        assert kafka.assigned == [{A: 5, B: 0}]
        kafka.put(0, 5, 6, 9)
        kafka.put(1, 0)
        assert shown(await fetcher.fetch(SECONDS)) == [(0, [5, 6, 9], 10, 1, 0), (1, [0], 1, 4, 0)]
        kafka.put(0, 10)
        assert shown(await fetcher.fetch(SECONDS)) == [(0, [10], 11, 1, 1)]
        fetcher.close()

    played(play())


def test_a_new_epoch_begins_at_its_offset_and_an_old_one_goes_on(settings: Settings, consumer: list[Consumer]) -> None:
    async def play() -> None:
        fetcher = Fetcher(settings, "g", 10)
        [kafka] = consumer
        await fetcher.place({A: Start(1, 0), B: Start(1, 0)})
        kafka.put(0, 0, 1)
        kafka.put(1, 0)
        await fetcher.fetch(SECONDS)
        await fetcher.place({A: Start(2, 1), B: Start(1, 0)})
        assert kafka.assigned[-1] == {A: 1, B: 1}
        assert fetcher.epochs == {A: 2, B: 1}
        kafka.put(0, 1)
        kafka.put(1, 1)
        assert shown(await fetcher.fetch(SECONDS)) == [(0, [1], 2, 2, 0), (1, [1], 2, 1, 1)]
        fetcher.close()

    played(play())


def test_what_a_wait_brings_during_a_placement_is_read_again(settings: Settings, consumer: list[Consumer]) -> None:
    async def play() -> None:
        fetcher = Fetcher(settings, "g", 10)
        [kafka] = consumer
        await fetcher.place({A: Start(1, 0)})
        assert await fetcher.fetch(0.001) == []  # it goes on waiting
        kafka.put(0, 0)
        await fetcher.place({A: Start(1, 0), B: Start(1, 0)})
        assert kafka.assigned[-1] == {A: 0, B: 0}
        kafka.put(0, 0)
        assert shown(await fetcher.fetch(SECONDS)) == [(0, [0], 1, 1, 0)]
        fetcher.close()

    played(play())


def test_a_call_that_ends_before_a_record_comes_loses_nothing(settings: Settings, consumer: list[Consumer]) -> None:
    async def play() -> None:
        fetcher = Fetcher(settings, "g", 10)
        [kafka] = consumer
        await fetcher.place({A: Start(1, 0)})
        assert await fetcher.fetch(0.001) == []
        kafka.put(0, 0, 1)
        assert shown(await fetcher.fetch(SECONDS)) == [(0, [0, 1], 2, 1, 0)]
        await all_goes_on()
        fetcher.close()

    played(play())


def test_an_offset_that_the_log_does_not_hold_is_an_error_that_names_it(
    settings: Settings, consumer: list[Consumer]
) -> None:
    async def play() -> None:
        fetcher = Fetcher(settings, "g", 10)
        [kafka] = consumer
        await fetcher.place({A: Start(1, 3)})
        kafka.put_messages(Message(topic=INPUT, partition=0, error=KafkaError(KafkaError._AUTO_OFFSET_RESET)))
        with pytest.raises(OffsetGone) as error:
            await fetcher.fetch(SECONDS)
        assert (error.value.partition, error.value.offset) == (A, 3)
        fetcher.close()

    played(play())


def test_a_topic_that_may_not_be_read_is_an_error(settings: Settings, consumer: list[Consumer]) -> None:
    async def play() -> None:
        fetcher = Fetcher(settings, "g", 10)
        [kafka] = consumer
        await fetcher.place({A: Start(1, 3)})
        denied = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        kafka.put_messages(Message(topic=INPUT, partition=0, error=denied))
        with pytest.raises(DependencyError):
            await fetcher.fetch(SECONDS)
        fetcher.close()

    played(play())
