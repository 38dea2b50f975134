"""With the broker sharing out the partitions (KIP-848), faults change nothing either."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupType
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.settings import Settings
from sep_stream.worker.runner import STAGES
from tests.worker.harness import COLD_S_MAX, SMALL, Records, log_of, run_until_caught_up, worker
from tests.worker.markets import SEED, STEPS, play, steps
from tests.worker.test_groups import assert_same, await_members
from tests.worker.test_stalls import await_expelled

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_joining_leaving_a_stall_and_a_kill_change_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, tmp_path: Path
) -> None:
    settings = make_settings(prefix, group_protocol="consumer", **SMALL)
    second = settings.model_copy(update={"data_dir": tmp_path / "second", "models_url": settings.models_root()})
    log = steps(settings, SEED, STEPS)
    with worker(settings) as first:
        play(log[:1])
        with worker(second) as other:
            await_members(settings, 2)
            play(log[1:2])
            other.send_signal(signal.SIGTERM)
            assert other.wait(COLD_S_MAX) == 0, log_of(second)[-2000:]
        await_members(settings, 1)
        admin = AdminClient({"bootstrap.servers": settings.brokers})
        described = admin.describe_consumer_groups([settings.prefix + stage for stage in STAGES])
        assert {group.result(60).type for group in described.values()} == {ConsumerGroupType.CONSUMER}
        play(log[2:3])
        first.send_signal(signal.SIGSTOP)
        play(log[3:4])
        await_expelled(settings)
        first.send_signal(signal.SIGCONT)
        await_members(settings, 1)
        play(log[4:5])
        assert first.poll() is None, log_of(settings)[-3000:]
        assert '"stands still"' not in log_of(settings)
        first.kill()
        first.wait()
    play(log[5:])
    run_until_caught_up(settings)
    assert_same(settings, undisturbed)
