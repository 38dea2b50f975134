"""`WindowPaths`: the windows of a series, computed once, of which the library of any training span is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.metrics import Engine, WindowParams, compute_metrics
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import ModelParameters
from sep_stream.training.series import ClosedBars, duration_s_of

ANCHORS_AT_ONCE: Final = 1 << 17
"""Of all columns of their metrics, 38 MB with default windows, the path alone is kept. No column is so large that the
C library would give its memory back each time: to get it again takes half as long as to fill it."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowPaths:
    """Every complete window of an instrument and timeframe, in anchor order.

    paths: (n, 3K) float32 · start_time_s, anchor_time_s, available_at_s: (n,) int64, epoch seconds: open of the
    window's first bar, open of its anchor, end of its last bar
    outcome_at_s: (m,) int64, outcome: (m,) int32, points: of the first m <= n windows, whose outcome the bars tell
    """

    symbol: str
    timeframe: str
    paths: npt.NDArray[np.float32]
    start_time_s: npt.NDArray[np.int64]
    anchor_time_s: npt.NDArray[np.int64]
    available_at_s: npt.NDArray[np.int64]
    outcome_at_s: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.paths)

    def library(self, train_from_s: int | None, cut_s: int) -> PathLibrary:
        """Every window whose first bar opens at or after `train_from_s` (None: all), its outcome known at `cut_s`.

        Its columns are views of these.
        """
        first = 0 if train_from_s is None else int(np.searchsorted(self.start_time_s, train_from_s))
        known = int(np.searchsorted(self.outcome_at_s, cut_s, side="right"))
        rows = slice(first, max(first, known))
        return PathLibrary.build(
            self.symbol,
            self.timeframe,
            self.paths[rows],
            self.anchor_time_s[rows],
            self.available_at_s[rows],
            self.outcome_at_s[rows],
            self.outcome[rows],
        )


def anchors_of(bars: int, window: WindowParams) -> npt.NDArray[np.int64]:
    """Positions (n,) int64 of the anchors of all complete windows of a series of so many bars."""
    first = window.history - 1
    return np.arange(first, max(first, bars - window.forward), dtype=np.int64)


def window_paths(
    symbol: str,
    timeframe: str,
    bars: ClosedBars,
    params: ModelParameters,
    engine: str | Engine = "auto",
    paths: npt.NDArray[np.float32] | None = None,
) -> WindowPaths:
    """All complete windows of a series.

    paths: (n, 3K) float32, those of the windows at `anchors_of(len(bars), params.window)`, where they are known
    already: kept as they are
    Raises InputError for a series that is malformed, and for paths that are not as many or as long.
    """
    duration_s = duration_s_of(symbol, timeframe, bars)
    window, horizon = params.window, params.horizon_bars[TIMEFRAMES.index(timeframe)]
    anchors = anchors_of(len(bars), window)
    if paths is None:
        paths = _paths(bars, anchors, window, engine)
    elif paths.shape != (len(anchors), window.path_values):
        raise InputError(
            f"paths of {symbol} {timeframe}: expected {len(anchors)} of {window.path_values} values, got {paths.shape}"
        )
    last = anchors + window.forward
    told = last[: max(0, len(anchors) - horizon)]
    return WindowPaths(
        symbol,
        timeframe,
        paths,
        bars.open_time_s[anchors - (window.history - 1)],
        bars.open_time_s[anchors],
        bars.open_time_s[last] + duration_s,
        bars.open_time_s[told + horizon] + duration_s,
        bars.close[told + horizon] - bars.close[told],
    )


def _paths(
    bars: ClosedBars, anchors: npt.NDArray[np.int64], window: WindowParams, engine: str | Engine
) -> npt.NDArray[np.float32]:
    paths = np.empty((len(anchors), window.path_values), np.float32)
    for first in range(0, len(anchors), ANCHORS_AT_ONCE):
        at = anchors[first : first + ANCHORS_AT_ONCE]
        part = slice(int(at[0]) - (window.history - 1), int(at[-1]) + window.forward + 1)
        metrics = compute_metrics(bars.bits[part], bars.close[part], at - part.start, window, engine)
        paths[first : first + len(at)] = metrics.path
    return paths
