"""Migrations: numbered SQL files, each applied once, in order, by one process at a time.

A file is one transaction, unless its first line is `-- sep: no transaction`: then it holds indexes that are made or
dropped CONCURRENTLY, and nothing else, so that an interrupted one can be run again. A file that differs between
TimescaleDB and plain PostgreSQL comes in two variants, `0002_x.timescale.sql` and `0002_x.plain.sql`; a database stays
with the one that it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.resources import resource
from sep_stream.stores.database import told

PLAIN: Final = "plain"
TIMESCALE: Final = "timescale"
NO_TRANSACTION: Final = "-- sep: no transaction"
ADVISORY_LOCK: Final = 0x7365705F6D696772
"""`sep_migr`."""
WAIT_S_MAX: Final = 600.0
"""For another migrator, and for an index that is made while others write."""
LOCK_MS_MAX: Final = 500
"""How long a migration waits for a table, and so makes others wait for it."""
TRIES_MAX: Final = 60
PAUSE_S: Final = 0.5
"""Between tries, for whoever waited meanwhile."""
_FILE: Final = re.compile(rf"(\d{{4}})_(\w+?)(?:\.({PLAIN}|{TIMESCALE}))?\.sql")
_CREATE: Final = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (\w+) ON ", re.IGNORECASE)
_DROP: Final = re.compile(r"DROP INDEX CONCURRENTLY IF EXISTS (\w+)$", re.IGNORECASE)

Connection = psycopg.Connection[Any]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Migration:
    """A file. variant: None where there is one for all databases"""

    version: int
    file: str
    variant: str | None
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def is_transaction(self) -> bool:
        return not self.text.startswith(NO_TRANSACTION)

    def statements(self) -> list[str]:
        """Of a file without a transaction. ConfigurationError for one that could not be run again."""
        lines = [line for line in self.text.splitlines() if not line.startswith("--")]
        statements = [part.strip() for part in "\n".join(lines).split(";") if part.strip()]
        for statement in statements:
            if not _CREATE.match(statement) and not _DROP.match(statement):
                raise ConfigurationError(
                    f"{self.file}: without a transaction there may only be CREATE INDEX CONCURRENTLY and DROP INDEX "
                    f"CONCURRENTLY IF EXISTS, got {statement.splitlines()[0]!r}"
                )
        return statements


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration as the database remembers it."""

    version: int
    file: str
    sha256: str
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class State:
    """Of a database: its variant, what was applied and what is still to be."""

    variant: str
    applied: tuple[Applied, ...]
    pending: tuple[Migration, ...]

    @property
    def version(self) -> int:
        return self.applied[-1].version if self.applied else 0


def load_migrations(variant: str, folder: Path | None = None) -> list[Migration]:
    """The files for a database of this variant, by version. ConfigurationError for a name, gap or repeat."""
    folder = folder or resource("migrations")
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise ConfigurationError(f"{path}: expected a name such as 0001_what.sql or 0001_what.{PLAIN}.sql")
        if match[3] in (None, variant):
            found.append(Migration(int(match[1]), path.name, match[3], path.read_text()))
    for expected, migration in enumerate(found, 1):
        if migration.version != expected:
            raise ConfigurationError(f"{folder}: expected one {variant} migration {expected:04}, got {migration.file}")
    return found


def read_state(connection: Connection, folder: Path | None = None) -> State:
    """What is applied and what is not.

    Raises ConfigurationError where an applied file has changed, is not known here, or was passed over.
    """
    applied = _applied(connection)
    variant = _variant(connection, applied)
    migrations = load_migrations(variant, folder)
    for record, migration in zip(applied, migrations, strict=False):
        if (record.file, record.sha256) != (migration.file, migration.sha256):
            raise ConfigurationError(
                f"{migration.file}: has changed since it was applied to this database on {record.applied_at:%Y-%m-%d} "
                f"(as {record.file}); bring the file back, and put the change into a new migration"
            )
    if len(applied) > len(migrations):
        raise ConfigurationError(
            f"the database is at migration {applied[-1].file}, which this sep-stream does not know; use a newer one"
        )
    return State(variant, applied, tuple(migrations[len(applied) :]))


def migrate(connection: Connection, progress: Progress, folder: Path | None = None) -> State:
    """Apply what is pending; the state before it. One process does so at a time; another waits.

    connection: in autocommit, as the owner of the database. Raises DependencyError for a file that the server refuses,
    with the server's words; the files before it stay applied.
    """
    with told(connection), _alone(connection, progress):
        connection.execute("SET search_path TO public")
        connection.execute(_RECORDS)
        before = read_state(connection, folder)
        for migration in before.pending:
            progress(f"applying {migration.file}")
            with told(connection, migration.file):
                (_apply if migration.is_transaction else _apply_concurrently)(connection, migration)
    return before


@contextlib.contextmanager
def _alone(connection: Connection, progress: Progress) -> Iterator[None]:
    """Hold the lock of migrators. It is asked for again and again: who waits inside the server has a snapshot, for
    which CREATE INDEX CONCURRENTLY waits in turn."""
    deadline_s, waits = time.monotonic() + WAIT_S_MAX, False
    while not _value(connection, "SELECT pg_try_advisory_lock(%s)", ADVISORY_LOCK):
        if time.monotonic() > deadline_s:
            raise DependencyError("another process has been migrating this database for long; see what it waits for")
        if not waits:
            progress("another process migrates this database; waiting for it")
            waits = True
        time.sleep(PAUSE_S)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])


def _apply(connection: Connection, migration: Migration) -> None:
    def apply() -> None:
        connection.execute(migration.text)
        _record(connection, migration)

    without_blocking(connection, apply)


def without_blocking[Change](connection: Connection, change: Callable[[], Change]) -> Change:
    """What a change gives, in a transaction that waits for a table shortly, and again later: who uses it goes on.

    psycopg.errors.LockNotAvailable if that never succeeds.
    """
    for _ in range(TRIES_MAX - 1):
        try:
            return _tried(connection, change)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(PAUSE_S)
    return _tried(connection, change)


def _tried[Change](connection: Connection, change: Callable[[], Change]) -> Change:
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS_MAX}")
        return change()


def _apply_concurrently(connection: Connection, migration: Migration) -> None:
    connection.execute(f"SET lock_timeout = {int(WAIT_S_MAX * 1_000)}")
    for statement in migration.statements():
        created = _CREATE.match(statement)
        if created is None or not _is_made(connection, created[1]):
            connection.execute(statement)
    connection.execute("RESET lock_timeout")
    _record(connection, migration)


def _is_made(connection: Connection, index: str) -> bool:
    """Whether an interrupted run has made this index. One that it left invalid is dropped."""
    valid = _value(connection, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", index)
    if valid is False:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(index)))
    return bool(valid)


def _record(connection: Connection, migration: Migration) -> None:
    connection.execute(
        "INSERT INTO schema_migrations (version, file, sha256) VALUES (%s, %s, %s)",
        [migration.version, migration.file, migration.sha256],
    )


def _applied(connection: Connection) -> tuple[Applied, ...]:
    if not _value(connection, "SELECT to_regclass('public.schema_migrations') IS NOT NULL"):
        return ()
    rows = connection.execute(
        "SELECT version, file, sha256, applied_at FROM public.schema_migrations ORDER BY version"
    ).fetchall()
    return tuple(Applied(*row) for row in rows)


def _variant(connection: Connection, applied: tuple[Applied, ...]) -> str:
    for record in applied:
        match = _FILE.fullmatch(record.file)
        if match is not None and match[3]:
            return match[3]
    available = "SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'timescaledb'"
    return TIMESCALE if _value(connection, available) else PLAIN


def _value(connection: Connection, query: str, *parameters: object) -> Any:
    """The one value that a query gives; None without a row."""
    row = connection.execute(query, parameters).fetchone()
    return None if row is None else row[0]


_RECORDS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    file text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migrations IS 'The migrations that were applied, by `sep-stream db migrate`.';
COMMENT ON COLUMN schema_migrations.version IS 'Number of the file.';
COMMENT ON COLUMN schema_migrations.file IS 'Its name; that of a variant says which this database is.';
COMMENT ON COLUMN schema_migrations.sha256 IS 'Of what was applied: the file must not change afterwards.';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When.';
"""
