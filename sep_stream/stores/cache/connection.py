"""Connections to Redis from the settings, and what their errors mean."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from typing import Any, Final

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, SSLConnection, parse_url
from redis.retry import Retry

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.settings import Settings

READ, WRITE = "read", "cache"
"""The roles: also those of the embedded server."""
TIMEOUT_S: Final = 2.0
_EXPECTED: Final = "expected redis://USER:PASSWORD@HOST:PORT or rediss://… for TLS"
_TLS_THERE: Final = ("onnection closed by server", "reset by peer")
"""What is heard where we speak without TLS to a server that takes TLS alone; other things sound so too."""
_NO_TRACKING: Final = re.compile(r"NOPROTO|unknown command .(?:HELLO|CLIENT)|TRACKING")
_NO_TLS_THERE: Final = ("WRONG_VERSION_NUMBER", "record layer", "UNEXPECTED_EOF", "Timeout connecting")


class Unreachable(DependencyError):  # noqa: N818 - the error is DependencyError's
    """The server does not answer, or not yet: it may come back."""


class RedisServer:
    """A server and who we are there. address: host:port"""

    def __init__(self, source: Settings | str, role: str) -> None:
        """source: settings, or a URL · role: of the embedded server, where no URL names another one.

        Raises ConfigurationError for a URL that can't be used, DependencyError where no server is named or runs.
        """
        given = source if isinstance(source, str) else _url(source)
        options = _embedded(source, role) if isinstance(source, Settings) and given is None else _parsed(given or "")
        self.address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self.user = str(options.get("username") or "default")
        self.speaks_tls = options.get("connection_class") is SSLConnection
        timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
        # One try a login: redis-py's own ten would take a second and might lock a user out.
        fixed = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        self.pool = ConnectionPool(**timeouts | options | fixed)
        self.client = redis.Redis(connection_pool=self.pool)

    def tracking_connection(self) -> Any:
        """A connection of one's own that can hear of changes."""
        return self.pool.connection_class(**self.pool.connection_kwargs | {"protocol": 3})

    @contextlib.contextmanager
    def errors_told(self) -> Iterator[None]:
        """Turns redis-py's errors into ours."""
        try:
            yield
        except exceptions.RedisError as error:
            raise self.told(error) from error

    def told(self, error: exceptions.RedisError) -> DependencyError:
        """Our error for redis-py's. Unreachable for those that may pass."""
        at, said = f"Redis at {self.address}", str(error)
        if isinstance(error, exceptions.AuthenticationError) or said.startswith(("WRONGPASS", "NOAUTH")):
            return DependencyError(
                f"{at} refuses the login of user {self.user!r}: check name and password in SEP_REDIS_URL"
            )
        if isinstance(error, exceptions.NoPermissionError) or "ACL failure in script" in said:
            return DependencyError(
                f"{at} does not let user {self.user!r} do this ({said}); docs/stores.md has the ACLs of each role"
            )
        if isinstance(error, exceptions.OutOfMemoryError) or said.startswith("OOM"):
            return DependencyError(f"{at} has no memory left: raise its maxmemory; nothing is evicted on purpose")
        if said.startswith("MISCONF"):
            return DependencyError(f"{at} can't write to its disk and takes no more: make room there ({said})")
        if isinstance(error, exceptions.ReadOnlyError):
            return DependencyError(f"{at} is a replica: name the primary in SEP_REDIS_URL")
        if _NO_TRACKING.search(said):  # not quoted, as it quotes our login
            return DependencyError(
                f"{at} can't tell of changes: Cache(near=True) needs RESP3 and CLIENT TRACKING, as Redis 7 and Valkey "
                "have them; some proxies hide them. Cache without near asks it each time"
            )
        if "CERTIFICATE_VERIFY_FAILED" in said or "certificate verify failed" in said:
            return DependencyError(
                f"{at}: its certificate is not trusted ({_reason(said)}); name the authority that signed it in "
                "SEP_REDIS_URL: rediss://…?ssl_ca_certs=PATH, and the server as its certificate does"
            )
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
            return Unreachable(f"{at} does not answer ({said}); {self._remedy(said)}")
        return DependencyError(f"{at}: {said}")

    def _remedy(self, said: str) -> str:
        usual = "check that it runs (`sep-stream status`, `sep-stream up --with redis`) and that SEP_REDIS_URL names it"
        if self.speaks_tls and any(sign in said for sign in _NO_TLS_THERE):
            return f"{usual}; if it takes no TLS, with redis:// instead of rediss://"
        if not self.speaks_tls and any(sign in said for sign in _TLS_THERE):
            return f"{usual}; if it takes TLS alone, with rediss:// instead of redis://"
        return usual


def _url(settings: Settings) -> str | None:
    return None if settings.redis_url is None else settings.redis_url.get_secret_value()


def _embedded(settings: Settings, role: str) -> dict[str, Any]:
    from sep_stream.runtime.embedded.redis import EmbeddedRedis

    login = EmbeddedRedis(settings.data_dir).login(role)
    return login | (_tls(login) if "ssl_ca_certs" in login else {})


def _parsed(url: str) -> dict[str, Any]:
    """Options of a connection. A URL holds a password: no message quotes it."""
    try:
        options: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ConfigurationError(f"redis_url: {_EXPECTED}") from error
    return options | (_tls(options) if options.get("connection_class") is SSLConnection else {})


def _tls(options: dict[str, Any]) -> dict[str, Any]:
    """The server's certificate and its name are checked, always. Raises ConfigurationError for options that say no."""
    unchecked = str(options.get("ssl_cert_reqs", "required")) != "required"
    unnamed = str(options.get("ssl_check_hostname", True)).lower() not in ("true", "1", "yes")
    if unchecked or unnamed:
        raise ConfigurationError(
            "redis_url: ssl_cert_reqs and ssl_check_hostname would trust any server; name its authority with "
            "ssl_ca_certs=PATH instead"
        )
    try:
        ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"redis_url: ssl_ca_certs {options.get('ssl_ca_certs')}: expected a certificate in PEM"
        ) from error
    return {
        "connection_class": SSLConnection,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
    }


def _reason(said: str) -> str:
    """OpenSSL's own words in "[SSL: …] certificate verify failed: WORDS (_ssl.c:1006)"."""
    return said.partition("verify failed: ")[2].partition(" (_ssl")[0] or said
