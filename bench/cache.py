"""Latest values from Redis at 10,000 gets a second from one process, with and without TLS: `python bench/cache.py`.

Gets are due every 100 µs, whatever the one before took: a get that waits for its turn is late, and its lateness counts.
The baseline is redis-py's own `hgetall` of the same hash, its answer left as bytes, in the same pace. A second figure
asks for ten prices at once, 1,000 times a second. TLS needs a redis-server of the machine; without one there is no
figure of it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from _bench import SYMBOLS, Figure, main, note

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache
from sep_stream.stores.cache.connection import READ, RedisServer
from sep_stream.stores.cache.keys import CacheKeys, price_name
from sep_stream.stores.cache.values import price_fields
from sep_stream.stores.cache.writer import CacheWriter, Entry

GETS_A_SECOND: Final = 10_000
BATCH: Final = 10
WARM_UP_S: Final = 0.5


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
    cache, keys = Cache(settings), CacheKeys(settings.prefix)
    client: Any = RedisServer(settings, READ).client
    names = [keys.of(price_name(symbol)) for symbol in SYMBOLS]
    wanted = [SYMBOLS[k % len(SYMBOLS)] for k in range(BATCH)]
    how = f"{how}, Redis {server.status().version}"
    single = f"{GETS_A_SECOND:,} gets/s, {how}"
    yield from compared(
        arguments, single, GETS_A_SECOND, lambda k: cache.price(SYMBOLS[k % len(SYMBOLS)]), "redis-py hgetall",
        lambda k: client.hgetall(names[k % len(names)]), "p99 < 1 ms",
    )  # fmt: skip

    def pipelined(_: int) -> None:
        pipeline = client.pipeline(transaction=False)
        for k in range(BATCH):
            pipeline.hgetall(names[k % len(names)])
        pipeline.execute()

    many = f"{BATCH} prices at once, {GETS_A_SECOND // BATCH:,}/s, {how}"
    yield from compared(
        arguments, many, GETS_A_SECOND // BATCH, lambda _: cache.prices(wanted), "redis-py pipeline", pipelined,
        "p99 < 1 ms",
    )  # fmt: skip


def fill(settings: Settings) -> None:
    writer = CacheWriter(settings, "bench")
    space = writer.begin()
    assert space is not None
    now_us = time.time_ns() // 1_000
    expires_ms = now_us // 1_000 + 86_400_000
    price = {"price": Decimal("1.105"), "bid": Decimal("1.1"), "ask": Decimal("1.11")}
    record = {"event_time": datetime.fromtimestamp(now_us / 1e6, UTC), **price}
    fields = {symbol: price_fields({"instrument": symbol} | record, 0) for symbol in SYMBOLS}
    writer.fill(space, [Entry(price_name(symbol), now_us, 0, expires_ms, fields[symbol]) for symbol in SYMBOLS])
    writer.swap(space)


def compared(
    arguments: argparse.Namespace, what: str, rate: int, ours: Callable[[int], Any], against: str,
    baseline: Callable[[int], Any], target: str,
) -> Iterator[Figure]:  # fmt: skip
    found: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    for _ in range(arguments.runs):
        found.append(paced(ours, rate, arguments.seconds))
        beside.append(paced(baseline, rate, arguments.seconds))
    for k, (name, aim) in enumerate((("p50", ""), ("p99", target))):
        yield Figure.times(f"{what}, {name}", "ms", [f[k] for f in found], against, [b[k] for b in beside], aim)


def paced(get: Callable[[int], Any], rate: int, seconds: float) -> tuple[float, float]:
    """p50 and p99 in ms, from when each get was due to when it was done."""
    run(get, rate, WARM_UP_S)
    gc.collect()
    took = sorted(run(get, rate, seconds))
    note(
        f"p50 {took[len(took) // 2]:.3f} ms, p99 {took[len(took) * 99 // 100]:.3f} ms, mean {statistics.mean(took):.3f}"
    )
    return took[len(took) // 2], took[len(took) * 99 // 100]


def run(get: Callable[[int], Any], rate: int, seconds: float) -> list[float]:
    count, clock = int(rate * seconds), time.perf_counter
    took: list[float] = []
    begun_s = clock()
    for k in range(count):
        due_s = begun_s + k / rate
        while clock() < due_s:  # to sleep would be late by as much as a get takes
            pass
        get(k)
        took.append((clock() - due_s) * 1_000)
    return took


if __name__ == "__main__":
    main(__doc__, measure)
