"""`sep-stream db`: the database's tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.cli._files import Input, input_options, load_into_database, span_options
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.stores.migrations import State
    from sep_stream.stores.upkeep import TableState


@click.group()
def db() -> None:
    """The database: SEP_DATABASE_URL, or the embedded PostgreSQL of --data-dir, with TimescaleDB or without.

    \b
    Example:
      sep-stream up --with postgres
      sep-stream db status
    """


@db.command()
@click.option("--dry-run", is_flag=True, help="Print what would be applied, and change nothing.")
@settings_options
def migrate(settings: Settings, dry_run: bool) -> None:
    """Bring the tables to the newest version. Who writes to them goes on meanwhile.

    Each migration is applied once, by one process at a time, and never undone. A database of your own wants its owner
    here; log in as sep_migrate where that is who it belongs to.

    \b
    Examples:
      sep-stream db migrate --dry-run
      sep-stream db migrate
    """
    from sep_stream.stores.database import MIGRATE, connect, told
    from sep_stream.stores.migrations import migrate, read_state

    with connect(settings, MIGRATE) as connection:
        if dry_run:
            with told(connection):
                state = read_state(connection)
            for migration in state.pending:
                click.echo(f"-- {migration.file}\n{migration.text}")
            progress(f"{len(state.pending)} migrations would be applied, {len(state.applied)} are")
            return
        state = migrate(connection, progress)
    click.echo(f"{len(state.pending)} migrations applied, {len(state.applied)} were; {_server(state)}")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def status(settings: Settings, as_json: bool) -> None:
    """Show the version of the tables, and what they hold. Rows are counted: many take a while.

    \b
    Example:
      sep-stream db status --json
    """
    from sep_stream.stores.database import READ, connect, told
    from sep_stream.stores.migrations import read_state
    from sep_stream.stores.upkeep import table_states

    with connect(settings, READ) as connection:
        with told(connection):
            state = read_state(connection)
        tables = [] if state.pending else list(table_states(connection, state))
        server = connection.info.parameter_status("server_version")
    if as_json:
        click.echo(json.dumps(_told(state, tables, server)))
        return
    click.echo(f"PostgreSQL {server}, {_server(state)}")
    click.echo(f"version {state.version}, {len(state.applied)} migrations applied, {len(state.pending)} pending")
    for migration in state.pending:
        click.echo(f"  pending: {migration.file}; `sep-stream db migrate` applies it")
    for table in tables:
        span = f"{table.oldest:%Y-%m-%d %H:%M} … {table.newest:%Y-%m-%d %H:%M}" if table.oldest else ""
        click.echo(f"  {table.table:20} {table.rows:>14,} rows {table.bytes / 2**20:>10,.1f} MiB  {span}".rstrip())


@db.command()
@settings_options
def refresh(settings: Settings) -> None:
    """Bring rollups and views up to date, and make partitions for the years ahead. Readers and writers go on.

    Run it daily, as from cron. TimescaleDB refreshes its own rollups by itself; the views wait for this everywhere.

    \b
    Example:
      sep-stream db refresh
    """
    from sep_stream.stores.database import MIGRATE, connect, told
    from sep_stream.stores.migrations import read_state
    from sep_stream.stores.upkeep import refresh

    with connect(settings, MIGRATE) as connection:
        with told(connection):
            state = read_state(connection)
        refresh(connection, state, progress)
    click.echo("rollups and views are up to date")


@db.command()
@input_options
@span_options
@click.option("--again", is_flag=True, help="Even if these were loaded before, as after bars were deleted.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def load(
    settings: Settings,
    files: tuple[Path, ...],
    instrument: str,
    format: str | None,
    assume_utc: bool,
    start: str | None,
    until: str | None,
    again: bool,
    as_json: bool,
) -> None:
    """Store the bars of FILES in the table market_data, without Kafka. The same as `ingest FILES --to-db`.

    FILES as in `sep-stream ingest`; their bars of M1, M5 and M15 are those that `sep-stream bars FILES` prints. Nothing
    is published: workers, signals and replays see nothing of it. A bar that is in the database already gets these
    values.

    A load that was cut off, by whatever, goes on where it was with the same command; one that was finished is not
    repeated.

    \b
    Examples:
      sep-stream db load 2023.csv 2024.csv --instrument EUR/USD
      sep-stream db load history.parquet --instrument EUR/USD --until 2024-01-01T00:00:00Z
    """
    load_into_database(settings, Input.of(files, instrument, format, assume_utc, start, until), again, as_json)


def _server(state: State) -> str:
    return "with TimescaleDB" if state.variant == "timescale" else "without TimescaleDB"


def _told(state: State, tables: list[TableState], server: str | None) -> dict[str, Any]:
    return {
        "server_version": server,
        "variant": state.variant,
        "version": state.version,
        "applied": [record.file for record in state.applied],
        "pending": [migration.file for migration in state.pending],
        "tables": [
            asdict(table)
            | {"oldest": table.oldest and table.oldest.isoformat(), "newest": table.newest and table.newest.isoformat()}
            for table in tables
        ],
    }
