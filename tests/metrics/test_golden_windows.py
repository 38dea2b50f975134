"""Windows computed elsewhere, to be matched to the bit."""

from __future__ import annotations

import json
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sep_stream.convert import direction_bits
from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics

SEEDED = Path(__file__).parent / "golden_seeded.json"
TICK = Decimal("0.00001")


def half_up(price: Decimal) -> int:
    return int((price / TICK + Decimal("0.5")).to_integral_value(ROUND_FLOOR))


def candle_closes(source: Path) -> npt.NDArray[np.int32]:
    candles = json.loads(source.read_text(), parse_float=Decimal, parse_int=Decimal)
    return np.array([half_up(candle["close"]) for candle in candles], np.int32)


def params_of(names: dict[str, Any]) -> WindowParams:
    return WindowParams(names["L"], names["F"], names["K"], names["eps"], names["hold"])


def described(batch: MetricsBatch, row: int) -> dict[str, Any]:
    """A row in the words of the golden files: floats in hexadecimal."""

    def hexed(values: npt.NDArray[Any]) -> list[str]:
        return [float(v).hex() for v in values]

    return {
        "counts": batch.counts[row].tolist(),
        "initial": hexed(batch.initial[row]),
        "lam": float(batch.lam[row]).hex(),
        "damped": hexed(batch.damped[row]),
        "settled_at": int(batch.settled_at[row]),
        "converged": bool(batch.converged[row]),
        "potential": float(batch.potential[row]).hex(),
        "corrections": int(batch.corrections[row]),
        "probes": int(batch.probes[row]),
        "path": hexed(batch.path[row]),
        "rupture_collapse": bool(batch.rupture_collapse[row]),
        "qbsa_collapse": bool(batch.qbsa_collapse[row]),
    }


def as_float32(values: list[str]) -> list[str]:
    return [float(np.float32(float.fromhex(v))).hex() for v in values]


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_windows_of_real_candles_match(shared_data: Path, engine: str) -> None:
    golden = json.loads((shared_data / "golden_windows.json").read_text())
    candles = json.loads((shared_data / golden["source"]).read_text(), parse_float=Decimal, parse_int=Decimal)
    closes = np.array([half_up(candle["close"]) for candle in candles], np.int32)
    assert golden["windows"]
    for expected in golden["windows"]:
        anchor = expected["anchor_index"]
        assert candles[anchor]["time"] == expected["anchor_time"]
        bits = direction_bits(closes, expected["deadband"])
        found = described(compute_metrics(bits, closes, [anchor], params_of(golden["params"]), engine), 0)
        assert {name: found[name] for name in expected if name in found} == {
            name: value for name, value in expected.items() if name in found
        }
        assert found["path"][:3] == as_float32(expected["path_first"])
        assert found["path"][-3:] == as_float32(expected["path_last"])


def test_lanes_match_the_same_windows(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_windows.json").read_text())
    closes = candle_closes(shared_data / golden["source"])
    params = params_of(golden["params"])
    first = params.history - 1
    anchors = np.arange(first, len(closes) - params.forward)
    for expected in golden["windows"]:
        batch = compute_metrics(direction_bits(closes, expected["deadband"]), closes, anchors, params, "cpu")
        found = described(batch, expected["anchor_index"] - first)
        assert found["damped"] == expected["damped"]
        assert found["potential"] == expected["potential"]


def seeded_closes(bars: int) -> npt.NDArray[np.int32]:
    """A walk that depends on nothing but this linear congruential generator."""
    state, close, closes = 20_240_229, 1_500_000, []
    for _ in range(bars):
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        close += (state >> 33) % 61 - 30
        closes.append(close)
    return np.array(closes, np.int32)


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_windows_of_a_seeded_series_match(engine: str) -> None:
    golden = json.loads(SEEDED.read_text())
    closes = seeded_closes(golden["bars"])
    for case in golden["cases"]:
        bits = direction_bits(closes, case["deadband"])
        batch = compute_metrics(bits, closes, case["anchors"], params_of(case["params"]), engine)
        assert [described(batch, row) for row in range(len(batch))] == case["windows"]
