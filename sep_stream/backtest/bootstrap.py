"""What chance does to the mean of a series whose neighbours hang together.

The stationary bootstrap of Politis and Romano (1994), Journal of the American Statistical Association 89, 1303-1313: a
series is put together anew from blocks of itself, each from a random place on, with a length of geometric law, around
the end to the start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.measures import CONFIDENCE_LEVEL, Floats, wilson_interval

RESAMPLES: Final = 2_000
COINS: Final = 1_000

HORIZONS_PER_BLOCK: Final = 3
"""Outcomes that overlap over m rows have autocorrelations that fall linearly to 0 at lag m. Of the variance that this
gives to the mean, blocks of b * m rows find 2 * integral over 0 … 1 of (1 - x) exp(-x / b): 74 % for 1, 90 % for 3."""

STRETCHES_MIN: Final = 10
"""Blocks in a series; with fewer no interval or p-value is told: the resampled series would be all alike."""

BLOCKS_MAX: Final = 2_000
"""Blocks in a series; beyond, they are made longer. The variance is known to 3 % by then, and work stays bounded."""

_BLOCKS_AT_ONCE: Final = 1 << 18
"""Drawn in one go: some 2 MB for each array."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and what is known about it.

    low, high: the CONFIDENCE_LEVEL interval · p_value: of a mean as far from the null, either side, if the null were
    true · standard_error: of the mean. All None where there is too little to tell; p_value without a null, too.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    standard_error: float | None = None


def rows_per_block(start_s: npt.NDArray[np.int64], horizon_s: int) -> float:
    """Mean block length for outcomes that begin at start_s (n,), rising, and last for horizon_s.

    It is HORIZONS_PER_BLOCK times the mean number of rows, itself included, that begin within one horizon from a row
    on: so many outcomes share a stretch of the market. Trades of all instruments count, as their moves hang together.
    """
    if not len(start_s):
        return float(HORIZONS_PER_BLOCK)
    until = np.searchsorted(start_s, start_s + horizon_s, side="left")
    within_horizon = float((until - np.arange(len(start_s))).mean())
    return max(HORIZONS_PER_BLOCK * within_horizon, len(start_s) / BLOCKS_MAX)


def resampled_means(values: Floats, block_rows: float, draws: int, seed: int) -> Floats:
    """Means (draws,) of the stationary bootstrap of values (n,), n > 0, with blocks of block_rows >= 1 on average."""
    rng = np.random.default_rng(seed)
    mean, rows = values.mean(), len(values)
    # A block's sum is the difference of two running sums. Those of centred values end at 0, so they go on around the
    # end as they began.
    running = np.zeros(rows)
    np.cumsum((values - mean)[:-1], out=running[1:])
    found = []
    for ends in _block_ends(rng, rows, block_rows, draws):
        start = rng.integers(0, rows, ends.shape)
        stop = (start + np.diff(ends, axis=1, prepend=0)) % rows
        found.append((running[stop] - running[start]).sum(axis=1))
    return mean + np.concatenate(found) / rows


def coin_means(values: Floats, block_rows: float, draws: int, seed: int) -> Floats:
    """Means (draws,) of values (n,), n > 0, with the sign of a coin that is flipped once a block.

    So neighbours whose outcomes overlap share their direction, as those of a strategy do.
    """
    rng = np.random.default_rng(seed)
    running = np.concatenate([[0.0], np.cumsum(values)])
    found = []
    for ends in _block_ends(rng, len(values), block_rows, draws):
        sign = 2 * rng.integers(0, 2, ends.shape) - 1
        found.append((np.diff(running[ends], axis=1, prepend=0.0) * sign).sum(axis=1))
    return np.concatenate(found) / len(values)


def _block_ends(rng: np.random.Generator, rows: int, block_rows: float, draws: int) -> Iterator[npt.NDArray[np.int64]]:
    """Arrays (some draws, blocks) of where blocks end, rising to `rows`; the last ones of a draw may be empty."""
    expected = rows / block_rows
    # Some six standard deviations more than expected; should they end before the series does, the last one is longer.
    blocks = math.ceil(expected + 6 * math.sqrt(expected)) + 10
    at_once = max(1, _BLOCKS_AT_ONCE // blocks)
    for first in range(0, draws, at_once):
        lengths = rng.geometric(1 / block_rows, (min(at_once, draws - first), blocks))
        ends = np.minimum(np.cumsum(lengths, axis=1), rows)
        ends[:, -1] = rows
        yield ends


def estimate_mean(values: Floats, block_rows: float, seed: int, null: float | None = None) -> Estimate:
    """The mean of values (n,) in time order, with its percentile interval and the p-value of a true mean of `null`.

    The p-value is the share of resampled means, this series counted as one, that lie at least as far from the mean as
    the null does. Hall and Wilson (1991), Biometrics 47, 757-762: resample around the mean that was found. Only the
    mean is told of fewer than STRETCHES_MIN blocks, and of values that are all equal, as no resampling varies them.
    """
    if not len(values):
        return Estimate(None)
    mean = float(values.mean())
    if len(values) / block_rows < STRETCHES_MIN or values.min() == values.max():
        return Estimate(mean)
    means = resampled_means(values, block_rows, RESAMPLES, seed)
    p_value = None
    if null is not None:
        p_value = (1 + int((np.abs(means - mean) >= abs(mean - null)).sum())) / (1 + len(means))
    return Estimate(mean, *band(means), p_value, float(means.std()))


def estimate_rate(values: Floats, block_rows: float, seed: int, null: float | None = None) -> Estimate:
    """The same of values within 0 and 1; if all are 0 or all 1, Wilson's interval with one observation a block."""
    found = estimate_mean(values, block_rows, seed, null)
    stretches = len(values) / block_rows
    if found.mean not in (0.0, 1.0) or stretches < STRETCHES_MIN:
        return found
    return Estimate(found.mean, *wilson_interval(found.mean * stretches, stretches))


def band(draws: Floats) -> tuple[float, float]:
    """The bounds of the middle CONFIDENCE_LEVEL of draws (n,)."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)
