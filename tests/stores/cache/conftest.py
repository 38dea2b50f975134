"""One Redis for the tests of the cache; each has a prefix of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from sep_stream.runtime.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start(lambda message: None)
    yield server
    server.stop()


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}."
