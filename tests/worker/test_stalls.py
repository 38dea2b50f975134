"""A worker that stands still for longer than its groups wait for it takes up its work again, once."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.settings import Settings
from sep_stream.worker.group_reader import SESSION_TIMEOUT_MS
from sep_stream.worker.runner import STAGES
from tests.waiting import until
from tests.worker.harness import RECOVERED, SMALL, Records, await_handled, await_log, log_of, worker
from tests.worker.markets import SEED, STEPS, play, steps
from tests.worker.test_groups import assert_same

pytestmark = pytest.mark.integration

RECOVERIES_MAX = 4
"""Of each of the partitions in use: at the start, after the stall, and two to spare for a rebalance on the way."""


def await_expelled(settings: Settings) -> None:
    """Wait until the broker has given up the worker in all groups."""
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    groups = [settings.prefix + stage for stage in STAGES]
    until(lambda: not any(group.result(60).members for group in admin.describe_consumer_groups(groups).values()))


@pytest.mark.parametrize(
    "stall",
    ["", pytest.param(f"convert.before_send:2:stall={SESSION_TIMEOUT_MS / 1000 + 4:.0f}", marks=pytest.mark.slow)],
    ids=["the whole process", "in a batch"],
)
def test_a_stall_longer_than_the_session_changes_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, stall: str
) -> None:
    settings = make_settings(prefix, fetch_records=257, **SMALL)
    log = steps(settings, SEED, STEPS)
    play(log[:2])
    with worker(settings, SEP_FAILPOINT=stall) as process:
        await_log(settings, process, RECOVERED)
        if not stall:
            process.send_signal(signal.SIGSTOP)
        play(log[2:])
        if not stall:
            await_expelled(settings)
            process.send_signal(signal.SIGCONT)
        await_handled(settings, process)
        assert process.poll() is None, log_of(settings)[-3000:]
    assert_same(settings, undisturbed)
    assert log_of(settings).count(RECOVERED) <= RECOVERIES_MAX * 2  # the instruments lie in two partitions


@pytest.mark.slow
def test_a_group_that_is_deleted_under_a_running_worker_begins_anew_and_changes_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    """The broker deletes a group that has no member: as of a worker that stood still."""
    settings = make_settings(prefix, **SMALL)
    log = steps(settings, SEED, STEPS)
    play(log[:2])
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    with worker(settings) as process:
        await_handled(settings, process)
        process.send_signal(signal.SIGSTOP)
        await_expelled(settings)
        for deleted in admin.delete_consumer_groups([settings.prefix + stage for stage in STAGES]).values():
            deleted.result(60)
        process.send_signal(signal.SIGCONT)
        play(log[2:])
        await_handled(settings, process)
        assert process.poll() is None, log_of(settings)[-3000:]
    assert_same(settings, undisturbed)
