"""`EventLog`: the events of market.events, decoded in bulk."""

from __future__ import annotations

from collections.abc import Iterator

from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events
from sep_stream.market.events import EventBatch
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology


class EventLog:
    """Reads market.events as it stands when a read begins, partition after partition, each in log order."""

    def __init__(self, settings: Settings, topology: Topology, schemas: Schemas) -> None:
        self._settings, self._instruments = settings, topology.instruments
        self._topic = settings.topic("market.events")
        self._codec = BulkCodec(*schemas.of("market_event"))
        self._reader = LogReader(settings)

    def batches(
        self, instrument: str | None = None, start_ms: int | None = None, stop_ms: int | None = None
    ) -> Iterator[EventBatch]:
        """The events, in batches of bounded size; undecodable ones carry their reason.

        instrument: symbol or alias; only its partition is read, other instruments of that partition included
        start_ms, stop_ms: event times; from the first record at or after the one up to the first at or after the other
        """
        for partition in self._partitions(instrument):
            low, high = self._reader.watermarks(self._topic, partition)
            start = low if start_ms is None else self._reader.offset_for_time(self._topic, partition, start_ms)
            stop = high if stop_ms is None else self._reader.offset_for_time(self._topic, partition, stop_ms)
            for batch in self._reader.read(self._topic, partition, start, stop):
                yield decode_events(
                    self._codec, self._instruments, batch.keys, batch.values, batch.offsets,
                    partition, self._settings.partitions,
                )  # fmt: skip

    def _partitions(self, instrument: str | None) -> list[int]:
        if instrument is None:
            return self._reader.partitions(self._topic)
        symbol = self._instruments[self._instruments.position(instrument)].symbol
        return [partition_for(symbol.encode(), self._settings.partitions)]
