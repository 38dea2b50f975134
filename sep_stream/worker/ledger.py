"""Which fetches are acknowledged, and up to which offset a partition may therefore be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sep_stream.errors import StateError
from sep_stream.worker.fetcher import Batch

Place = tuple[str, int]
"""Topic and partition."""


class Acknowledgeable(Protocol):
    """What a fetch was handed over as. acked: the broker has all that came of it"""

    acked: bool


@dataclass(slots=True)
class Ledger:
    """An epoch's batches in fetch order, each as its message and next offset.

    committable: the offset below which all are acknowledged · committed: the one that the group has
    """

    epoch: int
    pending: deque[tuple[Acknowledgeable, int]] = field(default_factory=deque)
    committable: int | None = None
    committed: int | None = None
    expected_number: int = 0

    def add(self, message: Acknowledgeable, batch: Batch) -> None:
        """Raises StateError where a fetch is missing before this one."""
        if batch.number != self.expected_number:
            raise StateError(
                f"{batch.topic}/{batch.partition}: fetch {batch.number} of epoch {batch.epoch} arrived where "
                f"{self.expected_number} was due: records went missing between fetch and agent"
            )
        self.expected_number += 1
        self.advance()
        self.pending.append((message, batch.next_offset))

    def advance(self) -> int | None:
        while self.pending and self.pending[0][0].acked:
            _, self.committable = self.pending.popleft()
        return self.committable


class Ledgers:
    """A ledger for each partition that was fetched from. Iterates over the partitions."""

    def __init__(self) -> None:
        self._ledgers: dict[Place, Ledger] = {}

    def __iter__(self) -> Iterator[Place]:
        return iter(self._ledgers)

    def add(self, message: Acknowledgeable, batches: Sequence[Batch]) -> None:
        """Note what a fetch returned. A batch of a new epoch begins a new ledger: what came before is not committed."""
        for batch in batches:
            place = (batch.topic, batch.partition)
            ledger = self._ledgers.get(place)
            if ledger is None or ledger.epoch != batch.epoch:
                ledger = self._ledgers[place] = Ledger(batch.epoch)
            ledger.add(message, batch)

    def to_commit(self, place: Place, epoch: int) -> int | None:
        """The offset to commit; None where the group has it, or where no batch of the present epoch is acknowledged."""
        ledger = self._ledgers.get(place)
        if ledger is None or ledger.epoch != epoch:
            return None
        offset = ledger.advance()
        return None if offset == ledger.committed else offset

    def of(self, places: Iterable[Place]) -> dict[Place, Ledger]:
        """The ledgers of those places that have one now: a commit is noted there, whatever begins meanwhile."""
        return {place: self._ledgers[place] for place in places if place in self._ledgers}

    def drop(self, places: Iterable[Place]) -> None:
        """Forget partitions that are others' now: nothing acknowledged late is committed."""
        for place in places:
            self._ledgers.pop(place, None)
