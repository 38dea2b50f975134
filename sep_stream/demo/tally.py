"""What came out of the demo's worker: signals by outcome, the last ones, and how long they took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.timeframes import TIMEFRAMES

ROWS_SHOWN: Final = 12


class SignalTally:
    """Counts signals in bulk: by timeframe and gate, by the gate's reasons, by why they hold.

    shown: the last few that say something, as records · sent_s: when the event that closes a minute was sent, by
    instrument and minute, until its signal comes · latency_ms: from there to the signal's arrival
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas, self._codec = schemas, BulkCodec(*schemas.of("signal"))
        self.signals: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.holds: Counter[str] = Counter()
        self.confirmed = 0
        self.shown: list[dict[str, Any]] = []
        self.sent_s: dict[tuple[str, int], float] = {}
        self.latency_ms: list[float] = []

    def add(self, values: Sequence[bytes | None], now_s: float) -> None:
        """Count signals (framed records) that arrived at `now_s`."""
        columns = self._codec.decode(values).columns
        timeframe, passed = columns["timeframe"], columns["gate_passed"]
        for k, name in enumerate(TIMEFRAMES):
            own = timeframe == k
            self.signals.update({f"{name} passed": _count(own & passed), f"{name} failed": _count(own & ~passed)})
            codes, reasons = columns["reason"].intern()
            for code, reason in enumerate(reasons):
                self.holds[f"{name} {reason.decode()}"] += _count(own & (codes == code))
        codes, failures = columns["gate_failed"].intern()
        for code, failed in enumerate(failures):
            self.failed.update(dict.fromkeys(json.loads(failed), _count(codes == code)))
        self.confirmed += _count(columns["confirmed"])
        self._note_latency(columns, np.flatnonzero(timeframe == 0), now_s)
        self._show(values, np.flatnonzero(passed | (timeframe == len(TIMEFRAMES) - 1)))

    def _note_latency(self, columns: dict[str, Any], rows: npt.NDArray[np.intp], now_s: float) -> None:
        if not self.sent_s:
            return
        symbols, minutes = columns["instrument"].take(rows).to_list(), columns["available_at"][rows] // 1000
        for symbol, minute_s in zip(symbols, minutes.tolist(), strict=True):
            sent_s = self.sent_s.pop((symbol.decode(), minute_s), None)
            if sent_s is not None:
                self.latency_ms.append((now_s - sent_s) * 1000)

    def _show(self, values: Sequence[bytes | None], telling: npt.NDArray[np.intp]) -> None:
        rows = telling.tolist() if len(self.shown) >= ROWS_SHOWN else range(len(values))
        chosen = [values[row] for row in rows[-ROWS_SHOWN:]]
        self.shown = [*self.shown, *(self._schemas.decode(value)[1] for value in chosen if value)][-ROWS_SHOWN:]


def _count(rows: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(rows))
