"""Connections: what the server says, in our words, and what is not theirs to tell."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from sep_stream.errors import DependencyError
from sep_stream.stores.database import READ, connect, failure, told
from tests.databases import Databases


def test_a_full_disk_and_a_standby_are_told() -> None:
    assert "disk is full; make room" in failure(psycopg.errors.DiskFull("could not extend file"))
    assert "it is a standby" in failure(psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"))


@pytest.mark.integration
def test_a_server_that_is_too_old_is_told(database: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = database.migrated().settings()
    monkeypatch.setattr("sep_stream.stores.database.VERSION_MIN", 99)
    with pytest.raises(DependencyError, match="PostgreSQL 17 is too old; expected 99 or newer"):
        connect(settings)


@pytest.mark.integration
def test_a_connection_that_is_lost_is_told(database: Databases) -> None:
    made = database.migrated()
    with made.connect() as owner, made.connect(READ) as reader:
        owner.execute("SELECT 1")
        pid = reader.info.backend_pid
        with made.connect("sep_read") as other:
            other.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])  # and waits until it has ended
        with pytest.raises(DependencyError, match=r"terminating connection|connection is lost"), told(reader):
            reader.execute("SELECT 1")


@pytest.mark.integration
def test_what_was_being_done_is_told_with_the_remedy(database: Databases) -> None:
    made = database.empty()
    with made.connect() as connection, pytest.raises(DependencyError) as refused, told(connection, "market_data"):
        connection.execute("SELECT * FROM market_data")
    assert str(refused.value) == (
        f'PostgreSQL at {made.server.status().address}, database {made.name}: market_data: relation "market_data" '
        "does not exist: the table is missing; run `sep-stream db migrate`"
    )


@pytest.mark.integration
def test_options_of_the_address_come_before_ours(database: Databases, tmp_path: Path) -> None:
    made = database.migrated()
    settings = made.settings().model_copy(update={"data_dir": tmp_path})
    with connect(settings) as connection:
        assert connection.info.get_parameters()["application_name"] == "sep-stream"
    with connect(settings, application_name="loader") as connection:
        assert connection.info.get_parameters()["application_name"] == "loader"
        assert connection.autocommit
