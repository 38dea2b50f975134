from __future__ import annotations

import numpy as np
import pytest

from sep_stream.convert import direction_bits
from sep_stream.errors import InputError
from sep_stream.market.timeframes import DURATION_S
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.scoring import ModelParameters
from sep_stream.training import ClosedBars, train

WINDOW = WindowParams(history=12, forward=4, samples=2)
HORIZON = (5, 3, 2)
PARAMETERS = ModelParameters(WINDOW, HORIZON)


def bars_of(n: int, timeframe: int = 0, seed: int = 0) -> ClosedBars:
    """Bars with gaps between some of them."""
    rng = np.random.default_rng(seed)
    open_time_s = DURATION_S[timeframe] * np.cumsum(rng.integers(1, 4, n)).astype(np.int64)
    close = (100_000 + np.cumsum(rng.integers(-9, 10, n))).astype(np.int32)
    return ClosedBars(open_time_s, close, direction_bits(close))


@pytest.mark.parametrize(("timeframe", "name"), [(0, "M1"), (1, "M5"), (2, "M15")])
def test_every_window_with_a_known_outcome_is_a_row_and_no_other(timeframe: int, name: str) -> None:
    bars, duration_s, horizon = bars_of(80, timeframe), DURATION_S[timeframe], HORIZON[timeframe]
    cut_s = int(bars.open_time_s[60] + duration_s)
    library = train({("EUR/USD", name): bars}, PARAMETERS, cut_s).library("EUR/USD", name)

    anchors = [
        i for i in range(11, 80) if i + 4 + horizon < 80 and bars.open_time_s[i + 4 + horizon] + duration_s <= cut_s
    ]
    assert library.anchor_time_s.tolist() == [int(bars.open_time_s[i]) for i in anchors]
    assert library.available_at_s.tolist() == [int(bars.open_time_s[i + 4]) + duration_s for i in anchors]
    assert library.outcome_at_s.tolist() == [int(bars.open_time_s[i + 4 + horizon]) + duration_s for i in anchors]
    assert library.outcome.tolist() == [int(bars.close[i + 4 + horizon]) - int(bars.close[i + 4]) for i in anchors]
    reference = compute_metrics(bars.bits, bars.close, anchors, WINDOW, "reference")
    assert library.paths.tobytes() == reference.path.tobytes()


def test_an_outcome_known_at_the_cut_is_in_and_one_a_second_later_is_out() -> None:
    bars = bars_of(80)
    outcome_at_s = int(bars.open_time_s[50]) + 60
    rows = [
        len(train({("EUR/USD", "M1"): bars}, PARAMETERS, cut).libraries[0]) for cut in (outcome_at_s, outcome_at_s - 1)
    ]
    assert rows[0] == rows[1] + 1


def test_bars_after_the_cut_change_nothing() -> None:
    bars = bars_of(80)
    cut_s = int(bars.open_time_s[50]) + 60
    known = ClosedBars(bars.open_time_s[:51], bars.close[:51], bars.bits[:51])
    models = [train({("EUR/USD", "M1"): b}, PARAMETERS, cut_s) for b in (bars, known)]
    assert models[0].model_id == models[1].model_id


@pytest.mark.parametrize("n", [0, 1, 11, 20])
def test_a_series_too_short_for_an_outcome_gives_a_library_without_rows(n: int) -> None:
    model = train({("EUR/USD", "M1"): bars_of(n)}, PARAMETERS, 2**40)
    assert len(model.libraries) == 1
    assert len(model.libraries[0]) == 0
    assert len(train({("EUR/USD", "M1"): bars_of(21)}, PARAMETERS, 2**40).libraries[0]) == 1


def test_the_model_is_uncalibrated_and_keeps_each_series_apart() -> None:
    series = {("EUR/USD", "M1"): bars_of(60), ("GBP/USD", "M1"): bars_of(60, seed=1), ("EUR/USD", "M5"): bars_of(60, 1)}
    model = train(series, PARAMETERS, 2**40)
    assert dict(model.calibrations) == {}
    assert {(b.symbol, b.timeframe) for b in model.libraries} == set(series)
    alone = train({("GBP/USD", "M1"): series[("GBP/USD", "M1")]}, PARAMETERS, 2**40)
    assert model.library("GBP/USD", "M1").rows_sha256 == alone.libraries[0].rows_sha256


def test_the_engine_does_not_change_the_model() -> None:
    series = {("EUR/USD", "M1"): bars_of(200)}
    assert train(series, PARAMETERS, 2**40, "reference").model_id == train(series, PARAMETERS, 2**40, "cpu").model_id


def test_malformed_series_are_refused_by_name() -> None:
    bars = bars_of(30)
    with pytest.raises(InputError, match="bars of EUR/USD H1: timeframe is one of M1, M5, M15"):
        train({("EUR/USD", "H1"): bars}, PARAMETERS, 0)
    with pytest.raises(InputError, match=r"bars of EUR/USD M1: .*30 open times, 29 closes"):
        train({("EUR/USD", "M1"): ClosedBars(bars.open_time_s, bars.close[1:], bars.bits)}, PARAMETERS, 0)
    with pytest.raises(InputError, match="open times do not rise at bar 1"):
        train({("EUR/USD", "M1"): ClosedBars(bars.open_time_s * 0, bars.close, bars.bits)}, PARAMETERS, 0)
