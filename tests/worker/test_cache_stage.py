"""The stage `cache` on the real broker and a real Redis, killed, emptied and raced with; and `cache rebuild|verify`."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from click.testing import CliRunner
from confluent_kafka import Producer

from sep_stream.cli import cli
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache
from sep_stream.stores.cache.log import LatestLog
from sep_stream.stores.cache.rebuild import rebuild
from sep_stream.stores.cache.writer import CacheWriter
from sep_stream.worker.cache_stage import CHECK_INTERVAL_S
from tests.forked import Forked
from tests.stores.cache.described import price_record, signal_record
from tests.waiting import until
from tests.worker.harness import (
    COLD_S_MAX,
    SCHEMAS,
    SMALL,
    TOPOLOGY,
    decoded,
    log_of,
    publish,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, quotes

pytestmark = pytest.mark.integration

SYMBOLS = ("EUR/USD", "USD/JPY", "AUD/USD", "GBP/USD")
HEALS_WITHIN_S = 120
"""Bound for a slow machine. The stage looks at Redis every CHECK_INTERVAL_S."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    found = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    found.start(lambda message: None)
    yield found
    found.stop()


@pytest.fixture
def deployment(server: EmbeddedRedis, make_settings: Callable[..., Settings], prefix: str) -> Settings:
    return make_settings(prefix, redis_url=url_of(server, "cache"), **SMALL)


def url_of(server: EmbeddedRedis, role: str) -> str:
    login = server.login(role)
    return f"redis://{role}:{login['password']}@{login['host']}:{login['port']}/0"


class Latest:
    """Publishes records of the two topics, in the order of their times but for a few."""

    def __init__(self, settings: Settings, seed: int = SEED) -> None:
        self._settings, self._random = settings, random.Random(seed)
        self._producer = Producer(librdkafka(settings))
        self._step = 0
        self.newest: dict[str, tuple[int, int]] = {}

    def send(self, count: int) -> None:
        for _ in range(count):
            self._step += 1
            at_s = 1_700_000_000 + self._step - self._random.choice((0, 0, 0, 5))
            symbol, offset = self._random.choice(SYMBOLS), self._random.randrange(1_000)
            self.price(symbol, at_s * 1_000_000, offset)
            record = signal_record(symbol, self._random.choice(("M1", "M5")), at_s)
            key, name = f"{symbol}|{record['timeframe']}", f"signal:{symbol}:{record['timeframe']}"
            self._produce("signals.latest", symbol, offset, {"key": key, "value": SCHEMAS.encode("signal", record)})
            self._note(name, at_s * 1_000_000, offset)
        assert self._producer.flush(60) == 0

    def price(self, symbol: str, time_us: int, offset: int, **broken: Any) -> None:
        record = {"key": symbol, "value": SCHEMAS.encode("latest_price", price_record(symbol, time_us, bid="1"))}
        self._produce("prices.latest", symbol, offset, record | broken)
        if not broken:
            self._note(f"price:{symbol}", time_us, offset)

    def _note(self, name: str, time_us: int, offset: int) -> None:
        self.newest[name] = max(self.newest.get(name, (-1, -1)), (time_us, offset))

    def _produce(self, topic: str, symbol: str, offset: int, record: dict[str, Any]) -> None:
        partition = partition_for(symbol.encode(), self._settings.partitions)
        headers = [("source", f"{self._settings.topic('market.events')}/{partition}/{offset}".encode())]
        self._producer.produce(self._settings.topic(topic), partition=partition, **{"headers": headers} | record)


def held(settings: Settings, cache: Cache | None = None) -> dict[str, tuple[int, int]]:
    cache = cache or Cache(settings)
    signals = cache.signals([(symbol, timeframe) for symbol in SYMBOLS for timeframe in ("M1", "M5")])
    values = {f"price:{symbol}": value for symbol, value in cache.prices(SYMBOLS).items()}
    values |= {f"signal:{symbol}:{timeframe}": value for (symbol, timeframe), value in signals.items()}
    return {name: (value.event_time_us, value.offset) for name, value in values.items() if value is not None}


def await_held(settings: Settings, expected: dict[str, tuple[int, int]]) -> None:
    cache = Cache(settings)
    until(
        lambda: held(settings, cache) == expected,
        lambda: (held(settings, cache), expected, log_of(settings)[-2000:]),
        COLD_S_MAX,
    )


def run(settings: Settings, *words: str) -> tuple[int, str]:
    told = CliRunner().invoke(cli, ["cache", *words], env=settings.environment())
    return told.exit_code, told.output + str(told.exception or "")


def admin(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(url_of(server, "admin"), decode_responses=True, protocol=2)


def verified(settings: Settings, wait_s: float = HEALS_WITHIN_S) -> dict[str, Any]:
    code, output = run(settings, "verify", "--json", "--wait", str(wait_s))
    found: dict[str, Any] = json.loads(output.splitlines()[0])
    assert code == (1 if found["differences"] else 0)
    return found


def test_racing_workers_rebuilds_and_a_kill_leave_the_newest(deployment: Settings, tmp_path: Path) -> None:
    latest = Latest(deployment)
    other = deployment.model_copy(update={"data_dir": tmp_path / "other"})
    flags = ("--stages", "cache")
    with (
        ThreadPoolExecutor(1) as pool,
        worker(deployment, *flags),
        worker(other, *flags, SEP_FAILPOINT="cache.before_send:3") as killed,
    ):
        rebuilds = pool.submit(rebuild_until_gone, deployment, killed)
        deadline_s = time.monotonic() + COLD_S_MAX
        while killed.poll() is None:
            assert time.monotonic() < deadline_s, log_of(other)[-2000:]
            latest.send(20)
            time.sleep(0.05)
        assert killed.returncode == -signal.SIGKILL
        assert rebuilds.result() > 0
        latest.send(50)
        await_held(deployment, latest.newest)
    assert verified(deployment)["differences"] == []


def rebuild_until_gone(settings: Settings, process: Forked) -> int:
    log = LatestLog(settings, TOPOLOGY)
    writer = CacheWriter(settings, log.identity())
    for made in count():
        rebuild(log, writer)
        if process.poll() is not None:
            return made + 1
    raise AssertionError


def test_an_emptied_and_stopped_redis_is_whole_again_within_seconds(
    deployment: Settings, server: EmbeddedRedis
) -> None:
    assert CHECK_INTERVAL_S <= 1
    latest = Latest(deployment)
    latest.send(50)
    with worker(deployment, "--stages", "cache") as process:
        await_held(deployment, latest.newest)
        admin(server).flushall()
        assert verified(deployment)["differences"] == []  # and no record came
        admin(server).flushall()
        server.stop()
        latest.send(20)
        time.sleep(2)
        server.start(lambda message: None)
        assert verified(deployment)["differences"] == []
        assert held(deployment) == latest.newest
        assert process.poll() is None
    assert log_of(deployment).count("cache made anew") >= 3


def test_a_redis_that_stays_away_ends_the_worker_and_nothing_is_lost(
    deployment: Settings, server: EmbeddedRedis
) -> None:
    latest = Latest(deployment)
    latest.send(10)
    server.stop()
    try:
        with worker(deployment, "--stages", "cache") as process:
            assert process.wait(COLD_S_MAX) == 1
        assert "does not answer" in log_of(deployment)
        assert "(asked for 15 s)" in log_of(deployment)
    finally:
        server.start(lambda message: None)
    send_what_is_no_value(latest)
    events = quotes(SEED)  # later ones
    publish(deployment, events.take(np.arange(300)))

    run_until_caught_up(deployment, "--stages", "convert,cache")
    letters = {letter["code"]: letter for letter in decoded(deployment, "dead.letters")}
    assert set(letters) == {
        "UNKNOWN_SCHEMA", "TOMBSTONE", "KEY_MISMATCH", "MISSING_FIELD", "BAD_TIME", "UNKNOWN_INSTRUMENT",
    }  # fmt: skip
    assert "header `source`" in letters["MISSING_FIELD"]["reason"]
    assert letters["KEY_MISMATCH"]["topic"] == deployment.topic("prices.latest")
    found = held(deployment)
    assert {name: found[name] for name in latest.newest if name not in QUOTED} == {
        name: version for name, version in latest.newest.items() if name not in QUOTED
    }
    assert all(found[name][0] >= int(events.event_time[0]) for name in QUOTED)
    assert verified(deployment) | {"records": 0} == {
        "names": len(found), "records": 0, "unusable": 6, "differences": []
    }  # fmt: skip


QUOTED = ("price:EUR/USD", "price:USD/JPY", "price:AUD/USD")


def send_what_is_no_value(latest: Latest) -> None:
    us = 1_800_000_000_000_000
    strange = SCHEMAS.encode("latest_price", price_record("EUR/USD", us) | {"event_time": 2**60})
    latest.price("EUR/USD", us, 1, value=b"\x00nothing")
    latest.price("EUR/USD", us, 2, value=None)
    latest.price("EUR/USD", us, 3, key="USD/JPY")
    latest.price("EUR/USD", us, 4, headers=[])
    latest.price("EUR/USD", us, 5, value=strange)
    latest.price("XAU/XXX", us, 6, key="XAU/XXX")
    latest.send(0)


def test_rebuild_makes_the_cache_anew_and_verify_finds_what_differs(
    deployment: Settings, server: EmbeddedRedis
) -> None:
    latest = Latest(deployment)
    latest.send(40)
    assert run(deployment, "verify", "--wait", "0")[0] == 1
    assert "Redis holds none of this deployment" in run(deployment, "verify", "--wait", "0")[1]
    code, output = run(deployment, "rebuild")
    assert (code, output.startswith(f"{len(latest.newest)} values of 80 records")) == (0, True), output
    assert held(deployment) == latest.newest
    assert verified(deployment, 0)["differences"] == []

    root = f"cache:{{{deployment.prefix}}}:"
    client = admin(server)
    client.hset(f"{root}price:EUR/USD", "price", "2.5")
    client.delete(f"{root}price:USD/JPY")
    client.persist(f"{root}price:AUD/USD")
    client.hset(f"{root}versions", "price:GBP/USD", "1 1")
    client.hset(f"{root}versions", "price:NZD/USD", "1 1")
    client.hset(f"{root}versions", "signal:EUR/USD:M1", "9000000000000000 1")
    client.hdel(f"{root}versions", "signal:EUR/USD:M5")
    problems = {d["name"]: d["problem"] for d in verified(deployment, 0)["differences"]}
    for name, told in {
        "price:EUR/USD": "price is '2.5', the log has '1.1'",
        "price:USD/JPY": "is gone, 3",
        "price:AUD/USD": "never expires",
        "price:GBP/USD": "is older than the log's: event time 1 µs",
        "price:NZD/USD": "is not of this log",
        "signal:EUR/USD:M1": "is not of this log",
        "signal:EUR/USD:M5": "is not there; the log has it",
    }.items():
        assert told in problems.pop(name), name
    assert problems == {}
    assert run(deployment, "rebuild")[0] == 0
    assert verified(deployment, 0)["differences"] == []


def times_ms(settings: Settings, topic: str) -> list[int]:
    """The records' timestamps."""
    name, reader = settings.topic(topic), LogReader(settings)
    return [
        at_ms
        for partition in reader.partitions(name)
        for batch in reader.read(name, partition, *reader.watermarks(name, partition))
        for at_ms in batch.timestamps_ms.tolist()
    ]


def test_values_expire_so_long_after_their_record(
    server: EmbeddedRedis, make_settings: Callable[..., Settings], prefix: str
) -> None:
    long = make_settings(prefix, redis_url=url_of(server, "cache"), cache_ttl_s=3_600, **SMALL)
    latest = Latest(long)
    latest.send(5)
    run(long, "rebuild")
    assert held(long) == latest.newest
    written_ms = {at_ms for topic in ("prices.latest", "signals.latest") for at_ms in times_ms(long, topic)}
    for name in latest.newest:
        before_ms = time.time() * 1_000
        left_ms: Any = admin(server).pttl(f"cache:{{{prefix}}}:{name}")
        after_ms = time.time() * 1_000
        assert any(before_ms - 5 < at_ms + 3_600_000 - left_ms < after_ms + 5 for at_ms in written_ms), name

    settings = long.model_copy(update={"cache_ttl_s": 1})
    run(settings, "rebuild")
    await_held(settings, {})
    assert run(settings, "rebuild")[0] == 0  # the records are as old as they are
    assert held(settings) == {}
    assert verified(settings, 0)["differences"] == []
