"""`Cache`: typed values out of Redis."""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from redis.exceptions import RedisError

from sep_stream.errors import DependencyError
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache.connection import READ, RedisServer, Unreachable
from sep_stream.stores.cache.keys import CacheKeys, price_name, signal_name
from sep_stream.stores.cache.near import NAMES_MAX, Near
from sep_stream.stores.cache.values import LatestPrice, LatestSignal, Value, typed

SILENCE_S_MAX: Final = 15.0
"""`updates` waits so long for a server that is away."""
_RETRY_S: Final = 0.25
_LISTEN_S: Final = 0.5


class Cache:
    """The latest prices and signals, as the worker's stage `cache` wrote them. May be used by several threads.

    A value that is older than the deployment's `cache_ttl_s` is gone, and so None. Instruments are named by their
    canonical symbols. Raises DependencyError with the remedy where Redis does not answer or refuses, InputError for a
    value that something else wrote.
    """

    def __init__(self, source: Settings | str, prefix: str | None = None, near: bool = False) -> None:
        """source: settings, or a URL as `redis_url` takes it · prefix: of the deployment, by default that of the
        settings, else `sep.` · near: hold values in this process, too, until Redis tells that they changed: a get that
        finds one costs microseconds, and may show what Redis held a network's delay ago, up to a second where the
        network fell silent (docs/stores.md)"""
        self._server = RedisServer(source, READ)
        if prefix is None:
            prefix = source.prefix if isinstance(source, Settings) else str(Settings.model_fields["prefix"].default)
        self._keys = CacheKeys(prefix)
        packed = lru_cache(NAMES_MAX)(self._packed_request)
        self._asking = _OfThreads(lambda: _Asking(self._server.pool.make_connection(), packed))
        self._near = _OfThreads(lambda: Near(self._server.tracking_connection(), self._keys.root)) if near else None

    def price(self, instrument: str) -> LatestPrice | None:
        """The latest price; None where there is none or it has expired."""
        return cast(LatestPrice | None, self._values([price_name(instrument)])[0])

    def signal(self, instrument: str, timeframe: str) -> LatestSignal | None:
        """The latest signal; None where there is none or it has expired."""
        return cast(LatestSignal | None, self._values([signal_name(instrument, timeframe)])[0])

    def prices(self, instruments: Iterable[str]) -> dict[str, LatestPrice | None]:
        """The latest price of each instrument, in one round trip."""
        wanted = list(instruments)
        found = self._values([price_name(instrument) for instrument in wanted])
        return dict(zip(wanted, cast(list[LatestPrice | None], found), strict=True))

    def signals(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], LatestSignal | None]:
        """The latest signal of each instrument and timeframe, in one round trip."""
        pairs = list(wanted)
        found = self._values([signal_name(*pair) for pair in pairs])
        return dict(zip(pairs, cast(list[LatestSignal | None], found), strict=True))

    @property
    def address(self) -> str:
        """Of Redis, host:port."""
        return self._server.address

    def names(self) -> list[str]:
        """Of all values, those that have expired too: `price:EUR/USD`, `signal:EUR/USD:M5`."""
        with self._server.errors_told():
            return sorted(name.decode() for name in self._versions())

    def updates(self) -> Iterator[Value]:
        """All latest values, then each as it is written, without end.

        While Redis or this reader is away values are missed, but never the last one: it is told on coming back. For
        each instrument, or instrument and timeframe, what is told is newer than what was told before, unless
        another log took the old one's place, or Redis was emptied.
        """
        told = _Told()
        begun = False
        heard_s = time.monotonic()
        while True:
            try:
                for value in self._listen(told):
                    begun, heard_s = True, time.monotonic()
                    if value is not None:
                        yield value
                        heard_s = time.monotonic()
            except Unreachable as error:
                if not begun or time.monotonic() - heard_s > SILENCE_S_MAX:
                    raise DependencyError(str(error)) from error
            time.sleep(_RETRY_S)

    def close(self) -> None:
        """Close all connections."""
        self._server.pool.disconnect()
        for readers in (self._asking, self._near):
            if readers is not None:
                readers.disconnect()

    def _listen(self, told: _Told) -> Iterator[Value | None]:
        """From one connection: the values that are held, then what comes; None while nothing does."""
        with self._server.errors_told(), _subscription(self._server) as channel:
            channel.subscribe(self._keys.updates)
            yield from self._held(told)
            while True:
                message: Any = channel.get_message(timeout=_LISTEN_S)
                yield None if message is None else _update(message["data"], told)

    def _held(self, told: _Told) -> Iterator[Value | None]:
        """What is newer than what was told of it."""
        since: Any = self._server.client.hget(self._keys.state, "since")
        names = [name.decode() for name in self._versions()]
        # Not what is near: it may have been told already, and is not told again.
        for name, value in zip(names, self._read(self._asking, names), strict=True):
            yield None if value is None else told.newer(int(since or 0), name, value)

    def _versions(self) -> dict[bytes, bytes]:
        found: Any = self._server.client.hgetall(self._keys.versions)
        return dict(found)

    def _values(self, names: Sequence[str]) -> list[Value | None]:
        return self._read(self._near or self._asking, names)

    def _read(self, readers: _OfThreads[_Asking] | _OfThreads[Near], names: Sequence[str]) -> list[Value | None]:
        try:
            return self._read_once(readers.own(), names)
        except Unreachable:  # a connection from before the server's restart
            return self._read_once(readers.own(), names)

    def _read_once(self, reader: _Asking | Near, names: Sequence[str]) -> list[Value | None]:
        try:
            replies: Any = reader.replies(names)
        except BaseException as error:
            reader.connection.disconnect()  # what it still holds would answer the next request
            if isinstance(error, RedisError):
                raise self._server.told(error) from None  # it may quote our login
            raise
        return reader.values(names, replies)

    def _packed_request(self, name: str) -> bytes:
        key = self._keys.of(name).encode()
        return b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n" % (len(key), key)


class _Asking:
    """Asks by its connection, and past redis-py's client: that costs several times what the server does."""

    def __init__(self, connection: Any, packed: Callable[[str], bytes]) -> None:
        self.connection, self._packed = connection, packed

    def replies(self, names: Sequence[str]) -> list[list[bytes]]:
        self.connection.send_packed_command([b"".join(map(self._packed, names))], check_health=False)
        return [self.connection.read_response() for _ in names]

    def values(self, names: Sequence[str], replies: list[list[bytes]]) -> list[Value | None]:
        return [_value(name, reply) for name, reply in zip(names, replies, strict=True)]


class _OfThreads[R: (_Asking, Near)]:
    """A reader, with its connection, of each thread and process."""

    def __init__(self, make: Callable[[], R]) -> None:
        self._make: Callable[[], R] = make
        self._own = threading.local()
        self._all: weakref.WeakSet[R] = weakref.WeakSet()

    def own(self) -> R:
        pid = os.getpid()
        if getattr(self._own, "pid", None) != pid:
            self._own.reader = self._make()
            self._own.pid = pid
            self._all.add(self._own.reader)
        reader: R = self._own.reader
        return reader

    def disconnect(self) -> None:
        for reader in self._all:
            reader.connection.disconnect()


class _Told:
    """The newest of each name that a subscriber was told, of the log that is cached since `since`."""

    def __init__(self) -> None:
        self._since = 0
        self._versions: dict[str, tuple[int, int]] = {}

    def newer(self, since: int, name: str, value: Value) -> Value | None:
        """The value, unless as new a one was told, or one of a later log."""
        if since > self._since:
            self._since = since
            self._versions.clear()
        version = (value.event_time_us, value.offset)
        if since < self._since or version <= self._versions.get(name, (-1, -1)):
            return None
        self._versions[name] = version
        return value


def _update(message: bytes, told: _Told) -> Value | None:
    update = json.loads(message)
    return told.newer(int(update["since"]), update["name"], typed(update["name"], update["fields"]))


def _subscription(server: RedisServer) -> Any:
    return server.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]


def _value(name: str, reply: list[bytes]) -> Value | None:
    if not reply:
        return None
    texts = [part.decode() for part in reply]
    return typed(name, dict(zip(texts[::2], texts[1::2], strict=True)))
