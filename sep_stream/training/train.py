"""`train`: the model that could have been made at a time, of the bars closed by then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from sep_stream.metrics import Engine
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.training.series import ClosedBars, duration_s_of
from sep_stream.training.windows import WindowPaths, window_paths


def train(
    series: Mapping[tuple[str, str], ClosedBars],
    params: ModelParameters,
    cut_s: int,
    engine: str | Engine = "auto",
    train_from_s: int | None = None,
) -> Model:
    """The uncalibrated model of every window whose outcome was known at `cut_s`, epoch seconds.

    series: by symbol and timeframe name; one too short gives a library without rows
    train_from_s: epoch seconds; where given, only windows whose first bar opens then or later
    Raises InputError for a series that is malformed.
    """
    windows = (
        window_paths(symbol, timeframe, _known(symbol, timeframe, bars, train_from_s, cut_s), params, engine)
        for (symbol, timeframe), bars in series.items()
    )
    return model_of(windows, params, cut_s, train_from_s)


def model_of(
    windows: Iterable[WindowPaths], params: ModelParameters, cut_s: int, train_from_s: int | None = None
) -> Model:
    """The model that `train` makes, of windows that are computed already: one set serves any number of cuts.

    params: those that the windows were computed with
    """
    return Model(
        params, cut_s, tuple(each.library(train_from_s, cut_s) for each in windows), training_from_s=train_from_s
    )


def _known(symbol: str, timeframe: str, bars: ClosedBars, train_from_s: int | None, cut_s: int) -> ClosedBars:
    """The bars that a library of this training span can touch: the others' windows need not be computed."""
    duration_s = duration_s_of(symbol, timeframe, bars)
    first = 0 if train_from_s is None else int(np.searchsorted(bars.open_time_s, train_from_s))
    return bars.take(slice(first, int(np.searchsorted(bars.open_time_s, cut_s - duration_s, side="right"))))
