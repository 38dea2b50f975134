"""A state after recovery holds each record once, outputs begin where they are missing, and snapshots say what is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import StateError
from sep_stream.worker import states
from sep_stream.worker.batches import Batch, Place
from sep_stream.worker.snapshots import Snapshot, SnapshotFormat
from sep_stream.worker.states import SNAPSHOT_INTERVAL_S, StateKind, States
from tests.waiting import StandingClock
from tests.worker.harness import SCHEMAS
from tests.worker.memory_log import INPUT, STATE, MemoryLog, Seen, batch, in_one_thread, played

FORMAT = SnapshotFormat(SCHEMAS, "seen", 1, "{}")


@pytest.fixture(autouse=True, scope="module")
def no_threads() -> Iterator[None]:
    with in_one_thread():
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StandingClock:
    clock = StandingClock()
    monkeypatch.setattr(states, "time", clock)
    return clock


def log_of(end: int, partition: int = 0) -> MemoryLog:
    return MemoryLog({partition: list(range(end))}, high={partition: end})


def saved(next_offset: int, partition: int = 0) -> bytes:
    """A snapshot of a state that has seen all below `next_offset`."""
    state = b" ".join(b"%d" % offset for offset in range(next_offset))
    return FORMAT.encode(partition, Snapshot(next_offset, state))


def states_of(
    log: MemoryLog, is_current: Callable[[Batch], bool] = lambda batch: True, rebuild: bool = False
) -> States[Seen]:
    kind = StateKind(FORMAT, Seen, lambda state, partition, records: state.feed(records), "none")
    return States(kind, (INPUT, STATE), log, is_current, rebuild)


def feed(states: States[Seen], *batches: Batch) -> dict[int, list[int]]:
    """Feed what is unseen, as a stage does; its offsets by partition."""
    found: dict[int, list[int]] = {}
    for partition, parts in played(states.unseen(batches)).items():
        for part in parts:
            states[partition].feed(part.records)
            found.setdefault(partition, []).extend(part.records.offsets.tolist())
    return found


def in_snapshot(record: Any) -> tuple[int, int, list[int]]:
    """Partition and next offset as the record says, and what its state has seen."""
    _, value = SCHEMAS.decode(record.value)
    return value["partition"], value["next_offset"], Seen(value["state"]).offsets


def last(states: States[Seen], epoch: int, offset: int) -> list[tuple[int, int, list[int]]]:
    """What is saved when partition 0 is given up with all below `offset` acknowledged."""
    return [in_snapshot(record) for record in states.last_snapshots({Place(INPUT, 0): (epoch, offset)})]


@given(st.data())
def test_after_recovery_each_record_is_seen_once_and_what_lacks_outputs_is_handed_over(data: st.DataObject) -> None:
    """Whatever snapshots there are, in whatever order, and wherever the group stands."""
    end = data.draw(st.integers(0, 8), "end")
    log = log_of(end + 4)
    snapshots = data.draw(st.lists(st.integers(0, end), max_size=3), "snapshots")
    log.saved[0] = [saved(next_offset) for next_offset in snapshots]
    committed = data.draw(st.none() | st.integers(0, end), "committed")
    if committed is not None:
        log.offset_committed[0] = committed
    newest, resume = max(snapshots, default=0), max([committed or 0, *snapshots])
    start = data.draw(st.integers(0, resume), "where the fetches begin")
    cut = data.draw(st.integers(start + 1, end + 4), "cut")

    found = states_of(log)
    handed = feed(found, batch(range(start, cut))).get(0, [])
    if cut < end + 4:
        handed += feed(found, batch(range(cut, end + 4), number=1)).get(0, [])
    assert handed == list(range(resume, end + 4))
    assert found[0].offsets == list(range(end + 4))
    assert log.read == [(0, newest, resume)]


def test_a_fetch_wholly_below_the_resume_offset_is_handled_as_nothing() -> None:
    log = log_of(9)
    log.saved[0] = [saved(6)]
    found = states_of(log)
    assert feed(found, batch([0, 1, 2])) == {}
    assert feed(found, batch([3, 4, 5], number=1)) == {}
    assert feed(found, batch([6, 7], number=2)) == {0: [6, 7]}


def test_each_partition_has_a_state_of_its_own() -> None:
    log = MemoryLog({0: [0, 1], 3: [0, 1, 2]}, high={0: 2, 3: 3})
    log.saved[3] = [saved(2, 3)]
    log.offset_committed[0] = 1
    found = states_of(log)
    assert feed(found, batch([0, 1]), batch([0, 1, 2], partition=3)) == {0: [1], 3: [2]}
    assert found[0].offsets == [0, 1]
    assert found[3].offsets == [0, 1, 2]


def test_two_fetches_at_once_are_fed_one_after_the_other() -> None:
    log = log_of(4)
    log.offset_committed[0] = 1
    assert feed(states_of(log), batch([0, 1]), batch([2, 3], number=1)) == {0: [1, 2, 3]}


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_fetch_that_begins_below_the_states_next_offset_is_an_error(first: int) -> None:
    """It would be fed twice: every later result would be wrong."""
    found = states_of(log_of(9))
    feed(found, batch([0, 1, 2]))
    with pytest.raises(StateError, match=rf"events/0: a fetch begins at offset {first}, .* all below 3"):
        feed(found, batch([first, 3, 4], number=1))
    assert found[0].offsets == [0, 1, 2]


def test_a_fetch_that_begins_below_the_resume_offset_is_not_fed_twice_either() -> None:
    log = log_of(12)
    log.saved[0] = [saved(6)]
    states = states_of(log)
    assert feed(states, batch(range(9))) == {0: [6, 7, 8]}
    with pytest.raises(StateError, match="a fetch begins at offset 6, but the state has seen all below 9"):
        feed(states, batch(range(3, 10), number=1))


def test_the_snapshot_of_another_partition_is_an_error() -> None:
    log = log_of(12)
    log.saved[0] = [saved(6, partition=5)]
    with pytest.raises(StateError, match="snapshot made with partition 5; this worker has 0"):
        feed(states_of(log), batch(range(9)))


def test_offsets_that_a_fetch_passed_count_as_seen() -> None:
    found = states_of(MemoryLog({0: [0, 9]}, high={0: 10}))
    feed(found, batch([0], beyond=5))
    with pytest.raises(StateError, match=r"a fetch begins at offset 4, .* all below 5"):
        feed(found, batch([4], number=1))


def test_a_new_epoch_throws_the_state_away() -> None:
    """Another worker may have gone on with the partition, and come further or less far."""
    log = log_of(9)
    found = states_of(log)
    feed(found, batch(range(5), epoch=1))
    log.offset_committed[0] = 3
    assert feed(found, batch(range(3, 6), epoch=2)) == {0: [3, 4, 5]}
    assert found[0].offsets == [0, 1, 2, 3, 4, 5]
    log.saved[0] = [saved(8)]
    assert feed(found, batch(range(3, 9), epoch=3)) == {0: [8]}
    assert found[0].offsets == list(range(9))


def test_nothing_of_an_epoch_that_passed_during_its_recovery_is_fed() -> None:
    epochs = {0: 1, 1: 1}

    class Moving(MemoryLog):
        def committed(self, partition: int) -> int | None:
            epochs[0] = 2
            return None

    log = Moving({0: [0], 1: [0]}, high={0: 1, 1: 1})
    found = states_of(log, lambda b: epochs[b.partition] == b.epoch)
    assert feed(found, batch([0]), batch([0], partition=1)) == {1: [0]}


def test_a_snapshot_holds_what_was_fed_and_the_offset_behind_it(clock: StandingClock) -> None:
    log = MemoryLog({2: [0, 1, 2, 3, 4, 7]}, high={2: 10})
    log.offset_committed[2] = 2
    found = states_of(log)
    feed(found, batch([1, 2, 3], partition=2))
    clock.now_s += SNAPSHOT_INTERVAL_S
    [record] = found.snapshots([2])
    assert (record.topic, record.partition, record.key, record.timestamp_ms) == (STATE, 2, b"2", 0)
    assert in_snapshot(record) == (2, 4, [0, 1, 2, 3])
    feed(found, batch([4, 7], partition=2, number=1, beyond=3))
    clock.now_s += SNAPSHOT_INTERVAL_S
    [record] = found.snapshots([2])
    assert in_snapshot(record) == (2, 10, [0, 1, 2, 3, 4, 7])


def test_a_worker_goes_on_from_its_own_snapshot(clock: StandingClock) -> None:
    log = log_of(6)
    found = states_of(log)
    feed(found, batch([0, 1, 2]))
    clock.now_s += SNAPSHOT_INTERVAL_S
    log.saved[0] = [record.value for record in found.snapshots([0])]
    again = states_of(log)
    assert feed(again, batch(range(6))) == {0: [3, 4, 5]}
    assert again[0].offsets == list(range(6))
    assert log.read[-1] == (0, 3, 3)


def test_a_partition_is_saved_at_most_once_in_the_interval(clock: StandingClock) -> None:
    log = MemoryLog({0: [0], 1: [0]}, high={0: 1, 1: 1})
    found = states_of(log)
    feed(found, batch([0]), batch([0], partition=1))
    assert found.snapshots([0, 1]) == []
    clock.now_s += SNAPSHOT_INTERVAL_S
    assert [record.partition for record in found.snapshots([1])] == [1]
    clock.now_s += SNAPSHOT_INTERVAL_S / 2
    assert [record.partition for record in found.snapshots([0, 1])] == [0]
    clock.now_s += SNAPSHOT_INTERVAL_S / 2
    assert [record.partition for record in found.snapshots([0, 1])] == [1]


def test_after_the_last_snapshot_a_restart_reads_nothing_again(clock: StandingClock) -> None:
    log = log_of(6)
    found = states_of(log)
    feed(found, batch([0, 1, 2, 3]))
    assert found.snapshots([0]) == []  # too soon
    [record] = found.last_snapshots({Place(INPUT, 0): (1, 4)})
    assert in_snapshot(record) == (0, 4, [0, 1, 2, 3])
    log.saved[0], log.offset_committed[0] = [record.value], 4
    assert feed(states_of(log), batch([4, 5])) == {0: [4, 5]}
    assert log.read[-1] == (0, 4, 4)


def test_the_last_snapshot_is_made_where_the_newest_one_lacks_something(clock: StandingClock) -> None:
    log = log_of(6)
    log.saved[0] = [saved(2)]
    found = states_of(log)
    assert last(found, 1, 2) == []  # nothing came
    feed(found, batch([0, 1]))
    assert last(found, 1, 2) == []  # nothing new came
    feed(found, batch([2], number=1))
    clock.now_s += SNAPSHOT_INTERVAL_S
    assert len(found.snapshots([0])) == 1
    assert last(found, 1, 3) == []
    feed(found, batch([3], number=2))
    assert last(found, 1, 4) == [(0, 4, [0, 1, 2, 3])]
    assert last(found, 1, 4) == []


@pytest.mark.parametrize(("epoch", "offset"), [(1, 2), (1, 0), (2, 3)])
def test_a_state_beyond_what_is_acknowledged_or_of_another_epoch_is_not_saved(
    clock: StandingClock, epoch: int, offset: int
) -> None:
    found = states_of(log_of(6))
    feed(found, batch([0, 1, 2]))
    assert last(found, epoch, offset) == []


def test_a_state_that_was_made_anew_is_saved_at_the_end_also_without_new_records(clock: StandingClock) -> None:
    """All of its outputs were acknowledged before, below a commit that is beyond this batch."""
    log = log_of(6)
    log.offset_committed[0] = 4
    found = states_of(log)
    assert feed(found, batch([0, 1])) == {}
    assert last(found, 1, 2) == [(0, 4, [0, 1, 2, 3])]


def test_a_state_too_large_for_its_topic_is_not_sent_and_the_work_goes_on(
    clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(states, "SNAPSHOT_BYTES_MAX", 10)
    monkeypatch.setattr(
        states, "log", SimpleNamespace(error=lambda text, **_: errors.append(text), info=lambda text, **_: None)
    )
    found = states_of(log_of(9))
    for number in range(3):
        feed(found, batch([number], number=number))
        clock.now_s += SNAPSHOT_INTERVAL_S
        assert found.snapshots([0]) == []
    assert len(errors) == 1


def test_rebuilding_reads_all_of_the_log_once_and_saves_what_it_gave(clock: StandingClock) -> None:
    log = log_of(6)
    log.saved[0] = [b"garbage"]
    log.offset_committed[0] = 4
    found = states_of(log, rebuild=True)
    assert feed(found, batch([4, 5])) == {0: [4, 5]}
    assert found[0].offsets == list(range(6))
    [record] = found.snapshots([0])
    log.saved[0].append(record.value)
    log.offset_committed[0] = 6
    log.high[0] = 7
    assert feed(found, batch([6], epoch=2)) == {0: [6]}
    assert log.read == [(0, 0, 4), (0, 6, 6)]


def test_without_rebuilding_a_snapshot_that_cannot_be_used_is_an_error() -> None:
    log = log_of(6)
    log.saved[0] = [saved(2), b"garbage"]
    with pytest.raises(StateError, match=f"{STATE}/0, offset 1: corrupt snapshot"):
        feed(states_of(log), batch([0]))


def test_a_log_that_lacks_what_the_state_needs_is_an_error() -> None:
    log = log_of(9)
    log.low, log.saved[0] = 4, [saved(3)]
    with pytest.raises(StateError, match=f"{INPUT}/0: the state stands at offset 3, but the log begins at 4"):
        feed(states_of(log), batch([4]))
