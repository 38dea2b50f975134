"""The outputs that every disturbed run is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from tests import shared_run
from tests.waiting import bear_with_servers, slow_machine
from tests.worker.harness import SMALL, TOPOLOGY, Records, run_until_caught_up
from tests.worker.markets import SEED, STEPS, comparable, play_all

__all__ = ["slow_machine"]


@pytest.fixture(scope="session")
def calm(broker: str, pytestconfig: pytest.Config) -> Settings:
    """Where one calm worker has worked through the steps of `markets`."""
    folder: Path = shared_run.folder_of(pytestconfig) / "calm"
    settings = Settings.load(brokers=broker, prefix="calm.", data_dir=folder, **SMALL)

    def work() -> None:
        topics.create(settings, TOPOLOGY)
        play_all(settings, SEED, STEPS)
        run_until_caught_up(settings)

    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        shared_run.once(pytestconfig, "calm", work)
    return settings


@pytest.fixture(scope="session")
def undisturbed(calm: Settings, pytestconfig: pytest.Config) -> Records:
    """What it made of them."""
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        found = shared_run.once(pytestconfig, "undisturbed", lambda: comparable(calm))
    assert all(found[topic] for topic in ("bars", "windows", "metrics", "signals", "patterns", "late"))
    return found
