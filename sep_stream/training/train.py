"""`train`: the model that could have been made at a time, of the bars closed by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import compute_metrics
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import Model, ModelParameters


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


def train(
    series: Mapping[tuple[str, str], ClosedBars], params: ModelParameters, cut_s: int, engine: str = "auto"
) -> Model:
    """The uncalibrated model of every window whose outcome was known at `cut_s`, epoch seconds.

    series: by symbol and timeframe name; one too short gives a library without rows
    Raises InputError for a series that is malformed.
    """
    libraries = tuple(
        _library(symbol, timeframe, bars, params, cut_s, engine) for (symbol, timeframe), bars in series.items()
    )
    return Model(params, cut_s, libraries)


def _library(
    symbol: str, timeframe: str, bars: ClosedBars, params: ModelParameters, cut_s: int, engine: str
) -> PathLibrary:
    _check(symbol, timeframe, bars)
    duration_s = DURATION_S[TIMEFRAMES.index(timeframe)]
    window, horizon = params.window, params.horizon_bars[TIMEFRAMES.index(timeframe)]
    # The bar that ends the horizon of the last row is the last one closed by the cut.
    closed = int(np.searchsorted(bars.open_time_s + duration_s, cut_s, side="right"))
    anchors = np.arange(window.history - 1, max(window.history - 1, closed - window.forward - horizon))
    last, outcome = anchors + window.forward, anchors + window.forward + horizon
    metrics = compute_metrics(bars.bits[:closed], bars.close[:closed], anchors, window, engine)
    return PathLibrary.build(
        symbol,
        timeframe,
        metrics.path,
        bars.open_time_s[anchors],
        bars.open_time_s[last] + duration_s,
        bars.open_time_s[outcome] + duration_s,
        bars.close[outcome] - bars.close[last],
    )


def _check(symbol: str, timeframe: str, bars: ClosedBars) -> None:
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
