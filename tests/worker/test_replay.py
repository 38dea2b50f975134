"""A worker on a replayed prefix makes the same records as on the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.history.replay import Course, Replay
from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from tests.worker.harness import SMALL, TOPOLOGY, Records, run_until_caught_up
from tests.worker.markets import assert_same_events_gave_the_same

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_a_worker_on_a_replayed_prefix_makes_the_same_records(
    calm: Settings, undisturbed: Records, prefix: str, tmp_path: Path
) -> None:
    settings = Settings.load(
        brokers=calm.brokers, prefix=prefix, data_dir=tmp_path, models_url=calm.models_root(), **SMALL
    )
    topics.create(settings, TOPOLOGY)
    for topic in ("market.events", "models"):
        Replay(calm, TOPOLOGY, Course(topic, prefix, topic)).run()
    run_until_caught_up(settings)
    assert_same_events_gave_the_same(settings, undisturbed)
