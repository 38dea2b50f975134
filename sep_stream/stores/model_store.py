"""Models as folders: `manifest.json` says what the model is, `library.parquet` holds its rows."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sep_stream.errors import ModelError, SepError
from sep_stream.metrics import METRICS_VERSION, WindowParams
from sep_stream.scoring.calibration import Calibration
from sep_stream.scoring.gate import GateParameters
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.training.evaluation import Evaluation, FoldEvaluation
from sep_stream.training.folds import Fold

MANIFEST: Final = "manifest.json"
LIBRARY: Final = "library.parquet"
FORMAT: Final = "sep-model/1"

_MODEL_ID: Final = re.compile(r"[0-9a-f]{64}")
_HASH_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LibrarySummary:
    """What a manifest says of one library. Times are of the first and last anchor, None without rows."""

    symbol: str
    timeframe: str
    rows: int
    first_anchor_time_s: int | None
    last_anchor_time_s: int | None


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """What a manifest says, without the rows: enough to list, show and publish a model.

    training_from_s: None where the model was trained on all before its cut · evaluation: of the folds it comes from
    """

    folder: Path
    model_id: str
    parameters: ModelParameters
    training_cut_s: int
    training_from_s: int | None
    calibrations: Mapping[tuple[str, str], Calibration]
    libraries: tuple[LibrarySummary, ...]
    evaluation: Evaluation | None


def local_folder(url: str | Path) -> Path:
    """The folder that a plain path or a file:// URL names; ModelError for any other scheme."""
    text = str(url)
    parts = urlsplit(text)
    if parts.scheme == "" or isinstance(url, Path):
        return Path(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    raise ModelError(f"{text}: models lie in a local folder: give a path or file:///path")


def model_folder(models_url: str | Path, location: str) -> Path:
    """Folder of the model at `location`, its id as a rule, below `models_url`.

    Raises ModelError for a URL that is not local, and for a location that leads out of it.
    """
    root = local_folder(models_url)
    folder = root / location
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(f"model location {location!r}: expected a folder below {root}")
    return folder


def save_model(model: Model, folder: str | Path, evaluation: Evaluation | None = None) -> Path:
    """Write a model to `folder`, whole or not at all, and return that folder.

    evaluation: of the folds that the model comes from, for its manifest
    The same model may lie there already. Raises ModelError where another one does, or the same with another evaluation,
    or where the one there is damaged. What lies there is never changed: the log names its SHA-256.
    """
    target = local_folder(folder).absolute()
    if _is_there(model, target, evaluation):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(model, draft, evaluation)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not _is_there(model, target, evaluation):
                raise
        _sync_folder(target.parent)
    except OSError as error:
        raise ModelError(f"{target}: cannot write the model: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _is_there(model: Model, folder: Path, evaluation: Evaluation | None) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = load_model(folder).model_id
    if found != model.model_id:
        raise ModelError(f"{folder}: holds model {found}; {model.model_id} is not written over it")
    if evaluation is not None and read_manifest(folder).evaluation != evaluation:
        raise ModelError(
            f"{folder}: holds this model with another evaluation or none, and its manifest is never changed: "
            "save it to another folder"
        )
    return True


def load_model(folder: str | Path) -> Model:
    """The model in a folder, verified: files by SHA-256, rows by theirs, and the id by what it is taken of.

    Raises ModelError naming the file and field that is missing, damaged, or of another metrics version.
    """
    root = local_folder(folder)
    manifest = _Manifest.read(root)
    manifest.check_files()
    libraries = tuple(_libraries(manifest))
    summary = manifest.summary()
    model = Model(summary.parameters, summary.training_cut_s, libraries, summary.calibrations, summary.training_from_s)
    if model.model_id != summary.model_id:
        raise ModelError(f"{manifest.path}: model_id is {summary.model_id}, but its content makes {model.model_id}")
    return model


def read_manifest(folder: str | Path) -> ModelManifest:
    """What the manifest in a folder says; its files are not looked at. Raises ModelError as `load_model`."""
    return _Manifest.read(local_folder(folder)).summary()


def check_files(folder: str | Path) -> None:
    """Raises ModelError where a file of the model in a folder is missing, or its SHA-256 not that of the manifest."""
    _Manifest.read(local_folder(folder)).check_files()


def model_folders(models_url: str | Path) -> list[Path]:
    """The folders below `models_url` that are named as a model and hold a manifest; none where there is no such URL."""
    root = local_folder(models_url)
    if not root.is_dir():
        return []
    return [entry for entry in root.iterdir() if _MODEL_ID.fullmatch(entry.name) and (entry / MANIFEST).is_file()]


def list_models(models_url: str | Path) -> list[ModelManifest]:
    """The manifests of the models below a folder, by training cut, then id; none where there is no such folder."""
    manifests = [read_manifest(folder) for folder in model_folders(models_url)]
    return sorted(manifests, key=lambda manifest: (manifest.training_cut_s, manifest.model_id))


def manifest_sha256(folder: str | Path) -> str:
    """SHA-256, lower hex, of the manifest in a folder: what a ModelManifest record carries."""
    return _sha256(local_folder(folder) / MANIFEST)


def _write(model: Model, folder: Path, evaluation: Evaluation | None) -> None:
    pq.write_table(_table(model), folder / LIBRARY, compression="zstd")
    _sync_file(folder / LIBRARY)
    document = {
        "format": FORMAT,
        "model_id": model.model_id,
        **model.document(),
        "training_from": model.training_from_s,
        "files": {LIBRARY: {"sha256": _sha256(folder / LIBRARY)}},
    }
    if evaluation is not None:
        document["evaluation"] = evaluation.document()
    for entry, library in zip(document["libraries"], model.libraries, strict=True):
        entry["anchor_time_range"] = library.anchor_time_s[[0, -1]].tolist() if len(library) else None
    (folder / MANIFEST).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync_file(folder / MANIFEST)
    _sync_folder(folder)


def _table(model: Model) -> Any:
    """The rows of all libraries, one after the other in the manifest's order."""
    width = model.parameters.window.path_values
    path = np.concatenate([np.empty((0, width), np.float32), *(library.paths for library in model.libraries)])
    return pa.table(
        {
            "instrument": pa.array(_repeated(model, "symbol"), pa.dictionary(pa.int32(), pa.string())),
            "timeframe": pa.array(_repeated(model, "timeframe"), pa.dictionary(pa.int32(), pa.string())),
            "path": pa.FixedSizeListArray.from_arrays(pa.array(path.ravel()), width),
            **{name: pa.array(_joined(model, name, dtype)) for name, dtype in _COLUMNS.items()},
        }
    )


_COLUMNS: Final[dict[str, type]] = {
    "anchor_time_s": np.int64,
    "available_at_s": np.int64,
    "outcome_at_s": np.int64,
    "outcome": np.int32,
}


def _repeated(model: Model, name: str) -> list[str]:
    return [getattr(library, name) for library in model.libraries for _ in range(len(library))]


def _joined(model: Model, name: str, dtype: type) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *(getattr(library, name) for library in model.libraries)])


def _libraries(manifest: _Manifest) -> Iterator[PathLibrary]:
    """The libraries, their rows compared with the hashes in the manifest."""
    path = manifest.folder / LIBRARY
    table = _read_table(path)
    start = 0
    for k, entry in enumerate(manifest.field("libraries", list)):
        where = f"libraries[{k}]"
        symbol, timeframe, rows = (
            manifest.part(entry, name, kind, where)
            for name, kind in (("instrument", str), ("timeframe", str), ("rows", int))
        )
        if rows < 0:
            raise ModelError(f"{manifest.path}: {where}.rows: expected a count, got {rows}")
        part = table.slice(start, rows)
        start += rows
        if part.num_rows != rows:
            raise ModelError(f"{path}: {table.num_rows} rows; {where} of {manifest.path} needs {start}")
        library = PathLibrary(
            symbol,
            timeframe,
            _paths(part, path),
            *(_column(part, name, dtype, path) for name, dtype in _COLUMNS.items()),
            *(manifest.hex_floats(entry, name, where) for name in ("mu", "sigma")),
        )
        if library.rows_sha256 != manifest.part(entry, "rows_sha256", str, where):
            raise ModelError(f"{path}: rows of {symbol} {timeframe} are not those of {where}.rows_sha256")
        yield library
    if start != table.num_rows:
        raise ModelError(f"{path}: {table.num_rows} rows; {manifest.path} names {start}")


def _read_table(path: Path) -> Any:
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise ModelError(f"{path}: not a Parquet file that can be read: {error}") from error


def _column(table: Any, name: str, dtype: type, path: Path) -> npt.NDArray[Any]:
    if name not in table.column_names or table.schema.field(name).type != pa.from_numpy_dtype(np.dtype(dtype)):
        raise ModelError(f"{path}: expected a column {name} of {np.dtype(dtype)}")
    values: npt.NDArray[Any] = table.column(name).to_numpy()
    return np.ascontiguousarray(values, dtype)


def _paths(table: Any, path: Path) -> npt.NDArray[np.float32]:
    kind = table.schema.field("path").type if "path" in table.column_names else None
    if kind is None or not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise ModelError(f"{path}: expected a column path of fixed-size lists of float32")
    flat = table.column("path").combine_chunks().flatten().to_numpy()
    return np.ascontiguousarray(flat, np.float32).reshape(table.num_rows, kind.list_size)


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A manifest's JSON, with errors that name file and field."""

    folder: Path
    document: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / MANIFEST

    @classmethod
    def read(cls, folder: Path) -> _Manifest:
        path = folder / MANIFEST
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"{path}: cannot read the model's manifest: {error.strerror}") from error
        except ValueError as error:
            raise ModelError(f"{path}: not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ModelError(f"{path}: expected a JSON object")
        manifest = cls(folder, document)
        for name, expected in (("format", FORMAT), ("metrics_version", METRICS_VERSION)):
            if manifest.field(name, str) != expected:
                raise ModelError(f"{path}: {name} is {document[name]!r}, this version reads {expected!r}")
        return manifest

    def field(self, name: str, kind: type) -> Any:
        return self.part(self.document, name, kind)

    def part(self, holder: Any, name: str, kind: type, where: str = "") -> Any:
        """A field of an object in the document; ModelError if it is missing or of another kind."""
        full = f"{where}.{name}" if where else name
        value = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ModelError(f"{self.path}: {full}: expected {kind.__name__}, got {value!r}")
        return value

    def optional(self, name: str, kind: type) -> Any:
        """A field that older manifests do not have; None where it is missing or null."""
        return None if self.document.get(name) is None else self.field(name, kind)

    def only(self, holder: Any, names: tuple[str, ...], where: str) -> None:
        """ModelError where an object has other fields than these."""
        unknown = [name for name in holder if name not in names] if isinstance(holder, dict) else []
        if unknown:
            raise ModelError(f"{self.path}: {where}: unknown field {unknown[0]!r}, expected {', '.join(names)}")

    def hex_floats(self, holder: Any, name: str, where: str) -> npt.NDArray[np.float64]:
        values = self.part(holder, name, list, where)
        try:
            return np.array([float.fromhex(value) for value in values], np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{self.path}: {where}.{name}: expected hexadecimal floats") from error

    def check_files(self) -> None:
        files = self.field("files", dict)
        if set(files) != {LIBRARY}:
            raise ModelError(f"{self.path}: files: expected {LIBRARY}, got {', '.join(files) or 'none'}")
        expected = self.part(files[LIBRARY], "sha256", str, f"files.{LIBRARY}")
        path = self.folder / LIBRARY
        if _sha256(path) != expected:
            raise ModelError(f"{path}: SHA-256 differs from files.{LIBRARY}.sha256 of {self.path}: damaged or replaced")

    def summary(self) -> ModelManifest:
        model_id = self.field("model_id", str)
        if not _MODEL_ID.fullmatch(model_id):
            raise ModelError(f"{self.path}: model_id: expected 64 lower-case hex digits, got {model_id!r}")
        return ModelManifest(
            folder=self.folder,
            model_id=model_id,
            parameters=self.parameters(),
            training_cut_s=self.field("training_cut", int),
            training_from_s=self.optional("training_from", int),
            calibrations=dict(self.calibrations()),
            libraries=tuple(self.library(k, entry) for k, entry in enumerate(self.field("libraries", list))),
            evaluation=self.evaluation(),
        )

    def parameters(self) -> ModelParameters:
        document = dict(self.field("parameters", dict))
        try:
            window = WindowParams(**self.part(document, "window", dict, "parameters"))
            gate = GateParameters(**self.part(document, "gate", dict, "parameters"))
            horizon = tuple(self.part(document, "horizon_bars", list, "parameters"))
            return ModelParameters(**{**document, "window": window, "gate": gate, "horizon_bars": horizon})
        except (TypeError, SepError) as error:
            raise ModelError(f"{self.path}: parameters: {error}") from error

    def calibrations(self) -> Iterator[tuple[tuple[str, str], Calibration]]:
        for k, entry in enumerate(self.field("calibration", list)):
            where = f"calibration[{k}]"
            key = self.part(entry, "instrument", str, where), self.part(entry, "timeframe", str, where)
            x, y = (tuple(self.hex_floats(entry, name, where).tolist()) for name in ("x", "y"))
            try:
                yield key, Calibration(x, y)
            except ModelError as error:
                raise ModelError(f"{self.path}: {where}: {error}") from error

    def library(self, k: int, entry: Any) -> LibrarySummary:
        where = f"libraries[{k}]"
        anchors = entry.get("anchor_time_range") if isinstance(entry, dict) else None
        first, last = anchors if isinstance(anchors, list) and len(anchors) == 2 else (None, None)
        return LibrarySummary(
            symbol=self.part(entry, "instrument", str, where),
            timeframe=self.part(entry, "timeframe", str, where),
            rows=self.part(entry, "rows", int, where),
            first_anchor_time_s=first,
            last_anchor_time_s=last,
        )

    def evaluation(self) -> Evaluation | None:
        document = self.optional("evaluation", dict)
        if document is None:
            return None
        self.only(document, ("folds",), "evaluation")
        folds = self.part(document, "folds", list, "evaluation")
        return Evaluation(tuple(self.fold_evaluation(entry, f"evaluation.folds[{k}]") for k, entry in enumerate(folds)))

    def fold_evaluation(self, entry: Any, where: str) -> FoldEvaluation:
        times = ("cut", "score_from", "score_until")
        self.only(entry, ("number", "train_from", *times, "figures"), where)
        number, *ends = (self.part(entry, name, int, where) for name in ("number", *times))
        train_from_s = None if entry.get("train_from") is None else self.part(entry, "train_from", int, where)
        figures = self.part(entry, "figures", dict, where)
        try:
            return FoldEvaluation(Fold(number, train_from_s, *ends), figures)
        except SepError as error:
            raise ModelError(f"{self.path}: {where}: {error}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{path}: cannot read: {error.strerror}") from error
    return digest.hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
