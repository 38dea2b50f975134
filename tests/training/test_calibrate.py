"""Calibration beside a slow, obvious one, and what it must never do."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.scoring import Calibration, HoldReason, Model, PathLibrary, ScoreBatch, score
from sep_stream.stores import load_model, read_manifest, save_model
from sep_stream.training import ClosedBars, calibrate, calibrated, fit_calibration, train
from tests import reference
from tests.reference.scoring import calibrate as reference_calibrate
from tests.reference.scoring import isotonic
from tests.training.bars import HORIZON, PARAMETERS, bars_of

SERIES = {("EUR/USD", "M1"): bars_of(2_800), ("EUR/USD", "M15"): bars_of(900, 2, seed=1)}
"""Enough of M1 for a table, not of M15."""
KEY = ("EUR/USD", "M1")

Pairs = tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]


@cache
def plain() -> Model:
    return train(SERIES, PARAMETERS, 2**40)


@cache
def fitted() -> Model:
    return calibrated(plain())


def pairs_of(seed: int, n: int, decimals: int, edge: float) -> Pairs:
    """Scores, many of them equal where there are few decimals, and outcomes that follow them by some edge."""
    rng = np.random.default_rng(seed)
    p_up = np.round(rng.beta(20, 20, n), decimals)
    up = rng.random(n) < np.clip(0.5 + edge * (p_up - 0.5), 0.0, 1.0)
    outcome = np.where(up, 1, -1) * rng.integers(0, 30, n)
    return p_up, outcome.astype(np.int32)


pairs = st.builds(
    pairs_of, st.integers(0, 2**32), st.integers(500, 2_500), st.sampled_from([1, 2, 3, 17]), st.floats(-3, 9)
)


def by_reference(p_up: npt.NDArray[np.float64], outcome: npt.NDArray[np.int32]) -> Calibration:
    ups = [Fraction(1 + (o > 0) - (o < 0), 2) for o in outcome.tolist()]
    xs, ys = isotonic(list(zip(p_up.tolist(), ups, strict=True)))
    return Calibration(tuple(xs), tuple(ys))


@given(pairs)
def test_the_fit_is_the_references_to_the_bit(found: Pairs) -> None:
    assert fit_calibration(*found) == by_reference(*found)


@given(pairs, st.integers(0, 2**32))
def test_the_order_of_the_scores_does_not_matter(found: Pairs, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(found[0]))
    assert fit_calibration(*found) == fit_calibration(found[0][order], found[1][order])


@given(pairs)
def test_a_table_is_bounded_and_keeps_off_0_and_1(found: Pairs) -> None:
    table = fit_calibration(*found)
    assert 1 <= len(table.x) <= calibrate.KNOTS_MAX
    assert set(table.x) <= set(found[0].tolist())
    least = 1 / (len(found[0]) + 2)
    assert least <= table.y[0] <= table.y[-1] <= 1 - least


def test_an_edge_is_found_and_its_absence_leaves_little() -> None:
    raw = np.array([0.4, 0.6])
    strong = fit_calibration(*pairs_of(1, 4_000, 17, edge=4.0)).apply(raw)
    none = fit_calibration(*pairs_of(1, 4_000, 17, edge=0.0)).apply(raw)
    assert np.allclose(strong, [0.1, 0.9], atol=0.07)
    assert np.allclose(none, [0.5, 0.5], atol=0.07)


def test_certain_outcomes_do_not_make_a_certain_probability() -> None:
    p_up = np.linspace(0.3, 0.7, 600)
    table = fit_calibration(p_up, np.where(p_up > 0.5, 9, -9).astype(np.int32))
    # 12 groups of 50 scores; each half pools 6 of them, with one up and one down more in each.
    assert (table.y[0], table.y[-1]) == (6 / 312, 306 / 312)


def test_scores_that_rise_against_the_outcomes_end_as_one_level() -> None:
    p_up = np.linspace(0.3, 0.7, 600)
    table = fit_calibration(p_up, np.where(p_up < 0.5, 9, -9).astype(np.int32))
    assert (table.x, table.y) == ((float(p_up[300]),), (0.5,))


def test_an_outcome_without_a_move_counts_half() -> None:
    p_up = np.linspace(0.3, 0.7, 600)
    assert fit_calibration(p_up, np.zeros(600, np.int32)).y == (0.5,)


@pytest.mark.parametrize("n", [0, 1, calibrate.SCORED_MIN - 1])
def test_too_few_scores_leave_the_identity(n: int) -> None:
    p_up, outcome = pairs_of(1, n, 17, edge=5.0)
    assert fit_calibration(p_up, outcome) == Calibration()


def test_a_models_tables_are_the_references() -> None:
    window = {"history": 12, "forward": 4, "samples": 2, "eps": PARAMETERS.window.eps, "hold": PARAMETERS.window.hold}
    bars = {
        key: [{"open_time": t, "close": c} for t, c in zip(s.open_time_s.tolist(), s.close.tolist(), strict=True)]
        for key, s in SERIES.items()
    }
    theirs = reference_calibrate(reference.train(bars, window, 2**40, horizon_bars=list(HORIZON)), bars)
    assert set(theirs.calibrations) == {KEY}
    assert fitted().calibrations == {KEY: Calibration(*map(tuple, theirs.calibrations[KEY]))}
    assert fitted().model_id == theirs.model_id


@cache
def asked() -> tuple[list[int], npt.NDArray[np.int64]]:
    """Which rows of the M1 library are scored, and the begin that each is said to have."""
    queries: list[Any] = []

    def spy(library: Any, block_rows: int, paths: Any, window_start_s: Any, **values: int) -> ScoreBatch:
        if library.timeframe == "M1":
            rows = [int(np.flatnonzero((library.paths == path).all(axis=1) & (starts == s))[0])
                    for path, s in zip(paths, window_start_s, strict=True)]  # fmt: skip
            queries.append((rows, window_start_s))
        return score(library, block_rows, paths, window_start_s, **values)

    starts = starts_of(plain(), SERIES[KEY])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "score", spy)
        calibrated(plain())
    ((rows, window_start_s),) = queries
    return rows, window_start_s


def starts_of(model: Model, bars: ClosedBars) -> npt.NDArray[np.int64]:
    """When the first bar of each row's window opened, looked up in the bars."""
    at = np.searchsorted(bars.open_time_s, model.library(*KEY).anchor_time_s)
    return bars.open_time_s[at - (model.parameters.window.history - 1)]


def test_each_row_is_scored_as_of_the_open_of_its_windows_first_bar() -> None:
    rows, window_start_s = asked()
    assert window_start_s.tolist() == starts_of(plain(), SERIES[KEY])[rows].tolist()


def test_rows_are_scored_a_horizon_apart_from_the_first_that_sees_enough_blocks() -> None:
    rows, _ = asked()
    library, parameters = plain().library(*KEY), plain().parameters
    assert set(np.diff(rows).tolist()) == {HORIZON[0]}
    assert rows[-1] >= len(library) - HORIZON[0]

    def blocks(row: int) -> int:
        known = library.outcome_at_s <= starts_of(plain(), SERIES[KEY])[row]
        return len({r // parameters.window.forward for r in np.flatnonzero(known).tolist()})

    assert blocks(rows[0]) >= parameters.min_blocks > blocks(rows[0] - 1)


def test_no_more_rows_are_scored_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def spy(*args: Any, **values: int) -> ScoreBatch:
        counts.append(len(args[2]))
        return score(*args, **values)

    monkeypatch.setattr(calibrate, "score", spy)
    monkeypatch.setattr(calibrate, "SCORED_MIN", 100)
    monkeypatch.setattr(calibrate, "QUERIES_MAX", 150)
    assert calibrated(plain()).model_id == calibrated(plain()).model_id
    assert all(100 <= count <= 150 for count in counts)
    assert len(counts) == 4


def test_scores_that_hold_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[tuple[Any, Any]] = []

    def every_eleventh_holds(
        library: PathLibrary, block_rows: int, paths: Any, *args: Any, **values: int
    ) -> ScoreBatch:
        said = score(library, block_rows, paths, *args, **values)
        hold = np.arange(len(paths)) % 11 == 0
        spoken.append((said.p_up[~hold], hold))
        return replace(said, p_up=np.where(hold, 0.5, said.p_up), reason=np.where(hold, HoldReason.WEIGHT, said.reason))

    monkeypatch.setattr(calibrate, "score", every_eleventh_holds)
    monkeypatch.setattr(calibrate, "SCORED_MIN", 450)
    found = calibrated(Model(PARAMETERS, 2**40, (plain().library(*KEY),)))
    ((p_up, hold),) = spoken
    outcome = plain().library(*KEY).outcome[asked()[0]][~hold]
    assert found.calibration(*KEY) == fit_calibration(p_up, outcome)


def test_a_library_without_enough_blocks_keeps_the_identity() -> None:
    parameters = replace(PARAMETERS, min_blocks=10_000)
    assert calibrated(train(SERIES, parameters, 2**40)).calibrations == {}
    assert calibrated(train({}, parameters, 2**40)).calibrations == {}
    assert calibrated(train({KEY: bars_of(5)}, PARAMETERS, 2**40)).calibrations == {}


def test_a_table_that_is_there_does_not_enter_its_successor() -> None:
    other = replace(plain(), calibrations={KEY: Calibration((0.1, 0.9), (0.2, 0.3))})
    assert calibrated(other).model_id == calibrated(fitted()).model_id == fitted().model_id


def test_bars_after_the_cut_change_nothing() -> None:
    bars = SERIES[KEY]
    cut_s = int(bars.open_time_s[2_750]) + 60
    known = ClosedBars(bars.open_time_s[:2_751], bars.close[:2_751], bars.bits[:2_751])
    models = [calibrated(train({KEY: b}, PARAMETERS, cut_s)) for b in (bars, known)]
    assert models[0].calibrations
    assert models[0].model_id == models[1].model_id


def test_a_calibrated_model_has_an_id_of_its_own_and_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    model = fitted()
    assert model.model_id != plain().model_id
    folder = save_model(model, tmp_path / model.model_id)
    loaded = load_model(folder)
    assert loaded.model_id == model.model_id
    assert loaded.calibrations == read_manifest(folder).calibrations == model.calibrations


def test_scores_of_the_model_are_the_tables_of_its_raw_ones() -> None:
    library, table = fitted().library(*KEY), fitted().calibration(*KEY)
    paths, starts = library.paths[2_000:2_100], library.anchor_time_s[2_000 - 11 : 2_100 - 11]
    said = score(library, 4, paths, starts, table)
    assert said.p.tolist() == table.apply(score(library, 4, paths, starts).p_up).tolist()
