"""The stage `cache` on the real broker and a real Redis, killed, emptied and raced with; and `cache rebuild|verify`."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from confluent_kafka import Producer

from sep_stream.cli import cli
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache
from tests.stores.cache.described import price_record, signal_record
from tests.worker.harness import SCHEMAS, SMALL, decoded, log_of, publish, run_until_caught_up, worker
from tests.worker.markets import SEED, quotes

pytestmark = pytest.mark.integration

SYMBOLS = ("EUR/USD", "USD/JPY", "AUD/USD", "GBP/USD")
HEALS_WITHIN_S = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    found = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    found.start(lambda message: None)
    yield found
    found.stop()


@pytest.fixture
def deployment(server: EmbeddedRedis, make_settings: Callable[..., Settings], prefix: str) -> Settings:
    return make_settings(prefix, partitions=2, redis_url=url_of(server, "cache"), **SMALL)


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
            self._produce("signals.latest", symbol, key, SCHEMAS.encode("signal", record), offset)
            self._note(name, at_s * 1_000_000, offset)
        assert self._producer.flush(10) == 0

    def price(self, symbol: str, time_us: int, offset: int, **broken: Any) -> None:
        value = SCHEMAS.encode("latest_price", price_record(symbol, time_us, bid="1"))
        self._produce("prices.latest", symbol, symbol, value, offset, **broken)
        if not broken:
            self._note(f"price:{symbol}", time_us, offset)

    def _note(self, name: str, time_us: int, offset: int) -> None:
        self.newest[name] = max(self.newest.get(name, (-1, -1)), (time_us, offset))

    def _produce(self, topic: str, symbol: str, key: str, value: bytes, offset: int, **broken: Any) -> None:
        partition = partition_for(symbol.encode(), self._settings.partitions)
        headers = [("source", f"{self._settings.topic('market.events')}/{partition}/{offset}".encode())]
        record = {"key": key, "value": value, "headers": headers} | broken
        self._producer.produce(self._settings.topic(topic), partition=partition, **record)
        self._producer.flush(10)


def held(settings: Settings) -> dict[str, tuple[int, int]]:
    cache = Cache(settings)
    prices = {f"price:{s}": v for s, v in cache.prices(SYMBOLS).items()}
    signals = {
        f"signal:{s}:{t}": v for (s, t), v in cache.signals([(s, t) for s in SYMBOLS for t in ("M1", "M5")]).items()
    }
    return {name: (v.event_time_us, v.offset) for name, v in (prices | signals).items() if v is not None}


def await_held(settings: Settings, expected: dict[str, tuple[int, int]]) -> None:
    deadline_s = time.monotonic() + 30
    while (found := held(settings)) != expected:
        assert time.monotonic() < deadline_s, (found, expected, log_of(settings)[-2000:])
        time.sleep(0.05)


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


def test_two_racing_workers_one_killed_leave_the_newest(deployment: Settings, tmp_path: Path) -> None:
    latest = Latest(deployment)
    other = deployment.model_copy(update={"data_dir": tmp_path / "other"})
    flags = ("--stages", "cache")
    with worker(deployment, *flags), worker(other, *flags, SEP_FAILPOINT="cache.before_send:3") as killed:
        while killed.poll() is None:
            latest.send(20)
        assert killed.returncode == -signal.SIGKILL
        latest.send(50)
        await_held(deployment, latest.newest)
    assert verified(deployment)["differences"] == []


def test_an_emptied_and_stopped_redis_is_whole_again_within_seconds(
    deployment: Settings, server: EmbeddedRedis
) -> None:
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
    begun_s = time.monotonic()
    try:
        with worker(deployment, "--stages", "cache") as process:
            assert process.wait(60) == 1
        assert time.monotonic() - begun_s > 15
        assert "does not answer" in log_of(deployment)
    finally:
        server.start(lambda message: None)
    run_until_caught_up(deployment, "--stages", "cache")
    assert held(deployment) == latest.newest


def test_records_that_are_no_values_are_dead_letters(deployment: Settings) -> None:
    latest = Latest(deployment)
    latest.send(3)
    us = 1_800_000_000_000_000
    latest.price("EUR/USD", us, 1, value=b"\x00nothing")
    latest.price("EUR/USD", us, 2, value=None)
    latest.price("EUR/USD", us, 3, key="USD/JPY")
    latest.price("EUR/USD", us, 4, headers=[])
    latest.price(
        "EUR/USD",
        2**60,
        5,
        key="EUR/USD",
        value=SCHEMAS.encode("latest_price", price_record("EUR/USD", us) | {"event_time": 2**60}),
    )
    latest.price("XAU/XXX", us, 6, key="XAU/XXX")
    run_until_caught_up(deployment, "--stages", "cache")
    letters = {letter["code"]: letter for letter in decoded(deployment, "dead.letters")}
    assert set(letters) == {
        "UNKNOWN_SCHEMA",
        "TOMBSTONE",
        "KEY_MISMATCH",
        "MISSING_FIELD",
        "BAD_TIME",
        "UNKNOWN_INSTRUMENT",
    }
    assert "header `source`" in letters["MISSING_FIELD"]["reason"]
    assert letters["KEY_MISMATCH"]["topic"] == deployment.topic("prices.latest")
    assert held(deployment) == latest.newest
    assert verified(deployment)["unusable"] == 6


def test_what_convert_made_is_in_the_cache(deployment: Settings) -> None:
    publish(deployment, quotes(SEED).stretch(0, 500))
    run_until_caught_up(deployment, "--stages", "convert,cache")
    found = held(deployment)
    newest: dict[str, int] = {}
    for record in decoded(deployment, "prices.latest"):
        time_us = int(record["event_time"].timestamp() * 1_000_000)
        newest[f"price:{record['instrument']}"] = max(time_us, newest.get(f"price:{record['instrument']}", 0))
    assert {name: version[0] for name, version in found.items()} == newest
    assert verified(deployment)["names"] == len(newest)


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


def test_rebuilds_and_writers_together_lose_nothing(deployment: Settings, server: EmbeddedRedis) -> None:
    latest = Latest(deployment)
    with worker(deployment, "--stages", "cache"):
        for _ in range(5):
            latest.send(30)
            running = subprocess.Popen(
                ["uv", "run", "-q", "sep-stream", "cache", "rebuild"],
                env={**__import__("os").environ, **deployment.environment()},
            )
            while running.poll() is None:
                latest.send(5)
            assert running.returncode == 0
        await_held(deployment, latest.newest)
    assert verified(deployment)["differences"] == []


def test_values_expire_so_long_after_their_record(
    server: EmbeddedRedis, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix, partitions=2, redis_url=url_of(server, "cache"), cache_ttl_s=5, **SMALL)
    latest = Latest(settings)
    latest.send(5)
    run(settings, "rebuild")
    assert held(settings) == latest.newest
    await_held(settings, {})
    assert run(settings, "rebuild")[0] == 0  # the records are as old as they are
    assert held(settings) == {}
    assert verified(settings, 0)["differences"] == []
