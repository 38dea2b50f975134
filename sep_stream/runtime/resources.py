"""Finds the declared data: schemas, topology and what later stages add."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sep_stream.errors import ConfigurationError

_PACKAGE: Final = Path(__file__).resolve().parent.parent


def resource(name: str, package: Path = _PACKAGE) -> Path:
    """The folder of a resource: inside the installed package, else beside it in a checkout.

    Raises ConfigurationError that names both places.
    """
    candidates = (package / "resources" / name, package.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ConfigurationError(f"{name}: not found in {candidates[0]} nor {candidates[1]}; reinstall sep-stream")
