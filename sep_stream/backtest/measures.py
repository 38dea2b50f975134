"""Measures of trades and forecasts whose formulas stand in the literature."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NORMAL: Final = NormalDist()
CONFIDENCE_LEVEL: Final = 0.95
"""Of every interval and band."""


def wilson_interval(successes: float, count: float) -> tuple[float, float]:
    """The CONFIDENCE_LEVEL interval of a probability, of independent successes among count > 0.

    Wilson (1927), Journal of the American Statistical Association 22, 209-212.
    """
    z = NORMAL.inv_cdf((1 + CONFIDENCE_LEVEL) / 2)
    rate = successes / count
    centre = rate + z * z / (2 * count)
    reach = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At the ends centre and reach cancel, but for their rounding.
    low = 0.0 if successes == 0 else (centre - reach) / scale
    high = 1.0 if successes == count else (centre + reach) / scale
    return low, high


def without_overlap(
    instrument: npt.NDArray[np.int16], entry_time_s: npt.NDArray[np.int64], exit_time_s: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which trades (n,) one would have made who takes the first that comes whenever the instrument's last is over."""
    chosen = np.zeros(len(instrument), np.bool_)
    order = np.lexsort((exit_time_s, entry_time_s, instrument))
    free_at: dict[int, int] = {}
    columns = (order, instrument[order], entry_time_s[order], exit_time_s[order])
    for row, lane, entry, leave in zip(*(column.tolist() for column in columns), strict=True):
        if entry >= free_at.get(lane, entry):
            chosen[row] = True
            free_at[lane] = leave
    return chosen


@dataclass(frozen=True, slots=True)
class Sharpe:
    """ratio: mean over standard deviation, of single returns, not annualised · kurtosis: 3 for a normal law"""

    ratio: float
    skewness: float
    kurtosis: float


def sharpe(returns: Floats) -> Sharpe | None:
    """The Sharpe ratio of returns (n,) with their third and fourth standardised moments; None if they don't vary.

    The deviation in the ratio has n - 1 in its denominator, those in the moments n.
    """
    if len(returns) < 2 or returns.min() == returns.max():
        return None
    centred = returns - returns.mean()
    variance = float((centred**2).mean())
    return Sharpe(
        float(returns.mean()) / math.sqrt(variance * len(returns) / (len(returns) - 1)),
        float((centred**3).mean()) / variance**1.5,
        float((centred**4).mean()) / variance**2,
    )


def best_of_trials(trials: int, trial_variance: float) -> float:
    """The Sharpe ratio to be expected of the best of independent trials that have no skill.

        sqrt(V) * ((1 - g) * Z(1 - 1/N) + g * Z(1 - 1/(N e)))

    g: Euler's constant, Z: quantile of the normal law, V: variance of the ratio between trials; 0 for one trial
    Bailey and López de Prado (2014), The Deflated Sharpe Ratio, Journal of Portfolio Management 40 (5), 94-107.
    """
    if trials == 1:
        return 0.0
    first, second = NORMAL.inv_cdf(1 - 1 / trials), NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(trial_variance) * ((1 - np.euler_gamma) * first + np.euler_gamma * second)


def deflated_sharpe(found: Sharpe, count: float, trials: int, trial_variance: float | None = None) -> float:
    """How sure one can be, 0 … 1, that the true Sharpe ratio is above 0, if this was the best of the trials.

        Phi((SR - SR0) * sqrt(T - 1) / sqrt(1 - skewness * SR + (kurtosis - 1) / 4 * SR^2)),  SR0 = best_of_trials

    count: T > 1, independent returns · trial_variance: 1 / (T - 1) unless known, the sampling variance of the ratio
    where there is no skill. Same source.
    """
    if trial_variance is None:
        trial_variance = 1 / (count - 1)
    above = found.ratio - best_of_trials(trials, trial_variance)
    spread = 1 - found.skewness * found.ratio + (found.kurtosis - 1) / 4 * found.ratio**2
    # It is 0 only where returns take two values and the ratio one of them.
    return NORMAL.cdf(above * math.sqrt(count - 1) / math.sqrt(max(spread, sys.float_info.min)))


def drawdown(equity: Floats) -> Floats:
    """How far equity (n,) lies below its highest so far, which is at least the 0 that it began with."""
    return np.maximum.accumulate(np.maximum(equity, 0.0)) - equity


def equal_count_bins(values: Floats, bins_max: int) -> npt.NDArray[np.intp]:
    """Bins (n,) from 0 up of values (n,), about as many in each, equal values in one."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins_max + 1))) if len(values) else values
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
