"""`EventLog`: the events of market.events, decoded in bulk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from sep_stream.market.avro import Schemas, load_schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology

_US_PER_MS: Final = 1_000


class EventLog:
    """Reads market.events, or another topic of its records, as it stands when a read begins.

    Raises what LogReader raises.
    """

    def __init__(
        self, settings: Settings, topology: Topology, schemas: Schemas | None = None, topic: str = "market.events"
    ) -> None:
        self._settings, self._instruments = settings, topology.instruments
        self._topic = settings.topic(topic)
        self._codec = BulkCodec(*(schemas or load_schemas(resource("schemas") / "avro")).of("market_event"))
        self._reader = LogReader(settings)

    def batches(
        self, instrument: str | None = None, start_ms: int | None = None, stop_ms: int | None = None
    ) -> Iterator[EventBatch]:
        """The events, partition after partition, each in log order, in batches of bounded size.

        instrument: symbol or alias; only its events · start_ms, stop_ms: start <= event time < stop, epoch
        milliseconds, late events included. Without any of these, records that are no event come too, with their reason.
        """
        position = None if instrument is None else self._instruments.position(instrument)
        for partition in self._partitions(position):
            low, high = self._reader.watermarks(self._topic, partition)
            start = low if start_ms is None else self._reader.offset_for_time(self._topic, partition, start_ms)
            for batch in self.stretch(partition, start, high):
                chosen = _choose(batch, position, start_ms, stop_ms)
                if len(chosen):
                    yield chosen

    def stretch(self, partition: int, start: int, stop: int) -> Iterator[EventBatch]:
        """The records of a partition with start <= offset < stop, those that are no event with their reason."""
        for batch in self._reader.read(self._topic, partition, start, stop):
            yield decode_events(
                self._codec, self._instruments, batch.keys, batch.values, batch.offsets,
                partition, self._settings.partitions,
            )  # fmt: skip

    def _partitions(self, position: int | None) -> list[int]:
        if position is None:
            return self._reader.partitions(self._topic)
        return [partition_for(self._instruments[position].symbol.encode(), self._settings.partitions)]


def _choose(batch: EventBatch, position: int | None, start_ms: int | None, stop_ms: int | None) -> EventBatch:
    """The events asked for. An event's place says nothing of its time: instruments are published one after another."""
    if position is None and start_ms is None and stop_ms is None:
        return batch
    keep = batch.reason == Reason.OK
    if position is not None:
        keep &= batch.instrument == position
    if start_ms is not None:
        keep &= batch.event_time >= start_ms * _US_PER_MS
    if stop_ms is not None:
        keep &= batch.event_time < stop_ms * _US_PER_MS
    return batch.take(np.flatnonzero(keep))
