"""A migrated database's upkeep: partitions of years to come, rollups and views refreshed, and what its tables hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from psycopg import sql

from sep_stream.errors import DependencyError
from sep_stream.stores.database import told
from sep_stream.stores.migrations import TIMESCALE, WAIT_S_MAX, Connection, Progress, State, without_blocking

TABLES: Final = {
    "market_data": "timestamp",
    "signals": "available_at",
    "quantum_patterns": None,
    "trading_results": "exit_time",
}
"""Each with the column of its time."""
STORED_ROLLUPS: Final = ("market_data_h1_stored", "market_data_d1_stored")
"""Of plain PostgreSQL."""
CONTINUOUS_AGGREGATES: Final = ("market_data_h1", "market_data_d1")
"""Of TimescaleDB."""
VIEWS: Final = ("hit_rate_by_confidence", "results_by_day")


@dataclass(frozen=True, slots=True)
class TableState:
    """What a table holds. bytes: with its indexes · oldest, newest: None without rows, or without a time"""

    table: str
    rows: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None


def table_states(connection: Connection, state: State) -> Iterator[TableState]:
    """Of every table. Rows are counted: on a large database it takes a while."""
    if state.pending:
        raise DependencyError("the database is not at the newest version; run `sep-stream db migrate`")
    for table, column in TABLES.items():
        bounds = f'min("{column}"), max("{column}")' if column else "NULL::timestamptz, NULL::timestamptz"
        with told(connection, table):
            rows, oldest, newest = _row(connection, f"SELECT count(*), {bounds} FROM {table}")  # noqa: S608
            [size] = _row(connection, _size_of(table, state.variant))
        yield TableState(table, rows, size, oldest, newest)


def refresh(connection: Connection, state: State, progress: Progress) -> None:
    """Make the partitions that are missing, and bring rollups and views up to date. Readers and writers go on.

    connection: in autocommit, as the owner. DependencyError for a database that is not at the newest version.
    """
    if state.pending:
        raise DependencyError("the database is not at the newest version; run `sep-stream db migrate`")
    connection.execute(f"SET lock_timeout = {int(WAIT_S_MAX * 1_000)}")
    stored = VIEWS if state.variant == TIMESCALE else (*STORED_ROLLUPS, *VIEWS)
    if state.variant == TIMESCALE:
        for name in CONTINUOUS_AGGREGATES:
            progress(f"refreshing {name}")
            with told(connection, name):
                connection.execute("CALL refresh_continuous_aggregate(%s, NULL, NULL)", [name])
    else:
        _add_years(connection, progress)
    for name in stored:
        progress(f"refreshing {name}")
        with told(connection, name):
            connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW CONCURRENTLY {}").format(sql.Identifier(name)))


def _add_years(connection: Connection, progress: Progress) -> None:
    with told(connection, "market_data"):
        for (year,) in connection.execute("SELECT market_data_missing_years()").fetchall():
            add = partial(_row, connection, "SELECT market_data_add_year(%s)", year)
            [moved] = without_blocking(connection, add)
            progress(f"made market_data_{year}, moved {moved:,} bars there")


def _size_of(table: str, variant: str) -> str:
    """The query of a table's size, with all that it is stored in."""
    if table == "market_data" and variant == TIMESCALE:
        return "SELECT hypertable_size('market_data')"
    return (
        f"SELECT pg_total_relation_size('{table}') + coalesce(sum(pg_total_relation_size(relid)), 0)::bigint "  # noqa: S608
        f"FROM pg_partition_tree('{table}') WHERE isleaf AND relid <> '{table}'::regclass"
    )


def _row(connection: Connection, query: str, *parameters: object) -> Any:
    return connection.execute(query, parameters).fetchone()
