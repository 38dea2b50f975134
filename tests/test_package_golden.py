"""The package still gives the committed golden files, to the bit."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from sep_stream.convert import ConvertParameters, MarketDataConverter, direction_bits
from sep_stream.market.decode import events_from_records
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.scoring import Calibration, GateParameters, Model, ModelParameters
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train
from tests.convert.described import DECLARED, by_package
from tests.golden.make import FOLDER, candle_event, hexed, model_event, read_event
from tests.package import metrics_row, package_signals


def golden(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return document


def window_params(named: dict[str, Any]) -> WindowParams:
    return WindowParams(**{**named, "eps": float.fromhex(named["eps"])})


@pytest.mark.parametrize("deadband", [0, 2])
def test_the_converter_gives_the_outputs_of_the_committed_events(deadband: int) -> None:
    document = golden("events.json")
    events = [read_event(row) for row in document["events"]]
    parameters = ConvertParameters(document["history"], document["forward"], deadband)
    out = by_package(events, DECLARED, parameters)
    expected = document["outputs"][str(deadband)]

    def rows(kind: str) -> list[Any]:
        return [row[1:] for row in expected if row[0] == kind]

    def model(window: dict[str, Any]) -> int | None:
        return None if window["model_id"] is None else int(document["models"].index(window["model_id"]))

    assert [
        [
            *(window[name] for name in ("instrument", "timeframe", "anchor_time", "start_time", "available_at")),
            "".join(map(str, window["bits"])),
            window["prices"],
            model(window),
            window["bar"]["index"],
            *((w := window.get(name)) and [w["anchor_time"], model(w)] for name in ("m5", "m15")),
        ]
        for _, window in out.windows
    ] == rows("window")
    if deadband:
        return
    names = ("instrument", "timeframe", "index", "open_time", "open", "high", "low", "close", "volume", "spread")
    assert [[bar[name] for name in names] for _, bar in out.bars] == [
        [*row[:8], Decimal(row[8]), row[9]] for row in rows("bar")
    ]
    assert [[position] for position in out.late] == sorted(rows("late"))
    assert [[position] for position in out.duplicates] == rows("duplicate")
    assert [[position, reason] for position, reason in out.dead] == sorted(rows("dead"))


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_the_engines_give_the_committed_metrics(engine: str) -> None:
    document = golden("metrics.json")
    closes = np.array(document["closes"], np.int32)
    for case in document["cases"]:
        bits = direction_bits(closes, case["deadband"])
        batch = compute_metrics(bits, closes, case["anchors"], window_params(case["params"]), engine)
        assert [hexed(metrics_row(batch, row)) for row in range(len(batch))] == case["windows"]


def trained(document: dict[str, Any], which: int, events: list[dict[str, Any]]) -> Model:
    written = document["models"][which]["document"]
    parameters = written["parameters"]
    series = closed_bars(MarketDataConverter(DECLARED), [events_from_records(DECLARED, events)])
    model = train(
        series,
        ModelParameters(
            window=window_params(document["window"]),
            horizon_bars=tuple(parameters["horizon_bars"]),
            matches=parameters["matches"],
            min_blocks=parameters["min_blocks"],
            gate=GateParameters(**parameters["gate"]),
            deadband=parameters["deadband"],
        ),
        written["training_cut"],
    )
    calibrations = {
        (table["instrument"], table["timeframe"]): Calibration(
            *(tuple(float.fromhex(value) for value in table[axis]) for axis in ("x", "y"))
        )
        for table in written["calibration"]
    }
    return Model(model.parameters, model.training_cut_s, model.libraries, calibrations)


def test_training_and_scoring_give_the_committed_models_and_signals() -> None:
    document = golden("signals.json")
    candles = [candle_event(row) for row in document["candles"]]
    models = [trained(document, which, candles) for which in range(len(document["models"]))]
    assert [model.model_id for model in models] == [written["model_id"] for written in document["models"]]
    assert [model.document() for model in models] == [written["document"] for written in document["models"]]
    markers = {written["before_candle"]: model_event(written["model_id"]) for written in document["models"]}
    events = [event for k, candle in enumerate(candles) for event in (markers.get(k), candle) if event is not None]
    by_id = {model.model_id: model for model in models}
    signals = package_signals(events, DECLARED, window_params(document["window"]), by_id, cuts=(1300, 1301, 1510))
    kept = []
    for timeframe, every in document["every"].items():
        kept += [signal for signal in signals if signal["timeframe"] == timeframe][::every]
    written = {
        signal["signal_id"]: {
            **signal,
            **{
                name: None if signal[name] is None else Decimal(signal[name])
                for name in ("bar_open", "bar_close", "bar_spread")
            },
        }
        for signal in document["signals"]
    }
    assert {signal["signal_id"]: hexed(signal) for signal in kept} == written
