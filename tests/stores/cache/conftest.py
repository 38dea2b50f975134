"""One Redis for the tests of the cache; each has a prefix of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import connection
from sep_stream.stores.cache.writer import CacheWriter, Entry
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start(lambda message: None)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def slow_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a Redis that runs, however few processors are left to it."""
    monkeypatch.setattr(connection, "TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
def sound(redis_server: EmbeddedRedis, prefix: str) -> CacheWriter:
    """A writer to an empty cache of its own log."""
    writer = CacheWriter(settings_of(redis_server, prefix), "log one")
    put_in_place(writer)
    return writer


def settings_of(server: EmbeddedRedis, prefix: str, **values: Any) -> Settings:
    return Settings.load(prefix=prefix, data_dir=server.security.data_dir, **values)


def put_in_place(writer: CacheWriter, *entries: Entry) -> int:
    space = writer.begin()
    assert space is not None
    writer.fill(space, entries)
    return writer.swap(space)
