"""The whole protocol on a log in memory: in any order of fetches, reports, commits, rebalances and crashes nothing is
lost, and no snapshot or commit runs ahead of the outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import DependencyError
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.worker.batches import Batch
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.snapshots import SnapshotFormat
from sep_stream.worker.stage import Processed
from sep_stream.worker.states import StateKind, States
from tests.worker.harness import SCHEMAS
from tests.worker.memory_log import (
    INPUT,
    STATE,
    AgentRun,
    Group,
    HeldProducer,
    MemoryLog,
    all_goes_on,
    batch,
    in_one_thread,
    played,
)

OFFSETS = {0: [0, 1, 2, 5, 6, 7, 8, 9], 1: [0, 3, 4, 5]}
"""Of the input, by partition. Offsets without a record are in between, as after compaction."""
END = {partition: offsets[-1] + 1 for partition, offsets in OFFSETS.items()}
FORMAT = SnapshotFormat(SCHEMAS, "chain", 1, "{}")
REFUSED = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
Step = tuple[str, int, int]


@pytest.fixture(autouse=True, scope="module")
def a_snapshot_after_each_batch() -> Iterator[None]:
    with in_one_thread(0.0):
        yield


def linked(link: int, offset: int) -> int:
    """The link after this one: it depends on each record before it, and on their order."""
    return (31 * link + offset + 1) % 2**31


LINKS = {
    partition: dict(zip(offsets, list(accumulate(offsets, linked, initial=7))[1:], strict=True))
    for partition, offsets in OFFSETS.items()
}
"""What the output of each record is, whenever it is made."""


class Chain:
    """A state that shows whether a record was left out, repeated or taken out of order."""

    def __init__(self, snapshot: bytes | None) -> None:
        self.link = int(snapshot or b"7")

    def feed(self, records: RecordBatch) -> list[tuple[int, int]]:
        offsets = records.offsets.tolist()
        links = list(accumulate(offsets, linked, initial=self.link))
        self.link = links[-1]
        return list(zip(offsets, links[1:], strict=True))

    def snapshot(self) -> bytes:
        return b"%d" % self.link


def feed_again(chain: Chain, partition: int, records: RecordBatch) -> None:
    chain.feed(records)


class ChainStage:
    """Gives the link of each record, in two topics by turns."""

    name = "chain"
    topics = (INPUT,)

    def __init__(self, log: MemoryLog, group: Group) -> None:
        self._states = States(StateKind(FORMAT, Chain, feed_again, "none"), (INPUT, STATE), log, group.is_current)

    async def process(self, batches: Sequence[Batch]) -> Processed:
        unseen = await self._states.unseen(batches)
        outputs = [
            Outgoing(f"out{offset % 2}", partition, b"k", b"%d %d" % (offset, link))
            for partition, parts in unseen.items()
            for part in parts
            for offset, link in self._states[partition].feed(part.records)
        ]
        return Processed(outputs, self._states.snapshots(unseen))


class World:
    """A broker, and one worker after the other on it."""

    def __init__(self) -> None:
        self.log = MemoryLog(dict(OFFSETS), high=dict(END))
        self.outputs = defaultdict[int, set[int]](set)
        """Offsets whose outputs the broker has."""
        self.late: list[Outgoing] = []
        """Snapshots of workers that are gone, still on their way."""
        self.start()

    def start(self) -> None:
        """A new worker, where the group stands."""
        self.group = Group(committed=self.log.offset_committed)
        self.producer = HeldProducer()
        self.producer.on_send = self.check_snapshot
        self.run = AgentRun(ChainStage(self.log, self.group), self.group, self.producer)
        self.position = {partition: self.log.committed(partition) or 0 for partition in OFFSETS}
        self.number = dict.fromkeys(OFFSETS, 0)

    def stop(self) -> None:
        self.run.task.cancel()
        self.producer.held.clear()

    # what can happen

    async def fetch(self, partition: int, count: int) -> None:
        await self.fetch_of([partition % len(OFFSETS)], 1 + count % 3)

    async def fetch_all(self, _: int, count: int) -> None:
        await self.fetch_of(list(OFFSETS), 1 + count % 3)

    async def fetch_of(self, partitions: Sequence[int], count: int) -> None:
        batches = []
        for p in partitions:
            found = [offset for offset in OFFSETS[p] if offset >= self.position[p]][:count]
            if found:
                batches.append(batch(found, p, self.group.epochs[p], self.number[p]))
                self.position[p] = batches[-1].next_offset
                self.number[p] += 1
        if batches:
            await self.run.fetch(*batches)

    async def report(self, queue: int, count: int) -> None:
        """The broker has the first records of one partition of one topic."""
        for _ in range(1 + count % 3):
            waiting = self.queues()
            if waiting:
                topic, partition = waiting[queue % len(waiting)]
                sent = next(s for s in self.producer.held if s.record[:2] == (topic, partition))
                self.producer.held.remove(sent)
                self.write(sent.record)
                sent.report(None)
        await all_goes_on()

    def queues(self) -> list[tuple[str, int]]:
        return sorted({sent.record[:2] for sent in self.producer.held})

    async def commit(self, *_: int) -> None:
        self.group.commit()

    async def rebalance(self, partition: int, _: int) -> None:
        p = partition % len(OFFSETS)
        self.group.epochs[p] += 1
        self.position[p], self.number[p] = self.log.committed(p) or 0, 0

    async def crash(self, choice: int, count: int) -> None:
        """Of what was on its way the broker may have some, in the order of each partition."""
        for k, (topic, partition) in enumerate(self.queues()):
            waiting = [s.record for s in self.producer.held if s.record[:2] == (topic, partition)]
            written = (choice + k * count) % (len(waiting) + 1)
            for record in waiting[:written]:
                self.write(record)
            if topic == STATE:
                self.late += waiting[written:]
        self.stop()
        self.start()

    async def refuse(self, queue: int, _: int) -> None:
        """An idempotent producer fails all that follows a record that failed."""
        waiting = self.queues()
        if waiting:
            chosen = waiting[queue % len(waiting)]
            self.producer.report(lambda record: record[:2] == chosen, REFUSED)
            await all_goes_on()
            assert {type(failure) for failure in self.run.failures} == {DependencyError}
            self.stop()
            self.start()

    async def write_late(self, which: int, _: int) -> None:
        """A snapshot of a worker that is gone arrives behind newer ones."""
        if self.late:
            self.write(self.late.pop(which % len(self.late)))

    async def compact(self, partition: int, _: int) -> None:
        saved = self.log.saved[partition % len(OFFSETS)]
        saved[:-1] = [None] * len(saved[:-1])

    # what must always hold

    def write(self, record: Outgoing) -> None:
        if record.topic == STATE:
            self.log.saved[record.partition].append(record.value)
            return
        offset, link = map(int, record.value.split())
        assert link == LINKS[record.partition][offset], "an output differs from that of an undisturbed run"
        self.outputs[record.partition].add(offset)

    def check_snapshot(self, record: Outgoing) -> None:
        if record.topic == STATE:
            snapshot = FORMAT.newest([(0, record.value)], "sent", record.partition)
            assert snapshot is not None
            self.check_outputs_below(snapshot.next_offset, record.partition)
            links = LINKS[record.partition]
            last = max((offset for offset in links if offset < snapshot.next_offset), default=None)
            assert snapshot.state == b"%d" % (7 if last is None else links[last])

    def check_outputs_below(self, stop: int, partition: int) -> None:
        assert self.outputs[partition] >= {offset for offset in OFFSETS[partition] if offset < stop}

    def check(self) -> None:
        assert self.run.failures == []
        for partition, offset in self.log.offset_committed.items():
            self.check_outputs_below(offset, partition)

    async def finish(self) -> None:
        """All is fetched, reported and committed in the end."""
        await self.fetch_of(list(OFFSETS), 100)
        while self.producer.held:
            await self.report(0, 2)
        self.group.commit()
        self.check()
        assert self.outputs == {partition: set(offsets) for partition, offsets in OFFSETS.items()}
        assert self.log.offset_committed == END
        self.stop()


STEPS = ["fetch", "fetch", "fetch_all", "report", "report", "report", "commit", "rebalance", "crash", "refuse",
         "write_late", "compact"]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.integers(0, 5)), max_size=40))
def test_in_any_order_of_events_nothing_is_lost_and_nothing_runs_ahead(steps: Sequence[Step]) -> None:
    async def play() -> None:
        world = World()
        for name, a, b in steps:
            await getattr(world, name)(a, b)
            world.check()
        await world.finish()

    played(play())
