"""`MarketHistory`: all bars that a log closes, kept small, in the order in which they close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.convert import ConvertOutput, MarketDataConverter
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES, US_PER_S
from sep_stream.sources.synthetic import SOURCE as SYNTHETIC
from sep_stream.training.series import ClosedBars

KEPT_DTYPE: Final = np.dtype(
    [
        ("timeframe", "u1"),
        ("bit", "u1"),
        ("index", "<i4"),
        ("open_time_s", "<i8"),
        ("open", "<i4"),
        ("close", "<i4"),
        ("spread", "<i4"),
        ("model", "<i4"),
        ("m5_count", "<i4"),
        ("m15_count", "<i4"),
    ]
)
"""What of a closed bar windows, signals and trades are made of: as BAR_DTYPE, smaller."""

_DURATION: Final = np.array(DURATION_S, np.int64)


@dataclass(frozen=True, eq=False)
class InstrumentBars:
    """The closed bars of an instrument, from its log's beginning.

    position: of the instrument · rows: (n,) KEPT_DTYPE, in the order in which they close · models: ids by position,
    those that MODEL events put in force
    """

    position: int
    rows: npt.NDArray[np.void]
    models: tuple[str, ...]

    @cached_property
    def lane_rows(self) -> tuple[npt.NDArray[np.int64], ...]:
        """By timeframe, where its bars lie in `rows`: bar i of a timeframe is `rows[lane_rows[timeframe][i]]`."""
        return tuple(np.flatnonzero(self.rows["timeframe"] == timeframe) for timeframe in range(len(TIMEFRAMES)))

    @cached_property
    def lanes(self) -> tuple[ClosedBars, ...]:
        """The series of each timeframe."""
        return tuple(
            ClosedBars(*(self.rows[name][at] for name in ("open_time_s", "close", "bit"))) for at in self.lane_rows
        )

    @property
    def end_s(self) -> npt.NDArray[np.int64]:
        """When each bar ends, (n,) epoch seconds."""
        ends: npt.NDArray[np.int64] = self.rows["open_time_s"] + _DURATION[self.rows["timeframe"]]
        return ends


@dataclass(frozen=True, eq=False)
class MarketHistory:
    """What a log holds, instrument by instrument, and the account of its events.

    counts: events, bars, duplicates, and refused events by reason · synthetic: some of them come from the synthetic
    market
    """

    symbols: tuple[str, ...]
    bars: tuple[InstrumentBars, ...]
    counts: dict[str, int]
    synthetic: bool

    @property
    def series(self) -> dict[tuple[str, str], ClosedBars]:
        """By symbol and timeframe name: what models are made of."""
        return {
            (self.symbols[bars.position], TIMEFRAMES[timeframe]): lane
            for bars in self.bars
            for timeframe, lane in enumerate(bars.lanes)
        }

    @property
    def first_s(self) -> int:
        """Open of the first bar."""
        return min(int(bars.rows["open_time_s"].min()) for bars in self.bars)

    @property
    def last_s(self) -> int:
        """End of the last bar."""
        return max(int(bars.end_s.max()) for bars in self.bars)


def market_history(converter: MarketDataConverter, batches: Iterable[EventBatch]) -> MarketHistory:
    """All bars that the events close, in one pass. converter: a new one; its state moves on"""
    parts: dict[int, list[npt.NDArray[np.void]]] = {}
    counts: Counter[str] = Counter()
    synthetic = False
    for batch in batches:
        output = converter.feed(batch)
        synthetic = synthetic or SYNTHETIC in batch.sources
        _count(counts, batch, output)
        kept = _kept(output.bars)
        for position in np.unique(output.bars["instrument"]).tolist():
            parts.setdefault(position, []).append(kept[output.bars["instrument"] == position])
    models = tuple(converter.models)
    bars = tuple(InstrumentBars(position, np.concatenate(parts.pop(position)), models) for position in sorted(parts))
    return MarketHistory(converter.instruments.symbols, bars, dict(counts), synthetic)


def _count(counts: Counter[str], batch: EventBatch, output: ConvertOutput) -> None:
    counts["events"] += len(batch)
    counts["bars"] += len(output.bars)
    counts["duplicates"] += int(np.count_nonzero(output.reason == Reason.DUPLICATE))
    counts.update(f"refused: {rejection.reason.name.lower()}" for rejection in output.rejections)


def _kept(bars: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    kept = np.empty(len(bars), KEPT_DTYPE)
    for name in KEPT_DTYPE.names or ():
        kept[name] = bars[name]
    return kept


def before(batches: Iterable[EventBatch], cut_s: int) -> Iterable[EventBatch]:
    """The events with an event time below a cut, epoch seconds; what is no event stays."""
    for batch in batches:
        yield batch.between(None, cut_s * US_PER_S)
