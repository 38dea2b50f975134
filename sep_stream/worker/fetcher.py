"""Fetches the records of chosen partitions through librdkafka, which does all but hand them over on its own threads."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from faust.types import TP

from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.runtime.read_faults import ReadFault, faults_among, raise_fatal
from sep_stream.runtime.settings import Settings

FETCH_WAIT_MS_MAX: Final = 500
"""How long the broker may hold a fetch that has nothing to return."""
QUEUED_KBYTES_MAX: Final = 16 * 1024
QUEUED_RECORDS_MIN: Final = 50_000
"""Of a partition: read ahead, while the stage is at work."""
WAIT_S_MAX: Final = 0.25
"""For a record: a rebalance waits so long for the wait's end."""
_UNKNOWN: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
"""A broker that comes back may not know its topics yet."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, in offset order, as one fetch returned them.

    epoch: grows with each assignment and seek of the partition · number: counts the fetches of the epoch from 0
    next_offset: where the fetch after this one begins, or later
    """

    topic: str
    partition: int
    records: RecordBatch
    next_offset: int
    epoch: int
    number: int

    def __len__(self) -> int:
        return len(self.records)

    def starting_at(self, offset: int) -> Batch:
        """The batch without the records below `offset`."""
        kept = self.records.since(offset)
        return Batch(self.topic, self.partition, kept, self.next_offset, self.epoch, self.number)


class Start(NamedTuple):
    """Where an epoch of a partition begins."""

    epoch: int
    offset: int


class OffsetGone(Exception):  # noqa: N818 - it is no error until somebody knows why
    """The log does not hold the offset at which a partition is to be read."""

    def __init__(self, partition: TP, offset: int) -> None:
        super().__init__(f"{partition.topic}/{partition.partition}: no offset {offset}")
        self.partition, self.offset = partition, offset


@dataclass(slots=True)
class _Place:
    """offset: of the next record to be handed over · fetches: of this epoch so far"""

    epoch: int
    offset: int
    fetches: int = 0


class Fetcher:
    """Reads on from where each partition was placed. To be used on one event loop, and closed.

    group: whose right to read is used; it is neither joined nor committed to · records_max: of a fetch
    """

    def __init__(self, settings: Settings, group: str, records_max: int) -> None:
        self._settings, self._records_max = settings, records_max
        self._consumer = Consumer(
            librdkafka(
                settings,
                **{
                    "group.id": group,
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "isolation.level": "read_committed",
                    "fetch.wait.max.ms": FETCH_WAIT_MS_MAX,
                    "fetch.queue.backoff.ms": 10,
                    "queued.min.messages": QUEUED_RECORDS_MIN,
                    "queued.max.messages.kbytes": QUEUED_KBYTES_MAX,
                },
            )
        )
        self._waiter = ThreadPoolExecutor(1, f"{group}-waits")
        self._waiting: asyncio.Future[list[Message]] | None = None
        self._places: dict[TP, _Place] = {}
        self.epochs: dict[TP, int] = {}
        """Of the partitions that are read."""

    async def place(self, starts: Mapping[TP, Start]) -> None:
        """Read these partitions from now on: from where the epoch begins, or on, where it has begun before."""
        if self._waiting is not None:  # what it brings was not handed over, and is read again
            await asyncio.wait({self._waiting})
            self._waiting = None
        for tp, start in starts.items():
            if tp not in self._places or self._places[tp].epoch != start.epoch:
                self._places[tp] = _Place(*start)
        self.epochs = {tp: start.epoch for tp, start in starts.items()}
        self._consumer.assign([TopicPartition(*tp, self._places[tp].offset) for tp in starts])

    async def fetch(self, timeout_s: float) -> list[Batch]:
        """What is there, waiting at most so long for the first of it. A call that is cancelled loses nothing.

        Raises OffsetGone, and DependencyError where a topic may not be read.
        """
        if self._waiting is None:
            messages = self._consumer.consume(self._records_max, 0)
            if messages:
                return self._batches(messages)
            wait = asyncio.get_running_loop().run_in_executor
            self._waiting = wait(self._waiter, self._consumer.consume, 1, min(timeout_s, WAIT_S_MAX))
        await asyncio.wait({self._waiting}, timeout=timeout_s)
        if not self._waiting.done():
            return []
        first, self._waiting = self._waiting.result(), None
        rest = self._consumer.consume(self._records_max - 1, 0) if first and self._records_max > 1 else []
        return self._batches(first + rest)

    def close(self) -> None:
        """Blocks for as long as the last wait."""
        self._waiter.shutdown()
        self._consumer.close()

    def _batches(self, messages: list[Message]) -> list[Batch]:
        faults = faults_among(messages)
        if faults:
            self._raise(faults)
        parts: dict[TP, list[Message]] = defaultdict(list)
        for message in messages:
            if message.error() is None:
                parts[TP(message.topic(), message.partition())].append(message)
        return [self._batch(tp, RecordBatch(part)) for tp, part in parts.items()]

    def _batch(self, tp: TP, records: RecordBatch) -> Batch:
        place = self._places[tp]
        place.offset, number = int(records.offsets[-1]) + 1, place.fetches
        place.fetches += 1
        return Batch(tp.topic, tp.partition, records, place.offset, place.epoch, number)

    def _raise(self, faults: list[ReadFault]) -> None:
        for fault in faults:
            if fault.error.code() == KafkaError._AUTO_OFFSET_RESET:
                tp = TP(str(fault.topic), fault.partition)
                raise OffsetGone(tp, self._places[tp].offset)
        raise_fatal((fault for fault in faults if fault.error.code() not in _UNKNOWN), self._settings)
