"""Migrations: in order, once, by one at a time, never another content, and writers go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.stores import migrations
from sep_stream.stores.migrations import LOCK_MS_MAX, PLAIN, TIMESCALE, load_migrations, read_state
from tests.databases import BAR, Database, Databases, first_migrations, locks_waited_for
from tests.waiting import PATIENCE_S, until

NEWEST = len(load_migrations(PLAIN))


@contextmanager
def running(work: Callable[[], None]) -> Iterator[None]:
    """Work in a thread, whose error is raised here."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
    done.result()


def shape(database: Database) -> list[tuple[Any, ...]]:
    """All relations, columns and comments."""
    query = """
        SELECT c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               col_description(c.oid, a.attnum), obj_description(c.oid, 'pg_class')
        FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1, a.attnum"""
    with database.connect() as connection:
        return connection.execute(query).fetchall()


def add(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder


def test_both_variants_have_the_same_versions() -> None:
    plain, timescale = load_migrations(PLAIN), load_migrations(TIMESCALE)
    assert [m.version for m in plain] == [m.version for m in timescale]
    assert [m.file for m in plain] != [m.file for m in timescale]


@pytest.mark.parametrize("name", ["3_next.sql", "0009_far.sql", "0002_other.sql", "0003_odd.oracle.sql"])
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    folder = add(first_migrations(2, tmp_path / "m"), name, "SELECT 1;")
    with pytest.raises(ConfigurationError, match=r"expected .* got |expected a name"):
        load_migrations(PLAIN, folder)


def test_without_a_transaction_only_what_can_be_run_again_is_taken(tmp_path: Path) -> None:
    text = "-- sep: no transaction\nCREATE INDEX CONCURRENTLY a ON signals (pair);\nDELETE FROM signals;\n"
    folder = add(first_migrations(0, tmp_path / "m"), "0001_x.sql", text)
    with pytest.raises(ConfigurationError, match=r"0001_x\.sql.*DELETE FROM signals"):
        load_migrations(PLAIN, folder)[0].statements()


@pytest.mark.integration
def test_every_table_and_column_has_a_comment(database: Databases) -> None:
    fresh = database.empty()
    assert fresh.migrate() == NEWEST
    with fresh.connect() as connection:
        bare = connection.execute("""
            SELECT c.relname, a.attname FROM pg_class AS c
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
            AND NOT c.relispartition AND c.relname NOT LIKE '%\\_stored' AND
            (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)""").fetchall()
    assert bare == []
    assert fresh.migrate() == 0


@pytest.mark.integration
@pytest.mark.parametrize("version", range(1, NEWEST))
def test_an_earlier_version_becomes_the_newest_with_its_rows(database: Databases, tmp_path: Path, version: int) -> None:
    earlier = database.empty()
    assert earlier.migrate(first_migrations(version, tmp_path / "m")) == version
    bars = 0
    if version >= 2:
        with earlier.connect() as connection:
            connection.execute(BAR, ["EUR/USD", "M1", "2024-02-05T00:00:00Z"])
            bars = 1
    assert earlier.migrate() == NEWEST - version
    assert shape(earlier) == shape(database.migrated())
    with earlier.connect() as connection:
        assert connection.execute("SELECT count(*) FROM market_data").fetchall() == [(bars,)]


@pytest.mark.integration
def test_an_applied_file_that_has_changed_is_refused_by_its_name(database: Databases, tmp_path: Path) -> None:
    folder = first_migrations(2, tmp_path / "m")
    fresh = database.empty()
    fresh.migrate(folder)
    add(folder, "0001_roles.sql", (folder / "0001_roles.sql").read_text() + "-- more\n")
    add(folder, "0003_new.sql", "CREATE TABLE never (a int);")
    with pytest.raises(ConfigurationError, match=r"0001_roles\.sql: has changed"):
        fresh.migrate(folder)
    with fresh.connect() as connection:
        assert connection.execute("SELECT to_regclass('never')").fetchall() == [(None,)]


@pytest.mark.integration
def test_a_database_of_a_newer_program_is_refused(database: Databases, tmp_path: Path) -> None:
    newer = database.migrated()
    with newer.connect() as connection, pytest.raises(ConfigurationError, match="use a newer one"):
        read_state(connection, first_migrations(3, tmp_path / "m"))


@pytest.mark.integration
def test_a_file_that_fails_leaves_nothing_and_is_named(database: Databases, tmp_path: Path) -> None:
    folder = add(
        first_migrations(1, tmp_path / "m"), "0002_broken.sql", "CREATE TABLE half (a int);\nSELECT no_such_thing();"
    )
    fresh = database.empty()
    with pytest.raises(DependencyError, match=r"0002_broken\.sql: function no_such_thing\(\) does not exist"):
        fresh.migrate(folder)
    with fresh.connect() as connection:
        assert connection.execute("SELECT to_regclass('half')").fetchall() == [(None,)]
        assert read_state(connection, first_migrations(1, tmp_path / "n")).version == 1


@pytest.mark.integration
def test_of_two_migrators_one_waits_for_the_other(database: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "PAUSE_S", 0.05)
    fresh, applied, messages = database.empty(), [], []
    entered, waits = threading.Event(), threading.Event()

    def first() -> None:
        def progress(message: str) -> None:
            entered.set()
            assert waits.wait(PATIENCE_S)

        applied.append(fresh.migrate(progress=progress))

    def progress_of_second(message: str) -> None:
        messages.append(message)
        waits.set()

    with running(first):
        assert entered.wait(PATIENCE_S)
        applied.append(fresh.migrate(progress=progress_of_second))
    assert applied == [NEWEST, 0]
    assert messages == ["another process migrates this database; waiting for it"]


class Writer:
    """Writes bars one after the other. count: that it has written"""

    def __init__(self, database: Database) -> None:
        self._database, self._stop = database, threading.Event()
        self.count = 0

    def write(self) -> None:
        with self._database.connect("sep_ingest") as connection:
            connection.execute(f"SET lock_timeout = '{PATIENCE_S}s'")  # a write that waits for longer is an error
            while not self._stop.is_set():
                connection.execute(BAR, ["EUR/USD", "M1", f"2024-02-05T00:00:00.{self.count:06}Z"])
                self.count += 1

    def await_more(self, count: int) -> None:
        """Wait until it has written that many more."""
        enough = self.count + count
        until(lambda: self.count >= enough)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with running(self.write):
            try:
                self.await_more(1)
                yield
            finally:
                self._stop.set()


@pytest.mark.integration
def test_a_writer_goes_on_while_a_migration_waits_for_a_reader(
    database: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader holds the table, the migration wants it for itself: whoever comes after it would wait for both."""
    monkeypatch.setattr(migrations, "TRIES_MAX", 10_000)  # it tries as long as the reader reads
    fresh = database.empty()
    folder = first_migrations(4, tmp_path / "m")
    fresh.migrate(folder)
    add(folder, "0005_wider.sql", (
        "CREATE TABLE waited AS SELECT current_setting('lock_timeout') AS at_most;\n"
        "ALTER TABLE market_data ADD COLUMN venue text;"
    ))  # fmt: skip
    writer, applied = Writer(fresh), []
    with writer.at_work(), fresh.connect() as watch, fresh.connect() as reader:
        with running(lambda: applied.append(fresh.migrate(folder))), reader.transaction():
            reader.execute("SELECT count(*) FROM market_data")
            for _ in range(3):
                until(lambda: locks_waited_for(watch))  # the migration waits, and the writer may wait for it
                writer.await_more(10)
            assert applied == []
        assert applied == [1]
        assert watch.execute("SELECT at_most FROM waited").fetchall() == [(f"{LOCK_MS_MAX}ms",)]


@pytest.mark.integration
def test_a_writer_goes_on_while_all_migrations_are_applied(
    database: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TRIES_MAX", 10_000)
    fresh = database.empty()
    fresh.migrate(first_migrations(2, tmp_path / "m"))
    writer = Writer(fresh)
    with writer.at_work():
        assert fresh.migrate(progress=lambda message: writer.await_more(10)) == NEWEST - 2
        writer.await_more(10)
    with fresh.connect() as connection:
        assert connection.execute("SELECT sum(bars) FROM market_data_h1").fetchall() == [(writer.count,)]


@pytest.mark.integration
def test_a_table_that_is_never_free_is_told(
    database: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = database.empty()
    folder = first_migrations(2, tmp_path / "m")
    fresh.migrate(folder)
    add(folder, "0003_wider.sql", "ALTER TABLE market_data ADD COLUMN venue text;")
    with fresh.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM market_data")
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "TRIES_MAX", 2)
            patch.setattr(migrations, "LOCK_MS_MAX", 50)
            with pytest.raises(DependencyError, match=r"0003_wider\.sql: .*try again when it is quieter"):
                fresh.migrate(folder)
    assert fresh.migrate(folder) == 1


@pytest.mark.integration
def test_an_index_that_failed_half_way_is_made_anew(database: Databases, tmp_path: Path) -> None:
    fresh = database.empty()
    folder = first_migrations(3, tmp_path / "m")
    fresh.migrate(folder)
    add(folder, "0004_one.sql", (
        "-- sep: no transaction\nCREATE INDEX CONCURRENTLY before ON quantum_patterns (pair);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY once ON quantum_patterns (pair);\n"
    ))  # fmt: skip
    valid = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'quantum_patterns'::regclass"
    with fresh.connect() as connection:
        connection.execute(
            "INSERT INTO quantum_patterns SELECT gen_random_uuid(), 'EUR/USD' FROM generate_series(1, 2)"
        )
        with pytest.raises(DependencyError, match=r"0004_one\.sql: could not create unique index"):
            fresh.migrate(folder)
        assert dict(connection.execute(valid).fetchall()) == {
            "quantum_patterns_pkey": True, "before": True, "once": False,
        }  # fmt: skip
        connection.execute("DELETE FROM quantum_patterns")
        assert fresh.migrate(folder) == 1
        assert all(dict(connection.execute(valid).fetchall()).values())
