"""`sep-stream db`: migrate, status and refresh, and how they end when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sep_stream.cli import cli
from sep_stream.errors import DependencyError
from sep_stream.runtime.embedded.postgres import OWNER, EmbeddedPostgres
from sep_stream.runtime.resources import resource
from sep_stream.stores.database import INGEST, READ
from sep_stream.stores.migrations import PLAIN, load_migrations
from tests.cli.commands import NOWHERE, begin, finish, run, start
from tests.databases import BAR, Database, Databases
from tests.waiting import until

pytestmark = pytest.mark.integration

FILES = [migration.file for migration in load_migrations(PLAIN)]


def db(*words: str, at: Database, role: str = OWNER) -> tuple[str, str]:
    """What a command says on stdout and stderr."""
    result = invoke("db", *words, at=at, role=role)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def invoke(*words: str, at: Database, role: str = OWNER) -> Result:
    result = CliRunner().invoke(cli, list(words), env={"SEP_DATABASE_URL": at.url(role)})
    assert at.server.login(role).password not in result.output + str(result.exception)
    return result


def test_migrate_applies_what_is_pending_once(database: Databases) -> None:
    fresh = database.empty()
    stdout, stderr = db("migrate", "--dry-run", at=fresh)
    assert stderr == f"{len(FILES)} migrations would be applied, 0 are\n"
    assert stdout == "".join(f"-- {name}\n{(resource('migrations') / name).read_text()}\n" for name in FILES)
    stdout, stderr = db("migrate", at=fresh)
    assert stdout == f"{len(FILES)} migrations applied, 0 were; without TimescaleDB\n"
    assert stderr == "".join(f"applying {name}\n" for name in FILES)
    again = f"0 migrations applied, {len(FILES)} were; without TimescaleDB\n"
    assert db("migrate", at=fresh) == (again, "")


def test_status_tells_the_version_and_what_is_held(make_database: Callable[[], Database]) -> None:
    database = make_database()
    with database.connect(INGEST) as connection:
        connection.execute(BAR, ["EUR/USD", "M1", "2024-02-05T00:00:00Z"])
    told = json.loads(db("status", "--json", at=database, role=READ)[0])
    assert (told["version"], told["variant"], told["pending"], told["applied"]) == (len(FILES), "plain", [], FILES)
    assert told["server_version"].startswith("17.")
    held = {table["table"]: (table["rows"], table["oldest"]) for table in told["tables"]}
    assert held == {
        "market_data": (1, "2024-02-05T00:00:00+00:00"),
        "signals": (0, None), "quantum_patterns": (0, None), "trading_results": (0, None),
    }  # fmt: skip
    stdout, _ = db("status", at=database, role=READ)
    assert f"version {len(FILES)}, {len(FILES)} migrations applied, 0 pending" in stdout
    assert "2024-02-05 00:00 … 2024-02-05 00:00" in stdout


def test_status_and_doctor_tell_what_is_pending(database: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a broker that is nowhere is not waited for
    fresh = database.empty()
    stdout, _ = db("status", at=fresh)
    assert f"version 0, 0 migrations applied, {len(FILES)} pending" in stdout
    assert "pending: 0003_signals.sql; `sep-stream db migrate` applies it" in stdout
    result = invoke("doctor", "--brokers", NOWHERE, at=fresh)
    assert result.exit_code == 1
    [line] = [line for line in result.stdout.splitlines() if " database " in line]
    assert line == f"FAIL  database       {len(FILES)} migrations are pending  → run `sep-stream db migrate`"


def test_refresh_brings_rollups_up_to_date(make_database: Callable[[], Database]) -> None:
    database = make_database()
    with database.connect(INGEST) as connection:
        connection.execute(BAR, ["EUR/USD", "M1", "1998-02-05T00:00:00Z"])
    stdout, stderr = db("refresh", at=database)
    assert stdout == "rollups and views are up to date\n"
    assert stderr.splitlines()[:2] == ["made market_data_1998, moved 1 bars there", "refreshing market_data_h1_stored"]


@pytest.mark.parametrize(("command", "role"), [("migrate", INGEST), ("refresh", READ)])
def test_a_role_that_may_not_is_told(make_database: Callable[[], Database], command: str, role: str) -> None:
    result = invoke("db", command, at=make_database(), role=role)
    assert isinstance(result.exception, DependencyError)
    assert "log in as the role whose work it is" in str(result.exception)


def test_without_a_server_the_remedy_is_told(tmp_path: Path) -> None:
    """All at once: each imports much."""
    url = f"postgresql://me:word@{NOWHERE}/sep"
    embedded = {words: begin("db", words, cwd=tmp_path) for words in ("migrate", "status", "refresh")}
    named = begin("db", "status", cwd=tmp_path, SEP_DATABASE_URL=url)
    for process in embedded.values():
        assert process() == (1, "", (
            f"sep-stream: no database: the embedded PostgreSQL of {tmp_path / 'data'} does not run; start it with "
            "`sep-stream up --with postgres`, or name yours with database_url (SEP_DATABASE_URL)\n"
        ))  # fmt: skip
    code, stdout, stderr = named()
    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"sep-stream: PostgreSQL at {NOWHERE}, database sep: no PostgreSQL answers there")
    assert "word" not in stderr


@pytest.mark.slow
def test_up_starts_it_migrated_and_down_wipes_it(tmp_path: Path) -> None:
    try:
        code, stdout, stderr = finish(start("up", "--with", "postgres", cwd=tmp_path), timeout_s=600)
        assert code == 0, stderr
        home = (tmp_path / "data" / "postgres" / "home").resolve()
        assert (home / "data").is_dir()
        assert f"PostgreSQL runs at {EmbeddedPostgres(tmp_path / 'data').status().address}" in stdout
        assert f"{len(FILES)} migrations applied, 0 were" in stdout
        assert run("db", "status", cwd=tmp_path)[0] == 0
        assert "ok    database       PostgreSQL " in run("doctor", cwd=tmp_path)[1]

        def state() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(run("status", "--json", cwd=tmp_path)[1])["postgres"]
            return found

        assert state()["running"]
        until(lambda: state()["healthy"])
    finally:
        code, stdout, _ = run("down", "--wipe", "--yes", cwd=tmp_path)
    assert (code, stdout) == (0, "PostgreSQL, Kafka stopped\nits data is deleted\n")
    assert not home.exists()
