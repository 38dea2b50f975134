"""Models by id: the manifest from the log, the artefact from where it lies."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Final

import numpy as np

from sep_stream.convert.rules import is_model_id
from sep_stream.errors import ModelError
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec, Decoded
from sep_stream.market.events import Reason
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.model import Model
from sep_stream.stores.model_store import load_model, manifest_sha256, model_folder

MANIFEST_WAIT_S: Final = 30.0
"""A window can name a model before the worker has seen its manifest; after this long it is an error."""
_RETRY_S: Final = 0.5
MODELS_LOADED_MAX: Final = 8


class Manifests:
    """Reads records of the topic of models: which of them are of use, and why others are not."""

    def __init__(self, schemas: Schemas) -> None:
        self._codec = BulkCodec(*schemas.of("model_manifest"))

    def sound(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Iterator[dict[str, str]]:
        """The manifests among records."""
        decoded = self._checked(keys, values)
        for row in np.flatnonzero(decoded.errors == Reason.OK).tolist():
            yield {name: decoded.columns[name][row].decode() for name in _MANIFEST_FIELDS}

    def faults(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Iterator[tuple[int, Reason]]:
        """Rows of records that are of no use, and why. A record without a value deletes a manifest and is not one."""
        errors = self._checked(keys, values).errors
        for row in np.flatnonzero((errors != Reason.OK) & (errors != Reason.TOMBSTONE)).tolist():
            yield row, Reason(int(errors[row]))

    def _checked(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Decoded:
        decoded = self._codec.decode(values)
        columns = [decoded.columns[name].to_list() for name in _MANIFEST_FIELDS]
        for row, (key, *fields) in enumerate(zip(keys, *columns, strict=True)):
            if decoded.errors[row] == Reason.OK and not _is_sound(key, *(field.decode() for field in fields)):
                decoded.errors[row] = Reason.BAD_MANIFEST
        return decoded


_MANIFEST_FIELDS: Final = ("model_id", "location", "manifest_sha256")


def _is_sound(key: bytes | None, model_id: str, location: str, manifest_sha256: str) -> bool:
    path = PurePath(location)
    is_below = bool(location) and "\0" not in location and not path.is_absolute() and ".." not in path.parts
    return key == model_id.encode() and is_model_id(model_id) and is_model_id(manifest_sha256) and is_below


class LogModels:
    """Loads models on demand and keeps the most recently used."""

    def __init__(self, settings: Settings, schemas: Schemas, topic: str) -> None:
        self._settings, self._manifests, self._topic = settings, Manifests(schemas), topic
        self._reader = LogReader(settings)
        self._loaded: OrderedDict[str, Model] = OrderedDict()

    async def get(self, model_id: str) -> Model:
        """The model with this id; ModelError if its manifest does not arrive in time or its artefact is not sound."""
        model = self._loaded.get(model_id)
        if model is None:
            model = self._loaded[model_id] = await asyncio.to_thread(self._load, model_id)
            if len(self._loaded) > MODELS_LOADED_MAX:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(model_id)
        return model

    def _load(self, model_id: str) -> Model:
        manifest = self._manifest(model_id)
        folder = model_folder(self._settings.models_root(), manifest["location"])
        if manifest_sha256(folder) != manifest["manifest_sha256"]:
            raise ModelError(f"{folder}/manifest.json: is not the one published in {self._topic} for model {model_id}")
        model = load_model(folder)
        if model.model_id != model_id:
            raise ModelError(f"{folder}: holds model {model.model_id}, expected {model_id}")
        if model.parameters.deadband != self._settings.deadband:
            raise ModelError(
                f"model {model_id}: made for deadband {model.parameters.deadband}, "
                f"this worker's setting is {self._settings.deadband}"
            )
        return model

    def _manifest(self, model_id: str) -> dict[str, str]:
        deadline_s = time.monotonic() + MANIFEST_WAIT_S
        while True:
            manifest = self._published().get(model_id)
            if manifest is not None:
                return manifest
            if time.monotonic() > deadline_s:
                raise ModelError(
                    f"model {model_id} is in force in the log, but {self._topic} holds no manifest of it after "
                    f"{MANIFEST_WAIT_S:.0f} s; `sep-stream model activate` publishes one"
                )
            time.sleep(_RETRY_S)

    def _published(self) -> dict[str, dict[str, str]]:
        manifests: dict[str, dict[str, str]] = {}
        for partition in self._reader.partitions(self._topic):
            low, high = self._reader.watermarks(self._topic, partition)
            for batch in self._reader.read(self._topic, partition, low, high):
                for manifest in self._manifests.sound(batch.keys, batch.values):
                    manifests[manifest["model_id"]] = manifest
        return manifests
