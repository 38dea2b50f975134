"""Requeued events back in their places: which those are, and the log with them there."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sep_stream.errors import InputError
from sep_stream.history.refused import REQUEUED_FROM, SOURCE, Place
from sep_stream.runtime.log_reader import Record

REQUEUED_MAX: Final = 200_000
"""Requeued events of a replay; they are held in memory."""


@dataclass(slots=True)
class Requeued:
    """What a log holds of requeued events, gathered in one pass over each partition.

    topic: its full name · keys: of the declared instruments; an event with another key is refused wherever it lies
    jump_ms: a time further ahead of its instrument's newest needs a second one
    by_partition: the requeued events · refused: partition and offset of the records that they were made from
    lone: partition and offset of the records whose time is a lone jump · last: by partition, the last offset taken in
    """

    topic: str
    keys: Collection[bytes]
    jump_ms: int
    by_partition: dict[int, list[Record]] = field(default_factory=dict)
    refused: set[tuple[int, int]] = field(default_factory=set)
    lone: set[tuple[int, int]] = field(default_factory=set)
    last: dict[int, int] = field(default_factory=dict)

    def gather(self, records: Iterable[Record]) -> None:
        """Take in the records of a partition, in log order. Raises InputError where too many are requeued."""
        newest_ms: dict[bytes, int] = {}
        ahead: dict[bytes, Record] = {}
        for record in records:
            self.last[record.partition] = record.offset
            if record.key is None or record.key not in self.keys:
                continue
            if is_requeued(record):
                self._take(record)
                continue
            newest = newest_ms.setdefault(record.key, record.timestamp_ms)
            before = ahead.pop(record.key, None)
            if record.timestamp_ms <= newest + self.jump_ms:
                newest_ms[record.key] = max(newest, record.timestamp_ms)
                self._alone(before)
            elif before is None:
                ahead[record.key] = record
            else:
                newest_ms[record.key] = max(before.timestamp_ms, record.timestamp_ms)
        for record in ahead.values():
            self._alone(record)

    def decided_by(self) -> tuple[object, ...]:
        """What the merged order depends on, beside the bounds: one event more can move others."""
        return self.jump_ms, sorted(key.decode() for key in self.keys), sorted(self.last.items())

    def merged_in(self, partition: int) -> list[Record]:
        """The requeued events of a partition but those that were refused once more and requeued again."""
        return [r for r in self.by_partition.get(partition, ()) if (r.partition, r.offset) not in self.refused]

    def _take(self, record: Record) -> None:
        self.by_partition.setdefault(record.partition, []).append(record)
        origin = Place.of_header(dict(record.headers).get(SOURCE))
        if origin is not None and origin.topic == self.topic:
            self.refused.add((origin.partition, origin.offset))
        if sum(map(len, self.by_partition.values())) > REQUEUED_MAX:
            raise InputError(
                f"{self.topic}: more than {REQUEUED_MAX:,} requeued events, which are held in memory; "
                "replay fewer instruments or a shorter time at once"
            )

    def _alone(self, record: Record | None) -> None:
        if record is not None:
            self.lone.add((record.partition, record.offset))


def is_requeued(record: Record) -> bool:
    return any(name == REQUEUED_FROM for name, _ in record.headers)


def merged(records: Iterable[Record], requeued: Requeued, partition: int) -> Iterator[Record]:
    """The records of a partition, each requeued event in its place and once.

    Its place is directly before the first record of its instrument with a later timestamp, lone jumps left aside; of
    several for one place the older comes first, then the one requeued first. Where none is later: at the end. The
    records that requeued events were made from, and these where they were appended, are left out.
    """
    waiting: dict[bytes | None, deque[Record]] = {}
    for record in sorted(requeued.merged_in(partition), key=_by_time):
        waiting.setdefault(record.key, deque()).append(record)
    for record in records:
        place = (record.partition, record.offset)
        if place in requeued.refused or (is_requeued(record) and record.key in requeued.keys):
            continue
        queue = waiting.get(record.key)
        if queue and place not in requeued.lone:
            while queue and queue[0].timestamp_ms < record.timestamp_ms:
                yield queue.popleft()
        yield record
    yield from sorted((record for queue in waiting.values() for record in queue), key=_by_time)


def _by_time(record: Record) -> tuple[int, int]:
    return record.timestamp_ms, record.offset
