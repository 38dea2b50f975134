"""`Span`: which part of a topic is meant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sep_stream.errors import InputError
from sep_stream.runtime.log_reader import LogReader

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a topic, the same bounds for each partition. None is no bound: what is there is meant.

    start_ms, stop_ms: epoch milliseconds; start <= timestamp < stop, wherever in the log such records lie
    start_offset, stop_offset: start <= offset < stop
    """

    start_ms: int | None = None
    stop_ms: int | None = None
    start_offset: int | None = None
    stop_offset: int | None = None

    @property
    def empty(self) -> bool:
        """Can nothing lie in it, whatever the topic holds?"""
        return _not_before(self.start_ms, self.stop_ms) or _not_before(self.start_offset, self.stop_offset)

    @property
    def timed(self) -> bool:
        """Does it ask for times?"""
        return self.start_ms is not None or self.stop_ms is not None

    def holds_time(self, time_ms: int) -> bool:
        return (self.start_ms is None or time_ms >= self.start_ms) and (self.stop_ms is None or time_ms < self.stop_ms)

    def offsets(self, reader: LogReader, topic: str, partition: int) -> tuple[int, int]:
        """The stretch [start, stop) of a partition, as it stands, outside which none of its records are.

        A start time is found exactly: all records before `start` are older. A stop time bounds no stretch: records
        older than it can come as long as the log goes on.

        Raises InputError where the span begins before what is left of a partition whose beginning is deleted. With a
        start time alone that is so unless a record older than it is left. (This is no proof: an instrument that was
        published wholly before another may be deleted all the same.)
        """
        low, high = reader.watermarks(topic, partition)
        stop = high if self.stop_offset is None else min(high, self.stop_offset)
        start = low
        if self.start_offset is not None:
            if self.start_offset < low:
                raise _cut(topic, partition, f"offset {self.start_offset}", low, high)
            start = self.start_offset
        if self.start_ms is not None:
            found = reader.offset_for_time(topic, partition, self.start_ms)
            if low > 0 and found <= low and self.start_offset is None:
                time = (_EPOCH + timedelta(milliseconds=self.start_ms)).isoformat().replace("+00:00", "Z")
                raise _cut(topic, partition, time, low, high)
            start = max(start, found)
        return min(start, high), stop


def _cut(topic: str, partition: int, start: str, low: int, high: int) -> InputError:
    left = f"what is left begins at offset {low}" if high > low else f"nothing is left, the next offset is {low}"
    return InputError(
        f"{topic}/{partition}: records from {start} on are asked for, but the log's beginning is deleted: {left}; "
        "ask for a later start, or for none to take what is left"
    )


def _not_before(start: int | None, stop: int | None) -> bool:
    return start is not None and stop is not None and start >= stop
