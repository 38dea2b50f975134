"""windows → metrics; no state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sep_stream import wire
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.events import Reason
from sep_stream.market.instruments import Instruments
from sep_stream.metrics import METRICS_VERSION, Engine, WindowParams, computed_metrics
from sep_stream.record_checks import RecordChecks
from sep_stream.worker.batches import Batch
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.stage import Counters, Processed, Rows, decode_faults, origin, rejected_records


class MetricsStage:
    """Computes all windows that have come in one batch, all partitions, instruments and timeframes together."""

    name = "metrics"

    def __init__(
        self,
        topic: str,
        output_topic: str,
        dead_letters: str,
        schemas: Schemas,
        instruments: Instruments,
        params: WindowParams,
        engine: str | Engine,
        counters: Counters,
    ) -> None:
        self.topic, self._output, self._dead_letters = topic, output_topic, dead_letters
        self.topics = (self.topic,)
        self._params, self._engine, self._counters = params, engine, counters
        self._symbols = wire.Symbols(instruments)
        self._checks = RecordChecks(self._symbols, instruments)
        self._windows, self._metrics, self._rejected = (
            BulkCodec(*schemas.of(name)) for name in ("window", "metrics", "rejected")
        )

    async def process(self, batches: Sequence[Batch]) -> Processed:
        records = Rows(batches)
        decoded = self._windows.decode(records.values)
        self._checks.windows(decoded, records.keys, self._params)
        refused = decode_faults(records, decoded, self._symbols, "Window")
        rows = np.flatnonzero(decoded.errors == Reason.OK)
        self._counters.add("metrics", len(rows))
        self._counters.add_refused("dead", refused)
        return Processed(
            [
                *(self._outputs(records, wire.take(decoded.columns, rows), rows) if len(rows) else ()),
                *rejected_records(self._rejected, self._dead_letters, self.topic, refused),
            ]
        )

    def _outputs(self, records: Rows, windows: dict[str, Any], rows: Any) -> Iterator[Outgoing]:
        bits, points, anchors = wire.window_series(windows, self._params)
        metrics, made_by = computed_metrics(bits, points, anchors, self._params, self._engine)
        columns = wire.metrics_columns(windows, metrics, self._params, METRICS_VERSION)
        values = self._metrics.encode(columns, len(rows)).values()
        available_ms = windows["available_at"].tolist()
        partitions, offsets = records.partition[rows].tolist(), records.offset[rows].tolist()
        keys = [records.keys[row] for row in rows.tolist()]
        sources = map(origin(self.topic, made_by), partitions, offsets)
        for made in zip(partitions, keys, values, available_ms, sources, strict=True):
            yield Outgoing(self._output, *made)
