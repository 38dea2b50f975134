"""The state of a stage: one for each partition of its input, made anew at every epoch, saved in a compacted topic."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from sep_stream.errors import StateError
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.worker.batches import Batch, Place
from sep_stream.worker.failpoints import reach
from sep_stream.worker.outbox import MESSAGE_BYTES_MAX, RECORD_ROOM_BYTES, Outgoing
from sep_stream.worker.snapshots import Snapshot, SnapshotFormat, resume_offset

SNAPSHOT_INTERVAL_S: Final = 1.0
SNAPSHOT_BYTES_MAX: Final = MESSAGE_BYTES_MAX - RECORD_ROOM_BYTES

log = structlog.get_logger(__name__)


class Saved(Protocol):
    def snapshot(self) -> bytes:
        """All of the state as bytes."""


class InputLog(Protocol):
    """What recovery needs of the log."""

    def snapshots(self, partition: int) -> list[tuple[int, bytes | None]]:
        """(offset, value) of the partition's snapshot records, in log order."""

    def committed(self, partition: int) -> int | None:
        """The group's committed offset, None where it has none."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """The partition's first and next offset."""

    def records(self, partition: int, start: int, stop: int) -> Iterator[RecordBatch]:
        """The records in [start, stop), in stretches of bounded size."""


@dataclass(frozen=True, slots=True)
class StateKind[S: Saved]:
    """What a stage keeps. make: anew, or from a snapshot's bytes · feed: it with the records of a partition, whose
    outputs have been made before · remedy: for a state too large to be saved"""

    format: SnapshotFormat
    make: Callable[[bytes | None], S]
    feed: Callable[[S, int, RecordBatch], None]
    remedy: str


@dataclass(slots=True)
class _Partition[S: Saved]:
    """next_offset: first offset not fed · resume: first whose outputs are still to be made · saved: next offset of the
    newest snapshot; -1 without one."""

    epoch: int
    state: S
    next_offset: int
    resume: int
    snapshot_due_s: float
    saved: int
    told_large: bool = False


class States[S: Saved]:
    """The states of the partitions that this process has.

    topics: of the input and of the snapshots · rebuild: don't trust what snapshots a partition has at first
    """

    def __init__(
        self,
        kind: StateKind[S],
        topics: tuple[str, str],
        input_log: InputLog,
        is_current: Callable[[Batch], bool],
        rebuild: bool = False,
    ) -> None:
        self._kind, self._log, self._is_current = kind, input_log, is_current
        self._topic, self._state_topic = topics
        self._partitions: dict[int, _Partition[S]] = {}
        self._rebuild, self._rebuilt = rebuild, set[int]()

    def __getitem__(self, partition: int) -> S:
        return self._partitions[partition].state

    async def unseen(self, batches: Sequence[Batch]) -> dict[int, list[Batch]]:
        """By partition, what of the batches is still to be fed to its state, which is made ready for it first."""
        await self._recover_for(batches)
        unseen: dict[int, list[Batch]] = defaultdict(list)
        for batch in batches:
            if self._is_current(batch) and len(rest := self._unseen(batch)):
                unseen[batch.partition].append(rest)
        return unseen

    async def _recover_for(self, batches: Sequence[Batch]) -> None:
        """The states of partitions that are new to this process or have been elsewhere, at the same time."""
        new = {
            batch.partition: batch
            for batch in batches
            if batch.partition not in self._partitions or self._partitions[batch.partition].epoch != batch.epoch
        }
        if new:
            states = await asyncio.gather(
                *(asyncio.to_thread(self._recover, b.partition, b.epoch) for b in new.values())
            )
            self._partitions.update(zip(new, states, strict=True))

    def _unseen(self, batch: Batch) -> Batch:
        state = self._partitions[batch.partition]
        if int(batch.records.offsets[0]) < state.resume:
            batch = batch.starting_at(state.resume)
        if len(batch) and (first := int(batch.records.offsets[0])) < state.next_offset:
            raise StateError(
                f"{batch.topic}/{batch.partition}: a fetch begins at offset {first}, "
                f"but the state has seen all below {state.next_offset}"
            )
        state.next_offset = max(state.next_offset, batch.next_offset)
        return batch

    def _recover(self, partition: int, epoch: int) -> _Partition[S]:
        """The state as of the first offset whose outputs still have to be made."""
        kind, snapshot = self._kind, None
        reach(f"{kind.format.stage}.recovery")
        anew = self._rebuild and partition not in self._rebuilt
        if not anew:
            snapshot = kind.format.newest(self._log.snapshots(partition), self._state_topic, partition)
        low, high = self._log.bounds(partition)
        committed = self._log.committed(partition)
        start, resume = resume_offset(f"{self._topic}/{partition}", snapshot, committed, low, high)
        state = kind.make(snapshot.state if snapshot else None)
        reread = 0
        for batch in self._log.records(partition, start, resume):
            reread += len(batch)
            kind.feed(state, partition, batch)
        log.info("state recovered", stage=kind.format.stage, partition=partition, snapshot=start, resume=resume,
                 reread=reread)  # fmt: skip
        self._rebuilt.add(partition)
        due_s = time.monotonic() + (0 if anew else SNAPSHOT_INTERVAL_S)
        return _Partition(epoch, state, resume, resume, due_s, snapshot.next_offset if snapshot else -1)

    def snapshots(self, partitions: Iterable[int]) -> list[Outgoing]:
        """Records for the state topic of those partitions that were fed and whose last snapshot is old enough."""
        due = (self._snapshot_if_due(partition) for partition in partitions)
        return [snapshot for snapshot in due if snapshot]

    def _snapshot_if_due(self, partition: int) -> Outgoing | None:
        kept = self._partitions[partition]
        now_s = time.monotonic()
        if now_s < kept.snapshot_due_s:
            return None
        kept.snapshot_due_s = now_s + SNAPSHOT_INTERVAL_S
        return self._snapshot(partition, kept)

    def last_snapshots(self, handled: Mapping[Place, tuple[int, int]]) -> list[Outgoing]:
        """Records for the state topic of partitions that are given up, where the newest snapshot lacks something.

        handled: by partition the present epoch, and the offset below which all outputs are acknowledged. A state of
        another epoch or beyond that offset is left out.
        """
        found = []
        for place, (epoch, offset) in handled.items():
            kept = self._partitions.get(place.partition)
            if kept is None or kept.epoch != epoch or not kept.saved < kept.next_offset <= max(offset, kept.resume):
                continue
            snapshot = self._snapshot(place.partition, kept)
            if snapshot is not None:
                found.append(snapshot)
        return found

    def _snapshot(self, partition: int, kept: _Partition[S]) -> Outgoing | None:
        value = self._kind.format.encode(partition, Snapshot(kept.next_offset, kept.state.snapshot()))
        if len(value) > SNAPSHOT_BYTES_MAX:
            self._tell_large(kept, partition, len(value))
            return None
        kept.saved = kept.next_offset
        return Outgoing(self._state_topic, partition, str(partition).encode(), value)

    def _tell_large(self, kept: _Partition[S], partition: int, size: int) -> None:
        """A state too large for its topic costs time at the next start, no more: it is told, and the work goes on."""
        if not kept.told_large:
            kept.told_large = True
            log.error(
                "state too large for a snapshot; a restart reads on from the last one that fitted",
                topic=self._state_topic, partition=partition, bytes=size, bytes_max=SNAPSHOT_BYTES_MAX,
                remedy=self._kind.remedy,
            )  # fmt: skip
