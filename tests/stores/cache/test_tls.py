"""The cache over TLS: only a server that the client's authority vouches for, and what is wrong told."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from sep_stream.errors import DependencyError
from sep_stream.runtime.certificates import Authority
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.embedded import redis as embedded
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache, connection
from sep_stream.stores.cache import near as holding
from sep_stream.stores.cache.connection import RedisServer
from sep_stream.stores.cache.writer import CacheWriter
from tests.stores.cache.conftest import put_in_place
from tests.stores.cache.test_cache import NAMES, price
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    if not embedded._of_machine():
        pytest.skip("TLS needs a redis-server of the machine")
    server = EmbeddedRedis(tmp_path_factory.mktemp("secured"))
    server.start(lambda message: None, secure=True)
    yield server
    server.stop()


def url_of(server: EmbeddedRedis, scheme: str, authority: Path | None = None, host: str = "127.0.0.1") -> str:
    login = server.login("read")
    trusted = "" if authority is None else f"?ssl_ca_certs={authority}"
    return f"{scheme}://read:{login['password']}@{host}:{login['port']}/0{trusted}"


def test_values_go_through_tls(secured: EmbeddedRedis) -> None:
    settings = Settings.load(data_dir=secured.security.data_dir)
    put_in_place(CacheWriter(settings, "log"), price(NAMES[0], 1, 1))
    assert Cache(settings).price("EUR/USD") is not None
    for host in ("127.0.0.1", "localhost"):
        assert Cache(url_of(secured, "rediss", secured.security.authority, host)).price("EUR/USD") is not None
    updates = Cache(settings).updates()
    assert next(updates).instrument == "EUR/USD"
    updates.close()


def test_values_are_held_near_over_tls_and_each_change_is_seen(
    secured: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "SILENCE_S_MAX", 3_600.0)
    own = Settings.load(data_dir=secured.security.data_dir)
    writer, near = CacheWriter(own, "log"), Cache(own, near=True)
    put_in_place(writer)
    server = RedisServer(own, "admin").client

    def asked() -> int:
        told: Any = server.info("commandstats")
        return int(told.get("cmdstat_pttl", {"calls": 0})["calls"])

    def shows(k: int) -> bool:
        value = near.price("EUR/USD")
        return value is not None and value.event_time_us == k

    before = asked()
    for k in range(1, 21):
        writer.write([price(NAMES[0], k, k)])
        until(functools.partial(shows, k))
        assert all(shows(k) for _ in range(10))
    assert asked() - before <= 21


def test_part_of_a_record_is_not_waited_for(secured: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SILENCE_S_MAX", 3_600.0)
    own = Settings.load(data_dir=secured.security.data_dir)
    writer = CacheWriter(own, "log")
    put_in_place(writer, price(NAMES[0], 1, 1), price(NAMES[1], 1, 1))
    login = secured.login("read")
    with Between((login["host"], login["port"])) as between:
        url = url_of(secured, "rediss", secured.security.authority).replace(f":{login['port']}/", f":{between.port}/")
        near = Cache(url, near=True)
        near.prices(["EUR/USD", "USD/JPY"])
        between.holds_back = True
        writer.write([price(NAMES[0], 2, 2)])
        until(lambda: between.held_back)
        for _ in range(2):
            found = near.price("EUR/USD")  # who waited for the rest would get an error: it is let go afterwards
            assert found is not None
            assert found.event_time_us == 1
        between.let_go()
        until(lambda: (value := near.price("EUR/USD")) is not None and value.event_time_us == 2)


class Between:
    """Passes bytes of one connection on. holds_back: the latter half of the server's next ones, until let go"""

    def __init__(self, server: tuple[str, int]) -> None:
        self.holds_back, self.held_back = False, b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._server = socket.create_connection(server)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._client, self._server, self._listening):
            end.close()
        self._thread.join()

    def let_go(self) -> None:
        self.holds_back = False
        self._client.sendall(self.held_back)

    def _pass_on(self) -> None:
        self._client, _ = self._listening.accept()
        with contextlib.suppress(OSError, ValueError):  # closed
            while True:
                for end in select.select([self._client, self._server], [], [], 0.1)[0]:
                    read = end.recv(65_536)
                    if end is self._client:
                        self._server.sendall(read)
                        continue
                    passed = len(read) // 2 if self.holds_back else len(read)
                    self._client.sendall(read[:passed])
                    self.held_back += read[passed:]


def test_another_authority_or_none_is_not_trusted_and_the_remedy_told(secured: EmbeddedRedis, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(Authority.make().certificate_pem)
    for authority in (tmp_path / "ca.pem", None):
        with pytest.raises(DependencyError, match=r"certificate is not trusted \(.*\); .*\?ssl_ca_certs=PATH") as told:
            Cache(url_of(secured, "rediss", authority)).price("EUR/USD")
        assert secured.login("read")["password"] not in str(told.value)


def test_no_tls_where_it_is_asked_for_is_told(
    secured: EmbeddedRedis, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_S", 2.0)  # neither side says what is wrong
    with pytest.raises(DependencyError, match="if it takes TLS alone, with rediss://"):
        Cache(url_of(secured, "redis")).price("EUR/USD")
    with pytest.raises(DependencyError, match="if it takes no TLS, with redis://"):
        Cache(url_of(redis_server, "rediss", secured.security.authority)).price("EUR/USD")
