from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from sep_stream.errors import InputError, ModelError
from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.scoring import (
    HoldReason,
    MetricRecords,
    Model,
    ModelParameters,
    PathLibrary,
    ScoreCache,
    Signals,
    WindowMetrics,
    gate_reasons,
    score_records,
    signal_id,
)
from sep_stream.scoring import signals as signals_module

WINDOW = WindowParams(history=12, forward=4, samples=1)
PARAMETERS = ModelParameters(window=WINDOW)
SYMBOLS = ("EUR/USD", "GBP/USD")
NOW_S = 10_000_000
UP, DOWN = np.array([1, 2, 3], np.float32), np.array([3, -2, 1], np.float32)


def library_of(symbol: str, timeframe: str, outcome: int = 5, n: int = 200) -> PathLibrary:
    """Rows like UP that moved by `outcome`, and as many like DOWN that moved the other way."""
    anchor = 60 * np.arange(2 * n, dtype=np.int64)
    up = np.arange(2 * n) // WINDOW.forward % 2 == 0
    return PathLibrary(
        symbol,
        timeframe,
        np.where(up[:, None], UP, DOWN).astype(np.float32),
        anchor,
        anchor + 60,
        anchor + 120,
        np.where(up, outcome, -outcome).astype(np.int32),
        np.zeros(3),
        np.full(3, 32.0),
    )


def model_of(cut_s: int = NOW_S, timeframes: tuple[str, ...] = ("M1", "M5", "M15"), outcome: int = 5) -> Model:
    return Model(PARAMETERS, cut_s, tuple(library_of("EUR/USD", timeframe, outcome) for timeframe in timeframes))


MODEL = model_of()


def metrics_of(path: np.ndarray[Any, Any], n: int = 1) -> MetricsBatch:
    """Metrics that pass the gate."""
    batch = MetricsBatch.zeros(n, WINDOW.samples)
    batch.damped[:] = (0.5, 0.2, 0.8)
    batch.converged[:] = True
    batch.path[:] = path
    return batch


def window(
    anchor_s: int, available_s: int = NOW_S, model: int = 0, path: Any = UP, present: bool = True
) -> WindowMetrics:
    return WindowMetrics.of(
        present=np.array([present]),
        anchor_time_s=np.array([anchor_s], np.int64),
        start_time_s=np.array([NOW_S - 6000], np.int64),
        available_at_s=np.array([available_s], np.int64),
        model=np.array([model], np.int32),
        metrics=metrics_of(path),
    )


ABSENT = window(0, present=False, model=-1)


def record(
    timeframe: int = 0,
    own: WindowMetrics | None = None,
    m5: WindowMetrics = ABSENT,
    m15: WindowMetrics = ABSENT,
    instrument: int = 0,
) -> MetricRecords:
    own = own or window(NOW_S - 300)
    return MetricRecords(np.array([instrument], np.int16), np.array([timeframe], np.uint8), own, m5, m15)


def joined(records: list[MetricRecords]) -> MetricRecords:
    def windows(name: str) -> WindowMetrics:
        return WindowMetrics.concatenate([getattr(r, name) for r in records])

    return MetricRecords(
        np.concatenate([r.instrument for r in records]),
        np.concatenate([r.timeframe for r in records]),
        windows("own"),
        windows("m5"),
        windows("m15"),
    )


def signals_of(records: MetricRecords, *models: Model, cache: ScoreCache | None = None) -> Signals:
    return score_records(records, models or (MODEL,), SYMBOLS, WINDOW, cache)


def agreeing(**changes: Any) -> MetricRecords:
    """An M1 record whose M5 and M15 windows say the same."""
    parts: dict[str, Any] = {"m5": window(NOW_S - 1500), "m15": window(NOW_S - 4500)}
    return record(**{**parts, **changes})


def test_three_timeframes_that_agree_and_pass_their_gates_confirm() -> None:
    signals = signals_of(agreeing())
    assert signals.direction.tolist() == [1]
    assert signals.gate_passed.tolist() == [True]
    assert signals.confirmed.tolist() == [True]
    assert signals.signal_id == [signal_id(MODEL.model_id, "EUR/USD", "M1", NOW_S - 300)]
    assert signals.m5_signal_id == [signal_id(MODEL.model_id, "EUR/USD", "M5", NOW_S - 1500)]
    assert signals.m15_signal_id == [signal_id(MODEL.model_id, "EUR/USD", "M15", NOW_S - 4500)]


@pytest.mark.parametrize("timeframe", ["m5", "m15"])
def test_one_that_disagrees_does_not_confirm_but_is_named(timeframe: str) -> None:
    signals = signals_of(agreeing(**{timeframe: window(NOW_S - 4500, path=DOWN)}))
    assert signals.confirmed.tolist() == [False]
    assert None not in (signals.m5_signal_id[0], signals.m15_signal_id[0])


@pytest.mark.parametrize("name", ["own", "m5", "m15"])
def test_one_that_fails_its_gate_does_not_confirm(name: str) -> None:
    shut = window(NOW_S - 300)
    shut.converged[:] = False
    signals = signals_of(agreeing(**{name: shut}))
    assert signals.confirmed.tolist() == [False]
    assert signals.gate_passed.tolist() == [name != "own"]


@pytest.mark.parametrize(("name", "duration_s"), [("m5", 300), ("m15", 900)])
@pytest.mark.parametrize("late_s", [0, 1])
def test_a_score_counts_up_to_its_duration_and_a_minute(name: str, duration_s: int, late_s: int) -> None:
    signals = signals_of(agreeing(**{name: window(NOW_S - 4000, NOW_S - duration_s - 60 - late_s)}))
    assert signals.confirmed.tolist() == [late_s == 0]
    assert (getattr(signals, f"{name}_signal_id")[0] is None) == (late_s == 1)


@pytest.mark.parametrize("name", ["m5", "m15"])
@pytest.mark.parametrize("missing", [ABSENT, window(NOW_S - 1500, model=-1)])
def test_a_window_that_is_absent_or_has_no_model_does_not_count(name: str, missing: WindowMetrics) -> None:
    signals = signals_of(agreeing(**{name: missing}))
    assert signals.confirmed.tolist() == [False]
    assert getattr(signals, f"{name}_signal_id") == [None]


def test_each_window_is_scored_by_the_model_in_force_when_it_closed() -> None:
    other = model_of(outcome=-5)
    signals = signals_of(agreeing(m5=window(NOW_S - 1500, model=1)), MODEL, other)
    assert signals.direction.tolist() == [1]
    assert signals.confirmed.tolist() == [False]
    assert signals.m5_signal_id == [signal_id(other.model_id, "EUR/USD", "M5", NOW_S - 1500)]


def test_longer_timeframes_have_signals_of_their_own_without_confirmation() -> None:
    signals = signals_of(agreeing(timeframe=1))
    assert signals.direction.tolist() == [1]
    assert signals.confirmed.tolist() == [False]
    assert signals.m5_signal_id == signals.m15_signal_id == [None]


def test_a_copy_in_an_m1_record_gets_the_id_of_the_windows_own_signal() -> None:
    own = record(timeframe=1, own=window(NOW_S - 1500))
    signals = signals_of(joined([own, agreeing()]))
    assert signals.m5_signal_id == [None, signals.signal_id[0]]


def test_records_without_a_model_give_no_signal_and_are_counted() -> None:
    records = joined([agreeing(own=window(1, model=-1)), agreeing(), agreeing(own=window(2, model=-1))])
    signals = signals_of(records)
    assert signals.row.tolist() == [1]
    assert signals.without_model == 2
    assert signals.confirmed.tolist() == [True]


def test_no_records_give_no_signals() -> None:
    none = joined([agreeing(own=window(1, model=-1))])
    assert len(signals_of(none)) == 0
    empty = np.zeros(0, np.int64)
    nothing = WindowMetrics.absent(0, WINDOW.samples)
    records = MetricRecords(empty.astype(np.int16), empty.astype(np.uint8), nothing, nothing, nothing)
    assert len(score_records(records, (), SYMBOLS, WINDOW)) == 0


def test_a_model_without_a_library_for_the_instrument_holds() -> None:
    signals = signals_of(agreeing(instrument=1))
    assert signals.direction.tolist() == [0]
    assert signals.reason.tolist() == [HoldReason.LIBRARY]
    assert gate_reasons(int(signals.gate[0])) == ("confidence",)
    assert signals.match_row.tolist() == [[-1] * 5]
    assert signals.m5_signal_id == [signal_id(MODEL.model_id, "GBP/USD", "M5", NOW_S - 1500)]


def test_matches_carry_anchor_time_and_outcome_of_their_rows() -> None:
    signals = signals_of(agreeing())
    library = MODEL.library("EUR/USD", "M1")
    assert (signals.match_row >= 0).all()
    assert signals.match_anchor_time_s.tolist() == library.anchor_time_s[signals.match_row].tolist()
    assert signals.match_outcome.tolist() == [[5] * 5]
    assert signals.match_cosine.tolist() == [[1.0] * 5]


def stream(seed: int, n: int = 60) -> MetricRecords:
    """M1 records in which M5 and M15 windows come again, with two models and two instruments."""
    rng = np.random.default_rng(seed)
    paths = [UP, DOWN, UP * 2, np.zeros(3, np.float32)]
    records = []
    for k in range(n):
        now = NOW_S + 60 * k
        records.append(
            record(
                timeframe=int(rng.integers(0, 4) == 0),
                own=window(now - 300, now, int(rng.integers(-1, 2)), paths[rng.integers(0, 4)]),
                m5=window(now // 300 * 300, now // 300 * 300, now // 300 % 3 - 1, paths[now // 300 % 4]),
                m15=window(now // 900 * 900, now // 900 * 900, now // 900 % 2, paths[now // 900 % 4], k > 20),
                instrument=int(rng.integers(0, 2)),
            )
        )
    return joined(records)


def assert_same(a: Signals, b: Signals) -> None:
    for field in fields(Signals):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.tobytes() == y.tobytes() if isinstance(x, np.ndarray) else x == y, field.name


def part(records: MetricRecords, rows: slice) -> MetricRecords:
    def windows(w: WindowMetrics) -> WindowMetrics:
        return w.take(np.arange(len(w.present))[rows])

    return MetricRecords(
        records.instrument[rows], records.timeframe[rows], *(windows(w) for w in (records.own, records.m5, records.m15))
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("step", [1, 7])
def test_neither_a_cache_nor_the_size_of_calls_changes_a_signal(size: int, step: int) -> None:
    models = (MODEL, model_of(outcome=-5))
    records = stream(3)
    whole = signals_of(records, *models)
    cache = ScoreCache(size)
    done = 0
    for start in range(0, len(records), step):
        some = signals_of(part(records, slice(start, start + step)), *models, cache=cache)
        n = len(some)
        assert some.signal_id == whole.signal_id[done : done + n]
        assert some.m5_signal_id == whole.m5_signal_id[done : done + n]
        assert some.m15_signal_id == whole.m15_signal_id[done : done + n]
        for name in ("direction", "p_up", "gate", "confirmed", "match_row", "match_outcome", "expected_move"):
            assert getattr(some, name).tobytes() == getattr(whole, name)[done : done + n].tobytes()
        assert len(cache) <= size
        done += n
    assert done == len(whole)


def test_a_window_is_scored_once_a_call_and_not_again_while_it_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    original = signals_module.score

    def counting(library: PathLibrary, block_rows: int, paths: Any, *rest: Any) -> Any:
        scored.append(len(paths))
        return original(library, block_rows, paths, *rest)

    monkeypatch.setattr(signals_module, "score", counting)
    records = joined([agreeing(own=window(NOW_S - 300 - 60 * k)) for k in range(4)])
    cache = ScoreCache()
    first = signals_of(records, cache=cache)
    assert sum(scored) == 4 + 1 + 1
    scored.clear()
    again = signals_of(records, cache=cache)
    assert sum(scored) == 4
    assert_same(first, again)


def test_a_model_made_for_other_windows_is_refused() -> None:
    with pytest.raises(ModelError, match="made for"):
        score_records(agreeing(), (MODEL,), SYMBOLS, replace(WINDOW, eps=0.5))


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        (agreeing(instrument=2), InputError, "instrument"),
        (agreeing(instrument=-1), InputError, "instrument"),
        (agreeing(timeframe=3), InputError, "timeframe"),
        (agreeing(own=window(0, model=1)), ModelError, "own: model 1 of 1"),
        (agreeing(m5=window(0, model=4)), ModelError, "m5: model 4 of 1"),
        (agreeing(m15=window(0, NOW_S + 1)), InputError, "M15 window ends at"),
    ],
)
def test_records_that_contradict_themselves_are_refused(
    records: MetricRecords, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        signals_of(records)
