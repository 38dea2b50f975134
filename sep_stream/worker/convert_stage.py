"""market.events → bars, windows, prices.latest, late, dead.letters; its state in convert.state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sep_stream import wire
from sep_stream.convert import ConvertOutput, ConvertParameters, MarketDataConverter
from sep_stream.convert.converter import STATE_VERSION
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events
from sep_stream.market.events import NULL, REASON_TEXT, EventBatch, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import YEAR_2200_US
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.worker.batches import Batch, Place
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.snapshots import SnapshotFormat
from sep_stream.worker.stage import Counters, Headers, Processed, Refused, Rows, origin, rejected_records
from sep_stream.worker.states import InputLog, StateKind, States


@dataclass(frozen=True, slots=True)
class ConvertTopics:
    events: str
    bars: str
    windows: str
    prices: str
    late: str
    dead_letters: str
    state: str


class ConvertStage:
    """Feeds each partition's converter and rebuilds it at every new epoch."""

    name = "convert"

    def __init__(
        self,
        topics: ConvertTopics,
        schemas: Schemas,
        instruments: Instruments,
        parameters: ConvertParameters,
        partitions: int,
        input_log: InputLog,
        is_current: Callable[[Batch], bool],
        counters: Counters,
        rebuild_state: bool = False,
    ) -> None:
        self.topic = topics.events
        self.topics = (self.topic,)
        self._topics, self._instruments, self._parameters = topics, instruments, parameters
        self._headers = origin(self.topic, self.name)
        self._n_partitions, self._counters = partitions, counters
        self._codecs = {
            name: BulkCodec(*schemas.of(name)) for name in ("market_event", "bar", "window", "latest_price", "rejected")
        }
        self._symbols = wire.Symbols(instruments)
        kind = StateKind(
            SnapshotFormat(schemas, self.name, STATE_VERSION, parameters.canonical()),
            self._converter,
            self._feed_again,
            "few and short names of sources, shorter windows",
        )
        self._states = States(kind, (topics.events, topics.state), input_log, is_current, rebuild_state)

    async def process(self, batches: Sequence[Batch]) -> Processed:
        unseen = await self._states.unseen(batches)
        outputs = self._feed(list(unseen.values())) if unseen else []
        return Processed(outputs, self._states.snapshots(unseen))

    def last_snapshots(self, handled: Mapping[Place, tuple[int, int]]) -> Sequence[Outgoing]:
        """Snapshots of partitions that are given up. handled: see `States.last_snapshots`"""
        return self._states.last_snapshots(handled)

    def _converter(self, snapshot: bytes | None) -> MarketDataConverter:
        if snapshot is None:
            return MarketDataConverter(self._instruments, self._parameters)
        return MarketDataConverter.restore(snapshot, self._instruments, self._parameters)

    def _feed_again(self, converter: MarketDataConverter, partition: int, batch: RecordBatch) -> None:
        converter.feed(self._decode(partition, batch.offsets, batch.keys, batch.values))

    def _feed(self, by_partition: Sequence[Sequence[Batch]]) -> list[Outgoing]:
        """Outputs of batches, given partition by partition. Decoding and encoding cost much for each call and little
        for each record, so both are done for all at once; the converters are fed one by one."""
        rows = Rows([batch for batches in by_partition for batch in batches])
        events = self._decode(rows.partition, rows.offset, rows.keys, rows.values)
        fed: list[ConvertOutput] = []
        priced_at: list[tuple[int, Headers]] = []
        late: list[Refused] = []
        dead: list[Refused] = []
        start = 0
        for batches in by_partition:
            stop = start + sum(map(len, batches))
            partition, converter = batches[0].partition, self._states[batches[0].partition]
            part = events if len(by_partition) == 1 else events.stretch(start, stop)
            output = converter.feed(part)
            place = partition, self._headers(partition, int(rows.offset[stop - 1]))
            priced_at += [place] * len(output.prices)
            for refused in self._refused(partition, part, output):
                (late if refused.code == Reason.LATE.name else dead).append(refused)
            fed.append(output)
            start = stop
        output = ConvertOutput.concatenate(fed)
        self._count(output, late, dead)
        codec, topics = self._codecs["rejected"], self._topics
        return [
            *self._bars(rows, output),
            *self._prices(priced_at, output),
            *rejected_records(codec, topics.late, self.topic, late),
            *rejected_records(codec, topics.dead_letters, self.topic, dead),
        ]

    def _decode(self, partition: Any, offsets: Any, keys: list[Any], values: list[Any]) -> EventBatch:
        codec = self._codecs["market_event"]
        return decode_events(codec, self._instruments, keys, values, offsets, partition, self._n_partitions)

    def _bars(self, rows: Rows, output: ConvertOutput) -> Iterator[Outgoing]:
        bars, instruments, symbols = output.bars, self._instruments, self._symbols
        if not len(bars):
            return
        closed_by = bars["row"]
        partitions, offsets = rows.partition[closed_by].tolist(), rows.offset[closed_by].tolist()
        origins = list(map(self._headers, partitions, offsets))
        keys = [symbols.keys[i] for i in bars["instrument"].tolist()]
        end_ms = ((bars["open_time_s"] + wire.DURATION[bars["timeframe"]]) * wire.MS_PER_S).tolist()
        values = self._codecs["bar"].encode(wire.bar_columns(bars, instruments, symbols), len(bars)).values()
        for k, value in enumerate(values):
            yield Outgoing(self._topics.bars, partitions[k], keys[k], value, end_ms[k], origins[k])
        if not len(output.windows):
            return
        columns = wire.window_columns(output, self._parameters, instruments, symbols)
        values = self._codecs["window"].encode(columns, len(output.windows)).values()
        for k, value in zip(output.windows["bar"].tolist(), values, strict=True):
            yield Outgoing(self._topics.windows, partitions[k], keys[k], value, 0, origins[k])

    def _prices(self, places: Sequence[tuple[int, Headers]], output: ConvertOutput) -> Iterator[Outgoing]:
        """places: partition and headers of each price"""
        prices, symbols = output.prices, self._symbols
        if not len(prices):
            return
        columns = wire.price_columns(prices, self._instruments, symbols)
        values = self._codecs["latest_price"].encode(columns, len(prices)).values()
        for (partition, headers), i, value in zip(places, prices["instrument"].tolist(), values, strict=True):
            yield Outgoing(self._topics.prices, partition, symbols.keys[i], value, 0, headers)

    def _refused(self, partition: int, events: EventBatch, output: ConvertOutput) -> Iterator[Refused]:
        if not output.rejections:
            return
        symbols, times_us = self._instruments.symbols, events.event_time.tolist()
        for row, offset, reason, instrument, key, value in output.rejections:
            time_us = times_us[row] if row >= 0 else NULL
            sane_time = 0 <= time_us < YEAR_2200_US  # others have no place in a timestamp; the bytes tell them
            yield Refused(
                reason.name, REASON_TEXT[reason], partition, offset, key, value,
                symbols[instrument] if instrument >= 0 else None, time_us if sane_time else None,
                None if instrument >= 0 else self._symbols.named_by(key),
            )  # fmt: skip

    def _count(self, output: ConvertOutput, late: Sequence[Refused], dead: Sequence[Refused]) -> None:
        self._counters.add("events", len(output.reason))
        self._counters.add("bars", len(output.bars))
        self._counters.add("windows", len(output.windows))
        self._counters.add("duplicates", int(np.count_nonzero(output.reason == Reason.DUPLICATE)))
        self._counters.add_refused("late", late)
        self._counters.add_refused("dead", dead)
