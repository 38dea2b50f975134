from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sep_stream.errors import ModelError
from sep_stream.metrics import WindowParams
from sep_stream.scoring import Calibration, GateParameters, Model, ModelParameters, PathLibrary
from sep_stream.stores import (
    check_files,
    list_models,
    load_model,
    manifest_sha256,
    model_folder,
    model_folders,
    read_manifest,
    save_model,
)
from sep_stream.training import Evaluation, Fold, FoldEvaluation

WINDOW = WindowParams(history=12, forward=4, samples=2, eps=0.003)
PARAMETERS = ModelParameters(WINDOW, gate=GateParameters(confidence_min=0.55), deadband=2)
FOLDS = Evaluation(
    (
        FoldEvaluation(Fold(1, None, 100, 1900, 3700), {"signals": 12, "hit_rate": 0.1 + 0.2}),
        FoldEvaluation(Fold(2, 50, 1900, 3700, 5500), {"signals": 0, "hit_rate": None}),
    )
)


def library_of(symbol: str, timeframe: str, n: int, seed: int) -> PathLibrary:
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


def model_of(cut_s: int = 10_000) -> Model:
    return Model(
        PARAMETERS,
        cut_s,
        (library_of("EUR/USD", "M1", 7, 1), library_of("EUR/USD", "M5", 0, 2), library_of("AUD/USD", "M15", 3, 3)),
        {("EUR/USD", "M1"): Calibration((0.1, 0.3), (0.2, 1.0 / 3.0))},
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    model = model_of()
    return save_model(model, tmp_path / model.model_id)


def evaluation(**fields: Any) -> dict[str, Any]:
    """The manifest's evaluation with other fields in its second fold."""
    document = FOLDS.document()
    document["folds"][1] |= fields
    return {"evaluation": document}


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rewrite_rows(folder: Path, table: Any) -> None:
    """Other rows, with the manifest's file hash made to fit."""
    path = folder / "library.parquet"
    pq.write_table(table, path)
    rewrite(folder, files={path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}})


def test_a_model_comes_back_to_the_last_bit(stored: Path) -> None:
    model, loaded = model_of(), load_model(stored)
    assert loaded.model_id == model.model_id == stored.name
    assert loaded.parameters == model.parameters
    assert loaded.training_cut_s == model.training_cut_s
    assert loaded.calibrations == model.calibrations
    for a, b in zip(loaded.libraries, model.libraries, strict=True):
        assert (a.symbol, a.timeframe) == (b.symbol, b.timeframe)
        for name in ("paths", "anchor_time_s", "available_at_s", "outcome_at_s", "outcome", "mu", "sigma"):
            assert getattr(a, name).dtype == getattr(b, name).dtype
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes()


def test_a_model_without_libraries_comes_back(tmp_path: Path) -> None:
    model = Model(PARAMETERS, 0, ())
    assert load_model(save_model(model, tmp_path / "m")).model_id == model.model_id


def test_the_manifest_says_what_the_model_is_without_its_rows(stored: Path) -> None:
    manifest = read_manifest(stored)
    assert manifest.model_id == stored.name
    assert manifest.parameters == PARAMETERS
    assert [(s.symbol, s.timeframe, s.rows) for s in manifest.libraries] == [
        ("AUD/USD", "M15", 3),
        ("EUR/USD", "M1", 7),
        ("EUR/USD", "M5", 0),
    ]
    assert (manifest.libraries[1].first_anchor_time_s, manifest.libraries[1].last_anchor_time_s) == (0, 360)
    assert (manifest.libraries[2].first_anchor_time_s, manifest.libraries[2].last_anchor_time_s) == (None, None)
    document = json.loads((stored / "manifest.json").read_text())
    assert document["libraries"][1]["mu"] == [float(v).hex() for v in model_of().libraries[1].mu]
    assert manifest_sha256(stored) == hashlib.sha256((stored / "manifest.json").read_bytes()).hexdigest()


def test_saving_the_same_model_again_leaves_it_as_it_is(stored: Path) -> None:
    before = manifest_sha256(stored)
    assert save_model(model_of(), stored) == stored
    assert manifest_sha256(stored) == before


def test_another_model_is_not_overwritten(stored: Path) -> None:
    with pytest.raises(ModelError, match=f"holds model {stored.name}.*not written over"):
        save_model(model_of(cut_s=10_001), stored)
    assert load_model(stored).model_id == stored.name


def test_saving_leaves_nothing_beside_the_model(stored: Path) -> None:
    with pytest.raises(ModelError):
        save_model(model_of(cut_s=10_001), stored)
    assert list(stored.parent.iterdir()) == [stored]
    assert sorted(f.name for f in stored.iterdir()) == ["library.parquet", "manifest.json"]


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(ModelError, match="cannot write the model: No space left"):
        save_model(model_of(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_race_for_the_same_model_is_won_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    rename = Path.rename

    def after_another(draft: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        save_model(model, target)
        return rename(draft, target)

    monkeypatch.setattr(Path, "rename", after_another)
    assert load_model(save_model(model, tmp_path / "m")).model_id == model.model_id
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


def test_a_damaged_file_is_named(stored: Path) -> None:
    path = stored / "library.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"library\.parquet: SHA-256 differs from files\.library\.parquet\.sha256"):
        load_model(stored)


def test_a_missing_file_is_named(stored: Path) -> None:
    (stored / "library.parquet").unlink()
    with pytest.raises(ModelError, match=r"library\.parquet: cannot read: No such file"):
        load_model(stored)
    (stored / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"manifest\.json: cannot read.*No such file"):
        load_model(stored)


def test_rows_that_are_not_those_of_the_manifest_are_refused(stored: Path) -> None:
    table = pq.read_table(stored / "library.parquet")
    changed = table.set_column(
        table.column_names.index("outcome"), "outcome", pa.array(np.arange(table.num_rows, dtype=np.int32))
    )
    rewrite_rows(stored, changed)
    with pytest.raises(ModelError, match=r"library\.parquet: rows of AUD/USD M15 are not those of libraries\[0\]"):
        load_model(stored)


@pytest.mark.parametrize("rows", [9, 11])
def test_too_few_or_too_many_rows_are_refused(stored: Path, rows: int) -> None:
    table = pq.read_table(stored / "library.parquet")
    rewrite_rows(stored, pa.concat_tables([table, table]).slice(0, rows))
    with pytest.raises(ModelError, match=rf"library\.parquet: {rows} rows"):
        load_model(stored)


def test_a_column_of_another_type_is_named(stored: Path) -> None:
    table = pq.read_table(stored / "library.parquet")
    at = table.column_names.index("outcome")
    rewrite_rows(stored, table.set_column(at, "outcome", table.column("outcome").cast(pa.int64())))
    with pytest.raises(ModelError, match="expected a column outcome of int32"):
        load_model(stored)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"metrics_version": "sep-metrics/2"},
            "metrics_version is 'sep-metrics/2', this version reads 'sep-metrics/1'",
        ),
        ({"format": "sep-model/9"}, "format is 'sep-model/9'"),
        ({"model_id": "0" * 64}, "model_id is 0{64}, but its content makes"),
        ({"model_id": "nonsense"}, "model_id: expected 64 lower-case hex digits"),
        ({"training_cut": 10_001}, "model_id is [0-9a-f]{64}, but its content makes"),
        ({"training_cut": "late"}, "training_cut: expected int, got 'late'"),
        ({"training_cut": True}, "training_cut: expected int"),
        ({"parameters": {}}, r"parameters\.window: expected dict"),
        ({"parameters": {"window": {}, "gate": {}, "horizon_bars": [1, 1, 1], "speed": 3}}, "parameters: .*speed"),
        ({"parameters": {"window": {"eps": "x"}, "gate": {}, "horizon_bars": [1, 1, 1]}}, "parameters: "),
        ({"parameters": {"window": {}, "gate": {}, "horizon_bars": [1, 1, 0]}}, "parameters: .*horizon_bars"),
        ({"calibration": [{"instrument": "EUR/USD"}]}, r"calibration\[0\]\.timeframe: expected str, got None"),
        ({"libraries": [{"instrument": "EUR/USD", "timeframe": "M1"}]}, r"libraries\[0\]\.rows: expected int"),
        ({"libraries": [3]}, r"libraries\[0\]\.instrument: expected str"),
        (
            {
                "calibration": [
                    {"instrument": "EUR/USD", "timeframe": "M1", "x": ["0x1p0", "0x0p0"], "y": ["0x0p0"] * 2}
                ]
            },
            r"calibration\[0\]: calibration: expected x to rise",
        ),
        ({"training_from": "early"}, "training_from: expected int, got 'early'"),
        ({"evaluation": [1]}, "evaluation: expected dict"),
        ({"evaluation": {}}, r"evaluation\.folds: expected list, got None"),
        ({"evaluation": {"folds": [], "mood": 1}}, "evaluation: unknown field 'mood', expected folds"),
        ({"evaluation": {"folds": [3]}}, r"evaluation\.folds\[0\]\.number: expected int"),
        (evaluation(score_until="late"), r"evaluation\.folds\[1\]\.score_until: expected int, got 'late'"),
        (evaluation(score_until=3700), r"evaluation\.folds\[1\]: fold: expected score_from < score_until"),
        (evaluation(train_from=1.5), r"evaluation\.folds\[1\]\.train_from: expected int, got 1\.5"),
        (evaluation(luck=1), r"evaluation\.folds\[1\]: unknown field 'luck'"),
        (evaluation(figures=None), r"evaluation\.folds\[1\]\.figures: expected dict, got None"),
        (evaluation(figures={"hit_rate": "high"}), r"evaluation\.folds\[1\]: figures\.hit_rate: expected a finite"),
        (evaluation(figures={"hit_rate": math.nan}), r"evaluation\.folds\[1\]: figures\.hit_rate: expected a finite"),
        (evaluation(figures={"hits": True}), r"evaluation\.folds\[1\]: figures\.hits: expected a finite"),
        ({"files": {}}, r"files: expected library\.parquet, got none"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_file_and_field(
    stored: Path, fields: dict[str, Any], message: str
) -> None:
    rewrite(stored, **fields)
    with pytest.raises(ModelError, match=rf"manifest\.json: {message}"):
        load_model(stored)


def test_mu_that_is_not_hexadecimal_is_named(stored: Path) -> None:
    libraries = json.loads((stored / "manifest.json").read_text())["libraries"]
    libraries[1]["mu"][0] = "much"
    rewrite(stored, libraries=libraries)
    with pytest.raises(ModelError, match=r"libraries\[1\]\.mu: expected hexadecimal floats"):
        load_model(stored)


def test_a_manifest_that_is_not_json_is_refused(stored: Path) -> None:
    (stored / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match=r"manifest\.json: not JSON"):
        load_model(stored)
    (stored / "manifest.json").write_text("[]")
    with pytest.raises(ModelError, match=r"manifest\.json: expected a JSON object"):
        load_model(stored)


def test_models_are_listed_by_training_cut(tmp_path: Path) -> None:
    models = [model_of(cut_s) for cut_s in (30_000, 10_000, 20_000)]
    for model in models:
        save_model(model, tmp_path / model.model_id)
    (tmp_path / "notes").mkdir()
    listed = list_models(tmp_path)
    assert [m.training_cut_s for m in listed] == [10_000, 20_000, 30_000]
    assert {m.model_id for m in listed} == {m.model_id for m in models}
    assert list_models(tmp_path / "nowhere") == []


def test_paths_and_file_urls_name_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    save_model(model_of(), model_folder(folder.as_uri(), "m"))
    assert [str(model_folder(url, "m")) for url in (folder, str(folder), folder.as_uri())] == [str(folder / "m")] * 3
    assert load_model((folder / "m").as_uri()).model_id == model_of().model_id


@pytest.mark.parametrize("url", ["s3://bucket/models", "https://host/models", "file://elsewhere/models"])
def test_other_places_are_refused_saying_what_is_supported(url: str) -> None:
    with pytest.raises(ModelError, match=f"{url}: .*local folder"):
        model_folder(url, "m")


@pytest.mark.parametrize("location", ["../other", "/etc", "a/../../b"])
def test_a_location_cannot_lead_out_of_the_folder(tmp_path: Path, location: str) -> None:
    with pytest.raises(ModelError, match="expected a folder below"):
        model_folder(tmp_path, location)


def test_parameters_with_whole_numbers_for_floats_have_the_same_id(tmp_path: Path) -> None:
    parameters = replace(PARAMETERS, gate=GateParameters(confidence_min=1), window=replace(WINDOW, eps=1))
    model = Model(parameters, 0, ())
    assert load_model(save_model(model, tmp_path / "m")).model_id == model.model_id


def test_an_evaluation_travels_with_the_model_and_is_no_part_of_its_id(tmp_path: Path) -> None:
    model = model_of()
    folder = save_model(model, tmp_path / "m", FOLDS)
    assert read_manifest(folder).evaluation == FOLDS
    assert load_model(folder).model_id == model.model_id
    written = json.loads((folder / "manifest.json").read_text())["evaluation"]["folds"]
    assert written[0] == {
        "number": 1, "train_from": None, "cut": 100, "score_from": 1900, "score_until": 3700,
        "figures": {"signals": 12, "hit_rate": 0.1 + 0.2},
    }  # fmt: skip


def test_a_manifest_of_before_has_neither_evaluation_nor_training_start(stored: Path) -> None:
    path = stored / "manifest.json"
    document = json.loads(path.read_text())
    del document["training_from"]
    assert "evaluation" not in document
    path.write_text(json.dumps(document))
    manifest = read_manifest(stored)
    assert (manifest.evaluation, manifest.training_from_s) == (None, None)
    assert load_model(stored).model_id == stored.name


def test_the_training_start_comes_back_and_is_no_part_of_the_id(tmp_path: Path) -> None:
    model = replace(model_of(), training_from_s=-60)
    folder = save_model(model, tmp_path / "m")
    assert read_manifest(folder).training_from_s == load_model(folder).training_from_s == -60
    assert load_model(folder).model_id == model_of().model_id


def test_a_manifest_never_changes_so_another_evaluation_needs_another_folder(stored: Path) -> None:
    before = manifest_sha256(stored)
    with pytest.raises(ModelError, match=f"{stored.name}: holds this model with another evaluation or none"):
        save_model(model_of(), stored, FOLDS)
    assert manifest_sha256(stored) == before
    evaluated = save_model(model_of(), stored.parent / "evaluated", FOLDS)
    assert save_model(model_of(), evaluated, FOLDS) == save_model(model_of(), evaluated) == evaluated


@pytest.mark.parametrize("bad", [math.inf, math.nan, "0.5", True])
def test_a_figure_that_is_no_finite_number_is_refused(bad: Any) -> None:
    with pytest.raises(ModelError, match=r"figures\.hit_rate: expected a finite number or null"):
        FoldEvaluation(Fold(1, None, 0, 1, 2), {"hit_rate": bad})


def test_files_can_be_checked_without_reading_them_as_a_model(stored: Path) -> None:
    check_files(stored)
    (stored / "library.parquet").write_bytes(b"")
    with pytest.raises(ModelError, match=r"library\.parquet: SHA-256 differs"):
        check_files(stored)


def test_only_folders_named_as_a_model_are_models(stored: Path) -> None:
    save_model(model_of(), stored.parent / "mine")
    (stored.parent / ("0" * 64)).mkdir()
    assert model_folders(stored.parent) == [stored]
    assert model_folders(stored.parent / "nowhere") == []
