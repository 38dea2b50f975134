"""What one fetch returned, by partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sep_stream.runtime.log_reader import RecordBatch


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, in offset order, as one fetch returned them.

    epoch: grows with each assignment of the partition · number: counts the fetches of the epoch from 0
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

    @property
    def place(self) -> Place:
        return Place(self.topic, self.partition)

    def starting_at(self, offset: int) -> Batch:
        """The batch without the records below `offset`."""
        kept = self.records.since(offset)
        return Batch(self.topic, self.partition, kept, self.next_offset, self.epoch, self.number)


@dataclass(slots=True, eq=False)
class Fetched:
    """A batch of each partition that had records. acked: the broker has all that came of it"""

    batches: tuple[Batch, ...]
    acked: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.batches))
