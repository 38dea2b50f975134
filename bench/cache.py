"""Latest values from Redis at 10,000 gets a second, with and without TLS: `python bench/cache.py`.

Four processes, a client each, get a price every 400 µs, whatever the one before took: a get that waits for its turn is
late, and its lateness counts. The baseline is redis-py's own `hgetall` of the same hash, its answer left as bytes, in
the same pace. The same again of a near cache, while a fifth process writes each of the eight prices ten times a second,
beside the same baseline and writer; redis-py's own near cache (`cache_config`) refuses servers other than Redis 7.4 or
newer, and so both of ours. A third figure asks for ten prices at once, 1,000 times a second, from one process; a fourth
tells how many single gets one thread makes in a row. TLS needs a redis-server of the machine; without one there is no
figure of it.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

from _bench import SYMBOLS, Figure, main, note

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.security_folder import ADMIN
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache
from sep_stream.stores.cache.connection import READ, RedisServer
from sep_stream.stores.cache.keys import CacheKeys, price_name
from sep_stream.stores.cache.values import price_fields
from sep_stream.stores.cache.writer import CacheWriter, Entry

GETS_A_SECOND: Final = 10_000
CLIENTS: Final = 4
BATCH: Final = 10
WRITES_A_SECOND: Final = 10
"""Of each price, while what is near is measured."""
WARM_UP_S: Final = 0.5
WHAT: Final = {
    "single": "gets/s",
    "near": f"gets/s near, each of {len(SYMBOLS)} prices written {WRITES_A_SECOND} times a second",
    "many": f"times {BATCH} prices at once/s",
}
LEAD_S: Final = 2.0
"""Until all clients are there."""


class Pace(NamedTuple):
    """So many clients make so many gets a second together. writes: a second, of all prices in turn, by one more"""

    clients: int
    rate: int
    writes: int
    seconds: float


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    for secure in (False, True):
        with tempfile.TemporaryDirectory(prefix="sep-bench-") as name:
            server = EmbeddedRedis(Path(name))
            try:
                server.start(note, secure)
            except ConfigurationError as error:
                note(f"no figure with TLS: {error}")
                continue
            try:
                yield from figures(arguments, Settings.load(data_dir=Path(name)), server, "TLS" if secure else "plain")
            finally:
                server.stop()


def figures(arguments: argparse.Namespace, settings: Settings, server: EmbeddedRedis, how: str) -> Iterator[Figure]:
    fill(settings)
    how = f"{how}, Redis {server.status().version}"
    with ProcessPoolExecutor(CLIENTS + 1, get_context("spawn")) as pool:
        for started in [pool.submit(in_a_row, settings, "ours single", WARM_UP_S) for _ in range(CLIENTS + 1)]:
            started.result()  # all have imported what they need
        for name, against, clients, rate, writes in (
            ("single", "redis-py hgetall", CLIENTS, GETS_A_SECOND, 0),
            ("near", "redis-py hgetall", CLIENTS, GETS_A_SECOND, WRITES_A_SECOND * len(SYMBOLS)),
            ("many", "redis-py pipeline", 1, GETS_A_SECOND // BATCH, 0),
        ):
            found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
            for _ in range(arguments.runs):
                for whose, percentiles in found.items():
                    pace = Pace(clients, rate, writes, arguments.seconds)
                    percentiles.append(paced(pool, settings, f"{whose} {name}", pace))
            what = f"{rate:,} {WHAT[name]}, {how}"
            for k, (percentile, aim) in enumerate((("p50", ""), ("p99", "p99 < 1 ms"))):
                ours, theirs = ([both[k] for both in found[whose]] for whose in ("ours", "theirs"))
                yield Figure.times(f"{what}, {percentile}", "ms", ours, against, theirs, aim)
        rates = [
            [pool.submit(in_a_row, settings, f"{whose} single", arguments.seconds).result()
             for _ in range(arguments.runs)]
            for whose in ("ours", "theirs")
        ]  # fmt: skip
        yield Figure.rates(f"one thread in a row, {how}", "gets/s", rates[0], "redis-py hgetall", rates[1], "")


def fill(settings: Settings) -> None:
    writer = CacheWriter(settings, "bench")
    space = writer.begin()
    assert space is not None
    writer.fill(space, map(written_now, SYMBOLS))
    writer.swap(space)


def written_now(symbol: str) -> Entry:
    now_us = time.time_ns() // 1_000
    price = {"price": Decimal("1.105"), "bid": Decimal("1.1"), "ask": Decimal("1.11")}
    record = {"instrument": symbol, "event_time": datetime.fromtimestamp(now_us / 1e6, UTC)} | price
    return Entry(price_name(symbol), now_us, 0, now_us // 1_000 + 86_400_000, price_fields(record, 0))


def paced(pool: ProcessPoolExecutor, settings: Settings, kind: str, pace: Pace) -> tuple[float, float]:
    """p50 and p99 in ms, from when each get was due to when it was done."""
    clients, seconds = range(pace.clients), pace.seconds
    before = answered(settings)
    begin_s = time.perf_counter() + LEAD_S  # a clock that all processes share
    parts = [pool.submit(client, settings, kind, pace, k, begin_s) for k in clients]
    late_s = pool.submit(write, settings, pace, begin_s).result() if pace.writes else 0.0
    took = sorted(ms for part in parts for ms in part.result(timeout=60 + 10 * seconds))
    asked = (answered(settings) - before) / ((WARM_UP_S + seconds) * pace.rate)
    beside = f", {asked:.1%} of the gets asked Redis; the last write was {late_s:.2f} s late" if pace.writes else ""
    note(f"{kind}: p50 {took[len(took) // 2]:.3f} ms, p99 {took[len(took) * 99 // 100]:.3f} ms{beside}")
    return took[len(took) // 2], took[len(took) * 99 // 100]


def answered(settings: Settings) -> int:
    """HGETALLs so far."""
    told: Any = RedisServer(settings, ADMIN).client.info("commandstats")
    return int(told.get("cmdstat_hgetall", {"calls": 0})["calls"])


def write(settings: Settings, pace: Pace, begin_s: float) -> float:
    """Of one process, one price after the other; how late the last one was, in seconds."""
    writer, clock = CacheWriter(settings, "bench"), time.perf_counter
    for k in range(int((WARM_UP_S + pace.seconds) * pace.writes)):
        while (early_s := begin_s + k / pace.writes - clock()) > 0:
            time.sleep(early_s)
        assert writer.write([written_now(SYMBOLS[k % len(SYMBOLS)])]) == 1
    return max(0.0, clock() - begin_s - WARM_UP_S - pace.seconds)


def client(settings: Settings, kind: str, pace: Pace, number: int, begin_s: float) -> list[float]:
    """Of one process: ms of each get after the first ones, which are for warming up."""
    get, clock = getter(settings, kind), time.perf_counter
    every_s = pace.clients / pace.rate
    warm = int(WARM_UP_S / every_s)
    first_s = begin_s + number * every_s / pace.clients
    took: list[float] = []
    gc.collect()
    for k in range(warm + int(pace.seconds / every_s)):
        due_s = first_s + k * every_s
        while (early_s := due_s - clock()) > 0:
            time.sleep(early_s)
        get(k)
        took.append((clock() - due_s) * 1_000)
    return took[warm:]


def in_a_row(settings: Settings, kind: str, seconds: float) -> float:
    """Gets per second."""
    get, clock = getter(settings, kind), time.perf_counter
    for k in range(1_000):
        get(k)
    count, begun_s = 0, clock()
    while clock() - begun_s < seconds:
        get(count)
        count += 1
    return count / (clock() - begun_s)


def getter(settings: Settings, kind: str) -> Callable[[int], Any]:
    if kind.startswith("ours"):
        cache = Cache(settings, near=kind == "ours near")
        wanted = [SYMBOLS[k % len(SYMBOLS)] for k in range(BATCH)]
        if kind == "ours many":
            return lambda _: cache.prices(wanted)
        return lambda k: cache.price(SYMBOLS[k % len(SYMBOLS)])
    redis: Any = RedisServer(settings, READ).client
    keys = CacheKeys(settings.prefix)
    names = [keys.of(price_name(symbol)) for symbol in SYMBOLS]
    if kind != "theirs many":
        return lambda k: redis.hgetall(names[k % len(names)])

    def pipelined(_: int) -> None:
        pipeline = redis.pipeline(transaction=False)
        for k in range(BATCH):
            pipeline.hgetall(names[k % len(names)])
        pipeline.execute()

    return pipelined


if __name__ == "__main__":
    main(__doc__, measure)
