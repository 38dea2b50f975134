"""What recovery reads: snapshots, committed offsets and stretches of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sep_stream.runtime.log_reader import LogReader, RecordBatch
from sep_stream.runtime.settings import Settings


class KafkaInputLog:
    """A stage's input and state topics on the broker.

    patience_s: how long the broker may stay silent · on_read: called for each stretch of records that was read
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        state_topic: str,
        group: str,
        patience_s: float,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader, self._topic, self._state_topic = LogReader(settings, patience_s), topic, state_topic
        self._group, self._on_read = group, on_read

    def snapshots(self, partition: int) -> list[tuple[int, bytes | None]]:
        low, high = self._reader.watermarks(self._state_topic, partition)
        return [
            (int(offset), value)
            for batch in self._reader.read(self._state_topic, partition, low, high)
            for offset, value in zip(batch.offsets, batch.values, strict=True)
        ]

    def committed(self, partition: int) -> int | None:
        return self._reader.committed(self._group, self._topic, [partition]).get(partition)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self._reader.watermarks(self._topic, partition)

    def records(self, partition: int, start: int, stop: int) -> Iterator[RecordBatch]:
        for batch in self._reader.read(self._topic, partition, start, stop):
            self._on_read()
            yield batch
