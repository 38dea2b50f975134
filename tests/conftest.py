"""The real broker, one for the run, and data that may be absent."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from sep_stream.runtime.numba_cache import configure_numba_cache

configure_numba_cache()  # before anything imports Numba

import pytest  # noqa: E402
from hypothesis import settings as hypothesis_settings  # noqa: E402

from sep_stream.runtime import topics  # noqa: E402
from sep_stream.runtime.embedded import EmbeddedKafka, EmbeddedRegistry  # noqa: E402
from sep_stream.runtime.settings import Settings  # noqa: E402
from sep_stream.runtime.topology import Topology  # noqa: E402
from tests.databases import Database, Databases, server_for_tests  # noqa: E402

hypothesis_settings.register_profile("default", deadline=None)
hypothesis_settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that need servers first: they take longest, and where files are shared out the short ones fill up."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is None)


HEAP = "-Xms64m -Xmx768m"
"""Each test has topics of its own; in the end there are ten thousand partitions."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real market data beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real market data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the run's broker."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("stack"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_HEAP_OPTS", HEAP)
        address = kafka.start(lambda message: None)
    yield address
    kafka.stop()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRegistry]:
    """The run's schema registry. What the environment would have it do is not done."""
    registry = EmbeddedRegistry(tmp_path_factory.mktemp("registry"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUARKUS_HTTP_HOST", "0.0.0.0")
        registry.start(lambda message: None)
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """The run's PostgreSQL."""
    with server_for_tests(tmp_path_factory.mktemp("stack")) as server:
        yield Databases(server)


@pytest.fixture
def make_database(database: Databases) -> Callable[[], Database]:
    """A fresh migrated database at each call."""
    return database.migrated


@pytest.fixture
def prefix() -> str:
    """Of the topics and groups of one test."""
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
def make_settings(broker: str, tmp_path: Path) -> Callable[..., Settings]:
    """Settings for the run's broker, with the topics of their prefix made."""

    def make(prefix: str, **values: object) -> Settings:
        settings = Settings.load(brokers=broker, prefix=prefix, data_dir=tmp_path / "data", **values)
        topics.create(settings, Topology.load())
        return settings

    return make
