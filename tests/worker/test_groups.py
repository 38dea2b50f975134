"""Workers that share the work, in any number and with any fetch size, make the same records."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.worker.runner import STAGES
from tests.forked import Forked
from tests.waiting import PATIENCE_S, until
from tests.worker.harness import (
    COLD_S_MAX,
    OUTPUTS,
    RECOVERED,
    SMALL,
    Records,
    await_handled,
    await_log,
    log_of,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, comparable, play_all, steps

pytestmark = pytest.mark.integration

PAUSE_S = 0.1


def assert_same(settings: Settings, expected: Records) -> None:
    found = comparable(settings)
    for topic in OUTPUTS:
        assert set(found[topic]) == set(expected[topic]), topic


@pytest.mark.slow
@pytest.mark.parametrize("fetch_records", [1, 61])
def test_the_size_of_fetches_changes_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, fetch_records: int
) -> None:
    settings = make_settings(prefix, fetch_records=fetch_records, **SMALL)
    play_all(settings, SEED, STEPS)
    run_until_caught_up(settings)
    found = comparable(settings)
    assert found == undisturbed  # and nothing twice


@pytest.mark.slow
def test_two_supervised_processes_make_the_same_records(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, **SMALL)
    play_all(settings, SEED, STEPS)
    run_until_caught_up(settings, "--processes", "2")
    assert_same(settings, undisturbed)


@pytest.mark.slow
def test_a_second_worker_joining_and_leaving_changes_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, tmp_path: Path
) -> None:
    settings = make_settings(prefix, **SMALL)
    second = settings.model_copy(update={"data_dir": tmp_path / "second", "models_url": settings.models_root()})
    log = steps(settings, SEED, STEPS)

    def play(part: slice) -> None:
        for step in log[part]:
            for act in step:
                act()
                time.sleep(PAUSE_S)

    with worker(settings):
        play(slice(0, 2))
        with worker(second) as other:
            await_members(settings, 2)
            play(slice(2, 4))
            await_log(second, other, RECOVERED)
            other.send_signal(signal.SIGTERM)
            assert other.wait(COLD_S_MAX) == 0, log_of(second)[-2000:]
        play(slice(4, None))
    run_until_caught_up(settings)
    assert_same(settings, undisturbed)


def test_of_two_workers_with_one_group_instance_the_first_ends_and_says_so(
    make_settings: Callable[..., Settings], prefix: str, tmp_path: Path
) -> None:
    """Both would read the same partitions."""
    settings = make_settings(prefix, group_instance="one", **SMALL)
    second = settings.model_copy(update={"data_dir": tmp_path / "second"})
    stages = ("--stages", "convert")
    with worker(settings, *stages) as first:
        await_log(settings, first, '"partitions assigned"')
        with worker(second, *stages) as other:
            assert first.wait(COLD_S_MAX) == 1
            await_log(second, other, '"partitions assigned"')
            assert other.poll() is None, log_of(second)[-2000:]
    told = log_of(settings)
    assert f"consumer group '{prefix}convert'" in told
    assert "give each its own SEP_GROUP_INSTANCE" in told


def await_members(settings: Settings, count: int) -> None:
    """Wait until the partitions of every stage are shared by that many members."""
    groups = [settings.prefix + stage for stage in STAGES]
    admin = AdminClient(librdkafka(settings))

    def working() -> list[int]:
        described = [future.result(60) for future in admin.describe_consumer_groups(groups).values()]
        return [sum(bool(member.assignment.topic_partitions) for member in group.members) for group in described]

    until(lambda: working() == [count] * len(STAGES), lambda: f"members at work by stage: {working()}")


@pytest.mark.parametrize("paused", [pytest.param(s, marks=[] if s == "score" else pytest.mark.slow) for s in STAGES])
def test_models_put_in_force_while_a_stage_is_paused_change_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, paused: str
) -> None:
    settings = make_settings(prefix, **SMALL)
    others = [stage for stage in STAGES if stage != paused]
    with worker(settings, "--stages", ",".join(others)) as process:
        play_all(settings, SEED, STEPS)
        await_handled(settings, process, others)
        assert process.poll() is None, log_of(settings)[-2000:]
    run_until_caught_up(settings)
    assert_same(settings, undisturbed)


def test_a_supervised_worker_that_is_killed_is_started_again(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, **SMALL)
    play_all(settings, SEED, STEPS)
    held_up = "convert.before_send:1:stall=5"  # it isn't done before it is killed
    with worker(settings, "--until-caught-up", "--processes", "1", SEP_FAILPOINT=held_up) as process:
        child = await_child(process)
        subprocess.run(["kill", "-9", str(child)], check=True)
        assert process.wait(COLD_S_MAX) == 0, log_of(settings)[-2000:]
    assert "restarting" in log_of(settings)
    assert_same(settings, undisturbed)


def await_child(process: Forked) -> int:
    """The worker that a supervisor started: whatever else it runs, such as `ldconfig`, has no group instance."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"SEP_GROUP_INSTANCE=" in Path(f"/proc/{child}/environ").read_bytes():
                    return int(child)
        time.sleep(0.05)
    raise AssertionError("no child was started")
