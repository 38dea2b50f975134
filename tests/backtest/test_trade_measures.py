"""Measures of trades against published values and slow, obvious ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.backtest.measures import (
    Sharpe,
    best_of_trials,
    deflated_sharpe,
    drawdown,
    equal_count_bins,
    sharpe,
    wilson_interval,
    without_overlap,
)

FLOATS = st.lists(st.floats(-100, 100), max_size=40)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_ends_at_the_ends() -> None:
    assert wilson_interval(20, 20)[1] == 1.0
    assert wilson_interval(0, 20)[0] == 0.0


PAPER_RATIO = 2.5 / math.sqrt(250)
PAPER_VARIANCE = 0.5 / 250


def test_the_best_of_a_hundred_trials_is_the_papers() -> None:
    """Bailey and López de Prado (2014), a numerical example."""
    assert best_of_trials(100, PAPER_VARIANCE) == pytest.approx(0.1132, abs=5e-5)


def test_the_deflated_ratio_is_the_papers() -> None:
    found = deflated_sharpe(Sharpe(PAPER_RATIO, -3.0, 10.0), 1250, 100, PAPER_VARIANCE)
    assert found == pytest.approx(0.9004, abs=5e-5)


def test_of_forty_six_trials_the_papers_ratio_passes() -> None:
    found = deflated_sharpe(Sharpe(PAPER_RATIO, -3.0, 10.0), 1250, 46, PAPER_VARIANCE)
    assert found == pytest.approx(0.9505, abs=5e-5)


def test_one_trial_is_not_deflated() -> None:
    assert best_of_trials(1, 0.1) == 0.0
    normal = Sharpe(0.05, 0.0, 3.0)
    expected = 0.5 * (1 + math.erf(0.05 * math.sqrt(999) / math.sqrt(1 + 0.05**2 / 2) / math.sqrt(2)))
    assert deflated_sharpe(normal, 1000, 1) == pytest.approx(expected)


def test_the_best_of_trials_is_about_what_a_simulation_gives() -> None:
    best = np.random.default_rng(1).normal(size=(20_000, 50)).max(axis=1).mean()
    assert best_of_trials(50, 1.0) == pytest.approx(best, rel=0.02)


def test_more_trials_deflate_more() -> None:
    found = [deflated_sharpe(Sharpe(0.05, 0.0, 3.0), 2000, trials) for trials in (1, 2, 10, 1000)]
    assert found == sorted(found, reverse=True)


def test_returns_of_two_values_have_a_deflated_ratio_too() -> None:
    assert 0.0 <= deflated_sharpe(Sharpe(1.0, 2.0, 5.0), 50, 3) <= 1.0


def test_the_sharpe_ratio_and_its_moments_are_those_worked_out_by_hand() -> None:
    found = sharpe(np.array([1.0, 2.0, 3.0, 6.0]))
    assert found is not None
    # mean 3; squares 4, 1, 0, 9; cubes -8, -1, 0, 27; fourths 16, 1, 0, 81
    assert found.ratio == pytest.approx(3 / math.sqrt(14 / 3))
    assert found.skewness == pytest.approx(4.5 / 3.5**1.5)
    assert found.kurtosis == pytest.approx(24.5 / 3.5**2)


def test_returns_that_do_not_vary_have_no_sharpe_ratio() -> None:
    assert sharpe(np.array([])) is None
    assert sharpe(np.array([1.0])) is None
    assert sharpe(np.full(10, 0.1)) is None


@given(FLOATS)
def test_the_drawdown_is_the_way_down_from_the_highest_so_far(equity: list[float]) -> None:
    expected = [max(0.0, *equity[: k + 1]) - at for k, at in enumerate(equity)]
    assert drawdown(np.array(equity)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50), st.integers(0, 20)), max_size=30))
def test_chosen_trades_do_not_overlap_and_no_other_could_join_before_the_next(rows: list[tuple[int, int, int]]) -> None:
    instrument = np.array([row[0] for row in rows], np.int16)
    entry = np.array([row[1] for row in rows], np.int64)
    leave = entry + np.array([row[2] for row in rows], np.int64)
    chosen = without_overlap(instrument, entry, leave)
    for lane in (0, 1):
        own = sorted((int(entry[k]), int(leave[k]), k) for k in np.flatnonzero(instrument == lane).tolist())
        free_at = 0
        for begun, ended, row in own:
            assert chosen[row] == (begun >= free_at)
            free_at = ended if chosen[row] else free_at


@given(st.lists(st.sampled_from([0.1, 0.4, 0.5, 0.55, 0.9]), max_size=60), st.integers(1, 10))
def test_bins_rise_with_the_values_and_equal_ones_share_a_bin(values: list[float], bins_max: int) -> None:
    bins = equal_count_bins(np.array(values), bins_max)
    assert set(bins.tolist()) <= set(range(bins_max))
    for k, value in enumerate(values):
        for j, other in enumerate(values):
            assert value != other or bins[k] == bins[j]
            assert value >= other or bins[k] <= bins[j]


def test_bins_of_different_values_hold_about_as_many_each() -> None:
    counts = np.bincount(equal_count_bins(np.random.default_rng(1).random(1000), 10))
    assert counts.tolist() == [100] * 10
