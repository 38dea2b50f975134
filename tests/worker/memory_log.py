"""Stand-ins, in memory, for the broker's side of recovery: a producer whose reports are held back, a group, a log."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.worker import outbox, states
from sep_stream.worker.batches import Batch, Fetched
from sep_stream.worker.ledger import Ledgers
from sep_stream.worker.outbox import Outbox, Outgoing
from sep_stream.worker.stage import BatchAgent, Stage
from sep_stream.worker.states import SNAPSHOT_INTERVAL_S

INPUT, STATE = "events", "state"
LOOP_TURNS = 100
"""Turns of the event loop after which all that can go on has gone on: a batch in flight takes about five."""
RECORDS_MAX = 1_000
PLAY_S_MAX = 30.0
STRETCH_RECORDS = 3
"""Read at once: so few that a recovery reads several times."""


def played[T](play: Coroutine[Any, Any, T]) -> T:
    """What a test does on an event loop of its own, in bounded time: a report may never come."""

    async def bounded() -> T:
        async with asyncio.timeout(PLAY_S_MAX):
            return await play

    return asyncio.run(bounded())


async def all_goes_on() -> None:
    """Let each task run until it waits for something that only the test gives."""
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


class NoLog:
    """In place of a module's log: hundreds of recoveries would be hundreds of lines."""

    def info(self, *_: Any, **__: Any) -> None:
        pass


@contextmanager
def in_one_thread(snapshot_interval_s: float = SNAPSHOT_INTERVAL_S) -> Iterator[None]:
    """Recoveries run where they are asked for: the order of things is the test's alone, none of chance.

    snapshot_interval_s: 0 for a snapshot after each batch
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states.asyncio, "to_thread", at_once)
        patch.setattr(states, "SNAPSHOT_INTERVAL_S", snapshot_interval_s)
        patch.setattr(states, "log", NoLog())
        yield


async def at_once[T](function: Callable[..., T], *arguments: Any) -> T:
    """In place of `asyncio.to_thread`: threads would leave the order of things to chance."""
    return function(*arguments)


def records(
    partition: int,
    offsets: Iterable[int],
    topic: str = INPUT,
    values: Sequence[bytes] = (),
    keys: Sequence[bytes] = (),
) -> RecordBatch:
    """Records whose value is their offset, unless values are given."""
    return RecordBatch(
        [
            Message(
                topic=topic,
                partition=partition,
                offset=offset,
                key=keys[k] if keys else b"k",
                value=values[k] if values else b"%d" % offset,
                timestamp=(1, offset),
            )
            for k, offset in enumerate(offsets)
        ]
    )


def batch(
    offsets: Iterable[int], partition: int = 0, epoch: int = 1, number: int = 0, topic: str = INPUT, beyond: int = 1
) -> Batch:
    """A fetch of these offsets. beyond: how far the next fetch begins behind the last of them"""
    fetched = records(partition, offsets, topic)
    return Batch(topic, partition, fetched, int(fetched.offsets[-1]) + beyond, epoch, number)


@dataclass(slots=True)
class Sent:
    """A record that the producer has taken, until it is reported."""

    record: Outgoing
    on_report: Callable[[Any, Any], None]

    def report(self, error: KafkaError | None) -> None:
        r = self.record
        self.on_report(error, Message(topic=r.topic, partition=r.partition, key=r.key, value=r.value))


class HeldProducer:
    """Takes records as confluent-kafka's producer does; the broker has one only once a test says so.

    room: how many records it holds before it refuses more · on_poll: what happens when its reports are asked for
    """

    def __init__(self, room: int | None = None, on_poll: Callable[[], None] = lambda: None) -> None:
        self.config: dict[str, Any] = {}
        self.held: list[Sent] = []
        self.history: list[Outgoing] = []
        """All that was ever sent, in order."""
        self.on_send: Callable[[Outgoing], None] = lambda record: None
        self._room, self._on_poll = room, on_poll

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes,
        partition: int,
        *,
        on_delivery: Callable[[Any, Any], None],
        timestamp: int,
        headers: Any,
    ) -> None:
        if self._room is not None and len(self.held) >= self._room:
            raise BufferError
        record = Outgoing(topic, partition, key, value, timestamp, headers or None)
        self.on_send(record)
        self.history.append(record)
        self.held.append(Sent(record, on_delivery))

    def poll(self, timeout_s: float) -> int:
        self._on_poll()
        return 0

    def __len__(self) -> int:
        return len(self.held)

    def sent(self, topic: str) -> list[bytes]:
        """Values that were sent to a topic so far."""
        return [record.value for record in self.history if record.topic == topic]

    def report(self, which: Callable[[Outgoing], bool] = lambda record: True, error: KafkaError | None = None) -> None:
        """The broker has these records, or refuses them, in the order in which they were sent."""
        chosen = [sent for sent in self.held if which(sent.record)]
        self.held = [sent for sent in self.held if not which(sent.record)]
        for sent in chosen:
            sent.report(error)

    def report_topic(self, *topics: str, error: KafkaError | None = None) -> None:
        self.report(lambda record: record.topic in topics, error)

    def report_values(self, *values: bytes, error: KafkaError | None = None) -> None:
        self.report(lambda record: record.value in values, error)


def outbox_of(producer: HeldProducer) -> Outbox:
    def made(config: Mapping[str, Any]) -> HeldProducer:
        producer.config = dict(config)
        return producer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "Producer", made)
        return Outbox({})


@dataclass
class Group:
    """A consumer group's member: epochs of its partitions, acknowledged fetches, and what is committed."""

    committed: dict[int, int] = field(default_factory=dict)
    epochs: defaultdict[int, int] = field(default_factory=lambda: defaultdict(lambda: 1))
    acknowledged: list[Fetched] = field(default_factory=list)
    ledgers: Ledgers = field(default_factory=Ledgers)

    def is_current(self, batch: Batch) -> bool:
        return self.epochs[batch.partition] == batch.epoch

    def acknowledge(self, fetched: Fetched) -> None:
        fetched.acked = True
        self.acknowledged.append(fetched)

    def hand_over(self, batches: Sequence[Batch]) -> Fetched:
        fetched = Fetched(tuple(batches))
        self.ledgers.add(fetched)
        return fetched

    def commit(self) -> None:
        for place in list(self.ledgers):
            offset = self.ledgers.to_commit(place, self.epochs[place.partition])
            if offset is not None:
                for at, ledger in self.ledgers.of([place]).items():
                    ledger.committed = self.committed[at.partition] = offset


class AgentRun:
    """An agent at work on a stage, while a test plays what is fetched and what the broker reports."""

    def __init__(
        self,
        stage: Stage,
        group: Group | None = None,
        producer: HeldProducer | None = None,
        records_max: int = RECORDS_MAX,
    ) -> None:
        self.group = Group() if group is None else group
        self.producer = HeldProducer() if producer is None else producer  # an empty one is false
        self.failures: list[BaseException] = []
        self._fetched: asyncio.Queue[Fetched] = asyncio.Queue()
        agent = BatchAgent(self.group, stage, outbox_of(self.producer), self.failures.append, records_max)
        self.task = asyncio.create_task(agent.run(self))

    def noack(self) -> AgentRun:
        return self

    async def __aiter__(self) -> AsyncIterator[Fetched]:
        while True:
            yield await self._fetched.get()

    def hand_over(self, *batches: Batch) -> Fetched:
        """A fetch arrives."""
        fetched = self.group.hand_over(batches)
        self._fetched.put_nowait(fetched)
        return fetched

    async def fetch(self, *batches: Batch) -> Fetched:
        """A fetch arrives, and the agent does what it can about it."""
        fetched = self.hand_over(*batches)
        await all_goes_on()
        return fetched

    async def report(self, *values: bytes, error: KafkaError | None = None) -> None:
        self.producer.report_values(*values, error=error)
        await all_goes_on()


@dataclass
class MemoryLog:
    """What recovery reads: of each partition its records' offsets, its end, its snapshots and its committed offset."""

    offsets: dict[int, list[int]] = field(default_factory=dict)
    low: int = 0
    high: dict[int, int] = field(default_factory=dict)
    saved: defaultdict[int, list[bytes | None]] = field(default_factory=lambda: defaultdict(list))
    offset_committed: dict[int, int] = field(default_factory=dict)
    values: dict[tuple[int, int], bytes] = field(default_factory=dict)
    keys: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Values and keys by partition and offset, where they are no matter of the offset alone."""
    read: list[tuple[int, int, int]] = field(default_factory=list)
    """Partition, start and stop of each read."""

    def snapshots(self, partition: int) -> list[tuple[int, bytes | None]]:
        return list(enumerate(self.saved[partition]))

    def committed(self, partition: int) -> int | None:
        return self.offset_committed.get(partition)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self.low, self.high[partition]

    def records(self, partition: int, start: int, stop: int) -> Iterator[RecordBatch]:
        self.read.append((partition, start, stop))
        found = [offset for offset in self.offsets[partition] if start <= offset < stop]
        for k in range(0, len(found), STRETCH_RECORDS):
            yield self.stretch(partition, found[k : k + STRETCH_RECORDS])

    def stretch(self, partition: int, offsets: Sequence[int]) -> RecordBatch:
        places = [(partition, offset) for offset in offsets]
        values = [self.values.get(place, b"%d" % place[1]) for place in places]
        return records(partition, offsets, values=values, keys=[self.keys.get(place, b"k") for place in places])


class Seen:
    """A state that is nothing but the offsets it was fed."""

    def __init__(self, snapshot: bytes | None) -> None:
        self.offsets = [int(offset) for offset in (snapshot or b"").split()]

    def feed(self, batch: RecordBatch) -> None:
        self.offsets += map(int, batch.offsets)

    def snapshot(self) -> bytes:
        return b" ".join(b"%d" % offset for offset in self.offsets)
