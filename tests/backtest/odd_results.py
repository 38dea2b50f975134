"""Results at the edges: nothing, one of each, too few, all alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sep_stream.backtest.results import ReportData
from tests.backtest.made_results import empty, made_up


def first(data: ReportData, count: int) -> ReportData:
    return replace(data, trades=data.trades[:count], forecasts=data.forecasts[:count])


def few() -> ReportData:
    return first(made_up(days=1), 40)


def all_wins(data: ReportData) -> ReportData:
    trades, forecasts = data.trades.copy(), data.forecasts.copy()
    for column in ("points", "profit_loss", "return_bp"):
        trades[column] = np.abs(trades[column]) + 0.1
    forecasts["outcome"] = 5 * forecasts["direction"]
    return replace(data, trades=trades, forecasts=forecasts)


def all_hold(data: ReportData) -> ReportData:
    forecasts = data.forecasts.copy()
    forecasts["direction"], forecasts["p"] = 0, 0.5
    return replace(data, trades=data.trades[:0], forecasts=forecasts)


ODD_DATA: dict[str, Callable[[], ReportData]] = {
    "nothing": empty,
    "no time": lambda: empty(data_range_s=None, folds=(), counts={}, parameters={}),
    "one of each": lambda: first(made_up(days=1), 1),
    "few": few,
    "all wins": lambda: all_wins(made_up(days=2)),
    "all hold": lambda: all_hold(made_up(days=1)),
}
