"""These tests wait for servers as long as a slow machine needs, and their topics have two partitions."""

import pytest

from tests.waiting import slow_machine

__all__ = ["slow_machine"]


@pytest.fixture(autouse=True)
def two_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are several. Each test makes topics of its own on the run's broker, which has work with every partition."""
    monkeypatch.setenv("SEP_PARTITIONS", "2")
