"""A walk-forward backtest gives what the slow reference gives, signal by signal and trade by trade."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from sep_stream.backtest.scored import Scored
from sep_stream.backtest.tables import signal_columns
from sep_stream.market.timeframes import TIMEFRAMES
from tests.backtest import streams
from tests.convert.described import DECLARED
from tests.reference.settling import Settling
from tests.reference.walk import walk
from tests.streams import INSTRUMENTS
from tests.trained import BLOCKS, GATE, MATCHES, PARAMS

Record = dict[str, Any]
COMPARED = (
    "signal_id", "timeframe", "anchor_time", "available_at", "direction", "confidence", "p_up", "expected_move",
    "confirmed", "m5_signal_id", "m15_signal_id", "model_id", "reason",
)  # fmt: skip


def signals_of(part: Scored) -> list[Record]:
    columns = signal_columns(part, 1, streams.MODEL.horizon_bars)
    rows = []
    for values in zip(*(list(columns[name]) for name in COMPARED), columns["gate"], columns["matches"], strict=True):
        row = dict(zip((*COMPARED, "gate", "matches"), values, strict=True))
        row |= {name: int(row[name].astype("int64")) for name in ("anchor_time", "available_at")}
        rows.append({**row, "confirmed": bool(row["confirmed"])})
    return rows


def expected_signal(signal: Record) -> Record:
    gate = {"passed": signal["gate_passed"], "failed": list(signal["gate_failed"])}
    return {**{name: signal[name] for name in COMPARED}, "gate": gate, "matches": signal["matches"]}


@pytest.mark.parametrize(("mode", "calibrate"), [("expanding", False), ("rolling", False), ("expanding", True)])
def test_signals_and_trades_of_all_folds_are_those_of_the_reference(mode: str, calibrate: bool) -> None:
    given = streams.parameters(mode, calibrate=calibrate)
    history = streams.history()
    tester = streams.made(given)
    folds = tester.folds(history)
    spans = [(f.train_from_s, f.cut_s, f.score_from_s, f.score_until_s) for f in folds]
    models, pipeline = walk(
        streams.stream(), INSTRUMENTS, PARAMS, spans, calibrate, gate=GATE, matches=MATCHES, min_blocks=BLOCKS
    )
    signals: dict[str, list[Record]] = defaultdict(list)
    trades: dict[str, list[Record]] = defaultdict(list)
    for scored, model in zip(tester.walk(history, folds), models, strict=True):
        assert scored.model.model_id == model.model_id
        for part in scored.scored:
            signals[part.symbol] += signals_of(part)
        for trade in scored.settled.trades:
            trades[DECLARED.symbols[trade["instrument"]]].append(
                {
                    "timeframe": TIMEFRAMES[trade["timeframe"]],
                    "model_id": scored.settled.models[trade["model"]],
                    **{name: int(trade[name]) for name in ("entry_price", "exit_price", "spread")},
                    **{name: int(trade[f"{name}_s"]) for name in ("anchor_time", "entry_time", "exit_time")},
                }
            )
    settling = Settling({i.symbol: i.default_spread_points for i in DECLARED}, "all", 2, 1)
    wanted: dict[str, list[Record]] = defaultdict(list)
    for signal in pipeline.signals:
        wanted[signal["instrument"]].append(expected_signal(signal))
        tick = INSTRUMENTS[signal["instrument"]]["tick_size"]
        points = {
            name: None if signal[f"bar_{name}"] is None else int(signal[f"bar_{name}"] / tick)
            for name in ("open", "close", "spread")
        }
        settling.feed({**signal, **points, "index": signal["bar_index"], "open_time": signal["bar_open_time"]})
    assert signals == wanted
    assert {s["timeframe"] for found in signals.values() for s in found} == set(TIMEFRAMES)
    made: dict[str, list[Record]] = defaultdict(list)
    for trade in settling.trades:
        names = (
            "timeframe",
            "model_id",
            "entry_price",
            "exit_price",
            "spread",
            "anchor_time",
            "entry_time",
            "exit_time",
        )
        made[trade["instrument"]].append({name: trade[name] for name in names})
    assert trades == made
    assert sum(map(len, trades.values())) > 20
