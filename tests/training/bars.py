"""Series of random bars, and the parameters of small models of them."""

from __future__ import annotations

import numpy as np

from sep_stream.convert import direction_bits
from sep_stream.market.timeframes import DURATION_S
from sep_stream.metrics import WindowParams
from sep_stream.scoring import ModelParameters
from sep_stream.training import ClosedBars

WINDOW = WindowParams(history=12, forward=4, samples=2)
HORIZON = (5, 3, 2)
PARAMETERS = ModelParameters(WINDOW, HORIZON)


def bars_of(n: int, timeframe: int = 0, seed: int = 0) -> ClosedBars:
    """Bars with gaps between some of them."""
    rng = np.random.default_rng(seed)
    open_time_s = DURATION_S[timeframe] * np.cumsum(rng.integers(1, 4, n)).astype(np.int64)
    close = (100_000 + np.cumsum(rng.integers(-9, 10, n))).astype(np.int32)
    return ClosedBars(open_time_s, close, direction_bits(close))
