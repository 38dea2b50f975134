"""The outputs that every disturbed run is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from tests.worker.harness import SMALL, TOPOLOGY, Records, run_until_caught_up
from tests.worker.markets import SEED, STEPS, comparable, play_all


@pytest.fixture(scope="session")
def calm(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Where one calm worker has worked through the steps of `markets`."""
    folder: Path = tmp_path_factory.mktemp("calm")
    settings = Settings.load(brokers=broker, prefix="calm.", data_dir=folder, **SMALL)
    topics.create(settings, TOPOLOGY)
    play_all(settings, SEED, STEPS)
    run_until_caught_up(settings)
    return settings


@pytest.fixture(scope="session")
def undisturbed(calm: Settings) -> Records:
    """What it made of them."""
    found = comparable(calm)
    assert all(found[topic] for topic in ("bars", "windows", "metrics", "signals", "patterns", "late"))
    return found
