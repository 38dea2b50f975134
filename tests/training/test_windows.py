"""Windows computed once, and the libraries that are cut of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import InputError
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import compute_metrics
from sep_stream.training import ClosedBars, anchors_of, model_of, train, window_paths, windows
from tests.training.bars import HORIZON, PARAMETERS, WINDOW, bars_of

BARS = {name: bars_of(200, timeframe, seed=timeframe) for timeframe, name in enumerate(TIMEFRAMES)}
SERIES = {("EUR/USD", name): bars for name, bars in BARS.items()}
WINDOWS = [window_paths(*key, bars, PARAMETERS) for key, bars in SERIES.items()]
END_S = int(BARS["M15"].open_time_s[-1]) + 900

times = st.integers(-10, END_S + 10)


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_every_complete_window_is_there_with_its_times_and_the_outcomes_that_are_told(timeframe: str) -> None:
    bars, k = BARS[timeframe], TIMEFRAMES.index(timeframe)
    found, duration_s, horizon = WINDOWS[k], DURATION_S[k], HORIZON[k]
    anchors = range(11, 200 - 4)
    assert len(found) == len(anchors)
    assert found.start_time_s.tolist() == [int(bars.open_time_s[i - 11]) for i in anchors]
    assert found.anchor_time_s.tolist() == [int(bars.open_time_s[i]) for i in anchors]
    assert found.available_at_s.tolist() == [int(bars.open_time_s[i + 4]) + duration_s for i in anchors]
    told = [i + 4 for i in anchors if i + 4 + horizon < 200]
    assert found.outcome_at_s.tolist() == [int(bars.open_time_s[i + horizon]) + duration_s for i in told]
    assert found.outcome.tolist() == [int(bars.close[i + horizon]) - int(bars.close[i]) for i in told]
    assert found.outcome.dtype == np.int32


@given(st.none() | times, times)
def test_a_library_cut_out_is_the_one_trained(train_from_s: int | None, cut_s: int) -> None:
    cut_out = model_of(WINDOWS, PARAMETERS, cut_s, train_from_s)
    trained = train(SERIES, PARAMETERS, cut_s, train_from_s=train_from_s)
    assert cut_out.model_id == trained.model_id
    assert cut_out.training_from_s == trained.training_from_s == train_from_s


@given(st.none() | times, times)
def test_its_rows_are_those_that_begin_and_end_within_the_span(train_from_s: int | None, cut_s: int) -> None:
    for found in WINDOWS:
        first_s = -1 if train_from_s is None else train_from_s
        known = len(found.outcome_at_s)
        rows = [r for r in range(known) if found.start_time_s[r] >= first_s and found.outcome_at_s[r] <= cut_s]
        library = found.library(train_from_s, cut_s)
        assert library.anchor_time_s.tolist() == found.anchor_time_s[rows].tolist()
        assert library.outcome.tolist() == found.outcome[rows].tolist()
        assert library.paths.tobytes() == found.paths[rows].tobytes()


def test_a_library_copies_no_path() -> None:
    found = WINDOWS[0]
    library = found.library(int(found.start_time_s[5]), END_S)
    assert np.shares_memory(library.paths, found.paths)
    assert np.shares_memory(library.outcome, found.outcome)


@given(st.integers(1, 300))
def test_how_many_are_computed_at_once_does_not_matter(at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "ANCHORS_AT_ONCE", at_once)
        found = window_paths("EUR/USD", "M1", BARS["M1"], PARAMETERS)
    assert found.paths.tobytes() == WINDOWS[0].paths.tobytes()


def test_paths_that_are_known_already_are_kept() -> None:
    bars = BARS["M1"]
    batch = compute_metrics(bars.bits, bars.close, anchors_of(len(bars), WINDOW), WINDOW)
    found = window_paths("EUR/USD", "M1", bars, PARAMETERS, paths=batch.path)
    assert found.paths is batch.path
    assert found.library(None, END_S).rows_sha256 == WINDOWS[0].library(None, END_S).rows_sha256
    with pytest.raises(InputError, match=r"paths of EUR/USD M1: expected 185 of 6 values, got \(184, 6\)"):
        window_paths("EUR/USD", "M1", bars, PARAMETERS, paths=batch.path[1:])


@pytest.mark.parametrize("n", [0, 1, 15, 16])
def test_a_series_too_short_for_an_outcome_has_none(n: int) -> None:
    found = window_paths("EUR/USD", "M1", bars_of(n), PARAMETERS)
    assert len(found) == max(0, n - 15)
    assert len(found.outcome) == 0
    assert len(found.library(None, END_S)) == 0


def test_a_longer_horizon_tells_fewer_outcomes_of_the_same_windows() -> None:
    found = window_paths("EUR/USD", "M1", BARS["M1"], replace(PARAMETERS, horizon_bars=(1000, 3, 2)))
    assert (len(found), len(found.outcome)) == (185, 0)


def test_malformed_series_are_refused_by_name() -> None:
    bars = bars_of(30)
    with pytest.raises(InputError, match="bars of EUR/USD H1: timeframe is one of M1, M5, M15"):
        window_paths("EUR/USD", "H1", bars, PARAMETERS)
    with pytest.raises(InputError, match="open times do not rise at bar 1"):
        window_paths("EUR/USD", "M1", ClosedBars(bars.open_time_s * 0, bars.close, bars.bits), PARAMETERS)
