"""The block bootstrap: does it know what chance does to outcomes that overlap?"""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.backtest.bootstrap import (
    BLOCKS_MAX,
    HORIZONS_PER_BLOCK,
    band,
    coin_means,
    estimate_mean,
    estimate_rate,
    resampled_means,
    rows_per_block,
)
from sep_stream.backtest.measures import wilson_interval

Floats = npt.NDArray[np.float64]
OVERLAP = 30


def overlapping(rng: np.random.Generator, rows: int, overlap: int = OVERLAP) -> Floats:
    """Sums of a white noise over the next `overlap` steps: what signals of neighbouring bars would earn."""
    steps = rng.normal(size=rows + overlap - 1)
    return np.convolve(steps, np.ones(overlap), mode="valid")


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 100))
def test_a_blocks_length_is_so_many_horizons_of_rows(times: list[int], horizon_s: int) -> None:
    start_s = np.array(sorted(times), np.int64)
    within = [sum(at <= later < at + horizon_s for later in start_s[k:]) for k, at in enumerate(start_s)]
    assert rows_per_block(start_s, horizon_s) == pytest.approx(HORIZONS_PER_BLOCK * np.mean(within))


def test_without_rows_there_is_a_block_length_too() -> None:
    assert rows_per_block(np.empty(0, np.int64), 60) == HORIZONS_PER_BLOCK


def test_blocks_get_longer_where_there_would_be_too_many() -> None:
    start_s = np.arange(0, 100_000 * 3600, 3600)
    assert rows_per_block(start_s, 60) == len(start_s) / BLOCKS_MAX


@pytest.mark.parametrize("block_rows", [1.0, 4.5, 40.0])
def test_the_variance_of_resampled_means_is_the_one_of_the_paper(block_rows: float) -> None:
    """Politis and Romano (1994), lemma 1."""
    values = overlapping(np.random.default_rng(3), 300, 10)
    centred, n, q = values - values.mean(), len(values), 1 - 1 / block_rows
    covariance = np.array([centred[: n - lag] @ centred[lag:] / n for lag in range(n)])
    lag = np.arange(1, n)
    weight = (1 - lag / n) * q**lag + lag / n * q ** (n - lag)
    expected = (covariance[0] + 2 * (weight * covariance[1:]).sum()) / n
    means = resampled_means(values, block_rows, 20_000, 5)
    assert means.var() == pytest.approx(expected, rel=0.05)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * np.sqrt(expected / 20_000))


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(1, 100), st.integers(0, 2**32))
def test_a_resampled_series_has_as_many_rows_of_the_same_values(hits: list[bool], block: float, seed: int) -> None:
    sums = resampled_means(np.array(hits, np.float64), block, 20, seed) * len(hits)
    assert np.abs(sums - np.rint(sums)).max() < 1e-9
    assert sums.min() > -1e-9
    assert sums.max() < len(hits) + 1e-9


def test_the_seed_decides_and_nothing_else() -> None:
    values = overlapping(np.random.default_rng(1), 500)
    one, same, other = (resampled_means(values, 90, 100, seed) for seed in (4, 4, 5))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_memory_is_bounded_whatever_the_number_of_blocks() -> None:
    values = np.random.default_rng(1).normal(size=200_000)
    tracemalloc.start()
    resampled_means(values, 3.0, 40, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_the_interval_holds_the_truth_as_often_as_it_says_though_outcomes_overlap() -> None:
    rng = np.random.default_rng(11)
    blocks, rows = HORIZONS_PER_BLOCK * 10.0, 2000
    held = naive = 0
    for seed in range(80):
        values = overlapping(rng, rows, 10)
        found = estimate_mean(values, blocks, seed)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
        naive += abs(values.mean()) <= 1.96 * values.std() / np.sqrt(rows)
    assert held >= 69  # 95 % of 80 is 76, with a standard deviation of 2
    assert naive <= 56  # as if rows were independent


def test_the_p_value_is_seldom_small_where_nothing_is() -> None:
    rng = np.random.default_rng(12)
    small = 0
    for seed in range(80):
        found = estimate_mean(overlapping(rng, 2000, 10), 30.0, seed, null=0.0)
        assert found.p_value is not None
        small += found.p_value < 0.05
    assert small <= 12  # 5 % of 80 is 4, with a standard deviation of 2


def test_the_interval_of_a_rate_is_several_times_the_binomial_one() -> None:
    hits = (overlapping(np.random.default_rng(2), 20_000) > 0).astype(np.float64)
    found = estimate_rate(hits, HORIZONS_PER_BLOCK * OVERLAP, 1, null=0.5)
    low, high = wilson_interval(float(hits.sum()), len(hits))
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 3 * (high - low)


def test_a_mean_far_from_its_null_has_the_smallest_p_value() -> None:
    values = overlapping(np.random.default_rng(2), 5000) + 20
    assert estimate_mean(values, 90, 1, null=0.0).p_value == pytest.approx(1 / 2001)


def test_the_null_is_tested_on_both_sides() -> None:
    values = overlapping(np.random.default_rng(2), 5000)
    assert estimate_mean(values + 20, 90, 1, 0.0).p_value == estimate_mean(values - 20, 90, 1, 0.0).p_value
    assert estimate_mean(values, 90, 1, float(values.mean())).p_value == 1.0


def test_of_few_blocks_only_the_mean_is_told() -> None:
    found = estimate_mean(np.arange(29.0), 3.0, 1, null=0.0)
    assert (found.mean, found.low, found.high, found.p_value) == (14.0, None, None, None)
    assert estimate_mean(np.empty(0), 3.0, 1, null=0.0).mean is None
    assert estimate_rate(np.ones(29), 3.0, 1).low is None


def test_a_rate_of_one_is_as_uncertain_as_so_many_blocks_make_it() -> None:
    found = estimate_rate(np.ones(120), 3.0, 1, null=0.5)
    assert (found.low, found.high) == wilson_interval(40, 40)
    assert found.p_value is None


def test_equal_values_tell_nothing_but_their_mean() -> None:
    assert estimate_mean(np.full(100, 2.5), 3.0, 1, null=0.0).p_value is None


@pytest.mark.parametrize("block_rows", [1.0, 12.0])
def test_neighbours_share_the_coin(block_rows: float) -> None:
    values = np.random.default_rng(8).normal(1.0, 1.0, 200)
    lag = np.abs(np.subtract.outer(np.arange(200), np.arange(200)))
    expected = values @ (1 - 1 / block_rows) ** lag @ values / 200**2
    means = coin_means(values, block_rows, 20_000, 2)
    assert means.var() == pytest.approx(expected, rel=0.05)
    assert abs(means.mean()) < 4 * np.sqrt(expected / 20_000)


def test_the_coins_band_holds_those_who_have_no_skill() -> None:
    rng = np.random.default_rng(21)
    held = 0
    for seed in range(100):
        moves = overlapping(rng, 1500, 10)
        guess = (2 * rng.integers(0, 2, 150) - 1).repeat(10)
        low, high = band(coin_means(moves, 30.0, 1000, seed))
        held += low <= (moves * guess).mean() <= high
    assert held >= 90
