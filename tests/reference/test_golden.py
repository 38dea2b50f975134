"""The reference gives what was computed elsewhere, to the bit."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.reference.converter import Bar, Converter, direction_bits
from tests.reference.files import NOTHING, events_of, records_of, time_us
from tests.reference.market import Event, Instruments, to_points
from tests.reference.metrics import metrics
from tests.reference.pipeline import Pipeline
from tests.reference.scoring import DEFAULTS, Model, signal_id, train

TICK = Decimal("0.00001")
WINDOW = DEFAULTS["window"]
SIGNALS_UNTIL = "2012-02-22T08:00:00Z"
"""Golden signals later than this are left to the package's own test: the reference is slow."""


def epoch_s(text: str) -> int:
    return time_us(text) // 10**6


def quoted(symbol: str) -> Instruments:
    return {symbol: {"tick_size": TICK, "price_kind": "quote"}}


def hexed(values: list[float]) -> list[str]:
    return [value.hex() for value in values]


def as_float32(values: list[str]) -> list[float]:
    """Values of the golden file, which keeps them before they are stored."""
    return [struct.unpack("<f", struct.pack("<f", float.fromhex(value)))[0] for value in values]


def test_bars_of_real_quotes_match(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_bars.json").read_text())
    converter = Converter(quoted(golden["instrument"]))
    bars = [
        item[1]
        for quote in events_of(shared_data / golden["source"], golden["instrument"])
        for item in converter.feed(quote)
        if item[0] == "bar"
    ]
    expected = [dict(zip(golden["columns"], row, strict=True)) for row in golden["bars"]]
    assert [{name: bar[name] for name in golden["columns"]} for bar in bars] == [
        {**row, "open_time": epoch_s(row["open_time"])} for row in expected
    ]


def test_windows_of_real_candles_match(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_windows.json").read_text())
    names = {"L": "history", "F": "forward", "K": "samples", "eps": "eps", "hold": "hold"}
    params = {names[name]: value for name, value in golden["params"].items()}
    candles = list(records_of(shared_data / golden["source"]))
    closes = [to_points(candle["close"], TICK) for candle in candles]
    assert golden["windows"]
    for expected in golden["windows"]:
        i = expected["anchor_index"]
        last = i + params["forward"]
        bits = direction_bits(closes, expected["deadband"])[i - params["history"] + 1 : last + 1]
        found = metrics(bits, closes[i : last + 1], params)
        assert candles[i]["time"] == expected["anchor_time"]
        for name in ("initial", "damped"):
            assert hexed(found[name]) == expected[name]
        for name in ("lam", "potential"):
            assert found[name].hex() == expected[name]
        for name in ("counts", "settled_at", "converged", "probes", "corrections"):
            assert found[name] == expected[name]
        assert found["path"][:3] == as_float32(expected["path_first"])
        assert found["path"][-3:] == as_float32(expected["path_last"])


@dataclass(frozen=True)
class Golden:
    expected: dict[str, Any]
    candles: Sequence[Event]
    model: Model


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Golden:
    expected = json.loads((shared_data / "golden_signals.json").read_text())
    symbol, cut_s = expected["instrument"], epoch_s(expected["training_cut"])
    candles = list(events_of(shared_data / expected["source"], symbol))
    converter = Converter(quoted(symbol))
    bars: dict[tuple[str, str], list[Bar]] = defaultdict(list)
    for candle in candles:
        if candle["event_time"] < cut_s * 10**6:
            for kind, item, *_ in converter.feed(candle):
                if kind == "bar":
                    bars[(symbol, item["timeframe"])].append(item)
    return Golden(expected, candles, train(bars, WINDOW, cut_s))


@pytest.mark.slow
def test_libraries_of_real_candles_match(golden: Golden) -> None:
    for timeframe, expected in golden.expected["libraries"].items():
        library = golden.model.libraries[(golden.expected["instrument"], timeframe)]
        assert len(library.rows) == expected["rows"]
        assert library.rows[0].anchor_time == expected["first_anchor"]
        assert library.rows[-1].anchor_time == expected["last_anchor"]
        assert hexed(library.mu) == expected["mu"]
        assert hexed(library.sigma) == expected["sigma"]


class Selective(Pipeline):
    """Looks at the windows that are asked for, and no others."""

    wanted: set[tuple[str, int]]

    def _window(self, window: dict[str, Any]) -> None:
        if (window["timeframe"], window["anchor_time"]) in self.wanted:
            super()._window(window)


@pytest.mark.slow
def test_signals_of_real_candles_match(golden: Golden) -> None:
    symbol, model = golden.expected["instrument"], golden.model
    expected = {
        (row["timeframe"], epoch_s(row["anchor_time"])): row
        for row in golden.expected["signals"]
        if row["available_at"] <= SIGNALS_UNTIL
    }
    assert {timeframe for timeframe, _ in expected} == {"M1", "M5", "M15"}
    pipeline = Selective(quoted(symbol), WINDOW, {model.model_id: model})
    pipeline.wanted = set(expected)
    pipeline.feed({**NOTHING, "instrument": symbol, "kind": "MODEL", "event_time": 0, "model_id": model.model_id})
    for candle in golden.candles:
        if candle["event_time"] < time_us(SIGNALS_UNTIL):
            pipeline.feed(candle)
    found = {(signal["timeframe"], signal["anchor_time"]): signal for signal in pipeline.signals}
    assert found.keys() == expected.keys()
    for key, signal in found.items():
        row = expected[key]
        for name in ("direction", "reason", "gate_failed"):
            assert signal[name] == row[name]
        for name in ("p_up", "confidence", "expected_move"):
            assert signal[name].hex() == row[name]
        assert signal["available_at"] == epoch_s(row["available_at"])
        assert [match["row"] for match in signal["matches"]] == row["matches"]
        assert signal["confirmed"] == row.get("confirmed", False)
        for timeframe in ("M5", "M15"):
            anchor = row.get(f"{timeframe.lower()}_anchor")
            identity = None if anchor is None else signal_id(model.model_id, symbol, timeframe, epoch_s(anchor))
            assert signal[f"{timeframe.lower()}_signal_id"] == identity
