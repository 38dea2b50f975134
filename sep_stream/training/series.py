"""Closed bars as series, the raw material of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sep_stream.convert import MarketDataConverter
from sep_stream.market.events import EventBatch
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.training.train import ClosedBars


def closed_bars(converter: MarketDataConverter, batches: Iterable[EventBatch]) -> dict[tuple[str, str], ClosedBars]:
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


def _series(bars: npt.NDArray[np.void]) -> ClosedBars:
    return ClosedBars(bars["open_time_s"].copy(), bars["close"].copy(), bars["bit"].copy())
