"""Artefacts on disk: models."""

from sep_stream.stores.model_store import (
    ModelManifest,
    list_models,
    load_model,
    manifest_sha256,
    model_folder,
    read_manifest,
    save_model,
)

__all__ = [
    "ModelManifest",
    "list_models",
    "load_model",
    "manifest_sha256",
    "model_folder",
    "read_manifest",
    "save_model",
]
