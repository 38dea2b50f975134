"""Artefacts on disk: models."""

from sep_stream.stores.model_store import (
    ModelManifest,
    check_files,
    list_models,
    load_model,
    manifest_sha256,
    model_folder,
    model_folders,
    read_manifest,
    save_model,
)

__all__ = [
    "ModelManifest",
    "check_files",
    "list_models",
    "load_model",
    "manifest_sha256",
    "model_folder",
    "model_folders",
    "read_manifest",
    "save_model",
]
