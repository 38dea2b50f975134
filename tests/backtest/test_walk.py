"""What changes nothing: chunks, threads and what came later; and what each fold may know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sep_stream.backtest import look_ahead, scored, walk
from sep_stream.backtest.bars import before
from sep_stream.errors import InputError
from sep_stream.scoring.library import PathLibrary
from tests.backtest import streams


def said(given: Any, history: Any, threads: int = 1) -> dict[str, Any]:
    tester = streams.made(given, threads)
    parts = [part for fold in tester.walk(history, tester.folds(history)) for part in fold.scored]
    return look_ahead._said(parts)


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[symbol], b[symbol]) for symbol in a)


@pytest.mark.parametrize("size", [1, 97, 3000])
def test_any_chunking_of_the_events_gives_the_same(size: int) -> None:
    given = streams.parameters()
    assert_equal(said(given, streams.history(streams.batches(size))), said(given, streams.history()))


def test_threads_and_sizes_of_stretches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given, history = streams.parameters(), streams.history()
    alone = said(given, history)
    assert_equal(said(given, history, threads=4), alone)
    monkeypatch.setattr(scored, "RECORDS_AT_ONCE", 7)
    assert_equal(said(given, history), alone)


def test_a_folds_libraries_hold_nothing_that_was_not_known_at_its_cut() -> None:
    given, history = streams.parameters("rolling"), streams.history()
    tester = streams.made(given)
    folds = tester.folds(history)
    for fold in tester.walk(history, folds):
        rows = [library for library in fold.model.libraries if len(library)]
        assert rows
        assert all(library.outcome_at_s.max() <= fold.fold.cut_s < fold.fold.score_from_s for library in rows)
        assert all(library.anchor_time_s.min() >= (fold.fold.train_from_s or 0) for library in rows)
        own = [part.available_at_s for part in fold.scored]
        assert all(((a >= fold.fold.score_from_s) & (a < fold.fold.score_until_s)).all() for a in own)


def test_a_given_model_scores_only_what_came_after_its_training() -> None:
    given, history = streams.parameters(), streams.history()
    tester = streams.made(given)
    model = next(tester.walk(history, tester.folds(history))).model
    [fold] = tester.with_model(history, model)
    assert min(part.available_at_s.min() for part in fold.scored) >= model.training_cut_s


def test_a_history_without_bars_is_told() -> None:
    given = streams.parameters()
    with pytest.raises(InputError, match="no bar"):
        streams.made(given).folds(streams.history([]))


def compute(given: Any, folds: Any) -> look_ahead.Compute:
    def parts(cut_s: int | None) -> Any:
        events = streams.batches() if cut_s is None else before(streams.batches(), cut_s)
        history = streams.history(events)
        tester = streams.made(given)
        chosen = [fold for fold in folds if cut_s is None or fold.score_from_s < cut_s]
        return [part for fold in tester.walk(history, chosen) for part in fold.scored]

    return parts


def changed_signals(given: Any) -> tuple[int, int, list[str]]:
    """(signals, changed, in words) over some cuts."""
    history = streams.history()
    folds = streams.made(given).folds(history)
    cuts = look_ahead.cut_times(folds[0].score_from_s, history.last_s, 6, 3)
    results = list(look_ahead.check_look_ahead(compute(given, folds), cuts))
    return sum(r.signals for r in results), sum(r.changed for r in results), [w for r in results for w in r.first]


@pytest.mark.parametrize("calibrate", [False, True])
def test_the_guard_finds_nothing_where_nothing_is(calibrate: bool) -> None:
    signals, changed, _ = changed_signals(streams.parameters(calibrate=calibrate))
    assert signals > 100
    assert changed == 0


def early_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library shows a row from the end of its window on, when its outcome was not yet known."""
    true = walk.train

    def train(series: Any, params: Any, cut_s: int, *rest: Any) -> Any:
        honest, whole = true(series, params, cut_s, *rest), true(series, params, 2**40)
        for library, moments in zip(whole.libraries, honest.libraries, strict=True):
            changed = {"outcome_at_s": library.available_at_s + 1, "mu": moments.mu, "sigma": moments.sigma}
            for name, value in changed.items():
                object.__setattr__(library, name, value)
        object.__setattr__(whole, "training_cut_s", cut_s)
        return whole

    monkeypatch.setattr(walk, "train", train)


def future_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window takes in the bar behind its last one, where there is one."""
    true = scored.compute_metrics

    def metrics(bits: Any, close: Any, anchors: Any, params: Any, engine: str) -> Any:
        last = len(bits) - 1 - params.forward
        return true(bits, close, np.minimum(anchors + 1, last), params, engine)

    monkeypatch.setattr(scored, "compute_metrics", metrics)


def whole_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are normalised by the mean and deviation of all windows there are."""
    true = walk.train

    def train(series: Any, params: Any, cut_s: int, *rest: Any) -> Any:
        model, whole = true(series, params, cut_s, *rest), true(series, params, 2**40)
        for library, of_all in zip(model.libraries, whole.libraries, strict=True):
            assert isinstance(library, PathLibrary)
            object.__setattr__(library, "mu", of_all.mu)
            object.__setattr__(library, "sigma", of_all.sigma)
        return model

    monkeypatch.setattr(walk, "train", train)


@pytest.mark.parametrize("leak", [early_outcomes, future_bar, whole_moments])
def test_the_guard_catches_a_planted_leak(monkeypatch: pytest.MonkeyPatch, leak: Any) -> None:
    leak(monkeypatch)
    _, changed, words = changed_signals(streams.parameters())
    assert changed > 0
    assert "without what came later" in words[0]
