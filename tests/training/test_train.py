from __future__ import annotations

import pytest

from sep_stream.errors import InputError, ModelError
from sep_stream.market.timeframes import DURATION_S
from sep_stream.metrics import compute_metrics
from sep_stream.scoring import Model
from sep_stream.training import ClosedBars, train
from tests import reference
from tests.training.bars import HORIZON, PARAMETERS, WINDOW, bars_of


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


@pytest.mark.parametrize(("timeframe", "name"), [(0, "M1"), (1, "M5"), (2, "M15")])
def test_with_a_training_start_it_is_the_references_model_of_that_span(timeframe: int, name: str) -> None:
    bars = bars_of(90, timeframe)
    start_s, cut_s = int(bars.open_time_s[20]), int(bars.open_time_s[70])
    described = [
        {"open_time": open_time_s, "close": close}
        for open_time_s, close in zip(bars.open_time_s.tolist(), bars.close.tolist(), strict=True)
    ]
    window = {"history": 12, "forward": 4, "samples": 2, "eps": WINDOW.eps, "hold": WINDOW.hold}
    for train_from_s in (start_s, start_s + 1, None):
        theirs = reference.train(
            {("EUR/USD", name): described}, window, cut_s, train_from_s=train_from_s, horizon_bars=list(HORIZON)
        )
        ours = train({("EUR/USD", name): bars}, PARAMETERS, cut_s, train_from_s=train_from_s)
        assert ours.model_id == theirs.model_id
        assert ours.training_from_s == train_from_s


def test_a_window_that_begins_at_the_training_start_is_in_and_one_a_second_earlier_is_out() -> None:
    bars = bars_of(80)
    start_s = int(bars.open_time_s[30])
    rows = [
        train({("EUR/USD", "M1"): bars}, PARAMETERS, 2**40, train_from_s=s).libraries[0] for s in (start_s, start_s + 1)
    ]
    assert rows[0].anchor_time_s[0] == bars.open_time_s[30 + 11]
    assert len(rows[0]) == len(rows[1]) + 1


def test_a_training_start_after_the_cut_gives_a_library_without_rows() -> None:
    bars = bars_of(80)
    model = train({("EUR/USD", "M1"): bars}, PARAMETERS, int(bars.open_time_s[40]), train_from_s=2**40)
    assert len(model.libraries[0]) == 0


def test_a_model_with_windows_before_its_training_start_is_refused() -> None:
    model = train({("EUR/USD", "M1"): bars_of(80)}, PARAMETERS, 2**40)
    start_s = int(model.libraries[0].anchor_time_s[0]) + 1
    with pytest.raises(ModelError, match=f"before the training start {start_s}"):
        Model(PARAMETERS, 2**40, model.libraries, training_from_s=start_s)
