"""Which fetches are acknowledged, and up to which offset a partition may therefore be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sep_stream.errors import StateError
from sep_stream.worker.batches import Batch, Fetched, Place


@dataclass(slots=True)
class Ledger:
    """An epoch's batches in fetch order, each as its fetch and next offset.

    committable: the offset below which all are acknowledged · committed: the one that the group has
    """

    epoch: int
    pending: deque[tuple[Fetched, int]] = field(default_factory=deque)
    committable: int | None = None
    committed: int | None = None
    expected_number: int = 0

    def add(self, fetched: Fetched, batch: Batch) -> None:
        """Raises StateError where a fetch is missing before this one."""
        if batch.number != self.expected_number:
            raise StateError(
                f"{batch.topic}/{batch.partition}: fetch {batch.number} of epoch {batch.epoch} arrived where "
                f"{self.expected_number} was due: records went missing between fetch and agent"
            )
        self.expected_number += 1
        self.advance()
        self.pending.append((fetched, batch.next_offset))

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

    def add(self, fetched: Fetched) -> None:
        """Note what a fetch returned. A batch of a new epoch begins a new ledger: what came before is not committed."""
        for batch in fetched.batches:
            ledger = self._ledgers.get(batch.place)
            if ledger is None or ledger.epoch != batch.epoch:
                ledger = self._ledgers[batch.place] = Ledger(batch.epoch)
            ledger.add(fetched, batch)

    def pending(self, places: Iterable[Place]) -> bool:
        """Is anything that was fetched of these partitions not acknowledged?"""
        return any(not fetched.acked for ledger in self.of(places).values() for fetched, _ in ledger.pending)

    def is_behind(self, place: Place, epoch: int, fetches: int) -> bool:
        """Has any of the epoch's fetches not arrived here, or not been acknowledged? Any thread may ask."""
        ledger = self._ledgers.get(place)
        if ledger is None or ledger.epoch != epoch:
            return fetches > 0
        return fetches > ledger.expected_number or not all(fetched.acked for fetched, _ in list(ledger.pending))

    def finished(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        """Epoch and next offset of the partitions of which all that was fetched is acknowledged."""
        ledgers = self.of(places).items()
        return {
            place: (ledger.epoch, offset)
            for place, ledger in ledgers
            if (offset := ledger.advance()) is not None and not ledger.pending
        }

    def to_commit(self, place: Place, epoch: int | None) -> int | None:
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
