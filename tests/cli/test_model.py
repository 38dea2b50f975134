"""`model train`, `list` and `show` over a file, without a broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sep_stream.cli import cli
from sep_stream.errors import InputError, ModelError
from sep_stream.metrics import WindowParams
from sep_stream.scoring import Calibration, Model, ModelParameters, PathLibrary
from sep_stream.stores import save_model
from sep_stream.training import Evaluation, Fold, FoldEvaluation

T0 = 1_707_091_200  # 2024-02-05T00:00:00Z
CANDLES = 800


def run(*args: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(cli, ["model", *map(str, args)])
    if not fails:
        assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def at(candle: int) -> str:
    return datetime.fromtimestamp(T0 + 60 * candle, UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("candles") / "c.csv"
    closes = 110_000 + np.cumsum(np.random.default_rng(1).integers(-3, 4, CANDLES))
    lines = [f"{T0 + 60 * k},{','.join([f'{p / 1e5:.5f}'] * 4)}" for k, p in enumerate(closes.tolist())]
    path.write_text("\n".join(["time,open,high,low,close", *lines]) + "\n")
    return path


def train(candles: Path, models: Path, *args: object) -> dict[str, Any]:
    trained = run("train", "--from", candles, "--instrument", "EUR/USD", "--models-url", models, "--json", *args)
    document: dict[str, Any] = json.loads(trained.stdout)
    return document


def library(timeframe: str, rows: int) -> PathLibrary:
    anchor = T0 + 60 * np.arange(rows, dtype=np.int64)
    paths = np.random.default_rng(rows).random((rows, 48)).astype(np.float32)
    return PathLibrary.build("EUR/USD", timeframe, paths, anchor, anchor + 60, anchor + 120, np.ones(rows, np.int32))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A model with a table for M1, a training start and two folds."""
    model = Model(
        ModelParameters(WindowParams()),
        T0 + 86_400,
        (library("M1", 130), library("M5", 0)),
        {("EUR/USD", "M1"): Calibration((0.4, 0.45, 0.6), (0.48, 0.5, 0.55))},
        training_from_s=T0 - 3600,
    )
    folds = Evaluation(
        (
            FoldEvaluation(Fold(1, T0, T0 + 60, T0 + 1860, T0 + 3660), {"signals": 1200, "hit_rate": 0.51234}),
            FoldEvaluation(Fold(2, T0, T0 + 1860, T0 + 3660, T0 + 5460), {"signals": 0, "hit_rate": None}),
        )
    )
    return save_model(model, tmp_path / model.model_id, folds)


def test_train_says_what_the_libraries_hold(candles: Path, tmp_path: Path) -> None:
    whole = train(candles, tmp_path, "--until", at(700))
    m1 = whole["libraries"][0]
    # windows of 128 bars and a horizon of 30, the candle at the cut not closed
    assert (m1["timeframe"], m1["rows"], m1["blocks"]) == ("M1", 700 - 127 - 30, 9)
    assert (m1["first_anchor"], whole["training_from"]) == (at(63), None)
    since = train(candles, tmp_path, "--until", at(700), "--since", at(100))
    m1 = since["libraries"][0]
    assert (m1["rows"], m1["first_anchor"]) == (600 - 127 - 30, at(163))
    assert since["training_from"] == at(100)
    assert since["model_id"] != whole["model_id"]


def test_train_calibrates_unless_told_not_to(candles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sep_stream.training import calibrate

    plain = train(candles, tmp_path, "--until", at(700), "--no-calibrate")
    assert not plain["calibrated"]
    asked: list[Model] = []

    def calibrated(model: Model, engine: object) -> Model:
        asked.append(model)
        return Model(
            model.parameters, model.training_cut_s, model.libraries, {("EUR/USD", "M1"): Calibration((0.5,), (0.5,))}
        )

    monkeypatch.setattr(calibrate, "calibrated", calibrated)
    table = train(candles, tmp_path, "--until", at(700))
    assert [model.model_id for model in asked] == [plain["model_id"]]
    assert table["calibrated"]
    assert table["libraries"][0]["calibration"] == {"knots": 1, "x": [0.5, 0.5], "y": [0.5, 0.5]}


def test_a_history_too_short_for_a_table_gives_the_model_without_one(candles: Path, tmp_path: Path) -> None:
    found = [train(candles, tmp_path, "--until", at(700), flag) for flag in ("--calibrate", "--no-calibrate")]
    assert found[0] == found[1]


def test_show_tells_span_libraries_calibration_and_folds(stored: Path) -> None:
    shown = run("show", stored.name[:6], "--models-url", stored.parent).stdout
    for line in (
        f"model {stored.name}",
        "  training from  2024-02-04T23:00:00Z",
        "  training cut   2024-02-06T00:00:00Z",
        "  calibrated     yes",
        "  EUR/USD  M1        130 rows      3 blocks  3 knots: p 0.400 … 0.600 becomes 0.480 … 0.550",
        "  EUR/USD  M5          0 rows      0 blocks  not calibrated",
        f"  fold   1  trained until {at(1)}, scored {at(31)} to {at(61)}  signals 1,200  hit_rate 0.5123",
        f"  fold   2  trained until {at(31)}, scored {at(61)} to {at(91)}  signals 0  hit_rate -",
    ):
        assert line in shown.splitlines()


def test_json_tells_the_same(stored: Path) -> None:
    shown = json.loads(run("show", stored.name, "--models-url", stored.parent, "--json").stdout)
    assert json.loads(run("list", "--models-url", stored.parent, "--json").stdout) == shown
    assert shown["libraries"][0]["calibration"] == {"knots": 3, "x": [0.4, 0.6], "y": [0.48, 0.55]}
    assert shown["libraries"][1] == {
        "instrument": "EUR/USD", "timeframe": "M5", "rows": 0, "blocks": 0, "first_anchor": None, "last_anchor": None,
        "calibration": None,
    }  # fmt: skip
    assert shown["folds"][1] == {
        "number": 2, "train_from": at(0), "cut": at(31), "score_from": at(61), "score_until": at(91),
        "figures": {"signals": 0, "hit_rate": None},
    }  # fmt: skip


def test_a_model_on_all_history_is_shown_as_such(candles: Path, tmp_path: Path) -> None:
    trained = train(candles, tmp_path, "--until", at(300))
    shown = run("show", trained["model_id"], "--models-url", tmp_path).stdout
    assert "  training from  the first bar" in shown.splitlines()
    assert "fold" not in shown.replace("folder", "")


def test_list_shows_a_line_for_each_model(stored: Path, candles: Path) -> None:
    early = train(candles, stored.parent, "--until", at(300))
    lines = run("list", "--models-url", stored.parent).stdout.splitlines()
    rows, blocks = (sum(each[name] for each in early["libraries"]) for name in ("rows", "blocks"))
    assert lines == [
        f"{early['model_id']}  until {at(300)}  {rows} rows  {blocks} blocks  0 of 3 calibrated",
        f"{stored.name}  since {at(-60)} until {at(1440)}  130 rows  3 blocks  1 of 2 calibrated  2 folds",
    ]


def test_one_that_cannot_be_read_does_not_hide_the_others(stored: Path, candles: Path) -> None:
    other = train(candles, stored.parent, "--until", at(300))
    manifest = stored / "manifest.json"
    manifest.write_text(manifest.read_text().replace("sep-metrics/1", "sep-metrics/2"))
    listed = run("list", "--models-url", stored.parent, fails=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [other["model_id"]]
    assert isinstance(listed.exception, ModelError)
    assert "models that can't be read: 1" in str(listed.exception)
    told = "metrics_version is 'sep-metrics/2', this version reads 'sep-metrics/1'"
    assert f"{manifest}: {told}" in str(listed.exception)
    assert run("show", other["model_id"], "--models-url", stored.parent).exit_code == 0
    shown = run("show", stored.name, "--models-url", stored.parent, fails=True)
    assert isinstance(shown.exception, ModelError)
    assert told in str(shown.exception)


def test_show_finds_a_damaged_file(stored: Path) -> None:
    with (stored / "library.parquet").open("ab") as file:
        file.write(b"\0")
    shown = run("show", stored.name, "--models-url", stored.parent, fails=True)
    assert f"model {stored.name}" in shown.stdout
    assert isinstance(shown.exception, ModelError)
    assert "library.parquet: SHA-256 differs from files.library.parquet.sha256" in str(shown.exception)


def test_an_id_that_none_or_several_begin_with_is_refused(stored: Path) -> None:
    for prefix, count in (("zz", 0), ("", 2)):
        save_model(Model(ModelParameters(), 0, ()), stored.parent / Model(ModelParameters(), 0, ()).model_id)
        result = run("show", prefix, "--models-url", stored.parent, fails=True)
        assert isinstance(result.exception, InputError)
        assert f"{count} at {stored.parent} begin so" in str(result.exception)
