"""Servers that the run starts once, order and records of the run, and data that may be absent."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sep_stream.runtime.numba_cache import configure_numba_cache

configure_numba_cache()  # before anything imports Numba

import pytest  # noqa: E402
from hypothesis import HealthCheck  # noqa: E402
from hypothesis import settings as hypothesis_settings  # noqa: E402

from sep_stream.runtime import topics  # noqa: E402
from sep_stream.runtime.embedded import EmbeddedKafka, EmbeddedRegistry  # noqa: E402
from sep_stream.runtime.settings import Settings  # noqa: E402
from sep_stream.runtime.topology import Topology  # noqa: E402
from tests import compiled, durations, shared_run, skips  # noqa: E402
from tests.databases import Database, Databases, server_for_tests  # noqa: E402
from tests.disks import small_disk  # noqa: E402
from tests.waiting import bear_with_servers  # noqa: E402

__all__ = ["small_disk"]

PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
"""How long an example takes, and its making, is the machine's affair."""
EXAMPLES = int(os.environ.get("SEP_TEST_EXAMPLES", "25"))
"""Examples tried of each invariant; a test whose examples take long says a smaller number."""
hypothesis_settings.register_profile("default", max_examples=EXAMPLES, **PATIENT)
hypothesis_settings.register_profile("ci", max_examples=EXAMPLES, derandomize=True, **PATIENT)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-durations", action="store_true", help=f"keep how long the tests took in {durations.RECORD.name}"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts what runs in the background with SIGINT ignored, and children inherit that:
    # no test could interrupt a command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shared_run.begin(config)
    if not shared_run.is_worker(config):
        config.pluginmanager.register(skips)
        if config.getoption("--record-durations"):
            config.pluginmanager.register(durations.Recorder())


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile before the worker processes start, which would each do it."""
    if not shared_run.is_worker(session.config) and not session.config.option.collectonly:
        compiled.compile_once()


def pytest_unconfigure(config: pytest.Config) -> None:
    shared_run.end(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker process of pytest-xdist which folder the run shares."""
    shared_run.send_to(node, node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes more than there are CPUs, as tests wait for servers now and then."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: what is short then fills up the processes' time at the end."""
    durations.longest_files_first(items)


HEAP = "-Xms64m -Xmx768m"
"""Heap of the run's broker: each test has topics of its own, and in the end there are ten thousand partitions."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real market data beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real market data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> str:
    """Address of the run's broker, which all processes of the run share."""
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        patch.setenv("KAFKA_HEAP_OPTS", HEAP)
        return EmbeddedKafka(shared_run.folder_of(pytestconfig) / "stack").start(lambda message: None)


@pytest.fixture(scope="session")
def registry(pytestconfig: pytest.Config) -> EmbeddedRegistry:
    """The run's schema registry. What the environment would have it do is not done."""
    registry = EmbeddedRegistry(shared_run.folder_of(pytestconfig) / "registry")
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        patch.setenv("QUARKUS_HTTP_HOST", "0.0.0.0")
        registry.start(lambda message: None)
    return registry


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
