"""Input that was deleted before it was handled ends the worker: it goes on nowhere else in silence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.worker.runner import STAGES
from tests.waiting import PATIENCE_S
from tests.worker.harness import COLD_S_MAX, SMALL, Records, log_of, run_until_caught_up, worker
from tests.worker.markets import SEED, STEPS, play, steps
from tests.worker.test_groups import assert_same

pytestmark = pytest.mark.integration


def admin(settings: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": settings.brokers})


def delete_unhandled(settings: Settings, topic: str, stage: str) -> tuple[int, int, int]:
    """Delete a record more of a partition than its group has handled; (partition, committed, new start)."""
    name, reader = settings.topic(topic), LogReader(settings)
    committed = reader.committed(settings.prefix + stage, name, range(settings.partitions))
    partition = next(p for p, offset in committed.items() if reader.watermarks(name, p)[1] > offset + 1)
    start = committed[partition] + 1
    client = admin(settings)
    for done in client.delete_records([TopicPartition(name, partition, start)]).values():
        done.result(60)
    return partition, committed[partition], start


def failed(settings: Settings, *flags: str) -> str:
    """The message that a worker ends with."""
    before = len(log_of(settings)) if (settings.data_dir / "worker.log").exists() else 0
    with worker(settings, *flags) as process:
        assert process.wait(COLD_S_MAX) == 1
    log = log_of(settings)[before:]
    assert "Traceback" not in log
    return log[log.index("sep-stream: ") :]


def told(settings: Settings, topic: str, stage: str, lost: tuple[int, int, int]) -> str:
    """What the message begins with, as a pattern."""
    partition, committed, start = lost
    return (
        rf"sep-stream: {settings.topic(topic)}/{partition}: group {settings.prefix}{stage} goes on at offset "
        rf"{committed}, but the log holds {start} to \d+: records that it has not handled were deleted; "
    )


def test_records_deleted_before_they_were_handled_are_told(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix, group_instance="one", **SMALL)
    log = steps(settings, SEED, STEPS)
    play(log[:2])
    run_until_caught_up(settings)
    play(log[2:4])
    run_until_caught_up(settings, "--stages", "convert,metrics")
    lost = delete_unhandled(settings, "metrics", "score")
    assert re.match(told(settings, "metrics", "score", lost) + "to make all anew ", failed(settings))
    play(log[4:])
    lost = delete_unhandled(settings, "market.events", "convert")
    expected = told(settings, "market.events", "convert", lost) + "publish the events to a new prefix"
    assert re.match(expected, failed(settings, "--stages", "convert"))
    assert re.match(expected, failed(settings, "--stages", "convert", "--rebuild-state"))


@pytest.mark.slow
def test_derived_records_that_were_deleted_can_be_made_anew(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, **SMALL)
    log = steps(settings, SEED, STEPS)
    play(log[:3])
    run_until_caught_up(settings)
    play(log[3:])
    run_until_caught_up(settings, "--stages", "convert")
    lost = delete_unhandled(settings, "windows", "metrics")
    groups = [prefix + name for name in STAGES]
    remedy = rf"to make all anew from .* delete the groups {', '.join(groups)} .* --rebuild-state"
    assert re.match(told(settings, "windows", "metrics", lost) + remedy, failed(settings))
    delete(groups, settings)
    run_until_caught_up(settings, "--rebuild-state")
    assert_same(settings, undisturbed)


def delete(groups: list[str], settings: Settings) -> None:
    """Once the broker has given up the members that did not say good-bye."""
    client, deadline_s = admin(settings), time.monotonic() + PATIENCE_S
    while groups:
        left = []
        for group, done in client.delete_consumer_groups(groups).items():
            error = done.exception(60)
            if error is not None:
                assert error.args[0].code() == KafkaError.NON_EMPTY_GROUP
                assert time.monotonic() < deadline_s, error
                left.append(group)
        groups = left
        time.sleep(0.2)
