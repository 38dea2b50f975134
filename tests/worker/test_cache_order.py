"""The stage `cache` writes the newest value of each name, and hands nothing on before Redis has it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from sep_stream.errors import DependencyError
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache.writer import Entry, Unsound, keep_newest
from sep_stream.worker import cache_stage
from sep_stream.worker.batches import Batch
from sep_stream.worker.cache_stage import REBUILDS_MAX, CacheStage
from sep_stream.worker.stage import Counters
from tests.stores.cache.described import price_record
from tests.worker.harness import SCHEMAS, TOPOLOGY
from tests.worker.memory_log import AgentRun, all_goes_on, at_once, played

TIME_US = 1_700_000_000_000_000
PRICES = "p.prices.latest"


class Log:
    def __init__(self, *_: Any) -> None:
        pass

    def identity(self) -> str:
        return "log"


class Redis:
    """In place of the writer: keeps what it was given. failures: what the next writes raise"""

    address = "redis"

    def __init__(self, *_: Any) -> None:
        self.written: list[list[Entry]] = []
        self.failures: list[Exception] = []

    def write(self, entries: Sequence[Entry]) -> int:
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(list(entries))
        return len(entries)


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch) -> list[Redis]:
    """The writers of those caches that were made anew."""
    found: list[Redis] = []
    monkeypatch.setattr(cache_stage, "LatestLog", Log)
    monkeypatch.setattr(cache_stage, "CacheWriter", Redis)
    monkeypatch.setattr(cache_stage, "rebuild_unless_sound", lambda log, writer: found.append(writer))
    monkeypatch.setattr(cache_stage.asyncio, "to_thread", at_once)
    return found


@pytest.fixture
def stage(rebuilt: list[Redis], tmp_path: Path) -> CacheStage:
    settings = Settings.load(brokers="127.0.0.1:1", prefix="p.", data_dir=tmp_path)
    return CacheStage(settings, TOPOLOGY, SCHEMAS, "p.dead.letters", Counters())


def redis_of(stage: CacheStage) -> Redis:
    writer: Any = stage._writer
    assert isinstance(writer, Redis)
    return writer


def prices(*versions: tuple[int, int], partition: int = 0, number: int = 0) -> Batch:
    """A fetch of prices of EUR/USD. versions: seconds after TIME_US, and the offset of the event behind the price"""
    messages = [
        Message(
            topic=PRICES, partition=partition, offset=k, key=b"EUR/USD", timestamp=(1, TIME_US // 1_000),
            value=SCHEMAS.encode("latest_price", price_record("EUR/USD", TIME_US + s * 1_000_000)),
            headers=[("source", b"events/0/%d" % offset)],
        )
        for k, (s, offset) in enumerate(versions)
    ]  # fmt: skip
    return Batch(PRICES, partition, RecordBatch(messages), len(messages), 1, number)


def versions(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    return [((e.event_time_us - TIME_US) // 1_000_000, e.offset) for e in entries]


@pytest.mark.parametrize(
    "fetches",
    [
        [[(1, 7), (3, 9), (2, 8)]],
        [[(3, 9), (1, 7)], [(2, 8)]],
        [[(2, 8)], [(3, 9)], [(1, 7)]],
        [[(3, 8)], [(3, 9)], [(3, 7)]],
    ],
)
def test_of_all_that_came_at_once_the_newest_is_written(
    stage: CacheStage, fetches: list[list[tuple[int, int]]]
) -> None:
    """A later batch can hold an older value: where a worker repeats what another did."""
    played(stage.process([prices(*fetch, number=k) for k, fetch in enumerate(fetches)]))
    [written] = redis_of(stage).written
    assert versions(written) == [(3, 9)]


@pytest.mark.parametrize("order", list(permutations([(3, 9), (3, 8), (2, 10)])))
def test_of_entries_of_one_name_the_newest_is_kept_in_any_order(order: Sequence[tuple[int, int]]) -> None:
    """Of equal times that of the later offset."""
    held: dict[str, Entry] = {}
    for seconds, offset in order:
        keep_newest(held, [Entry("price:EUR/USD", TIME_US + seconds * 1_000_000, offset, 0, {})])
    assert versions(list(held.values())) == [(3, 9)]


def test_a_redis_that_is_not_sound_is_made_anew_before_it_is_written(stage: CacheStage, rebuilt: list[Redis]) -> None:
    redis = redis_of(stage)
    redis.failures = [Unsound("emptied")] * (REBUILDS_MAX - 1)
    played(stage.process([prices((1, 1))]))
    assert rebuilt == [redis] * (REBUILDS_MAX - 1)
    assert list(map(versions, redis.written)) == [[(1, 1)]]


@pytest.mark.parametrize("failures", [[DependencyError("Redis is away")], [Unsound("another's")] * REBUILDS_MAX])
def test_nothing_is_acknowledged_that_redis_does_not_have(stage: CacheStage, failures: list[Exception]) -> None:
    async def play() -> None:
        run = AgentRun(stage)
        redis_of(stage).failures = failures
        await run.fetch(prices((1, 1)))
        assert [type(failure) for failure in run.failures] == [DependencyError]
        assert run.group.acknowledged == []

    played(play())


def test_what_redis_has_is_acknowledged(stage: CacheStage) -> None:
    async def play() -> None:
        run = AgentRun(stage)
        message = await run.fetch(prices((1, 1)))
        await all_goes_on()
        assert run.failures == []
        assert run.group.acknowledged == [message]

    played(play())
