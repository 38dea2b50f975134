"""Migrations, loads and the sink's statement on the real TimescaleDB, and the same data as in plain PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest

from sep_stream.convert import MarketDataConverter
from sep_stream.runtime.topology import Topology
from sep_stream.sources.synthetic import synthetic_candles
from sep_stream.stores.database import INGEST, READ
from sep_stream.stores.market_data import Loaded, load_bars
from sep_stream.stores.market_data_reader import read_bars
from sep_stream.stores.migrations import TIMESCALE, load_migrations, migrate, read_state
from sep_stream.stores.upkeep import refresh, table_states
from tests.databases import Database, quiet
from tests.timescale.conftest import Connect

pytestmark = [pytest.mark.integration, pytest.mark.timescale]

TOPOLOGY = Topology.load()
COLUMNS = ("pair", "timeframe", "timestamp", "bar_index", "open", "high", "low", "close", "volume", "spread")
KEY = COLUMNS[:3]
SINK = "INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {updates}".format(
    table='"public"."market_data"',
    names=",".join(f'"{name}"' for name in COLUMNS),
    places=",".join(["%s"] * len(COLUMNS)),
    key=",".join(f'"{name}"' for name in KEY),
    updates=",".join(f'"{name}"=EXCLUDED."{name}"' for name in COLUMNS if name not in KEY),
)
"""What the JDBC sink sends."""
RAW = """
    SELECT pair, date_bin(%(stride)s, "timestamp", 'epoch') AS at,
        (array_agg(open ORDER BY "timestamp"))[1], max(high), min(low),
        (array_agg(close ORDER BY "timestamp" DESC))[1], sum(volume), count(*)
    FROM market_data WHERE timeframe = 'M1' GROUP BY 1, 2 ORDER BY 1, 2"""
ROLLUPS = {"market_data_h1": timedelta(hours=1), "market_data_d1": timedelta(days=1)}
RELATIONS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum),
        has_table_privilege('sep_ingest', c.oid, 'SELECT, INSERT, UPDATE'),
        has_table_privilege('sep_trading', c.oid, 'SELECT'),
        has_table_privilege('sep_trading', c.oid, 'INSERT, UPDATE'),
        has_table_privilege('sep_training', c.oid, 'SELECT'), has_table_privilege('sep_read', c.oid, 'SELECT')
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
        AND NOT c.relispartition AND c.relname NOT LIKE '%\\_stored'
    ORDER BY c.relname, a.attnum"""
"""Tables and views with their columns, comments and rights, as both variants must have them."""

Bars = npt.NDArray[np.void]


@pytest.fixture(scope="module")
def migrated(timescale: Connect) -> Connect:
    with timescale() as connection:
        migrate(connection, quiet)
    return timescale


@pytest.fixture(scope="module")
def bars() -> Bars:
    """Days of two instruments, old enough to be compressed, with every seventh minute."""
    converter = MarketDataConverter(TOPOLOGY.instruments)
    batches = synthetic_candles(TOPOLOGY.instruments, ["EUR/USD", "USD/JPY"], 4, seed=3)
    found = np.concatenate([converter.feed(batch.take(slice(None, None, 14))).bars for batch in batches])
    assert len(found) > 2_000
    return found


def load(connect: Callable[[], psycopg.Connection[Any]], bars: Bars, load_id: str) -> Loaded:
    return load_bars(connect, load_id, "test", TOPOLOGY.instruments, [bars], connections=1)


@pytest.fixture
def loaded(migrated: Connect, bars: Bars) -> Connect:
    """The bars loaded, as the role that may, and nothing else."""
    with migrated() as connection:
        connection.execute("TRUNCATE market_data, market_data_loads")
    load(partial(migrated, INGEST), bars, "first")
    return migrated


@pytest.fixture
def compressed(loaded: Connect) -> Connect:
    """The bars of `loaded`, compressed by the policy's own job."""
    with loaded() as connection:
        assert not any(chunks(connection).values())
        [job] = connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
        ).fetchall()
        connection.execute("CALL run_job(%s)", job)
        assert chunks(connection)
        assert all(chunks(connection).values())
    return loaded


def chunks(connection: psycopg.Connection[Any]) -> dict[str, bool]:
    """Whether each is compressed."""
    query = "SELECT chunk_name, is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = 'market_data'"
    return dict(connection.execute(query).fetchall())


def bring_up_to_date(connection: psycopg.Connection[Any]) -> None:
    refresh(connection, read_state(connection), quiet)


def rows(connect: Callable[[], psycopg.Connection[Any]], query: str) -> list[tuple[Any, ...]]:
    with connect() as connection:
        return connection.execute(query).fetchall()


ALL = f"SELECT {', '.join(COLUMNS)} FROM market_data ORDER BY 1, 2, 3"


def test_every_migration_is_applied_in_its_variant_for_timescaledb(migrated: Connect) -> None:
    with migrated() as connection:
        state = read_state(connection)
        assert (state.variant, state.pending) == (TIMESCALE, ())
        assert [record.file for record in state.applied] == [m.file for m in load_migrations(TIMESCALE)]
        assert migrate(connection, quiet).pending == ()


def test_bars_are_a_hypertable_with_the_policies_declared(migrated: Connect) -> None:
    dimension = "SELECT column_name, time_interval FROM timescaledb_information.dimensions"
    assert ("timestamp", timedelta(days=30)) in rows(migrated, dimension + " WHERE hypertable_name = 'market_data'")
    jobs = (
        "SELECT proc_name, hypertable_name, config FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1, 2"
    )
    found = [(job, config) for job, _, config in rows(migrated, jobs)]
    assert [job for job, _ in found] == [
        "policy_compression",
        *["policy_refresh_continuous_aggregate"] * 2,
        "policy_retention",
    ]
    assert found[0][1]["compress_after"] == "90 days"
    assert sorted(config["end_offset"] for _, config in found[1:3]) == ["1 day", "3 days"]
    assert found[3][1]["drop_after"] == "100 years"
    settings = "SELECT attname, segmentby_column_index FROM timescaledb_information.compression_settings ORDER BY 2, 1"
    assert rows(migrated, settings) == [("pair", 1), ("timeframe", 2), ("timestamp", None)]


def test_retention_keeps_what_is_younger(loaded: Connect) -> None:
    before = rows(loaded, ALL)
    with loaded() as connection:
        [job] = connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
        ).fetchall()
        connection.execute("CALL run_job(%s)", job)
        assert connection.execute(ALL).fetchall() == before
        connection.execute("SELECT drop_chunks('market_data', INTERVAL '1 day')")
        assert connection.execute(ALL).fetchall() == []


def test_tables_and_views_are_those_of_plain_postgresql(
    migrated: Connect, make_database: Callable[[], Database]
) -> None:
    assert rows(migrated, RELATIONS) == rows(make_database().connect, RELATIONS)


def test_bars_and_their_rollups_are_those_of_plain_postgresql(
    loaded: Connect, bars: Bars, make_database: Callable[[], Database]
) -> None:
    plain = make_database()
    load(partial(plain.connect, INGEST), bars, "first")
    for connect in (plain.connect, loaded):
        with connect() as connection:
            bring_up_to_date(connection)
    for query in (ALL, *(f"SELECT * FROM {view} ORDER BY 1, 2, 3" for view in (*ROLLUPS, "market_data_compared"))):
        expected = rows(plain.connect, query)
        assert len(expected) >= 8
        assert rows(partial(loaded, READ), query) == expected


def test_compressed_bars_are_the_same(compressed: Connect, bars: Bars) -> None:
    with compressed(READ) as connection:
        found = connection.execute(ALL).fetchall()
        batches = list(read_bars(connection, "EUR/USD", "M15"))
    assert len(found) == len(bars)
    in_arrow = [row for batch in batches for row in batch.to_pylist()]
    assert [(row["open_time"], row["close"]) for row in in_arrow] == [
        (row[2], row[7]) for row in found if row[:2] == ("EUR/USD", "M15")
    ]


def test_a_load_into_compressed_bars_changes_those_that_differ(compressed: Connect, bars: Bars) -> None:
    before = rows(compressed, ALL)
    ingest = partial(compressed, INGEST)
    assert load(ingest, bars, "again") == Loaded(len(bars), len(bars), 0, repeated=False)
    assert rows(compressed, ALL) == before

    corrected = bars.copy()
    some = slice(1000, 1100)
    corrected["close"][some] += 1
    assert load(ingest, corrected, "corrected").changed == 100
    after = rows(compressed, ALL)
    assert len(after) == len(before)
    assert sum(new != old for new, old in zip(after, before, strict=True)) == 100


def test_the_sink_writes_into_compressed_bars(compressed: Connect) -> None:
    before = rows(compressed, ALL)
    known, new = list(before[500]), list(before[500])
    known[7] += 1
    new[2] = datetime(2024, 1, 1, 0, 0, tzinfo=UTC)
    with compressed(INGEST) as connection, connection.transaction():
        connection.cursor().executemany(SINK, [known, new, known])
    expected = sorted(
        [*(row for k, row in enumerate(before) if k != 500), tuple(known), tuple(new)], key=lambda r: r[:3]
    )
    assert sorted(rows(compressed, ALL), key=lambda r: r[:3]) == expected


def test_continuous_aggregates_equal_the_bars_they_are_made_of(compressed: Connect) -> None:
    """Those of the time up to a refresh and those of later, and a late one after the next refresh."""
    [first, *_, last] = [list(row) for row in rows(compressed, ALL) if row[1] == "M1"]
    first[2] += timedelta(seconds=30)
    last[2] += timedelta(days=9)
    with compressed() as connection:
        bring_up_to_date(connection)
        assert_rolled_up(connection)
        connection.execute(SINK, last)
        assert_rolled_up(connection)
        connection.execute(SINK, first)
        bring_up_to_date(connection)
        assert_rolled_up(connection)
        [state, *_] = table_states(connection, read_state(connection))
        assert (state.newest, state.rows) == (last[2], len(connection.execute(ALL).fetchall()))


def assert_rolled_up(connection: psycopg.Connection[Any]) -> None:
    for view, stride in ROLLUPS.items():
        expected = connection.execute(RAW, {"stride": stride}).fetchall()
        assert len(expected) >= 8
        assert connection.execute(f"SELECT * FROM {view} ORDER BY 1, 2").fetchall() == expected
