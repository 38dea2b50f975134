"""Pacing: in what order records of several partitions are given out, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sep_stream.history.pacing import TICK_S, WAIT_S_MAX, in_play_order, paced
from sep_stream.runtime.log_reader import Record

JUMP_MS = 1_000_000


def records(*times_ms: int, partition: int = 0) -> list[Record]:
    return [Record(partition, offset, time_ms, None, b"", ()) for offset, time_ms in enumerate(times_ms)]


class Clock:
    """Stands still but for sleeps. busy_s: passes with each look at it"""

    def __init__(self, busy_s: float = 0.0) -> None:
        self.now_s, self.busy_s = 100.0, busy_s
        self.sleeps_s: list[float] = []

    def __call__(self) -> float:
        self.now_s += self.busy_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps_s.append(seconds)
        self.now_s += seconds


def played(clock: Clock, speed: float, *streams: list[Record]) -> list[tuple[float, Record | None]]:
    """When each was given out, from the first on."""
    given_out = paced(in_play_order(streams, JUMP_MS), speed, JUMP_MS, clock, clock.sleep)
    return [(clock.now_s - 100, record) for record in given_out]


def times(found: list[tuple[float, Record | None]]) -> list[tuple[float, int]]:
    return [(round(at_s, 6), record.timestamp_ms) for at_s, record in found if record is not None]


def test_records_come_as_far_apart_as_their_times_divided_by_the_speed() -> None:
    found = played(Clock(), 2, records(10_000, 12_000, 15_000))
    assert times(found) == [(0, 10_000), (1, 12_000), (2.5, 15_000)]


def test_what_came_before_a_wait_is_to_be_published_first() -> None:
    found = played(Clock(), 1, records(0, 0, 5_000))
    assert [record and record.timestamp_ms for _, record in found] == [0, 0, None, 5_000]
    assert [at_s for at_s, _ in found] == [0, 0, 0, 5]


def test_a_late_record_holds_up_nothing_and_keeps_its_place() -> None:
    assert times(played(Clock(), 1, records(5_000, 1_000, 6_000))) == [(0, 5_000), (0, 1_000), (1, 6_000)]


def test_partitions_play_together() -> None:
    found = played(Clock(), 1, records(0, 2_000, 4_000), records(1_000, 3_000, partition=1))
    assert times(found) == [(0, 0), (1, 1_000), (2, 2_000), (3, 3_000), (4, 4_000)]


def test_waits_are_no_shorter_than_a_tick_so_that_transactions_stay_few() -> None:
    clock = Clock()
    found = played(clock, 1, records(*range(0, 1_000, 10)))
    assert min(clock.sleeps_s) >= TICK_S - 1e-9
    assert len(clock.sleeps_s) <= 1 / TICK_S + 1
    assert len(times(found)) == 100


def test_a_long_wait_is_slept_in_pieces() -> None:
    clock = Clock()
    played(clock, 1, records(0, 500_000))
    assert max(clock.sleeps_s) <= WAIT_S_MAX
    assert sum(clock.sleeps_s) == 500


def test_who_is_behind_does_not_wait() -> None:
    clock = Clock(busy_s=1.0)
    played(clock, 100, records(*range(0, 10_000, 100)))
    assert clock.sleeps_s == []


def test_a_lone_jump_makes_nothing_wait() -> None:
    found = times(played(Clock(), 1, records(0, 10**12, 1_000)))
    assert found == [(0, 0), (0, 10**12), (1, 1_000)]


def test_a_gap_over_a_jump_is_not_waited_for() -> None:
    found = times(played(Clock(), 1, records(0, 10_000_000, 10_002_000), records(10_003_000, partition=1)))
    assert found == [(0, 0), (0, 10_000_000), (0, 10_002_000), (1, 10_003_000)]


def partitions_of(ms_max: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(0, ms_max), max_size=20), max_size=4)


@given(partitions_of(JUMP_MS), st.sampled_from([0.5, 1.0, 1e3]), st.sampled_from([0.0, 0.01]))
def test_each_record_is_given_out_once_in_its_partitions_order_and_never_early(
    partitions: list[list[int]], speed: float, busy_s: float
) -> None:
    streams = [records(*times_ms, partition=p) for p, times_ms in enumerate(partitions)]
    play_ms = {(r.partition, r.offset): ms for ms, r in in_play_order(streams, JUMP_MS)}
    found = [(at_s, r) for at_s, r in played(Clock(busy_s), speed, *streams) if r is not None]
    for p, stream in enumerate(streams):
        assert [r for _, r in found if r.partition == p] == stream
    first_ms = play_ms[found[0][1].partition, found[0][1].offset] if found else 0
    for at_s, r in found:
        assert at_s >= (play_ms[r.partition, r.offset] - first_ms) / 1000 / speed - 1e-6


@given(partitions_of(5 * JUMP_MS))
def test_jumps_change_no_order(partitions: list[list[int]]) -> None:
    streams = [records(*times_ms, partition=p) for p, times_ms in enumerate(partitions)]
    found = [r for _, r in played(Clock(), 1e6, *streams) if r is not None]
    for p, stream in enumerate(streams):
        assert [r for r in found if r.partition == p] == stream
