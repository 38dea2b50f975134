"""Where things are kept outside the log: models on disk, rows in the database, the cache in Redis. A name is imported
when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.model_store"), name)
    return value
