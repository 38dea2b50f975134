"""What a worker leaves behind when it is stopped or has caught up, and how long that may take."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.worker.runner import STOP_TIMEOUT_S
from tests.waiting import PATIENCE_S, slow_bound_s
from tests.worker.harness import (
    COLD_S_MAX,
    RECOVERED,
    SMALL,
    await_handled,
    await_log,
    log_of,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, Step, play, steps

pytestmark = pytest.mark.integration

ASSIGNED = '"partitions assigned"'
REACHED_S = 3
"""After its partitions a worker gets their records; a slower one is stopped before the place, and proves less."""


def catch_up(settings: Settings, _: list[Step]) -> None:
    run_until_caught_up(settings)


def stop_when_handled(settings: Settings, log: list[Step]) -> None:
    """Stop it right behind its last commit, not after a quiet second in which it may have sent a snapshot."""
    with worker(settings) as process:
        play(log[-1:])
        await_handled(settings, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("end", [catch_up, pytest.param(stop_when_handled, marks=pytest.mark.slow)])
def test_after_an_orderly_end_a_restart_reads_nothing_again(
    make_settings: Callable[..., Settings], prefix: str, end: Callable[[Settings, list[Step]], None]
) -> None:
    settings = make_settings(prefix, **SMALL)
    log = steps(settings, SEED, STEPS)
    first = STEPS // 2
    play(log[: first - (end is stop_when_handled)])
    end(settings, log[:first])
    before = len(log_of(settings))
    play(log[first:])
    run_until_caught_up(settings)
    found = recoveries(log_of(settings)[before:])
    assert {line["stage"] for line in found} == {"convert", "settle"}
    assert [line["reread"] for line in found] == [0] * len(found)
    assert all(line["snapshot"] > 0 for line in found if line["stage"] == "convert")


def recoveries(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if RECOVERED in line and line[0] == "{"]


@pytest.mark.parametrize(
    ("failpoint", "number", "code"),
    [
        pytest.param("convert.recovery:1:stall=600", signal.SIGINT, 0, id="recovery"),
        pytest.param("convert.recovery:1:stall=600", signal.SIGTERM, 0, id="recovery-ended", marks=pytest.mark.slow),
        pytest.param("convert.before_send:1:stall=600", signal.SIGTERM, 1, id="loop-stands", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_worker_whatever_it_is_at_and_commits_nothing_unfinished(
    make_settings: Callable[..., Settings], prefix: str, failpoint: str, number: signal.Signals, code: int
) -> None:
    settings = make_settings(prefix, **SMALL)
    play(steps(settings, SEED, STEPS)[:1])
    with worker(settings, "--stages", "convert", SEP_FAILPOINT=failpoint) as process:
        await_log(settings, process, ASSIGNED)
        time.sleep(REACHED_S)
        begun_s = time.monotonic()
        process.send_signal(number)
        assert process.wait(COLD_S_MAX) == code, log_of(settings)[-3000:]
        assert time.monotonic() - begun_s < slow_bound_s(STOP_TIMEOUT_S)
    assert ("worker did not stop in time" in log_of(settings)) == (code == 1)
    topic = settings.topic("market.events")
    assert LogReader(settings).committed(f"{prefix}convert", topic, range(settings.partitions)) == {}


@pytest.mark.parametrize("flags", [pytest.param((), marks=pytest.mark.slow), ("--until-caught-up",)])
def test_a_deleted_input_topic_ends_the_worker_which_names_it(
    make_settings: Callable[..., Settings], prefix: str, flags: tuple[str, ...]
) -> None:
    settings = make_settings(prefix, **SMALL)
    play(steps(settings, SEED, STEPS)[:1])
    topic, admin = settings.topic("market.events"), AdminClient({"bootstrap.servers": settings.brokers})
    with worker(settings, "--stages", "convert", *flags, SEP_FAILPOINT="convert.recovery:1:stall=600") as process:
        await_log(settings, process, ASSIGNED)
        admin.delete_topics([topic])[topic].result(60)
        assert process.wait(COLD_S_MAX) == 1
    message = log_of(settings).rpartition("sep-stream: ")[2]
    assert f"topic '{topic}'" in message
    assert "Traceback" not in log_of(settings)
