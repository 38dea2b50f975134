"""Reads stretches of topics in bulk, by partition and offset, outside any consumer group."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, Message, TopicPartition

from sep_stream.errors import DependencyError, InputError, StateError
from sep_stream.runtime.asker import Asker, denial, is_denial
from sep_stream.runtime.kafka_config import librdkafka, resolve_brokers
from sep_stream.runtime.read_faults import ReadFault, faults_among, partition_end, raise_fatal
from sep_stream.runtime.roles import READER_GROUP
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.runtime.bulk_consumer import RecordColumns

BATCH_RECORDS_MAX: Final = 50_000
SILENCE_S_MAX: Final = 8.0
"""A read that brings nothing for this long before its end is an error."""
REQUEST_TIMEOUT_S: Final = 6.0
_POLL_S: Final = 0.25


class Record(NamedTuple):
    """A record as it lies in its topic. (A tuple: there are many.)"""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Stretch(Protocol):
    """Records of one partition in offset order."""

    @property
    def offsets(self) -> npt.NDArray[np.int64]: ...

    def before(self, stop: int) -> Self:
        """Those with an offset below `stop`."""

    def __len__(self) -> int: ...


class RecordBatch:
    """Records of one partition in offset order. offsets, timestamps_ms: (n,) int64 · keys, values: n long."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self.offsets = self._integers(map(Message.offset, messages))
        self.keys: list[bytes | None] = list(map(Message.key, messages))
        self.values: list[bytes | None] = list(map(Message.value, messages))

    @property
    def timestamps_ms(self) -> npt.NDArray[np.int64]:
        return self._integers(message.timestamp()[1] for message in self._messages)

    def before(self, stop: int) -> RecordBatch:
        """Those with an offset below `stop`."""
        return RecordBatch(self._messages[: int(np.searchsorted(self.offsets, stop))])

    def since(self, start: int) -> RecordBatch:
        """Those with an offset of at least `start`."""
        return RecordBatch(self._messages[int(np.searchsorted(self.offsets, start)) :])

    def records(self) -> Iterator[Record]:
        """Whole, one by one."""
        for m in self._messages:
            yield Record(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), tuple(m.headers() or ()))

    def _integers(self, numbers: Iterable[int]) -> npt.NDArray[np.int64]:
        return np.fromiter(numbers, np.int64, len(self._messages))

    def __len__(self) -> int:
        return len(self._messages)


class LogReader:
    """Bulk reads with read_committed isolation. Raises DependencyError when the broker does not answer in time and
    InputError for a topic that is not there.

    patience_s: how long the broker may stay silent; by default REQUEST_TIMEOUT_S, and in a read SILENCE_S_MAX
    """

    def __init__(self, settings: Settings, patience_s: float | None = None) -> None:
        self._settings, self._patience_s = settings, patience_s
        self._reader_group = settings.prefix + READER_GROUP
        self._askers: dict[str, Asker] = {}

    def partitions(self, topic: str) -> list[int]:
        about = f"topic {topic!r}"
        found = self._ask(lambda consumer, left_s: consumer.list_topics(topic, left_s), about).topics[topic]
        if found.error is not None:
            if is_denial(found.error):
                raise DependencyError(denial(self._settings, about))
            raise InputError(f"{about}: {found.error.str()}; `sep-stream topics create` makes the topics")
        return sorted(found.partitions)

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """The partition's first offset and the one that the next record will get."""
        tp = TopicPartition(topic, partition)
        low, high = self._ask(
            lambda consumer, left_s: consumer.get_watermark_offsets(tp, left_s, cached=False), f"topic {topic!r}"
        )
        return int(low), int(high)

    def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        """Offset of the first record with that timestamp or a later one; the end if there is none."""
        at = TopicPartition(topic, partition, time_ms)
        [found] = self._ask(lambda consumer, left_s: consumer.offsets_for_times([at], left_s), f"topic {topic!r}")
        return int(found.offset) if found.offset >= 0 else self.watermarks(topic, partition)[1]

    def committed(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The group's committed offsets by partition; partitions without one are left out."""
        tps = [TopicPartition(topic, p) for p in partitions]
        about = f"consumer group {group!r}"
        found = self._ask(lambda consumer, left_s: consumer.committed(tps, left_s), about, group)
        return {tp.partition: tp.offset for tp in found if tp.offset != OFFSET_INVALID}

    def _ask(self, request: Callable[[Consumer, float], Any], about: str, group: str | None = None) -> Any:
        """The answer to a request, which takes a timeout."""
        group = group or self._reader_group
        if group not in self._askers:
            self._askers[group] = Asker(self._settings, Consumer, **self._config(**{"group.id": group}))
        asker = self._askers[group]
        try:
            patience_s = self._patience_s or REQUEST_TIMEOUT_S
            return asker.ask(lambda left_s: request(asker.client, left_s), patience_s, about)
        except KafkaException as error:
            raise self._unavailable(error) from error

    def read(
        self, topic: str, partition: int, start: int, stop: int, records_max: int | None = None
    ) -> Iterator[RecordBatch]:
        """The records with start <= offset < stop, in batches of bounded size.

        records_max: of a batch, and about as many read ahead; for readers of many partitions at once

        Offsets without a record (compacted, or a transaction's marker) are passed over: the end is told by position,
        not by count. Raises StateError where the log ends before `stop`, InputError for a `start` outside it, and
        DependencyError when the broker falls silent.
        """
        if start >= stop:
            return
        records_max = records_max or BATCH_RECORDS_MAX
        try:
            with closing(self._consumer(**{"queued.min.messages": records_max})) as consumer:
                consumer.assign([TopicPartition(topic, partition, start)])
                yield from self._until(lambda: _parted(_fetch(consumer, records_max)), topic, partition, start, stop)
        except KafkaException as error:
            raise self._unavailable(error) from error

    def columns(self, topic: str, partition: int, start: int, stop: int) -> Generator[RecordColumns]:
        """As `read`, of millions: offsets, keys and values alone."""
        from sep_stream.runtime.bulk_consumer import BulkConsumer

        if start >= stop:
            return
        config = librdkafka(self._settings, **self._config())
        try:
            with closing(BulkConsumer(config, topic, partition, start, BATCH_RECORDS_MAX)) as consumer:
                yield from self._until(lambda: consumer.fetch(_POLL_S), topic, partition, start, stop)
        except KafkaException as error:
            raise self._unavailable(error) from error

    def follow(self, topic: str, starts: Mapping[int, int]) -> LogFollower:
        """Follow a topic from these offsets by partition; close it when done."""
        consumer = self._consumer(**{"enable.partition.eof": False})
        consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
        return LogFollower(consumer, self._settings)

    def _until[S: Stretch](
        self, fetch: Callable[[], tuple[S, list[ReadFault]]], topic: str, partition: int, position: int, stop: int
    ) -> Iterator[S]:
        # Only waiting counts: a process that compiles, or gets no CPU, must not take that for the broker's silence.
        waited_s, patience_s = 0.0, self._patience_s or SILENCE_S_MAX
        while True:
            fetched, faults = fetch()
            if len(fetched):
                position = int(fetched.offsets[-1]) + 1
                wanted = fetched if position <= stop else fetched.before(stop)
                if len(wanted):
                    yield wanted
                if position >= stop:
                    return
            end = partition_end(faults)
            if end is not None:
                if end < stop:
                    raise StateError(f"{topic}/{partition}: the log ends at offset {end}, expected it up to {stop}")
                return
            raise_fatal(faults, self._settings)
            if len(fetched) or faults:
                waited_s = 0.0
            elif (waited_s := waited_s + _POLL_S) > patience_s:
                raise DependencyError(
                    f"{topic}/{partition}: nothing arrived for {patience_s:.0f} s at offset {position}, "
                    f"before {stop}; is the broker at {self._address()} up?"
                )

    def _consumer(self, **extra: Any) -> Consumer:
        return Consumer(librdkafka(self._settings, **self._config(**extra)))

    def _config(self, **extra: Any) -> dict[str, Any]:
        return {
            "group.id": self._reader_group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": 50_000,
            **extra,
        }

    def _address(self) -> str:
        return resolve_brokers(self._settings)

    def _unavailable(self, error: KafkaException) -> DependencyError:
        return DependencyError(
            f"the broker at {self._address()} does not answer: {error.args[0].str()}; "
            "check that it runs (`sep-stream status`, `sep-stream up`) and that --brokers names it"
        )


class LogFollower:
    """Records of a topic as they come, in order within each partition."""

    def __init__(self, consumer: Consumer, settings: Settings) -> None:
        self._consumer, self._settings = consumer, settings

    def poll(self, timeout_s: float) -> list[Message]:
        """What has come, waiting at most this long for the first. Raises InputError for an offset that is gone, and
        DependencyError where the topic may not be read."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(BATCH_RECORDS_MAX - 1, 0)]
        raise_fatal(faults_among(messages), self._settings)
        return [message for message in messages if message.error() is None]

    def close(self) -> None:
        self._consumer.close()


def _fetch(consumer: Consumer, records_max: int) -> list[Message]:
    """What is there, without waiting for more once something is: `consume` alone waits its timeout out."""
    first = consumer.poll(_POLL_S)
    return [] if first is None else [first, *consumer.consume(records_max - 1, 0)]


def _parted(messages: Sequence[Message]) -> tuple[RecordBatch, list[ReadFault]]:
    faults = faults_among(messages)
    return RecordBatch([m for m in messages if m.error() is None] if faults else messages), faults
