"""Tells when the stages have handled all that their inputs held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sep_stream.errors import DependencyError
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings

STAGE_INPUT: Final = {"convert": "market.events", "metrics": "windows", "score": "metrics"}
CHECK_INTERVAL_S: Final = 0.25


class CaughtUp:
    """Committed offsets against the ends of the inputs: `market.events` as of the start, then each later stage's
    input as of when the stage before it is done."""

    def __init__(self, settings: Settings, stages: Sequence[str], names: Mapping[str, str]) -> None:
        self._reader = LogReader(settings)
        self._inputs = {stage: names[STAGE_INPUT[stage]] for stage in stages}
        self._group = {stage: settings.prefix + stage for stage in stages}
        self._left = list(stages)
        self._start: dict[int, tuple[int, int]] | None = None
        self._seen: dict[tuple[str, int], int] = {}

    def mark_start(self) -> None:
        self._start = self._bounds(self._left[0])

    def _bounds(self, stage: str) -> dict[int, tuple[int, int]]:
        """First offset and end of the stage's input by partition; empty partitions are left out."""
        topic = self._inputs[stage]
        bounds = {p: self._reader.watermarks(topic, p) for p in self._reader.partitions(topic)}
        return {p: (low, high) for p, (low, high) in bounds.items() if high > low}

    def steps(self) -> Iterator[bool]:
        """Looks once an item: True where a stage was found to be done. Ends when all are; after an error a new call
        goes on with the stage that was looked at."""
        while self._left:
            stage = self._left[0]
            bounds = self._bounds(stage) if self._start is None else self._start
            while not self._reached(stage, bounds):
                yield False
            self._left.pop(0)
            self._start = None
            yield True

    async def wait(self) -> None:
        """Returns once all stages are done. A broker that is away is asked again: how long it may be, others watch."""
        while self._left:
            with contextlib.suppress(DependencyError):
                steps = self.steps()
                while (reached := await asyncio.to_thread(next, steps, None)) is not None:
                    if not reached:
                        await asyncio.sleep(CHECK_INTERVAL_S)

    def _reached(self, stage: str, bounds: Mapping[int, tuple[int, int]]) -> bool:
        topic = self._inputs[stage]
        committed = self._reader.committed(self._group[stage], topic, list(bounds))
        return all(
            self._nothing_left(topic, p, max(low, committed.get(p) or 0), end) for p, (low, end) in bounds.items()
        )

    def _nothing_left(self, topic: str, partition: int, committed: int, end: int) -> bool:
        """Below the end but with no record left to read: the rest are markers of transactions, aborted records, or
        compacted away. The log is asked only where the offset stands still."""
        if committed >= end:
            return True
        moved = self._seen.get((topic, partition)) != committed
        self._seen[topic, partition] = committed
        return not moved and not any(map(len, self._reader.read(topic, partition, committed, end)))
