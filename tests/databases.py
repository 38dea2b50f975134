"""Databases of a PostgreSQL server: a fresh one for each test."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from sep_stream.runtime.embedded.postgres import DATABASE, OWNER, SUPERUSER, EmbeddedPostgres
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.stores.database import connect
from sep_stream.stores.migrations import migrate
from tests.waiting import bear_with_servers

COUNT = itertools.count()
BAR = "INSERT INTO market_data VALUES (%s, %s, %s, 0, 1.1, 1.2, 1.0, 1.15, 5, NULL)"
"""A bar by pair, timeframe and time."""


def quiet(message: str) -> None:
    """Progress is not looked at."""


@dataclass(frozen=True)
class Database:
    """One database of a server."""

    server: EmbeddedPostgres
    name: str

    def url(self, role: str = OWNER) -> str:
        """As database_url: what logs that role in."""
        return conninfo.make_conninfo(**self.server.login(role, self.name).parameters())

    def settings(self, role: str = OWNER, **values: Any) -> Settings:
        return Settings.load(database_url=self.url(role), **values)

    def connect(self, role: str = OWNER) -> psycopg.Connection[Any]:
        """In autocommit."""
        return connect(self.settings(role))

    def migrate(self, folder: Path | None = None, progress: Callable[[str], None] = quiet) -> int:
        """How many migrations were applied."""
        with self.connect() as connection:
            return len(migrate(connection, progress, folder).pending)


@dataclass(frozen=True)
class Databases:
    """Of the run's server."""

    server: EmbeddedPostgres

    def empty(self) -> Database:
        return self._make("template0")

    def migrated(self) -> Database:
        """A copy of one that is migrated; a copy lacks what is granted on the database itself."""
        database = self._make(DATABASE)
        with database.connect() as connection:
            connection.execute((resource("migrations") / "0001_roles.sql").read_text())
        return database

    def _make(self, template: str) -> Database:
        name = f"t{next(COUNT)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}")
        with Database(self.server, "postgres").connect(SUPERUSER) as connection:
            connection.execute(statement.format(*map(sql.Identifier, (name, template, OWNER))))
        return Database(self.server, name)


def locks_waited_for(connection: psycopg.Connection[Any]) -> int:
    """Return how many locks are waited for in the connection's database."""
    row = connection.execute("""
        SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND datname = current_database()""").fetchone()
    assert row is not None
    return int(row[0])


def wait_for_no_disk(server: EmbeddedPostgres) -> None:
    """What the tests keep may be lost with the machine."""
    with Database(server, "postgres").connect(SUPERUSER) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def server_for_tests(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server with a migrated database."""
    server = EmbeddedPostgres(data_dir)
    try:
        with pytest.MonkeyPatch.context() as patch:
            bear_with_servers(patch)
            server.start(quiet)
        wait_for_no_disk(server)
        Database(server, DATABASE).migrate()
        yield server
    finally:
        server.stop()
        server.wipe()


def first_migrations(count: int, folder: Path) -> Path:
    """A folder with the migrations up to a version."""
    folder.mkdir()
    for path in resource("migrations").glob("*.sql"):
        if int(path.name[:4]) <= count:
            shutil.copy(path, folder)
    return folder
