"""A model and its signals computed elsewhere, to be matched to the bit: a month of real GBP/USD candles."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sep_stream.convert import direction_bits
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.scoring import MetricRecords, Model, ModelParameters, ScoreCache, WindowMetrics, gate_reasons
from sep_stream.scoring.ids import signal_id
from sep_stream.scoring.signals import Signals, score_records
from sep_stream.training import ClosedBars, train

TICK = Decimal("0.00001")
WINDOW = WindowParams()
SYMBOL = "GBP/USD"
DIRECTION = {1: "BUY", -1: "SELL", 0: "HOLD"}
REASON = {0: None, 1: "library", 2: "weight"}


@dataclass(frozen=True)
class Golden:
    expected: dict[str, Any]
    series: dict[tuple[str, str], ClosedBars]
    model: Model


def epoch_s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def m1_closes(path: Path) -> tuple[list[int], list[int]]:
    """Open times and closes in points, rounded half up from the text."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    points = [int((Decimal(row["close"]) / TICK + Decimal("0.5")).to_integral_value(ROUND_FLOOR)) for row in rows]
    return [epoch_s(row["timestamp"]) for row in rows], points


def aggregated(open_time_s: list[int], closes: list[int], duration_s: int) -> ClosedBars:
    """Bars of a longer timeframe: the last close in each, as far as the candles close them."""
    last = {t // duration_s * duration_s: close for t, close in zip(open_time_s, closes, strict=True)}
    watermark_s = open_time_s[-1] + DURATION_S[0]
    times = [t for t in last if t + duration_s <= watermark_s]
    points = np.array([last[t] for t in times], np.int32)
    return ClosedBars(np.array(times, np.int64), points, direction_bits(points))


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Golden:
    expected = json.loads((shared_data / "golden_signals.json").read_text())
    times, closes = m1_closes(shared_data / expected["source"])
    series = {
        (SYMBOL, timeframe): aggregated(times, closes, duration_s)
        for timeframe, duration_s in zip(TIMEFRAMES, DURATION_S, strict=True)
    }
    return Golden(expected, series, train(series, ModelParameters(), epoch_s(expected["training_cut"])))


def test_the_libraries_match(golden: Golden) -> None:
    for timeframe, expected in golden.expected["libraries"].items():
        library = golden.model.library(SYMBOL, timeframe)
        assert len(library) == expected["rows"]
        assert library.anchor_time_s[0] == expected["first_anchor"]
        assert library.anchor_time_s[-1] == expected["last_anchor"]
        assert [v.hex() for v in library.mu.tolist()] == expected["mu"]
        assert [v.hex() for v in library.sigma.tolist()] == expected["sigma"]


def windows_at(bars: ClosedBars, timeframe: int, anchors: npt.NDArray[np.int64]) -> WindowMetrics:
    """The windows at some anchors; not present where the anchor is too early."""
    present = anchors >= WINDOW.history - 1
    at = np.where(present, anchors, WINDOW.history - 1)
    return WindowMetrics.of(
        present=present,
        anchor_time_s=bars.open_time_s[at],
        start_time_s=bars.open_time_s[at - WINDOW.history + 1],
        available_at_s=bars.open_time_s[at + WINDOW.forward] + DURATION_S[timeframe],
        model=np.zeros(len(at), np.int32),
        metrics=compute_metrics(bars.bits, bars.close, at, WINDOW),
    )


def records_of(golden: Golden, timeframe: int, anchor_times_s: list[int]) -> MetricRecords:
    bars = [golden.series[(SYMBOL, name)] for name in TIMEFRAMES]
    own = windows_at(bars[timeframe], timeframe, np.searchsorted(bars[timeframe].open_time_s, anchor_times_s))
    newest = [
        np.searchsorted(bars[k].open_time_s + DURATION_S[k], own.available_at_s, side="right") - 1 - WINDOW.forward
        for k in (1, 2)
    ]
    n = len(anchor_times_s)
    return MetricRecords(
        instrument=np.zeros(n, np.int16),
        timeframe=np.full(n, timeframe, np.uint8),
        own=own,
        m5=windows_at(bars[1], 1, newest[0]),
        m15=windows_at(bars[2], 2, newest[1]),
    )


def described(signals: Signals, k: int) -> dict[str, Any]:
    return {
        "direction": DIRECTION[int(signals.direction[k])],
        "reason": REASON[int(signals.reason[k])],
        "p_up": float(signals.p_up[k]).hex(),
        "confidence": float(signals.confidence[k]).hex(),
        "expected_move": float(signals.expected_move[k]).hex(),
        "matches": [row for row in signals.match_row[k].tolist() if row >= 0],
        "gate_failed": list(gate_reasons(int(signals.gate[k]))),
        "confirmed": bool(signals.confirmed[k]),
    }


def id_of(golden: Golden, timeframe: str, anchor: str | None) -> str | None:
    return None if anchor is None else signal_id(golden.model.model_id, SYMBOL, timeframe, epoch_s(anchor))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("timeframe", range(3))
def test_the_signals_match(golden: Golden, timeframe: int, cached: bool) -> None:
    expected = [s for s in golden.expected["signals"] if s["timeframe"] == TIMEFRAMES[timeframe]]
    records = records_of(golden, timeframe, [epoch_s(s["anchor_time"]) for s in expected])
    assert records.own.available_at_s.tolist() == [epoch_s(s["available_at"]) for s in expected]
    cache = ScoreCache() if cached else None
    for _ in range(2):
        signals = score_records(records, [golden.model], [SYMBOL], WINDOW, cache)
        assert len(signals) == len(expected)
        for k, signal in enumerate(expected):
            found = described(signals, k)
            assert found == {name: signal.get(name, False) for name in found}
            assert signals.signal_id[k] == id_of(golden, TIMEFRAMES[timeframe], signal["anchor_time"])
            assert signals.m5_signal_id[k] == id_of(golden, "M5", signal.get("m5_anchor"))
            assert signals.m15_signal_id[k] == id_of(golden, "M15", signal.get("m15_anchor"))


def test_matches_name_the_days_and_outcomes_they_rest_on(golden: Golden) -> None:
    expected = [s for s in golden.expected["signals"] if s["timeframe"] == "M1"][:5]
    records = records_of(golden, 0, [epoch_s(s["anchor_time"]) for s in expected])
    signals = score_records(records, [golden.model], [SYMBOL], WINDOW)
    library = golden.model.library(SYMBOL, "M1")
    assert np.array_equal(signals.match_anchor_time_s, library.anchor_time_s[signals.match_row])
    assert np.array_equal(signals.match_outcome, library.outcome[signals.match_row])
    assert (np.diff(signals.match_cosine, axis=1) <= 0).all()
    assert (library.outcome_at_s[signals.match_row] <= records.own.start_time_s[:, None]).all()
