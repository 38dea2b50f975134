from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sep_stream.errors import ModelError
from sep_stream.metrics import WindowParams
from sep_stream.scoring import Calibration, GateParameters, Model, ModelParameters, PathLibrary

WINDOW = WindowParams(history=12, forward=4, samples=2)
PARAMETERS = ModelParameters(window=WINDOW)


def library_of(symbol: str = "EUR/USD", timeframe: str = "M1", n: int = 5, seed: int = 0) -> PathLibrary:
    rng = np.random.default_rng(seed)
    anchor = 60 * np.arange(n, dtype=np.int64)
    return PathLibrary.build(
        symbol,
        timeframe,
        rng.random((n, WINDOW.path_values)).astype(np.float32),
        anchor,
        anchor + 60,
        anchor + 120,
        rng.integers(-9, 10, n).astype(np.int32),
    )


def model_of(**changes: Any) -> Model:
    parts = {
        "parameters": PARAMETERS,
        "training_cut_s": 1000,
        "libraries": (library_of(), library_of(timeframe="M15", seed=1)),
        "calibrations": {("EUR/USD", "M1"): Calibration((0.2, 0.8), (0.4, 0.6))},
    }
    return Model(**{**parts, **changes})


def test_the_id_is_the_hash_of_the_canonical_json_of_what_the_contract_names() -> None:
    model = model_of()
    library = model.libraries[0]
    document = model.document()
    assert document["metrics_version"] == "sep-metrics/1"
    assert document["training_cut"] == 1000
    assert document["calibration"] == [
        {"instrument": "EUR/USD", "timeframe": "M1", "x": [(0.2).hex(), (0.8).hex()], "y": [(0.4).hex(), (0.6).hex()]}
    ]
    assert document["libraries"][0] == {
        "instrument": "EUR/USD",
        "timeframe": "M1",
        "rows": 5,
        "mu": [float(v).hex() for v in library.mu],
        "sigma": [float(v).hex() for v in library.sigma],
        "rows_sha256": library.rows_sha256,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert model.model_id == hashlib.sha256(text.encode()).hexdigest()


def test_the_id_stays_what_it_was_in_the_first_release() -> None:
    """A change here makes every stored model unreadable: it needs a new metrics version."""
    anchor = np.array([0, 60], np.int64)
    paths = np.array([[0.25, 0.5, 0.75, 0.25, 0.5, 1.0], [0.5, 0.5, 0.25, 0.125, 0.5, 1.0]], np.float32)
    outcome = np.array([3, -4], np.int32)
    library = PathLibrary.build("EUR/USD", "M1", paths, anchor, anchor + 60, anchor + 120, outcome)
    assert (
        Model(PARAMETERS, 1000, (library,)).model_id
        == "3d6374e6189bd87aded97aabff5356ed2440eac88010b57687a88553d5990f2a"
    )


def test_the_order_of_libraries_does_not_matter() -> None:
    libraries = (library_of(), library_of(timeframe="M5", seed=1), library_of("AUD/USD", seed=2))
    model = model_of(libraries=libraries)
    assert model.model_id == model_of(libraries=libraries[::-1]).model_id
    assert [(b.symbol, b.timeframe) for b in model.libraries] == [
        ("AUD/USD", "M1"),
        ("EUR/USD", "M1"),
        ("EUR/USD", "M5"),
    ]


def changed(**parameters: Any) -> ModelParameters:
    return replace(PARAMETERS, **parameters)


@pytest.mark.parametrize(
    "changes",
    [
        {"training_cut_s": 1001},
        {"calibrations": {}},
        {"libraries": (library_of(seed=9), library_of(timeframe="M15", seed=1))},
        {"libraries": (library_of("GBP/USD"), library_of()), "calibrations": {}},
        {"parameters": changed(deadband=1)},
        {"parameters": changed(matches=31)},
        {"parameters": changed(min_blocks=15)},
        {"parameters": changed(horizon_bars=(30, 6, 3))},
        {"parameters": changed(gate=GateParameters(confidence_min=0.61))},
        {"parameters": changed(window=replace(WINDOW, eps=0.003))},
    ],
)
def test_any_change_is_another_id(changes: dict[str, Any]) -> None:
    assert model_of(**changes).model_id != model_of().model_id


def test_a_missing_library_is_an_empty_one_and_a_missing_calibration_the_identity() -> None:
    model = model_of()
    assert len(model.library("EUR/USD", "M5")) == 0
    assert len(model.library("XXX/YYY", "M1")) == 0
    assert model.calibration("EUR/USD", "M15") == Calibration()
    assert len(model.calibration("EUR/USD", "M1").x) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"libraries": (library_of(), library_of())}, "two libraries"),
        ({"training_cut_s": 200}, "after the training cut 200"),
        ({"libraries": (library_of(timeframe="H1"),), "calibrations": {}}, "timeframe is one of"),
        ({"calibrations": {("EUR/USD", "M5"): Calibration()}}, "no library"),
        ({"parameters": changed(window=WindowParams())}, "6 values"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_of(**changes)


@pytest.mark.parametrize(
    "bad", [{"matches": 0}, {"min_blocks": 0}, {"deadband": -1}, {"horizon_bars": (30, 6)}, {"horizon_bars": (0, 6, 2)}]
)
def test_parameters_outside_the_contract_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(bad))):
        changed(**bad)
