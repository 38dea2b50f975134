"""A worker that stands still for longer than its groups wait for it takes up its work again, once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.settings import Settings
from sep_stream.worker.caught_up import CaughtUp
from sep_stream.worker.runner import SESSION_TIMEOUT_S, STAGES
from tests.forked import Forked
from tests.worker.harness import RECOVERED, SMALL, TOPOLOGY, Records, await_log, log_of, worker
from tests.worker.markets import SEED, STEPS, play, steps
from tests.worker.test_groups import assert_same

pytestmark = pytest.mark.integration

RECOVERIES_MAX = 4
"""Of each of the partitions in use: at the start, after the stall, and two to spare for a rebalance on the way."""


def await_caught_up(settings: Settings, process: Forked) -> None:
    deadline_s = time.monotonic() + 90
    for reached in CaughtUp(settings, STAGES, {t.name: settings.topic(t.name) for t in TOPOLOGY.topics}).steps():
        assert process.poll() is None, log_of(settings)[-3000:]
        assert reached or time.monotonic() < deadline_s, log_of(settings)[-3000:]
        if not reached:
            time.sleep(0.1)


def await_expelled(settings: Settings) -> None:
    """Until the broker has given up the worker in all groups."""
    admin, deadline_s = AdminClient({"bootstrap.servers": settings.brokers}), time.monotonic() + 60
    groups = [settings.prefix + stage for stage in STAGES]
    while any(len(group.result(60).members) for group in admin.describe_consumer_groups(groups).values()):
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.parametrize(
    "stall",
    ["", pytest.param(f"convert.before_send:2:stall={SESSION_TIMEOUT_S + 4:.0f}", marks=pytest.mark.slow)],
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
        await_caught_up(settings, process)
    assert_same(settings, undisturbed)
    assert log_of(settings).count(RECOVERED) <= RECOVERIES_MAX * 2  # the instruments lie in two partitions
