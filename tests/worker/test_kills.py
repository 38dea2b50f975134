"""A worker killed at any point repeats work but loses none, and changes nothing."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable

import pytest

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from tests.worker.harness import (
    OUTPUTS,
    SMALL,
    Records,
    log_of,
    pieces,
    publish,
    put_in_force,
    raw,
    records,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SYMBOLS, model_of, quotes

pytestmark = pytest.mark.integration

FAILPOINTS = [
    f"{stage}.{place}"
    for stage in ("convert", "metrics", "score")
    for place in ("before_send", "after_send", "before_commit", "after_commit")
] + ["convert.before_snapshot", "convert.after_snapshot"]
DIES_WITHIN_S = 12


def undisturbed(settings: Settings, seed: int, chunks: int) -> Records:
    for step in steps(settings, seed, chunks):
        step()
    run_until_caught_up(settings)
    return records(settings)


def steps(settings: Settings, seed: int, chunks: int) -> list[Callable[[], None]]:
    """What happens to the log, in order: chunks of events, and two models put in force between them."""
    events = quotes(seed)
    parts = pieces(events, chunks)
    first_s, second_s = (int(parts[k].event_time[0]) // 1_000_000 for k in (1, chunks // 2))

    def activation(at_s: int, matches: int) -> Callable[[], None]:
        return lambda: put_in_force(settings, model_of(events, at_s, matches), SYMBOLS, at_s)

    actions: list[Callable[[], None]] = [lambda part=part: publish(settings, part) for part in parts]  # type: ignore[misc]
    actions.insert(chunks // 2, activation(second_s, 16))
    actions.insert(1, activation(first_s, 32))
    return actions


def check_kills(make_settings: Callable[..., Settings], prefix: str, kills: int, seed: int) -> None:
    choice = random.Random(seed)
    calm = make_settings(f"{prefix}calm.", **SMALL)
    expected = undisturbed(calm, seed, kills)
    assert all(expected[topic] for topic in ("bars", "windows", "metrics", "signals", "late"))

    settings = make_settings(f"{prefix}killed.", group_instance="one", **SMALL)
    in_flight = died = 0
    for step in steps(settings, seed, kills):
        failpoint = f"{choice.choice(FAILPOINTS)}:{choice.randint(1, 3)}"
        with worker(settings, SEP_FAILPOINT=failpoint) as process:
            step()
            try:
                process.wait(DIES_WITHIN_S)
                died += 1
            except subprocess.TimeoutExpired:
                process.kill()  # the place was not reached: killed wherever it is
                process.wait()
        in_flight += outputs_beyond_commit(settings)
    run_until_caught_up(settings)

    found = records(settings)
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
    recoveries = [
        json.loads(line) for line in log_of(settings).splitlines() if '"state recovered"' in line and line[0] == "{"
    ]
    later = [r for r in recoveries if r["snapshot"] > 0]
    assert later, "no snapshot was used"
    assert any(r["reread"] > 0 for r in recoveries), "no re-read was seen"
    assert all(r["reread"] <= r["resume"] - r["snapshot"] for r in recoveries)


def test_outputs_after_kills_are_those_of_an_undisturbed_run(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    check_kills(make_settings, prefix, kills=6, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_outputs_after_many_kills_are_those_of_an_undisturbed_run(
    make_settings: Callable[..., Settings], prefix: str, seed: int
) -> None:
    check_kills(make_settings, prefix, kills=24, seed=seed)
