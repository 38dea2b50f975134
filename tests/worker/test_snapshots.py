"""Snapshots that can't be trusted: which are told, which are passed over, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from sep_stream.convert.converter import STATE_VERSION
from sep_stream.errors import StateError
from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from sep_stream.worker.snapshots import Snapshot, SnapshotFormat, resume_offset
from tests.worker.harness import COLD_S_MAX, SCHEMAS, SMALL, TOPOLOGY, Records, log_of, run_until_caught_up, worker
from tests.worker.markets import CONVERT, SEED, STEPS, play, steps
from tests.worker.test_groups import assert_same
from tests.worker.test_lost_input import failed

FORMAT = SnapshotFormat(SCHEMAS, "convert", STATE_VERSION, CONVERT.canonical())
GOOD = FORMAT.encode(0, Snapshot(7, b"state"))


def made_by(**other: object) -> bytes:
    values = {"schemas": SCHEMAS, "stage": "convert", "state_version": STATE_VERSION, "parameters": CONVERT.canonical()}
    return SnapshotFormat(**{**values, **other}).encode(0, Snapshot(9, b"state"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "corrupt snapshot: the value does not begin with the magic byte"),
        (b"\x93garbage" * 9, "corrupt snapshot: the value does not begin with the magic byte"),
        (GOOD[:5] + b"\xff" * 40, "corrupt snapshot: the value is not an Avro snapshot"),
        (GOOD[:-2], "corrupt snapshot: the value is not an Avro snapshot"),
        (GOOD[:-1] + b"E", "corrupt snapshot: its state does not have the recorded sha256"),
        (GOOD + b"x", "corrupt snapshot: the value has bytes after its Avro snapshot"),
        (SCHEMAS.encode("pattern", {"pattern_id": "p", "instrument": "i", "path": b"", "confidence": 0.5}),
         "corrupt snapshot: a pattern record"),
        (FORMAT.encode(5, Snapshot(9, b"state")), "snapshot made with partition 5; this worker has 0"),
        (made_by(stage="settle"), "snapshot made with stage 'settle'; this worker has 'convert'"),
        (made_by(state_version=STATE_VERSION + 1), f"snapshot made with state_version {STATE_VERSION + 1};"),
        (made_by(parameters="{}"), "snapshot made with parameters '{}'; this worker has"),
    ],
)  # fmt: skip
def test_a_newest_snapshot_that_cannot_be_used_is_told_with_its_place_and_the_remedy(value: bytes, fault: str) -> None:
    with pytest.raises(StateError) as error:
        FORMAT.newest([(3, GOOD), (4, value)], "convert.state", 0)
    assert str(error.value).startswith(f"convert.state/0, offset 4: {fault}")
    assert str(error.value).endswith("`--rebuild-state` makes the state anew from the log")


def test_the_highest_usable_snapshot_counts_wherever_it_lies() -> None:
    later = FORMAT.encode(0, Snapshot(12, b"later"))
    assert FORMAT.newest([(0, b"garbage"), (1, later), (2, None), (3, GOOD)], "w", 0) == Snapshot(12, b"later")
    assert FORMAT.newest([], "w", 0) is None


@pytest.mark.parametrize(
    ("snapshot", "committed", "low", "high", "expected"),
    [
        (None, None, 0, 5, (0, 0)),
        (None, 3, 0, 5, (0, 3)),
        (Snapshot(2, b""), None, 0, 5, (2, 2)),
        (Snapshot(2, b""), 4, 1, 5, (2, 4)),
        (Snapshot(5, b""), 4, 5, 5, (5, 5)),
    ],
)
def test_state_is_rebuilt_from_the_snapshot_to_what_was_committed(
    snapshot: Snapshot | None, committed: int | None, low: int, high: int, expected: tuple[int, int]
) -> None:
    assert resume_offset("events/0", snapshot, committed, low, high) == expected


@pytest.mark.parametrize(
    ("snapshot", "committed", "low", "high", "fault"),
    [
        (None, 9, 4, 20, "events/0: the log begins at offset 4 and there is no snapshot of what came before"),
        (Snapshot(3, b""), 9, 4, 20, "events/0: the state stands at offset 3, but the log begins at 4"),
        (None, 9, 0, 8, "events/0: offset 9 was handled before, but the log ends at 8"),
        (Snapshot(9, b""), 2, 0, 8, "events/0: offset 9 was handled before, but the log ends at 8"),
    ],
)
def test_a_log_that_lacks_what_the_state_needs_is_told(
    snapshot: Snapshot | None, committed: int | None, low: int, high: int, fault: str
) -> None:
    with pytest.raises(StateError, match=f"{fault}.*new prefix"):
        resume_offset("events/0", snapshot, committed, low, high)


@pytest.mark.integration
@pytest.mark.parametrize("harm", ["garbage", pytest.param("deleted", marks=pytest.mark.slow)])
def test_state_that_is_damaged_or_gone_is_made_anew_from_the_log(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, harm: str
) -> None:
    """Without any snapshot the log alone is read, unasked: a worker may have died before its first one."""
    settings = make_settings(prefix, group_instance="one", **SMALL)
    log = steps(settings, SEED, STEPS)
    play(log[:3])
    run_until_caught_up(settings)
    play(log[3:])
    if harm == "deleted":
        make_again(settings, "convert.state")
        run_until_caught_up(settings)
    else:
        spoil(settings)
        assert re.match(
            rf"sep-stream: {prefix}convert.state/\d, offset \d+: corrupt snapshot: .*--rebuild-state", failed(settings)
        )
        run_until_caught_up(settings, "--rebuild-state")
        with worker(settings, "--until-caught-up") as process:  # the rebuilt state was saved
            assert process.wait(COLD_S_MAX) == 0, log_of(settings)[-2000:]
    assert_same(settings, undisturbed)


def spoil(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.brokers})
    for partition in range(settings.partitions):
        producer.produce(settings.topic("convert.state"), b"\x00garbage", str(partition), partition)
    assert producer.flush(60) == 0


def make_again(settings: Settings, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    for done in admin.delete_topics([settings.topic(topic)], operation_timeout=60).values():
        done.result(120)
    topics.create(settings, TOPOLOGY)
