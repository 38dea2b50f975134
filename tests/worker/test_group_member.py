"""What a group's member commits, and when: the ledger's word, of the present epoch, and nothing after a failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.settings import Settings
from sep_stream.worker import group_member
from sep_stream.worker.batches import Batch, Fetched, Place
from sep_stream.worker.group_member import GroupMember
from sep_stream.worker.group_reader import Position
from tests.worker.memory_log import INPUT, all_goes_on, batch, played

A, B = Place(INPUT, 0), Place(INPUT, 1)


class Reader:
    """In place of the group's reader: a member that has both partitions, in their first epoch."""

    def __init__(self, *_: Any) -> None:
        self.epochs = {A: 1, B: 1}
        self.commits: list[dict[Place, int]] = []
        self.refusing = False
        self.room = 0

        self.group, self.member_id = "p.convert", "me"
        self.assigned: Callable[[], dict[Place, Position]] = dict

    def start(self) -> None:
        pass

    def end(self) -> None:
        pass

    def epoch(self, place: Place) -> int | None:
        return self.epochs.get(place)

    def forget(self, places: Any) -> None:
        for place in places:
            self.epochs.pop(place, None)

    def make_room(self) -> None:
        self.room += 1

    def commit(self, offsets: Mapping[Place, tuple[int, int]]) -> Future[frozenset[Place]]:
        done: Future[frozenset[Place]] = Future()
        current = {place: offset for place, (epoch, offset) in offsets.items() if self.epochs.get(place) == epoch}
        if not self.refusing:
            self.commits.append(current)
        done.set_result(frozenset() if self.refusing else frozenset(current))
        return done


class Play:
    """A member at work. fetches: what it handed over · failures: what it ends its process with"""

    def __init__(self, settings: Settings) -> None:
        self.failures: list[BaseException] = []
        self.counted: list[str] = []
        self.fetches: list[Fetched] = []
        self.member = GroupMember(settings, "convert", [INPUT], self.failures.append, "", self.counted.append)
        self.reader: Reader = self.member._reader

    async def fetch(self, *batches: Batch) -> Fetched | None:
        """What the agent gets of it."""
        before = len(self.fetches)
        self.member.deliver(Fetched(batches))
        await all_goes_on()
        return self.fetches[-1] if len(self.fetches) > before else None

    async def commit(self) -> list[dict[Place, int]]:
        """Commits what may be; all commits so far."""
        await self.member.commit()
        return self.reader.commits

    async def give_up(self, *places: Place) -> Mapping[Place, int]:
        """As the reader asks for it, on a thread of its own."""
        return await asyncio.to_thread(self.member.give_up, places)


Steps = Callable[[Play], Coroutine[Any, Any, None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Steps], None]:
    monkeypatch.setattr(group_member, "GroupReader", Reader)
    monkeypatch.setattr(group_member, "COMMIT_INTERVAL_S", 3_600)

    def run(steps: Steps) -> None:
        async def playing() -> None:
            play = Play(Settings.load(brokers="127.0.0.1:1", prefix="p.", data_dir=tmp_path))
            await play.member.start(play.fetches.append)
            await steps(play)
            await play.member.end()

        played(playing())

    return run


Run = Callable[[Steps], None]


def test_an_offset_is_committed_once_all_below_it_is_acknowledged(run: Run) -> None:
    async def steps(play: Play) -> None:
        first, second = await play.fetch(batch([0, 1])), await play.fetch(batch([2], number=1))
        assert first is not None
        assert second is not None
        play.member.acknowledge(second)
        assert await play.commit() == []
        play.member.acknowledge(first)
        assert await play.commit() == [{A: 3}]
        assert await play.commit() == [{A: 3}]
        assert play.reader.room == 2

    run(steps)


def test_commits_are_made_regularly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_member, "COMMIT_INTERVAL_S", 0.001)

    async def steps(play: Play) -> None:
        for number in range(3):
            fetched = await play.fetch(batch([number], number=number))
            assert fetched is not None
            play.member.acknowledge(fetched)
            while play.reader.commits[-1:] != [{A: number + 1}]:
                await asyncio.sleep(0.001)

    run(steps)


def test_a_commit_that_was_refused_is_made_again(run: Run) -> None:
    async def steps(play: Play) -> None:
        fetched = await play.fetch(batch([0]))
        assert fetched is not None
        play.member.acknowledge(fetched)
        play.reader.refusing = True
        assert await play.commit() == []
        play.reader.refusing = False
        assert await play.commit() == [{A: 1}]
        assert await play.commit() == [{A: 1}]

    run(steps)


def test_batches_that_a_new_epoch_overtook_are_not_handed_over(run: Run) -> None:
    async def steps(play: Play) -> None:
        play.reader.epochs = {A: 2, B: 1}
        old, new = batch([3], epoch=1), batch([5], partition=1, epoch=1)
        fetched = await play.fetch(old, new)
        assert fetched is not None
        assert fetched.batches == (new,)
        assert not play.member.is_current(old)
        play.reader.epochs = {}
        assert await play.fetch(batch([4], epoch=1, number=1)) is None
        assert play.reader.room == 1  # nobody will acknowledge it

    run(steps)


def test_what_is_acknowledged_in_a_later_epoch_is_not_committed(run: Run) -> None:
    async def steps(play: Play) -> None:
        old = await play.fetch(batch([0]))
        assert old is not None
        play.reader.epochs[A] = 2
        play.member.acknowledge(old)
        assert await play.commit() == []
        new = await play.fetch(batch([0], epoch=2))
        assert new is not None
        play.member.acknowledge(new)
        assert await play.commit() == [{A: 1}]

    run(steps)


def test_a_fetch_that_went_missing_on_the_way_to_the_agent_ends_the_process(run: Run) -> None:
    async def steps(play: Play) -> None:
        await play.fetch(batch([0]))
        assert await play.fetch(batch([9], number=2)) is None
        [failure] = play.failures
        assert isinstance(failure, StateError)
        assert "records went missing" in str(failure)

    run(steps)


def test_what_is_on_its_way_to_the_agent_or_not_acknowledged_is_in_flight(run: Run) -> None:
    async def steps(play: Play) -> None:
        def in_flight(fetches: int, epoch: int = 1) -> bool:
            play.reader.assigned = lambda: {A: Position(epoch, 5, fetches)}
            word = play.member.own_word()
            assert (word.group, word.member_id, word.position) == ("p.convert", "me", {A: 5})
            return A in word.in_flight

        assert not in_flight(0)
        assert in_flight(1)  # the loop has not got it yet
        fetched = await play.fetch(batch([0]))
        assert in_flight(1)
        assert fetched is not None
        play.member.acknowledge(fetched)
        assert not in_flight(1)
        assert in_flight(2)
        assert not in_flight(0, epoch=2)
        assert in_flight(1, epoch=2)

    run(steps)


def test_a_partition_is_given_up_once_what_was_fetched_of_it_is_acknowledged(run: Run) -> None:
    async def steps(play: Play) -> None:
        first, second = await play.fetch(batch([0])), await play.fetch(batch([1], number=1))
        other = await play.fetch(batch([7], partition=1))
        giving_up = asyncio.create_task(play.give_up(A))
        for fetched in (second, first):
            await all_goes_on()
            assert not giving_up.done()
            assert fetched is not None
            play.member.acknowledge(fetched)
        assert await giving_up == {A: 2}
        assert play.reader.epoch(A) is None
        assert other is not None
        play.member.acknowledge(other)
        assert await play.commit() == [{B: 8}]

    run(steps)


def test_a_partition_of_which_nothing_was_fetched_or_all_is_committed_is_given_up_at_once(run: Run) -> None:
    async def steps(play: Play) -> None:
        assert await play.give_up(B) == {}
        fetched = await play.fetch(batch([0]))
        assert fetched is not None
        play.member.acknowledge(fetched)
        await play.commit()
        assert await play.give_up(A) == {}

    run(steps)


def test_what_takes_too_long_is_dropped_and_not_committed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_member, "GIVE_UP_S_MAX", 0.05)

    async def steps(play: Play) -> None:
        done, late = await play.fetch(batch([0])), await play.fetch(batch([1], number=1))
        assert done is not None
        assert late is not None
        play.member.acknowledge(done)
        assert await play.give_up(A) == {A: 1}
        assert play.counted == ["fetches_given_up"]
        assert not play.member.is_current(late.batches[0])
        play.member.acknowledge(late)
        assert await play.commit() == []

    run(steps)


def test_after_a_failure_nothing_is_committed_and_nobody_waits(run: Run) -> None:
    async def steps(play: Play) -> None:
        fetched, _ = await play.fetch(batch([0])), await play.fetch(batch([1], number=1))
        assert fetched is not None
        play.member.acknowledge(fetched)
        play.member.fail(StateError("gone"))
        await all_goes_on()
        assert list(map(str, play.failures)) == ["gone"]
        assert await play.give_up(A) == {}
        assert await play.commit() == []

    run(steps)


def test_a_loop_that_stands_still_holds_the_group_up_for_a_bounded_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_member, "_ANSWER_S_MAX", 0.05)

    async def steps(play: Play) -> None:
        found: list[Mapping[Place, int]] = []
        thread = threading.Thread(target=lambda: found.append(play.member.give_up([A])))
        thread.start()
        thread.join()  # on the loop's thread: it can't answer
        assert found == [{}]

    run(steps)


Handled = Mapping[Place, tuple[int, int]]


def test_before_partitions_are_given_up_states_are_saved_of_which_all_is_acknowledged(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_member, "GIVE_UP_S_MAX", 0.05)

    async def steps(play: Play) -> None:
        saved: list[Handled] = []

        async def save(handled: Handled) -> None:
            assert play.reader.epochs == {A: 1, B: 1}  # not given up yet
            saved.append(handled)

        play.member.save = save
        done = await play.fetch(batch([0, 1]), batch([7], partition=1))
        await play.fetch(batch([8], partition=1, number=1))  # is not acknowledged
        assert done is not None
        play.member.acknowledge(done)
        assert await play.give_up(A, B) == {A: 2, B: 8}
        assert saved == [{A: (1, 2)}]

    run(steps)


@pytest.mark.parametrize("fault", ["refused", "slow"])
def test_a_state_that_cannot_be_saved_keeps_nothing_from_being_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(group_member, "SAVE_S_MAX", 0.05)

    async def steps(play: Play) -> None:
        async def save(_: Handled) -> None:
            if fault == "slow":
                await asyncio.sleep(60)
            raise DependencyError("the broker did not take a record")

        play.member.save = save
        fetched = await play.fetch(batch([0]))
        assert fetched is not None
        play.member.acknowledge(fetched)
        assert await play.give_up(A) == {A: 1}

    run(steps)


def test_after_a_failure_no_state_is_saved(run: Run) -> None:
    async def steps(play: Play) -> None:
        saved: list[Handled] = []

        async def save(handled: Handled) -> None:
            saved.append(handled)

        play.member.save = save
        fetched = await play.fetch(batch([0]))
        assert fetched is not None
        play.member.acknowledge(fetched)
        play.member.fail(StateError("gone"))
        await all_goes_on()
        assert await play.give_up(A) == {}
        assert saved == []

    run(steps)
