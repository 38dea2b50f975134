"""A member of a consumer group: one librdkafka consumer that joins, reads, pauses and commits, on a thread of its own.

The thread never waits for the stage: while there is no room for another fetch it pauses its partitions and goes on
asking, so the group keeps its member whatever the stage does. What is decided in a rebalance is decided on this thread,
between two fetches; docs/decisions/one-kafka-client.md tells why.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Protocol

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.asker import LOGIN_ERRORS, LOGIN_REMEDY, denial, is_denial
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.runtime.settings import Settings
from sep_stream.worker.batches import Batch, Fetched, Place

SESSION_TIMEOUT_MS: Final = 10_000
HEARTBEAT_INTERVAL_MS: Final = 1_000
FETCH_WAIT_MS_MAX: Final = 500
"""How long the broker may hold a fetch that has nothing to return."""
QUEUED_KBYTES_MAX: Final = 16 * 1024
QUEUED_RECORDS_MIN: Final = 50_000
"""Of a partition: read ahead, while the stage is at work."""
FETCHES_IN_FLIGHT_MAX: Final = 32
"""Handed over and not yet acknowledged; then no more is fetched."""
WAIT_S_MAX: Final = 0.25
"""For a record: a commit and the end of the thread wait so long."""
PAUSE_AFTER_S: Final = 1.0
"""Without room for so long, partitions are paused. A pause drops what librdkafka has read ahead, so a short wait is
only waited out; it must be far below the group's poll interval."""
REQUEST_S_MAX: Final = 5.0
CLOSE_S_MAX: Final = 15.0

_FENCED: Final = "another worker uses this group instance; give each its own SEP_GROUP_INSTANCE"
_OLD_BROKER: Final = "the broker does not know what is asked of it; it must be Kafka 2.4 or newer"
_ENDS_MEMBERSHIP: Final = dict.fromkeys(LOGIN_ERRORS, LOGIN_REMEDY) | {
    KafkaError.FENCED_INSTANCE_ID: _FENCED,
    KafkaError._FENCED: _FENCED,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: (
        "members of another version share the partitions in another way; stop them all, then start these"
    ),
    KafkaError.GROUP_MAX_SIZE_REACHED: "the broker takes no more members (group.max.size); start fewer workers",
    KafkaError.INVALID_SESSION_TIMEOUT: (
        f"the broker takes no session timeout of {SESSION_TIMEOUT_MS} ms; see its group.min.session.timeout.ms and "
        "group.max.session.timeout.ms"
    ),
    KafkaError.UNSUPPORTED_VERSION: _OLD_BROKER,
    KafkaError._UNSUPPORTED_FEATURE: _OLD_BROKER,
    KafkaError._FATAL: "start the worker again",
}
"""Errors that no waiting mends, each with what does."""

log = structlog.get_logger(__name__)


class Receiver(Protocol):
    """Who is told, always on the reader's thread."""

    def deliver(self, fetched: Fetched) -> None:
        """Take what was fetched. It holds room until `GroupReader.make_room` is called for it."""

    def give_up(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """Finish, within a bound, what was fetched of partitions that others get; the offsets to commit."""

    def note(self, what: str) -> None:
        """Count an error that passes."""

    def fail(self, error: BaseException) -> None:
        """The reader has ended and its process has to."""


class Commit(NamedTuple):
    """Offsets by partition, each with the epoch in which it was reached. done: the partitions that have it"""

    offsets: Mapping[Place, tuple[int, int]]
    done: Future[frozenset[Place]]


class Position(NamedTuple):
    """epoch: of the assignment · offset: the next to be handed over; None if unknown · fetches: so many so far"""

    epoch: int
    offset: int | None
    fetches: int = 0


class GroupReader:
    """Reads `topics` as a member of `group`.

    A group without an offset begins where the log does; an offset that the log does not hold is an error.
    lost_input_remedy: what to do where the log no longer holds what the group has to handle
    """

    def __init__(
        self,
        settings: Settings,
        group: str,
        topics: Sequence[str],
        receiver: Receiver,
        lost_input_remedy: str,
    ) -> None:
        self.group = group
        self._settings, self._topics, self._receiver = settings, list(topics), receiver
        self._lost_input_remedy = lost_input_remedy
        self._positions: dict[Place, Position] = {}
        self._last_epoch: dict[Place, int] = defaultdict(int)
        self._room = threading.Semaphore(FETCHES_IN_FLIGHT_MAX)
        self._paused = False
        self._commits: deque[Commit] = deque()
        self._committing: Commit | None = None
        self._ending = threading.Event()
        self._told: set[int] = set()
        self.member_id = ""
        """As the group's coordinator calls this member; empty until it has joined."""
        self._consumer = Consumer(librdkafka(settings, **self._config()))
        self._thread = threading.Thread(target=self._run, name=f"{group}-reads", daemon=True)

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "group.id": self.group,
            "group.protocol": self._settings.group_protocol,
            "max.poll.interval.ms": self._settings.max_poll_interval_s * 1000,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": FETCH_WAIT_MS_MAX,
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": QUEUED_RECORDS_MIN,
            "queued.max.messages.kbytes": QUEUED_KBYTES_MAX,
            "on_commit": self._on_commit,
            "error_cb": self._heed,
        }
        if self._settings.group_protocol == "classic":  # by the other, the broker decides these
            config |= {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
            }
        if self._settings.group_instance is not None:
            config["group.instance.id"] = self._settings.group_instance
        return config

    # For other threads.

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Finish what was fetched, commit it and leave the group. Blocks until done, or CLOSE_S_MAX."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S_MAX)

    def make_room(self) -> None:
        """A fetch that was delivered is done with."""
        self._room.release()

    def epoch(self, place: Place) -> int | None:
        """Of the partition's present assignment to this member; None where it has none."""
        position = self._positions.get(place)
        return None if position is None else position.epoch

    def assigned(self) -> dict[Place, Position]:
        """The partitions that this member has."""
        return dict(self._positions)

    def commit(self, offsets: Mapping[Place, tuple[int, int]]) -> Future[frozenset[Place]]:
        """Commit (epoch, offset) by partition; those that are no longer this member's are left out."""
        wanted = Commit(offsets, Future())
        self._commits.append(wanted)
        return wanted.done

    # On the reader's thread.

    def _run(self) -> None:
        try:
            self._consumer.subscribe(
                self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            has_room = False
            fetched: tuple[Batch, ...] = ()
            while not self._ending.is_set():
                self._send_commit()
                has_room = has_room or self._get_room()
                if has_room and fetched:
                    self._receiver.deliver(Fetched(fetched))
                    has_room, fetched = False, ()
                else:
                    fetched += self._fetch()
            self._consumer.close()
        except KafkaException as error:
            self._receiver.fail(DependencyError(f"consumer group {self.group!r}: {error.args[0].str()}"))
        except BaseException as error:  # noqa: BLE001 - whatever ends the thread has to end the process
            self._receiver.fail(error)

    def _fetch(self) -> tuple[Batch, ...]:
        """What is there, waiting a little for the first of it. Rebalances, commits and errors are told meanwhile: what
        one call brought is of the epochs at its end, and the next call may begin others."""
        first = self._batches(self._consumer.consume(1, WAIT_S_MAX))
        more = self._settings.fetch_records - 1
        return first + self._batches(self._consumer.consume(more, 0)) if first and more else first

    def _get_room(self) -> bool:
        """Room for another fetch, waited for as long as the group allows; then the partitions are paused, or go on."""
        if not self._room.acquire(timeout=0.0 if self._paused else PAUSE_AFTER_S):
            if not self._paused:
                self._consumer.pause(self._assignment())
                self._paused = True
            return False
        if self._paused:
            self._consumer.resume(self._assignment())
            self._paused = False
        return True

    def _assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*place) for place in self._positions]

    def _batches(self, messages: Sequence[Message]) -> tuple[Batch, ...]:
        parts: dict[Place, list[Message]] = defaultdict(list)
        for message in messages:
            if (error := message.error()) is None:
                parts[Place(message.topic(), message.partition())].append(message)
            else:
                self._heed(error, message.topic(), message.partition())
        return tuple(self._batch(place, RecordBatch(part)) for place, part in parts.items() if place in self._positions)

    def _batch(self, place: Place, records: RecordBatch) -> Batch:
        epoch, _, number = self._positions[place]
        next_offset = int(records.offsets[-1]) + 1
        self._positions[place] = Position(epoch, next_offset, number + 1)
        return Batch(*place, records, next_offset, epoch, number)

    # Rebalances.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = self._committed(partitions) if partitions else []
        for start in starts:
            place = Place(start.topic, start.partition)
            self._last_epoch[place] += 1
            known = start.offset if start.offset >= 0 else None
            self._positions[place] = Position(self._last_epoch[place], known)
        consumer.incremental_assign(starts)
        self.member_id = consumer.memberid() or ""
        if self._paused and starts:
            consumer.pause(starts)
        log.info("partitions assigned", group=self.group, partitions=_named(partitions))

    def _committed(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Where to begin: at the group's offset, or where it has none at the log's start."""
        while True:
            try:
                found = self._consumer.committed(partitions, REQUEST_S_MAX)
                errors = [tp.error for tp in found if tp.error is not None]
            except KafkaException as failure:
                errors = [failure.args[0]]
            if not errors:
                break
            self._heed(errors[0])
            if self._ending.wait(WAIT_S_MAX):  # a broker that stays away ends the process elsewhere
                raise KafkaException(errors[0])
        return [
            TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING if tp.offset == OFFSET_INVALID else tp.offset)
            for tp in found
        ]

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [Place(tp.topic, tp.partition) for tp in partitions]
        offsets = self._receiver.give_up(places)
        self.forget(places)
        if offsets:
            try:
                consumer.commit(offsets=_places(offsets), asynchronous=False)
            except KafkaException as error:  # the next member handles it again
                self._heed(error.args[0])
        log.info("partitions given up", group=self.group, partitions=_named(partitions))

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has given them to others already: nothing may be committed."""
        self.forget([Place(tp.topic, tp.partition) for tp in partitions])
        self._receiver.note("partitions_lost")
        log.warning("partitions lost", group=self.group, partitions=_named(partitions))

    def forget(self, places: Iterable[Place]) -> None:
        """Their epoch is over: nothing that is acknowledged from now on is committed."""
        for place in places:
            self._positions.pop(place, None)

    # Commits.

    def _send_commit(self) -> None:
        if self._committing is not None or not self._commits:
            return
        wanted = self._commits.popleft()
        offsets = {place: offset for place, (epoch, offset) in wanted.offsets.items() if self.epoch(place) == epoch}
        if not offsets:
            wanted.done.set_result(frozenset())
            return
        self._committing = wanted
        try:
            self._consumer.commit(offsets=_places(offsets), asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Of commits that are not waited for."""
        wanted, self._committing = self._committing, None
        refusals = [tp.error for tp in partitions if tp.error is not None] or ([error] if error is not None else [])
        done = frozenset() if error is not None else frozenset(
            Place(tp.topic, tp.partition) for tp in partitions if tp.error is None
        )  # fmt: skip
        if wanted is not None:
            wanted.done.set_result(done)
        for refusal in refusals[:1]:
            self._heed(refusal)

    # Errors.

    def _heed(self, error: KafkaError, topic: str | None = None, partition: int = -1) -> None:
        """Raises what ends the process; anything else is counted, and told once."""
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET and topic is not None:
            raise self._lost_input(Place(topic, partition))
        if is_denial(error):
            of_group = code == KafkaError.GROUP_AUTHORIZATION_FAILED or topic is None
            about = f"consumer group {self.group!r}" if of_group else f"topic {topic!r}"
            raise DependencyError(denial(self._settings, about, "read"))
        if code in _ENDS_MEMBERSHIP or error.fatal():
            raise DependencyError(f"consumer group {self.group!r}: {error.str()}; {_remedy(error)}")
        self._receiver.note(error.name().lower().lstrip("_"))
        if code not in self._told:
            self._told.add(code)
            log.warning("consumer error", group=self.group, error=error.name(), told=error.str(), topic=topic)

    def _lost_input(self, place: Place) -> StateError:
        """Going on at the log's start would pass over records that nobody handled."""
        position = self._positions.get(place)
        offset = position.offset if position is not None else None
        low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), REQUEST_S_MAX, cached=False)
        gone = offset is None or offset < low
        what = "records that it has not handled were deleted" if gone else "the topic was cut or made anew"
        return StateError(
            f"{place}: group {self.group} goes on at offset {offset}, but the log holds {low} to {high}: {what}; "
            f"{self._lost_input_remedy}"
        )


def _remedy(error: KafkaError) -> str:
    """librdkafka tells a fatal error under a code of its own, with the broker's reason in its text."""
    codes = (code for code in _ENDS_MEMBERSHIP if code == error.code() or KafkaError(code).str() in error.str())
    return _ENDS_MEMBERSHIP[min(codes, key=lambda code: code == KafkaError._FATAL, default=KafkaError._FATAL)]


def _places(offsets: Mapping[Place, int]) -> list[TopicPartition]:
    return [TopicPartition(*place, offset) for place, offset in offsets.items()]


def _named(partitions: Iterable[TopicPartition]) -> list[str]:
    return [f"{tp.topic}/{tp.partition}" for tp in partitions]
