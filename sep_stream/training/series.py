"""Closed bars as series, the raw material of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sep_stream.convert import MarketDataConverter
from sep_stream.market.events import EventBatch
from sep_stream.market.timeframes import TIMEFRAMES


@dataclass(frozen=True, slots=True)
class BarSeries:
    """The closed bars of one instrument and timeframe, in time order.

    open_time_s: (n,) int64 · close: (n,) int32 points · bits: (n,) uint8
    """

    open_time_s: npt.NDArray[np.int64]
    close: npt.NDArray[np.int32]
    bits: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.bits)


def closed_bars(converter: MarketDataConverter, batches: Iterable[EventBatch]) -> dict[tuple[str, str], BarSeries]:
    """Series by (symbol, timeframe) of all bars that the events close; the converter's state moves on."""
    parts: dict[tuple[int, int], list[npt.NDArray[np.void]]] = defaultdict(list)
    for batch in batches:
        bars = converter.feed(batch).bars
        lane = bars["instrument"].astype(np.int64) * len(TIMEFRAMES) + bars["timeframe"]
        for code in np.unique(lane).tolist():
            parts[divmod(code, len(TIMEFRAMES))].append(bars[lane == code])
    return {
        (converter.instruments[instrument].symbol, TIMEFRAMES[timeframe]): _series(np.concatenate(bars))
        for (instrument, timeframe), bars in sorted(parts.items())
    }


def _series(bars: npt.NDArray[np.void]) -> BarSeries:
    return BarSeries(bars["open_time_s"].copy(), bars["close"].copy(), bars["bit"].copy())
