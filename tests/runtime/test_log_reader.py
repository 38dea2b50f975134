"""Bulk reads on the real broker, whole records and columns alike: every record once, whatever lies between them, and an
end that is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sep_stream.errors import DependencyError, InputError, StateError
from sep_stream.runtime import log_reader
from sep_stream.runtime.bulk_consumer import BulkConsumer, RecordColumns
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.read_faults import ReadFault
from sep_stream.runtime.settings import Settings
from tests.waiting import PATIENCE_S, slow_bound_s

pytestmark = pytest.mark.integration


@pytest.fixture
def reader(broker: str) -> LogReader:
    return LogReader(Settings.load(brokers=broker))


@pytest.fixture
def make_topic(broker: str, prefix: str) -> Callable[..., str]:
    admin = AdminClient({"bootstrap.servers": broker})

    def make(partitions: int = 1) -> str:
        topic = NewTopic(prefix + "t", partitions, 1, config={"retention.ms": "-1"})  # time stamps lie in 1970
        admin.create_topics([topic])[prefix + "t"].result(60)
        return prefix + "t"

    return make


def send(broker: str, topic: str, count: int, partition: int = 0, first: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker})
    for k in range(first, first + count):
        producer.produce(topic, str(k), str(k % 7), partition, timestamp=1_000_000 + k)
    assert producer.flush(60) == 0


@pytest.fixture(params=["read", "columns"])
def batches(reader: LogReader, request: pytest.FixtureRequest) -> Callable[[str, int, int], list[Any]]:
    """What each way of reading gives of partition 0."""
    way = getattr(reader, request.param)
    return lambda topic, start, stop: list(way(topic, 0, start, stop))


@pytest.fixture
def read(batches: Callable[[str, int, int], list[Any]]) -> Callable[[str, int, int], list[int]]:
    return lambda topic, start, stop: [o for batch in batches(topic, start, stop) for o in batch.offsets.tolist()]


def test_a_stretch_is_read_whole_and_nothing_beyond(
    broker: str, reader: LogReader, batches: Any, read: Any, make_topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = make_topic()
    send(broker, topic, 1000)
    assert reader.watermarks(topic, 0) == (0, 1000)
    assert read(topic, 0, 1000) == list(range(1000))
    assert read(topic, 123, 456) == list(range(123, 456))
    assert read(topic, 5, 5) == read(topic, 9, 3) == []
    monkeypatch.setattr(log_reader, "BATCH_RECORDS_MAX", 100)
    found = batches(topic, 0, 1000)
    assert max(map(len, found)) <= 100
    assert [v for b in found for v in b.values] == [str(k).encode() for k in range(1000)]
    assert [k for b in found for k in b.keys] == [str(k % 7).encode() for k in range(1000)]


def test_whole_records_tell_their_time(broker: str, reader: LogReader, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    send(broker, topic, 10)
    [batch] = reader.read(topic, 0, 0, 10)
    assert batch.timestamps_ms.tolist() == [1_000_000 + k for k in range(10)]


def test_what_is_missing_is_told_from_what_is_empty(broker: str, batches: Any, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    sent: list[tuple[bytes | None, bytes | None]] = [(b"k", None), (None, b"v"), (b"", b""), (None, None), (b"k", b"v")]
    producer = Producer({"bootstrap.servers": broker})
    for key, value in sent:
        producer.produce(topic, value, key, 0, timestamp=1_000_000)
    assert producer.flush(60) == 0
    found = [pair for batch in batches(topic, 0, 5) for pair in zip(batch.keys, batch.values, strict=True)]
    assert found == sent


def test_markers_of_transactions_and_aborted_records_are_passed_over(
    broker: str, reader: LogReader, read: Any, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    producer = Producer({"bootstrap.servers": broker, "transactional.id": topic})
    producer.init_transactions()
    for commit in (True, True, False):
        producer.begin_transaction()
        for k in range(5):
            producer.produce(topic, str(k))
        producer.flush()
        producer.commit_transaction() if commit else producer.abort_transaction()
    assert reader.watermarks(topic, 0) == (0, 18)
    committed = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    # The end is known: a read that waited for silence would raise DependencyError after it.
    assert read(topic, 0, 18) == committed
    assert read(topic, 0, 6) == committed[:5]
    assert read(topic, 11, 18) == read(topic, 5, 6) == []
    producer.begin_transaction()
    producer.produce(topic, "open")
    producer.flush()
    assert reader.watermarks(topic, 0) == (0, 18)
    assert read(topic, 0, 18) == committed
    producer.abort_transaction()


def test_deleted_records_leave_a_gap_that_is_told_at_the_start_and_passed_over_behind_it(
    broker: str, reader: LogReader, read: Any, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    send(broker, topic, 100)
    admin = AdminClient({"bootstrap.servers": broker})
    for done in admin.delete_records([TopicPartition(topic, 0, 40)]).values():
        done.result(60)
    assert reader.watermarks(topic, 0) == (40, 100)
    assert read(topic, 40, 100) == list(range(40, 100))
    with pytest.raises(InputError, match=f"{topic}/0: .*[Oo]ffset"):
        read(topic, 10, 100)


def test_a_log_that_ends_too_early_is_no_complete_read(broker: str, read: Any, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    send(broker, topic, 10)
    with pytest.raises(StateError, match=f"{topic}/0: the log ends at offset 10, expected it up to 12"):
        read(topic, 0, 12)


def test_times_offsets_and_partitions(broker: str, reader: LogReader, make_topic: Callable[..., str]) -> None:
    topic = make_topic(partitions=3)
    send(broker, topic, 10, partition=2)
    assert reader.partitions(topic) == [0, 1, 2]
    assert reader.offset_for_time(topic, 2, 1_000_004) == 4
    assert reader.offset_for_time(topic, 2, 0) == 0
    assert reader.offset_for_time(topic, 2, 2_000_000) == 10
    assert reader.committed(f"{topic}.group", topic, [0, 1, 2]) == {}
    with pytest.raises(InputError, match="sep-stream topics create"):
        reader.partitions(topic + ".not")


def test_a_follower_sees_what_comes(broker: str, reader: LogReader, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    send(broker, topic, 5)
    follower = reader.follow(topic, {0: 3})
    try:
        seen: list[int] = []
        deadline_s = time.monotonic() + PATIENCE_S
        while len(seen) < 2 and time.monotonic() < deadline_s:
            seen += [m.offset() for m in follower.poll(0.2)]
        send(broker, topic, 3)
        while len(seen) < 5 and time.monotonic() < deadline_s:
            seen += [m.offset() for m in follower.poll(0.2)]
        assert seen == [3, 4, 5, 6, 7]
    finally:
        follower.close()


def test_a_configuration_that_librdkafka_refuses_is_told(
    broker: str, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogReader, "_config", lambda *_, **__: {"group.id": "g", "fetch.queue.backoff.ms": -5})
    with pytest.raises(DependencyError, match=r"fetch\.queue\.backoff\.ms"):
        read("t", 0, 1)


def test_a_broker_that_falls_silent_ends_a_read(
    make_topic: Callable[..., str], read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = make_topic()
    monkeypatch.setattr(log_reader, "SILENCE_S_MAX", 0.5)
    monkeypatch.setattr(LogReader, "_config", lambda *_, **__: {"group.id": "g", "enable.partition.eof": False})
    with pytest.raises(DependencyError, match=f"{topic}/0: nothing arrived for .* at offset 0, before 5"):
        read(topic, 0, 5)


def test_what_a_slow_process_does_beside_waiting_is_not_silence(
    broker: str, reader: LogReader, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that compiles its loops while the connection is made: by the clock, each fetch takes an hour."""
    topic, fetch, clock = make_topic(), BulkConsumer.fetch, time.monotonic
    send(broker, topic, 2)
    beside_s = 0.0

    def slow(consumer: BulkConsumer, wait_s: float) -> tuple[RecordColumns, list[ReadFault]]:
        nonlocal beside_s
        beside_s += 3_600
        return ([], []) if beside_s == 3_600 else fetch(consumer, wait_s)  # type: ignore[return-value]

    monkeypatch.setattr(time, "monotonic", lambda: clock() + beside_s)
    monkeypatch.setattr(BulkConsumer, "fetch", slow)
    assert sum(map(len, reader.columns(topic, 0, 0, 2))) == 2


def test_no_broker_is_told_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert log_reader.REQUEST_TIMEOUT_S < 10
    begun_s = time.monotonic()
    with pytest.raises(DependencyError, match=r"127\.0\.0\.1:1 .*sep-stream up"):
        LogReader(Settings.load(brokers="127.0.0.1:1")).watermarks("t", 0)
    assert time.monotonic() - begun_s < slow_bound_s(10)
