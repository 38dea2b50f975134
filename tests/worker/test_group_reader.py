"""A group's reader numbers what it hands over, goes on where the group is, and heeds each error."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.settings import Settings
from sep_stream.worker import group_reader
from sep_stream.worker.batches import Fetched, Place
from sep_stream.worker.group_reader import FETCHES_IN_FLIGHT_MAX, GroupReader
from tests.waiting import PATIENCE_S, until
from tests.worker.memory_log import INPUT

A, B = Place(INPUT, 0), Place(INPUT, 1)
Action = Callable[[], Sequence[Message]]


class Consumer:
    """In place of librdkafka's: in each call that waits it does what the test puts next, on the reader's thread."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.next: queue.Queue[Action] = queue.Queue()
        self.there: list[Message] = []
        self.offsets: dict[Place, int | KafkaError] = {}
        self.assigned: list[dict[Place, int]] = []
        self.committed_now: list[dict[Place, int]] = []
        self.committed_later: list[dict[Place, int]] = []
        self.paused: set[Place] = set()
        self.closed = False
        self.refusing: KafkaError | None = None
        self.between: Callable[[], list[Message]] = list
        """What happens between the call that waits for a record and the one for those behind it."""
        self.callbacks: dict[str, Any] = {}

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self.topics, self.callbacks = topics, callbacks

    def consume(self, count: int, timeout_s: float) -> list[Message]:
        if timeout_s:
            try:
                self.there += self.next.get(timeout=0.02)()
            except queue.Empty:
                return []
        else:
            self.there, self.between = self.there + self.between(), list
        taken, self.there = self.there[:count], self.there[count:]
        return taken

    def committed(self, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        found = []
        for tp in partitions:
            offset = self.offsets.get(Place(tp.topic, tp.partition), OFFSET_INVALID)
            if isinstance(offset, KafkaError):
                self.offsets.pop(Place(tp.topic, tp.partition))
                raise KafkaException(offset)
            found.append(TopicPartition(tp.topic, tp.partition, offset))
        return found

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned.append({Place(tp.topic, tp.partition): tp.offset for tp in partitions})

    def memberid(self) -> str:
        return "member-1"

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {Place(tp.topic, tp.partition) for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {Place(tp.topic, tp.partition) for tp in partitions}

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        if self.refusing is not None:
            raise KafkaException(self.refusing)
        made = self.committed_later if asynchronous else self.committed_now
        made.append({Place(tp.topic, tp.partition): tp.offset for tp in offsets})

    def get_watermark_offsets(self, tp: TopicPartition, timeout_s: float, cached: bool) -> tuple[int, int]:
        return 4, 9

    def close(self) -> None:
        self.callbacks["on_revoke"](self, [TopicPartition(*place) for place in self.assigned[-1]])
        self.closed = True


class Receiver:
    """Takes what is told. to_commit: what it answers when partitions are given up"""

    def __init__(self) -> None:
        self.fetches: list[Fetched] = []
        self.given_up: list[Place] = []
        self.notes: list[str] = []
        self.failures: list[BaseException] = []
        self.to_commit: dict[Place, int] = {}

    def deliver(self, fetched: Fetched) -> None:
        self.fetches.append(fetched)

    def give_up(self, places: Sequence[Place]) -> Mapping[Place, int]:
        self.given_up += places
        return self.to_commit

    def note(self, what: str) -> None:
        self.notes.append(what)

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)

    def shown(self) -> list[list[tuple[int, list[int], int, int, int]]]:
        return [
            [(b.partition, b.records.offsets.tolist(), b.next_offset, b.epoch, b.number) for b in fetched.batches]
            for fetched in self.fetches
        ]


class Reading:
    """A reader on its thread, and the group as the test plays it."""

    def __init__(self, settings: Settings) -> None:
        self.receiver = Receiver()
        self.reader = GroupReader(settings, "p.convert", [INPUT], self.receiver, "begin anew")
        self.kafka: Consumer = self.reader._consumer
        self.reader.start()

    def play(self, action: Callable[[], Any]) -> None:
        """Have the consumer do something, and wait until it is done."""
        done = []

        def act() -> Sequence[Message]:
            came = action()
            done.append(True)
            return came if isinstance(came, list) else []

        self.kafka.next.put(act)
        until(lambda: done or self.receiver.failures)
        self.turn()

    def turn(self) -> None:
        """Wait until the reader has taken up what was played, unless it has ended."""
        before = self.kafka.next.qsize()
        self.kafka.next.put(list)
        until(lambda: self.kafka.next.qsize() <= before or self.receiver.failures)

    def assign(self, *places: Place) -> None:
        self.play(lambda: self.kafka.callbacks["on_assign"](self.kafka, [TopicPartition(*p) for p in places]))

    def revoke(self, *places: Place, lost: bool = False) -> None:
        name = "on_lost" if lost else "on_revoke"
        self.play(lambda: self.kafka.callbacks[name](self.kafka, [TopicPartition(*p) for p in places]))

    def put(self, *records: tuple[Place, int]) -> None:
        messages = [Message(topic=p.topic, partition=p.partition, offset=offset, value=b"v") for p, offset in records]
        self.play(lambda: messages)

    def error(self, code: int, place: Place | None = None) -> None:
        about = {"topic": place.topic, "partition": place.partition} if place else {}
        self.play(lambda: [Message(error=KafkaError(code), **about)])

    @property
    def failure(self) -> BaseException:
        until(lambda: self.receiver.failures)
        return self.receiver.failures[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(brokers="127.0.0.1:1", data_dir=tmp_path)


@pytest.fixture
def reading(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    monkeypatch.setattr(group_reader, "Consumer", Consumer)
    monkeypatch.setattr(group_reader, "PAUSE_AFTER_S", 0.02)
    played = Reading(settings)
    yield played
    played.reader.end()


def test_each_partition_begins_where_the_group_is_or_where_the_log_does(reading: Reading) -> None:
    reading.kafka.offsets = {A: 5}
    reading.assign(A, B)
    assert reading.kafka.assigned == [{A: 5, B: OFFSET_BEGINNING}]
    assert reading.kafka.topics == [INPUT]
    assert reading.reader.assigned() == {A: (1, 5, 0), B: (1, None, 0)}


def test_fetches_of_an_epoch_are_numbered_and_go_on_where_the_last_one_ended(reading: Reading) -> None:
    reading.assign(A, B)
    reading.put((A, 5), (A, 6), (B, 0), (A, 9))
    reading.put((A, 10))
    assert reading.receiver.shown() == [
        [(0, [5], 6, 1, 0), (0, [6, 9], 10, 1, 1), (1, [0], 1, 1, 0)],
        [(0, [10], 11, 1, 2)],
    ]
    assert reading.reader.assigned() == {A: (1, 11, 3), B: (1, 1, 1)}


def test_a_partition_that_comes_again_begins_a_new_epoch_and_others_go_on(reading: Reading) -> None:
    reading.assign(A, B)
    reading.put((A, 0), (B, 0))
    reading.revoke(A)
    assert reading.reader.epoch(A) is None
    reading.assign(A)
    reading.put((A, 0), (B, 1))
    assert reading.receiver.shown()[1] == [(0, [0], 1, 2, 0), (1, [1], 2, 1, 1)]
    assert (reading.reader.epoch(A), reading.reader.epoch(B)) == (2, 1)


def test_what_was_read_before_a_rebalance_is_of_the_epoch_before_it(reading: Reading) -> None:
    """Taken for the new epoch's, it would be committed, and what lies before it never be handled."""
    reading.assign(A)

    def lose_and_get_again() -> list[Message]:
        reading.kafka.callbacks["on_lost"](reading.kafka, [TopicPartition(*A)])
        reading.kafka.offsets = {A: 3}
        reading.kafka.callbacks["on_assign"](reading.kafka, [TopicPartition(*A)])
        return [Message(topic=INPUT, partition=0, offset=3, value=b"v")]

    reading.kafka.between = lose_and_get_again
    reading.put((A, 7))
    assert reading.receiver.shown() == [[(0, [7], 8, 1, 0), (0, [3], 4, 2, 0)]]


def test_what_was_read_of_a_partition_that_is_lost_by_then_is_dropped(reading: Reading) -> None:
    reading.put((A, 7))
    assert reading.receiver.shown() == []


def test_where_to_begin_is_asked_again_until_the_group_tells(reading: Reading) -> None:
    """Without an answer the log's start would be taken for it, and all handled again."""
    reading.kafka.offsets = {A: KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)}
    reading.assign(A)
    assert reading.kafka.assigned == [{A: OFFSET_BEGINNING}]
    assert reading.receiver.notes == ["coordinator_load_in_progress"]


def test_what_is_finished_of_a_partition_is_committed_before_it_is_given_up(reading: Reading) -> None:
    reading.assign(A, B)
    reading.receiver.to_commit = {A: 7}
    reading.revoke(A)
    assert reading.receiver.given_up == [A]
    assert reading.kafka.committed_now == [{A: 7}]


def test_nothing_is_committed_of_a_partition_that_was_lost(reading: Reading) -> None:
    reading.assign(A)
    reading.receiver.to_commit = {A: 7}
    reading.revoke(A, lost=True)
    assert reading.reader.epoch(A) is None
    assert reading.kafka.committed_now == []
    assert reading.receiver.notes == ["partitions_lost"]


def test_a_commit_leaves_out_what_belongs_to_others_or_to_an_epoch_that_passed(reading: Reading) -> None:
    reading.assign(A, B)
    reading.revoke(A)
    reading.assign(A)
    done = reading.reader.commit({A: (1, 5), B: (1, 6), Place(INPUT, 7): (1, 8)})
    reading.turn()
    assert reading.kafka.committed_later == [{B: 6}]
    reading.play(lambda: reading.kafka.config["on_commit"](None, [TopicPartition(*B, 6)]))
    assert done.result(PATIENCE_S) == {B}
    nothing = reading.reader.commit({A: (1, 5)})
    assert nothing.result(PATIENCE_S) == frozenset()


def test_one_commit_is_on_its_way_at_a_time_and_its_refusals_are_told(reading: Reading) -> None:
    reading.assign(A, B)
    first, second = reading.reader.commit({A: (1, 5), B: (1, 5)}), reading.reader.commit({A: (1, 6)})
    reading.turn()
    assert reading.kafka.committed_later == [{A: 5, B: 5}]
    refused = SimpleNamespace(topic=INPUT, partition=1, error=KafkaError(KafkaError.REBALANCE_IN_PROGRESS))
    reading.play(lambda: reading.kafka.config["on_commit"](None, [TopicPartition(*A, 5), refused]))
    assert first.result(PATIENCE_S) == {A}
    assert reading.receiver.notes == ["rebalance_in_progress"]
    reading.turn()
    assert reading.kafka.committed_later[1:] == [{A: 6}]
    reading.play(lambda: reading.kafka.config["on_commit"](KafkaError(KafkaError._TRANSPORT), []))
    assert second.result(PATIENCE_S) == frozenset()


def test_a_commit_that_can_not_be_sent_is_refused_and_reading_goes_on(reading: Reading) -> None:
    reading.assign(A)
    reading.kafka.refusing = KafkaError(KafkaError._STATE)
    assert reading.reader.commit({A: (1, 5)}).result(PATIENCE_S) == frozenset()
    reading.put((A, 0))
    assert len(reading.receiver.fetches) == 1
    assert reading.receiver.notes == ["state"]


def test_without_room_partitions_are_paused_and_the_group_is_still_heard(reading: Reading) -> None:
    reading.assign(A)
    for offset in range(FETCHES_IN_FLIGHT_MAX):
        reading.put((A, offset))
    until(lambda: reading.kafka.paused == {A})
    reading.assign(B)
    assert reading.kafka.paused == {A, B}
    reading.put((A, FETCHES_IN_FLIGHT_MAX))  # a record that the pause did not hold back waits
    assert len(reading.receiver.fetches) == FETCHES_IN_FLIGHT_MAX
    reading.reader.make_room()
    until(lambda: len(reading.receiver.fetches) == FETCHES_IN_FLIGHT_MAX + 1)
    assert reading.receiver.shown()[-1][0][1] == [FETCHES_IN_FLIGHT_MAX]
    reading.reader.make_room()
    until(lambda: not reading.kafka.paused)


@pytest.mark.parametrize(("offset", "why"), [(3, "were deleted"), (12, "was cut or made anew")])
def test_an_offset_that_the_log_does_not_hold_ends_the_process(reading: Reading, offset: int, why: str) -> None:
    """Going on elsewhere would pass over records that nobody handled."""
    reading.kafka.offsets = {A: offset}
    reading.assign(A)
    reading.error(KafkaError._AUTO_OFFSET_RESET, A)
    assert isinstance(reading.failure, StateError)
    assert f"goes on at offset {offset}, but the log holds 4 to 9" in str(reading.failure)
    assert why in str(reading.failure)
    assert "begin anew" in str(reading.failure)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (KafkaError.FENCED_INSTANCE_ID, "SEP_GROUP_INSTANCE"),
        (KafkaError._FENCED, "SEP_GROUP_INSTANCE"),
        (KafkaError.INCONSISTENT_GROUP_PROTOCOL, "stop them all"),
        (KafkaError.GROUP_MAX_SIZE_REACHED, "group.max.size"),
        (KafkaError.INVALID_SESSION_TIMEOUT, "group.min.session.timeout.ms"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "topics acl"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "topics acl"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "sasl_password"),
        (KafkaError._FATAL, "start the worker again"),
    ],
)
@pytest.mark.parametrize("way", ["message", "client", "commit"])
def test_an_error_that_no_waiting_mends_ends_the_process_with_its_remedy(
    reading: Reading, code: int, told: str, way: str
) -> None:
    reading.assign(A)
    if way == "message":
        reading.error(code)
    elif way == "client":
        reading.play(lambda: reading.kafka.config["error_cb"](KafkaError(code)))
    else:
        reading.play(lambda: reading.kafka.config["on_commit"](KafkaError(code), []))
    assert isinstance(reading.failure, DependencyError)
    assert "consumer group 'p.convert'" in str(reading.failure)
    assert told in str(reading.failure)


def test_a_fatal_errors_remedy_is_that_of_the_brokers_reason(reading: Reading) -> None:
    reason = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
    reading.play(lambda: reading.kafka.config["error_cb"](KafkaError(KafkaError._FATAL, f"consumer error: {reason}")))
    assert "SEP_GROUP_INSTANCE" in str(reading.failure)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._MAX_POLL_EXCEEDED, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR,
        KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError.UNKNOWN_TOPIC_OR_PART,
    ],
)  # fmt: skip
def test_an_error_that_passes_is_counted_and_reading_goes_on(reading: Reading, code: int) -> None:
    reading.assign(A)
    reading.error(code)
    reading.put((A, 0))
    assert reading.receiver.notes == [KafkaError(code).name().lower().lstrip("_")]
    assert reading.receiver.shown() == [[(0, [0], 1, 1, 0)]]


def test_at_its_end_it_leaves_the_group(reading: Reading) -> None:
    reading.assign(A)
    reading.receiver.to_commit = {A: 3}
    reading.reader.end()
    assert reading.kafka.closed
    assert reading.kafka.committed_now == [{A: 3}]


def test_a_group_instance_is_a_static_member(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_reader, "Consumer", Consumer)
    receiver: Any = Receiver()
    kafka: Any = GroupReader(settings, "g", [INPUT], receiver, "")._consumer
    assert "group.instance.id" not in kafka.config
    named = settings.model_copy(update={"group_instance": "host-1"})
    kafka = GroupReader(named, "g", [INPUT], receiver, "")._consumer
    assert kafka.config["group.instance.id"] == "host-1"
    assert kafka.config["partition.assignment.strategy"] == "cooperative-sticky"
