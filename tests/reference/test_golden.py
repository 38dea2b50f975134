"""The reference gives what was computed elsewhere, to the bit."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.reference.converter import Bar, Converter, Event, points_of
from tests.reference.metrics import as_float32, metrics
from tests.reference.pipeline import Pipeline
from tests.reference.scoring import DEFAULTS, Model, direction_bits, signal_id, train

TICK = Decimal("0.00001")
WINDOW = DEFAULTS["window"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIGNALS_UNTIL = "2012-02-22T06:00:00Z"
"""Golden signals later than this are left to the package's own test: scoring here is slow."""


def epoch_us(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def epoch_s(text: str | None) -> int | None:
    return None if text is None else epoch_us(text) // 10**6


def event(instrument: str, kind: str, time: str, **fields: Any) -> Event:
    names = ("bid", "ask", "price", "open", "high", "low", "close", "volume", "duration_s", "sequence", "model_id")
    nothing = dict.fromkeys(names)
    return {"instrument": instrument, "kind": kind, "event_time": epoch_us(time), "source": "file", **nothing, **fields}


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from csv.DictReader(file)


def test_bars_of_real_quotes_match(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_bars.json").read_text())
    symbol = golden["instrument"]
    converter = Converter({symbol: {"tick_size": TICK, "price_kind": "quote"}})
    bars = [
        item[1]
        for row in rows_of(shared_data / golden["source"])
        for item in converter.feed(event(symbol, "QUOTE", row["time"], bid=Decimal(row["bid"]), ask=Decimal(row["ask"])))
        if item[0] == "bar"
    ]
    expected = [dict(zip(golden["columns"], row, strict=True)) for row in golden["bars"]]
    found = [{name: int(bar[name]) if name == "volume" else bar[name] for name in golden["columns"]} for bar in bars]
    assert found == [{**row, "open_time": epoch_s(row["open_time"])} for row in expected]


def test_windows_of_real_candles_match(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_windows.json").read_text())
    named = golden["params"]
    params = dict(zip(("history", "forward", "samples", "eps", "hold"), named.values(), strict=True))
    history, forward = params["history"], params["forward"]
    candles = json.loads((shared_data / golden["source"]).read_text(), parse_float=Decimal, parse_int=Decimal)
    closes = [points_of(candle["close"], TICK) for candle in candles]
    for expected in golden["windows"]:
        i = expected["anchor_index"]
        bits = direction_bits(closes, expected["deadband"])[i - history + 1 : i + forward + 1]
        found = metrics(bits, closes[i : i + forward + 1], params)
        assert candles[i]["time"] == expected["anchor_time"]
        assert found["counts"] == expected["counts"]
        assert [value.hex() for value in found["initial"]] == expected["initial"]
        assert [value.hex() for value in found["damped"]] == expected["damped"]
        assert found["lambda"].hex() == expected["lam"]
        assert found["potential"].hex() == expected["potential"]
        assert (found["settled_at"], found["converged"]) == (expected["settled_at"], expected["converged"])
        assert (found["qbsa_probes"], found["qbsa_corrections"]) == (expected["probes"], expected["corrections"])
        assert found["path"][:3] == [as_float32(float.fromhex(value)) for value in expected["path_first"]]
        assert found["path"][-3:] == [as_float32(float.fromhex(value)) for value in expected["path_last"]]


@dataclass(frozen=True)
class Golden:
    expected: dict[str, Any]
    candles: list[Event]
    model: Model


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Golden:
    expected = json.loads((shared_data / "golden_signals.json").read_text())
    symbol = expected["instrument"]
    candles = [
        event(
            symbol, "BAR", row["timestamp"], duration_s=60,
            **{name: Decimal(row[name]) for name in ("open", "high", "low", "close")},
        )
        for row in rows_of(shared_data / expected["source"])
    ]  # fmt: skip
    converter = Converter({symbol: {"tick_size": TICK, "price_kind": "quote"}})
    bars: dict[tuple[str, str], list[Bar]] = defaultdict(list)
    for candle in candles:
        for kind, item, *_ in converter.feed(candle):
            if kind == "bar":
                bars[(symbol, item["timeframe"])].append(item)
    cut_s = epoch_s(expected["training_cut"])
    assert cut_s is not None
    return Golden(expected, candles, train(bars, WINDOW, cut_s))


def test_libraries_of_real_candles_match(golden: Golden) -> None:
    for timeframe, expected in golden.expected["libraries"].items():
        library = golden.model.libraries[(golden.expected["instrument"], timeframe)]
        assert len(library.rows) == expected["rows"]
        assert library.rows[0].anchor_time == expected["first_anchor"]
        assert library.rows[-1].anchor_time == expected["last_anchor"]
        assert [value.hex() for value in library.mu] == expected["mu"]
        assert [value.hex() for value in library.sigma] == expected["sigma"]


def test_signals_of_real_candles_match(golden: Golden) -> None:
    symbol, model = golden.expected["instrument"], golden.model
    expected = [s for s in golden.expected["signals"] if s["available_at"] <= SIGNALS_UNTIL]
    wanted = {(s["timeframe"], epoch_s(s["anchor_time"])): s for s in expected}
    pipeline = Selected({symbol: {"tick_size": TICK, "price_kind": "quote"}}, WINDOW, {model.model_id: model})
    pipeline.wanted = set(wanted)
    pipeline.feed(event(symbol, "MODEL", "2012-02-01T00:00:00Z", model_id=model.model_id))
    for candle in golden.candles:
        if candle["event_time"] < epoch_us(SIGNALS_UNTIL):
            pipeline.feed(candle)
    found = {(s["timeframe"], s["anchor_time"]): s for s in pipeline.signals}
    assert found.keys() == wanted.keys()
    for key, signal in found.items():
        row = wanted[key]
        assert signal["available_at"] == epoch_s(row["available_at"])
        assert {name: signal[name] for name in ("direction", "reason", "gate_failed")} == {
            name: row[name] for name in ("direction", "reason", "gate_failed")
        }
        for name in ("p_up", "confidence", "expected_move"):
            assert signal[name].hex() == row[name]
        assert [match["row"] for match in signal["matches"]] == row["matches"]
        assert signal["confirmed"] == row.get("confirmed", False)
        for timeframe in ("M5", "M15"):
            anchor = epoch_s(row.get(f"{timeframe.lower()}_anchor"))
            identity = None if anchor is None else signal_id(model.model_id, symbol, timeframe, anchor)
            assert signal[f"{timeframe.lower()}_signal_id"] == identity


class Selected(Pipeline):
    """Looks at the windows that are asked for, and no others."""

    wanted: set[tuple[str, int | None]]

    def _window(self, window: dict[str, Any]) -> None:
        if (window["timeframe"], window["anchor_time"]) in self.wanted:
            super()._window(window)
