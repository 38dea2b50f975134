"""A worker killed at any point repeats work but loses none, and changes nothing."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections.abc import Callable

import pytest

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.worker.runner import STAGES
from tests.forked import Forked
from tests.worker.harness import (
    OUTPUTS,
    RECOVERED,
    SMALL,
    Records,
    await_handled,
    await_log,
    log_of,
    raw,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, Step, comparable, play_all, steps

pytestmark = pytest.mark.integration

FAILPOINTS = [
    f"{stage}.{place}" for stage in STAGES for place in ("before_send", "after_send", "before_commit", "after_commit")
] + [f"{stage}.{place}" for stage in ("convert", "settle") for place in ("before_snapshot", "after_snapshot")]
DIES_WITHIN_S = 3
"""After its last commit: places behind it are reached at once."""


def play(settings: Settings, step: Step, process: Forked) -> bool:
    """Publish under the running worker; True if it died of its failpoint."""
    before = log_of(settings).count(RECOVERED)
    step[0]()
    await_log(settings, process, RECOVERED, before)
    for publish_piece in step[1:]:
        publish_piece()
        await_handled(settings, process)  # each piece is a batch of its own in every stage
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(DIES_WITHIN_S)
    died = process.poll() is not None
    if not died:  # the place was not reached: killed wherever it is
        process.kill()
        process.wait()
    return died


def check_kills(settings: Settings, expected: Records, kills: int, seed: int) -> None:
    choice = random.Random(seed)
    in_flight = died = 0
    for step in steps(settings, seed, kills):
        failpoint = f"{choice.choice(FAILPOINTS)}:{choice.randint(1, 2)}"
        with worker(settings, SEP_FAILPOINT=failpoint) as process:
            died += play(settings, step, process)
        in_flight += outputs_beyond_commit(settings)
    run_until_caught_up(settings)

    found = comparable(settings)
    for topic in OUTPUTS:
        assert set(found[topic]) == set(expected[topic]), topic
    assert died > kills // 2
    assert sum(count - 1 for topic in OUTPUTS for count in found[topic].values()) > 0, "no repeat was seen"
    assert in_flight > 0, "no batch was killed between its send and its commit"
    check_rereads(settings)


def outputs_beyond_commit(settings: Settings) -> bool:
    """Did the kill leave outputs of events that were not committed?"""
    topic = settings.topic("market.events")
    committed = LogReader(settings).committed(settings.prefix + "convert", topic, range(settings.partitions))
    sources = (headers["source"].decode().rsplit("/", 2) for *_, headers in raw(settings, "bars"))
    return any(int(offset) >= committed.get(int(partition), 0) for _, partition, offset in sources)


def check_rereads(settings: Settings) -> None:
    """State was rebuilt from a snapshot and what followed it, never from the whole log."""
    recoveries = [json.loads(line) for line in log_of(settings).splitlines() if RECOVERED in line and line[0] == "{"]
    later = [r for r in recoveries if r["snapshot"] > 0]
    assert later, "no snapshot was used"
    assert any(r["reread"] > 0 for r in recoveries), "no re-read was seen"
    assert all(r["reread"] <= r["resume"] - r["snapshot"] for r in recoveries)


def test_outputs_after_kills_are_those_of_an_undisturbed_run(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, group_instance="one", **SMALL)
    check_kills(settings, undisturbed, STEPS, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_outputs_after_many_kills_are_those_of_an_undisturbed_run(
    make_settings: Callable[..., Settings], prefix: str, seed: int
) -> None:
    calm = make_settings(f"{prefix}calm.", **SMALL)
    play_all(calm, seed, 24)
    run_until_caught_up(calm)
    settings = make_settings(f"{prefix}killed.", group_instance="one", **SMALL)
    check_kills(settings, comparable(calm), 24, seed)
