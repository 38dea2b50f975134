"""What the group's consumer commits, and when: the ledger's word and nothing else, whatever Faust counts itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError
from faust.types import TP

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.settings import Settings
from sep_stream.worker import transport
from sep_stream.worker.fetcher import OffsetGone
from sep_stream.worker.runner import Worker
from sep_stream.worker.transport import BatchApp, Fetched
from tests.worker.memory_log import INPUT, HeldProducer, all_goes_on, batch, outbox_of, played

A, B = TP(INPUT, 0), TP(INPUT, 1)


class Kafka:
    """In place of aiokafka's consumer: a member of the group to which both partitions are assigned."""

    def __init__(self) -> None:
        self.assigned = {A, B}
        self.commits: list[dict[tuple[str, int], int]] = []
        self.failing = False
        self.held = range(4, 9)
        """Offsets that the log of each partition holds."""

    def assignment(self) -> set[TP]:
        return self.assigned

    def pause(self, *partitions: Any) -> None:
        pass

    async def seek_to_committed(self) -> dict[TP, int]:
        return {}

    async def beginning_offsets(self, partitions: Any) -> dict[Any, int]:
        return dict.fromkeys(partitions, self.held.start)

    async def end_offsets(self, partitions: Any) -> dict[Any, int]:
        return dict.fromkeys(partitions, self.held.stop)

    async def commit(self, offsets: dict[Any, Any]) -> None:
        if self.failing:
            raise CommitFailedError("the group is already rebalanced")
        self.commits.append({(at.topic, at.partition): found.offset for at, found in offsets.items()})


class FailingFetcher:
    """In place of the fetcher, of which tests want nothing but what stands in its way."""

    error: Exception

    def __init__(self, *_: Any) -> None:
        self.epochs = {A: 0}

    async def fetch(self, timeout_s: float) -> Any:
        raise self.error


class Member:
    """A stage's app whose consumer is one of a group that the test plays."""

    def __init__(self, app: BatchApp) -> None:
        self.app, self.consumer, self.kafka = app, app.consumer, Kafka()
        self.thread = self.consumer._thread
        self.thread._ensure_consumer = lambda: self.kafka
        self.thread.call_thread = self._at_once
        self.failures: list[BaseException] = []
        app.fail = self.failures.append
        app.loop = asyncio.get_running_loop()

    async def _at_once(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        return await function(*arguments)

    def hand_over(self, *offsets: int, tp: TP = A, epoch: int = 0, number: int = 0) -> Any:
        return self.consumer._to_message(tp, Fetched((batch(offsets, tp.partition, epoch, number, tp.topic),)))

    async def failure(self, error: Exception) -> BaseException:
        """What the process ends with where a fetch raises an error."""
        self.thread._fetcher.error = error
        assert await self.thread.getmany({A}, 0.0) == {}
        await all_goes_on()
        [failure] = self.failures
        return failure

    async def commit(self) -> list[dict[tuple[str, int], int]]:
        """Commits what may be; all commits so far."""
        await self.consumer.commit()
        return self.kafka.commits


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Member], Any]], None]:
    monkeypatch.setattr(transport, "Fetcher", FailingFetcher)
    settings = Settings.load(brokers="127.0.0.1:1", prefix="", data_dir=tmp_path)

    def play(steps: Callable[[Member], Any]) -> None:
        async def run() -> None:
            worker = Worker(settings, ("convert",), engine="cpu")
            await steps(Member(worker._app("convert", "127.0.0.1:1", outbox_of(HeldProducer()))))

        played(run())

    return play


Play = Callable[[Callable[[Member], Any]], None]


def test_an_offset_is_committed_once_all_below_it_is_acknowledged(play: Play) -> None:
    async def steps(member: Member) -> None:
        first, second = member.hand_over(0, 1), member.hand_over(2, number=1)
        member.consumer.acknowledge(second)
        assert await member.commit() == []
        member.consumer.acknowledge(first)
        assert await member.commit() == [{A: 3}]
        assert await member.commit() == [{A: 3}]

    play(steps)


def test_faust_itself_acknowledges_nothing(play: Play) -> None:
    """Its streams would do so in `finally`, even where the handler raised."""

    async def steps(member: Member) -> None:
        member.hand_over(0)
        member.consumer._acked[A].append(0)
        assert await member.commit() == []

    play(steps)


def test_what_is_acknowledged_after_a_revoke_is_not_committed(play: Play) -> None:
    async def steps(member: Member) -> None:
        gone, kept = member.hand_over(0, tp=A), member.hand_over(7, tp=B)
        await member.consumer.on_partitions_revoked({A})
        member.consumer.acknowledge(gone)
        member.consumer.acknowledge(kept)
        assert await member.commit() == [{B: 8}]

    play(steps)


@pytest.mark.parametrize("way", ["assigned", "seek", "committed"])
def test_what_is_acknowledged_in_a_later_epoch_is_not_committed(play: Play, way: str) -> None:
    async def steps(member: Member) -> None:
        old = batch([0], epoch=0)
        message = member.hand_over(0)
        assert member.app.is_current(old)
        await begin_epoch(member, way)
        assert not member.app.is_current(old)
        member.consumer.acknowledge(message)
        assert await member.commit() == []
        epoch = member.consumer.epoch(A)
        member.consumer.acknowledge(member.hand_over(0, epoch=epoch))
        assert await member.commit() == [{A: 1}]

    play(steps)


async def begin_epoch(member: Member, way: str) -> None:
    if way == "assigned":

        async def on_the_apps_loop(*_: Any) -> None:
            pass

        member.consumer.threadsafe_partitions_assigned = on_the_apps_loop
        await member.thread.on_partitions_assigned({A}, 1)
    elif way == "seek":
        member.kafka.seek = lambda *_: None
        member.thread.seek(A, 0)
    else:
        await member.thread.seek_to_committed()


def test_batches_that_a_new_epoch_overtook_are_not_handed_over(play: Play) -> None:
    async def steps(member: Member) -> None:
        old, new = batch([3], epoch=0), batch([5], partition=1, epoch=1)

        async def getmany(*_: Any) -> Any:
            return {A: [Fetched((old, new))]}

        member.thread.getmany = getmany
        member.thread.epochs.update({A: 1, B: 1})
        assert await member.consumer._getmany({A, B}, 0.0) == {B: [Fetched((new,))]}
        member.thread.epochs.update({B: 2})
        assert await member.consumer._getmany({A, B}, 0.0) == {}

    play(steps)


def test_a_commit_that_failed_is_made_again(play: Play) -> None:
    async def steps(member: Member) -> None:
        member.consumer.acknowledge(member.hand_over(0))
        member.kafka.failing = True
        assert await member.commit() == []
        member.kafka.failing = False
        assert await member.commit() == [{A: 1}]
        assert await member.commit() == [{A: 1}]

    play(steps)


def test_a_fetch_that_went_missing_on_the_way_to_the_agent_is_an_error(play: Play) -> None:
    async def steps(member: Member) -> None:
        member.hand_over(0)
        with pytest.raises(StateError, match="records went missing"):
            member.hand_over(9, number=2)

    play(steps)


@pytest.mark.parametrize(("offset", "why"), [(3, "were deleted"), (12, "was cut or made anew")])
def test_an_offset_that_the_log_does_not_hold_ends_the_process(play: Play, offset: int, why: str) -> None:
    """Going on elsewhere would pass over records that nobody handled."""

    async def steps(member: Member) -> None:
        failure = await member.failure(OffsetGone(A, offset))
        assert isinstance(failure, StateError)
        assert f"goes on at offset {offset}, but the log holds 4 to 9" in str(failure)
        assert why in str(failure)

    play(steps)


def test_a_topic_that_may_not_be_read_ends_the_process(play: Play) -> None:
    async def steps(member: Member) -> None:
        error = DependencyError("denied")
        assert await member.failure(error) is error

    play(steps)


def test_faust_resets_no_offset_by_itself(play: Play) -> None:
    async def steps(member: Member) -> None:
        conf = member.app.conf
        assert conf.consumer_auto_offset_reset == "none"
        assert conf.processing_guarantee.name == "AT_LEAST_ONCE"
        assert conf.topic_disable_leader
        assert conf.id == "convert"

    play(steps)
