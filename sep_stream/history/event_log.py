"""`EventLog`: the events of market.events, decoded in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from sep_stream.history.span import Span
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events
from sep_stream.market.events import EventBatch, Kind, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.ahead import ahead
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.stores.schemas import schemas_in_force

PASSED_EVENTS_MIN: Final = 100
"""So many events of an instrument in a row beyond a time, and not a few wrong timestamps, tell that it has passed."""
_US_PER_MS: Final = 1_000


class EventLog:
    """Reads market.events, or another topic of its records, as it stands when a read begins.

    Order holds within a partition, and so for the events of an instrument. Times are found by the records'
    timestamps, which are event times where producers keep to docs/producers.md.

    Raises what LogReader raises, and InputError for an unknown instrument and for a span that begins before what is
    left of a log whose beginning is deleted.
    """

    def __init__(
        self, settings: Settings, topology: Topology, schemas: Schemas | None = None, topic: str = "market.events"
    ) -> None:
        self._settings, self._instruments = settings, topology.instruments
        self._topic = settings.topic(topic)
        self._codec = BulkCodec(*(schemas or schemas_in_force(settings)).of("market_event"))
        self._reader = LogReader(settings)

    def batches(
        self,
        instrument: str | Iterable[str] | None = None,
        start_ms: int | None = None,
        stop_ms: int | None = None,
        late_ms_max: int | None = None,
    ) -> Iterator[EventBatch]:
        """The events, partition after partition, each in log order, in batches of bounded size.

        instrument: symbol or alias, or several; only their events, and only their partitions are read
        start_ms, stop_ms: start <= event time < stop, epoch milliseconds · late_ms_max: see `within`
        Without any of these, records that are no event come too, with their reason.
        """
        names = _names(instrument)
        for partition in self.partitions(names):
            yield from self.within(partition, Span(start_ms, stop_ms), names, late_ms_max)

    def partitions(self, instrument: str | Iterable[str] | None = None) -> list[int]:
        """Those in which these instruments' events lie; all of the topic where none is named."""
        positions = self._positions(instrument)
        if positions is None:
            return self._reader.partitions(self._topic)
        return sorted({self._home(position) for position in positions})

    def within(
        self,
        partition: int,
        span: Span,
        instrument: str | Iterable[str] | None = None,
        late_ms_max: int | None = None,
    ) -> Iterator[EventBatch]:
        """The events of a partition, in log order, in batches of bounded size. Where neither times nor instruments are
        asked for, records that are no event come too, with their reason.

        With a stop time the read goes on to the log's end, as events that come late, or instruments that were
        published one after another, can lie anywhere: none is missed. To end it earlier needs the caller's word:

        late_ms_max: no event of the span that matters comes more than this behind its instrument's newest. The read
        ends once each instrument named has shown PASSED_EVENTS_MIN events in a row at or after stop + late_ms_max.
        With 60,000 the bars until the stop are those of the whole log: the rules drop an event whose minute has closed.
        """
        positions = self._positions(instrument)
        start, stop = span.offsets(self._reader, self._topic, partition)
        passed = None
        if span.stop_ms is not None and late_ms_max is not None and positions is not None:
            mine = [position for position in positions if self._home(position) == partition]
            passed = _Passed(mine, (span.stop_ms + late_ms_max) * _US_PER_MS)
        for batch in self.stretch(partition, start, stop):
            chosen = _choose(batch, positions, span)
            if len(chosen):
                yield chosen
            if passed is not None and passed.after(batch):
                return

    def stretch(self, partition: int, start: int, stop: int) -> Iterator[EventBatch]:
        """The records of a partition with start <= offset < stop, those that are no event with their reason."""
        for batch in ahead(self._reader.columns(self._topic, partition, start, stop)):
            yield decode_events(
                self._codec, self._instruments, batch.keys, batch.values, batch.offsets,
                partition, self._settings.partitions,
            )  # fmt: skip

    def _positions(self, instrument: str | Iterable[str] | None) -> list[int] | None:
        names = _names(instrument)
        return None if names is None else [self._instruments.position(name) for name in names]

    def _home(self, position: int) -> int:
        return partition_for(self._instruments[position].symbol.encode(), self._settings.partitions)


class _Passed:
    """Whether all instruments have gone on beyond a time. A run of events tells, as one wrong timestamp must not."""

    def __init__(self, positions: Sequence[int], time_us: int) -> None:
        self._time_us = time_us
        self._run = dict.fromkeys(positions, 0)

    def after(self, batch: EventBatch) -> bool:
        """Is it so after these events, the next of the partition?"""
        moving = (batch.reason == Reason.OK) & (batch.kind != Kind.MODEL)
        for position, run in self._run.items():
            times_us = batch.event_time[moving & (batch.instrument == position)]
            before = np.flatnonzero(times_us < self._time_us)
            self._run[position] = len(times_us) - 1 - int(before[-1]) if len(before) else run + len(times_us)
        return all(run >= PASSED_EVENTS_MIN for run in self._run.values())


def _names(instrument: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if instrument is None:
        return None
    return (instrument,) if isinstance(instrument, str) else tuple(instrument)


def _choose(batch: EventBatch, positions: Sequence[int] | None, span: Span) -> EventBatch:
    """The events asked for. An event's place says nothing of its time: instruments are published one after another."""
    if positions is None and not span.timed:
        return batch
    keep = batch.reason == Reason.OK
    if positions is not None:
        keep &= np.isin(batch.instrument, positions)
    if span.start_ms is not None:
        keep &= batch.event_time >= span.start_ms * _US_PER_MS
    if span.stop_ms is not None:
        keep &= batch.event_time < span.stop_ms * _US_PER_MS
    return batch.take(np.flatnonzero(keep))
