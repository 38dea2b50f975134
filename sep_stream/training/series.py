"""Closed bars as series, the raw material of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sep_stream.convert import MarketDataConverter
from sep_stream.errors import InputError
from sep_stream.market.events import EventBatch
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES


@dataclass(frozen=True, slots=True, eq=False)
class ClosedBars:
    """The closed bars of an instrument and timeframe, in time order.

    open_time_s: (n,) int64, epoch seconds · close: (n,) int32, points · bits: (n,) uint8
    """

    open_time_s: npt.NDArray[np.int64]
    close: npt.NDArray[np.int32]
    bits: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.open_time_s)

    def take(self, bars: slice) -> ClosedBars:
        """A stretch of them, without a copy."""
        return ClosedBars(self.open_time_s[bars], self.close[bars], self.bits[bars])


def duration_s_of(symbol: str, timeframe: str, bars: ClosedBars) -> int:
    """The seconds of each of these bars. Raises InputError for a series that is malformed."""
    where = f"bars of {symbol} {timeframe}"
    if timeframe not in TIMEFRAMES:
        raise InputError(f"{where}: timeframe is one of {', '.join(TIMEFRAMES)}")
    if not len(bars.open_time_s) == len(bars.close) == len(bars.bits):
        raise InputError(
            f"{where}: expected columns of one length, got {len(bars.open_time_s)} open times, "
            f"{len(bars.close)} closes, {len(bars.bits)} bits"
        )
    rising = np.diff(bars.open_time_s) > 0
    if not rising.all():
        raise InputError(f"{where}: open times do not rise at bar {int(np.flatnonzero(~rising)[0]) + 1}")
    return DURATION_S[TIMEFRAMES.index(timeframe)]


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
