"""Models by id: the manifest from the log, the artefact from where it lies."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final

from sep_stream.errors import ModelError
from sep_stream.market.avro import Schemas
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.model import Model
from sep_stream.stores.model_store import load_model, manifest_sha256, model_folder

MANIFEST_WAIT_S: Final = 30.0
"""A window can name a model before the worker has seen its manifest; after this long it is an error."""
_RETRY_S: Final = 0.5
MODELS_LOADED_MAX: Final = 8


class LogModels:
    """Loads models on demand and keeps the most recently used."""

    def __init__(self, settings: Settings, schemas: Schemas, topic: str) -> None:
        self._settings, self._schemas, self._topic = settings, schemas, topic
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
                for value in batch.values:
                    if value is not None:
                        _, record = self._schemas.decode(value)
                        manifests[record["model_id"]] = record
        return manifests
