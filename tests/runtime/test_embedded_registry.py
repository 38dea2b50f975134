"""The embedded registry: one process of a data folder, on loopback, which comes back with what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.embedded import EmbeddedRegistry
from sep_stream.runtime.embedded import registry as embedded
from sep_stream.runtime.embedded.ports import HOST
from sep_stream.runtime.registry_address import resolve_registry
from sep_stream.runtime.settings import Settings
from tests.waiting import bear_with_servers


def quiet(message: str) -> None:
    """Progress is not looked at."""


@pytest.fixture(autouse=True, scope="module")
def slow_machine() -> Iterator[None]:
    """Servers are waited for, however few processors are left to them."""
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        yield


@pytest.mark.integration
def test_it_is_found_while_it_runs(registry: EmbeddedRegistry) -> None:
    status = registry.status()
    assert (status.running, status.healthy, status.secured) == (True, True, False)
    settings = Settings.load(data_dir=registry.security.data_dir)
    assert resolve_registry(settings) == registry.address()
    assert registry.start(quiet) == status.address
    assert registry.status().pid == status.pid


@pytest.mark.integration
def test_it_listens_on_loopback_alone_whatever_the_environment_says(registry: EmbeddedRegistry) -> None:
    process = psutil.Process(registry.status().pid)
    listening = {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {HOST}


def test_without_one_that_runs_there_is_no_address(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path)
    assert registry.address() is None
    assert resolve_registry(Settings.load(data_dir=tmp_path)) is None
    assert registry.status().version == embedded.REGISTRY_VERSION
    assert not registry.stop()


def test_a_secured_folder_is_not_started_without_security(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path)
    registry.security.prepare()
    with pytest.raises(ConfigurationError, match="this data folder is secured; start it with `sep-stream up --secure`"):
        registry.start(quiet)
    assert not (tmp_path / "registry").exists()
