"""Bars into PostgreSQL and back, beside a bare COPY and psycopg's tuples: `python bench/database.py`.

An embedded server of its own, without TimescaleDB. Ours is `load_bars`, from the converter's bars to rows under the
table's indexes, in transactions that remember what they stored. The baseline is one COPY of the same rows, as text that
is made beforehand, into a table of the same columns without an index. Reading is `read_bars` to Arrow; its baseline
fetches the same bars as tuples through a server-side cursor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from _bench import SEED, SYMBOLS, TOPOLOGY, Figure, main, note

from sep_stream.convert import MarketDataConverter
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.runtime.embedded.postgres import EmbeddedPostgres
from sep_stream.runtime.settings import Settings
from sep_stream.sources.synthetic import synthetic_candles
from sep_stream.stores.copy_format import COLUMNS
from sep_stream.stores.database import INGEST, MIGRATE, connect
from sep_stream.stores.market_data import load_bars
from sep_stream.stores.market_data_reader import read_bars
from sep_stream.stores.migrations import migrate

BARS_MAX: Final = 2_000_000
EXPECTED_PER_S: Final = 100_000
BARS_A_DAY: Final = 1_440 * len(SYMBOLS) * 19 // 15
"""Of three timeframes."""
FETCHED_AT_ONCE: Final = 10_000
NAMES: Final = ", ".join(COLUMNS)

Bars = list[npt.NDArray[np.void]]
Connection = psycopg.Connection[Any]


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    bars = made_bars(min(BARS_MAX, int(arguments.seconds * EXPECTED_PER_S)))
    count = sum(map(len, bars))
    rates: dict[str, list[float]] = {name: [] for name in ("load", "copy", "read", "fetch")}
    with server() as settings, connect(settings, MIGRATE) as owner:
        owner.execute("CREATE TABLE bare (LIKE market_data)")
        load(settings, bars)
        text = as_text(owner)
        note(f"{count:,} bars, {len(text) / 2**20:,.0f} MiB as text")
        for run in range(arguments.runs):
            owner.execute("TRUNCATE market_data, bare")
            rates["load"].append(count / timed(partial(load, settings, bars)))
            rates["copy"].append(count / timed(partial(copy, owner, text)))
            rates["read"].append(count / timed(partial(read, owner)))
            rates["fetch"].append(count / timed(partial(fetch, owner)))
            note(f"run {run + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    yield Figure.rates("bars to the database", "bars/s", rates["load"], "bare COPY, no index", rates["copy"], ">= 0.5x")
    yield Figure.rates("bars back to Arrow", "bars/s", rates["read"], "tuples of psycopg", rates["fetch"], ">= 1x")


def made_bars(count: int) -> Bars:
    """One instrument after the other, as files are loaded."""
    converter = MarketDataConverter(TOPOLOGY.instruments)
    days = -(-count // BARS_A_DAY)
    return [
        converter.feed(batch).bars
        for symbol in SYMBOLS
        for batch in synthetic_candles(TOPOLOGY.instruments, [symbol], days, SEED)
    ]


@contextmanager
def server() -> Iterator[Settings]:
    """An embedded server of the benchmark's own, with its tables."""
    with tempfile.TemporaryDirectory(prefix="sep-bench-") as name:
        settings = Settings.load(data_dir=Path(name))
        postgres = EmbeddedPostgres(settings.data_dir)
        postgres.start(note)
        try:
            with connect(settings, MIGRATE) as owner:
                migrate(owner, note)
            yield settings
        finally:
            postgres.stop()
            postgres.wipe()


def load(settings: Settings, bars: Bars) -> None:
    load_bars(partial(connect, settings, INGEST), uuid.uuid4().hex, "bench", TOPOLOGY.instruments, bars)


def as_text(owner: Connection) -> bytes:
    with owner.cursor().copy(f"COPY (SELECT {NAMES} FROM market_data) TO STDOUT") as rows:
        return b"".join(rows)


def copy(owner: Connection, text: bytes) -> None:
    with owner.cursor().copy(f"COPY bare ({NAMES}) FROM STDIN") as rows:
        rows.write(text)


def read(owner: Connection) -> None:
    for symbol in SYMBOLS:
        for timeframe in TIMEFRAMES:
            for _ in read_bars(owner, symbol, timeframe):
                pass


def fetch(owner: Connection) -> None:
    query = 'SELECT * FROM market_data WHERE pair = %s AND timeframe = %s ORDER BY "timestamp"'
    for symbol in SYMBOLS:
        for timeframe in TIMEFRAMES:
            with owner.transaction(), owner.cursor("bars") as cursor:
                cursor.itersize = FETCHED_AT_ONCE
                for _ in cursor.execute(query, [symbol, timeframe]):
                    pass


def timed(work: partial[None]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    main(__doc__, measure)
