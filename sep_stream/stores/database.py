"""Connections to PostgreSQL: the one that settings name, else the embedded server's, with what fails in our words."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg
from psycopg import conninfo

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.embedded.postgres import VERSION_MIN, EmbeddedPostgres
from sep_stream.runtime.settings import Settings

CONNECT_S_MAX: Final = 10
_TLS_REQUEST: Final = bytes.fromhex("0000000804d2162f")
"""How a client of PostgreSQL begins TLS."""
MIGRATE, INGEST, TRADING, TRAINING, READ = "sep_migrate", "sep_ingest", "sep_trading", "sep_training", "sep_read"

_REFUSED: Final[tuple[tuple[str, str], ...]] = (
    (r"Connection refused|No such file or directory|Connection timed out|timeout expired|No route to host",
     "no PostgreSQL answers there; start it (`sep-stream up --with postgres` for the embedded one), or correct "
     "database_url (SEP_DATABASE_URL)"),
    (r"failed to resolve host|could not translate host name|could not parse network address",
     "no such host; correct database_url (SEP_DATABASE_URL)"),
    (r"password authentication failed|no password supplied|role \".*\" does not exist|is not permitted to log in",
     "user or password is wrong; correct them in database_url (SEP_DATABASE_URL)"),
    (r"database \".*\" does not exist",
     "there is no such database; correct database_url (SEP_DATABASE_URL), or make it with CREATE DATABASE"),
    (r"permission denied for database",
     "this user may not use the database; the roles that may are made by `sep-stream db migrate`"),
    (r"does not match host name",
     "the server's certificate is for another host; connect by a name that is in it, or have it issued for this one"),
    (r"certificate has expired|certificate is not yet valid",
     "the server's certificate has expired, or its time has yet to come; renew it (`sep-stream up --secure` renews "
     "the embedded server's)"),
    (r"certificate verify failed|root certificate file .* does not exist",
     "the server's certificate is not of an authority that is trusted here; name its authority's file in database_url "
     "with sslrootcert=…"),
    (r"server does not support SSL",
     "the server has no TLS, which database_url asks for; turn it on there"),
    (r"no encryption|SSL (connection )?is required",
     "the server takes this user over TLS alone; add sslmode=verify-full and sslrootcert=… to database_url"),
    (r"no pg_hba.conf entry",
     "the server does not let this user in from here; add a line to its pg_hba.conf"),
    (r"channel binding",
     "channel binding is asked for and the server has none: there is no TLS, or another is in its place; don't send "
     "it a password"),
    (r"too many clients|remaining connection slots",
     "it has no connection left; close others, or raise its max_connections"),
    (r"the database system is (starting up|shutting down|in recovery)",
     "it starts or stops just now; try again"),
)  # fmt: skip
"""Pattern of what the server or its client library says, and what that means here. They carry no state of their own
while a connection is made."""

_FAILED: Final[tuple[tuple[type[psycopg.Error], str], ...]] = (
    (psycopg.errors.DiskFull, "the server's disk is full; make room there, nothing of this was kept"),
    (psycopg.errors.InsufficientPrivilege, "this user lacks the right; log in as the role whose work it is"),
    (psycopg.errors.UndefinedTable, "the table is missing; run `sep-stream db migrate`"),
    (psycopg.errors.UndefinedFunction, "the function is missing; run `sep-stream db migrate`"),
    (psycopg.errors.LockNotAvailable, "others have been using the table for long; try again when it is quieter"),
    (psycopg.errors.ReadOnlySqlTransaction, "the server takes no writes: it is a standby; name the primary"),
)  # fmt: skip


def database_conninfo(settings: Settings, role: str) -> str:
    """What libpq connects with, password included: `database_url` as it is, else the embedded server's for that role.

    Raises DependencyError where neither is there, ConfigurationError for an address that can't be read.
    """
    if settings.database_url is None:
        login = EmbeddedPostgres(settings.data_dir).login(role)
        return conninfo.make_conninfo(**login.parameters())
    url = settings.database_url.get_secret_value()
    try:
        return conninfo.make_conninfo(url)
    except psycopg.ProgrammingError:  # its message repeats the address, password and all
        raise ConfigurationError(
            "database_url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs of libpq"
        ) from None


def connect(settings: Settings, role: str = READ, **options: Any) -> psycopg.Connection[Any]:
    """A connection in autocommit, as that role on the embedded server. options: of libpq, as application_name.

    Raises DependencyError that says what is wrong and what to do; no message holds a password.
    """
    target = database_conninfo(settings, role)
    given = conninfo.conninfo_to_dict(target)
    defaults = {"connect_timeout": CONNECT_S_MAX, "application_name": "sep-stream", **options}
    missing: dict[str, Any] = {name: value for name, value in defaults.items() if name not in given or name in options}
    try:
        connection = psycopg.connect(target, autocommit=True, **missing)
    except psycopg.Error as error:
        said = str(error)
        if "certificate verify failed" in said:
            said = _certificate_fault(given) or said
        raise DependencyError(f"{_place(given)}: {_refusal(said)}") from error
    version = connection.info.server_version // 10_000
    if version < VERSION_MIN:
        connection.close()
        raise DependencyError(f"{_place(given)}: PostgreSQL {version} is too old; expected {VERSION_MIN} or newer")
    return connection


@contextlib.contextmanager
def told(connection: psycopg.Connection[Any], what: str = "") -> Iterator[None]:
    """Errors of the server as DependencyError. what: was being done, as a file's name."""
    try:
        yield
    except psycopg.Error as error:
        place = f"{_place(_known(connection))}: " + (f"{what}: " if what else "")
        raise DependencyError(place + failure(error)) from error


def failure(error: psycopg.Error) -> str:
    """What failed, in the server's first line and our words."""
    said = _first_line(error.diag.message_primary or str(error))
    for kind, meaning in _FAILED:
        if isinstance(error, kind):
            return f"{said}: {meaning}"
    if error.sqlstate is None:
        return f"the connection is lost ({said}); see the server's log"
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return f"{said}{hint}"


def _refusal(text: str) -> str:
    for pattern, meaning in _REFUSED:
        if re.search(pattern, text):
            return meaning
    return _first_line(text)


def _certificate_fault(given: dict[str, Any]) -> str | None:
    """What is wrong with the server's certificate, apart from its name: libpq says only that something is."""
    host, port = given.get("hostaddr") or given.get("host"), int(given.get("port") or 5432)
    try:
        context = ssl.create_default_context(cafile=given.get("sslrootcert"))
        context.check_hostname = False
        with socket.create_connection((host, port), CONNECT_S_MAX) as plain:
            plain.sendall(_TLS_REQUEST)
            if plain.recv(1) == b"S":
                context.wrap_socket(plain).close()
    except ssl.SSLCertVerificationError as error:
        return f"certificate verify failed: {error.verify_message}"
    except OSError:
        return None
    return None


def _known(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Of a connection that may be lost."""
    try:
        return connection.info.get_parameters()
    except psycopg.OperationalError:
        return {}


def _place(given: dict[str, Any]) -> str:
    """Where the database is, without who logs in and how."""
    host, port = given.get("host") or "localhost", given.get("port") or 5432
    return f"PostgreSQL at {host}:{port}, database {given.get('dbname') or given.get('user') or 'of the user'}"


def _first_line(text: str) -> str:
    lines: list[LiteralString | str] = text.strip().splitlines()
    return lines[0] if lines else "no reason given"
