"""What all processes of a test run share: one folder, the servers in it, and values that are made once."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from filelock import FileLock

from sep_stream.runtime.embedded import EmbeddedStack

_FOLDER: Final = pytest.StashKey[Path]()
_INPUT: Final = "shared_folder"
"""Where a worker process finds the folder's name in what the main process sends it."""


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process runs tests for another one, which collects their reports."""
    return hasattr(config, "workerinput")


def begin(config: pytest.Config) -> None:
    """Make the run's folder, or take over the one that the main process made."""
    folder = getattr(config, "workerinput", {}).get(_INPUT)
    config.stash[_FOLDER] = Path(folder or tempfile.mkdtemp(prefix="sep-stream-tests-"))


def send_to(node: Any, config: pytest.Config) -> None:
    """Name the folder to a worker process, which pytest-xdist is about to start."""
    node.workerinput[_INPUT] = str(config.stash[_FOLDER])


def folder_of(config: pytest.Config) -> Path:
    """Return the folder that all processes of this run share."""
    return config.stash[_FOLDER]


def end(config: pytest.Config) -> None:
    """Stop the servers of the run's folder and delete it; only the main process does."""
    if not is_worker(config):
        for stack in map(EmbeddedStack, config.stash[_FOLDER].iterdir()):
            stack.stop()
            stack.wipe()
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


def once[T](config: pytest.Config, name: str, make: Callable[[], T]) -> T:
    """Return what `make` returns, made by the first process that asks and kept for the others."""
    kept = folder_of(config) / f"{name}.pickle"
    with FileLock(kept.with_suffix(".lock")):
        if not kept.exists():
            draft = kept.with_suffix(".draft")
            draft.write_bytes(pickle.dumps(make()))
            draft.rename(kept)
    value: T = pickle.loads(kept.read_bytes())
    return value
