"""The declared topics on the real broker: made once, never changed, and differences told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from tests.waiting import slow_bound_s, until

TOPOLOGY = Topology.load()

MakeSettings = Callable[..., Settings]

integration = pytest.mark.integration


@pytest.fixture
def admin(broker: str) -> AdminClient:
    """A client of the broker's own tools."""
    return AdminClient({"bootstrap.servers": broker})


def drift(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {s.declaration.name: s.drift for s in topics.describe(settings, TOPOLOGY) if s.drift}


@integration
def test_topics_are_made_as_declared(make_settings: MakeSettings, prefix: str) -> None:
    settings = make_settings(prefix, partitions=3)
    states = topics.describe(settings, TOPOLOGY)
    assert [(s.full_name, s.partitions) for s in states] == [
        (prefix + t.name, 1 if t.partitioned_by == "single" else 3) for t in TOPOLOGY.topics
    ]
    assert drift(settings) == {}
    topics.check(settings, TOPOLOGY)


@integration
def test_making_them_again_makes_none(make_settings: MakeSettings, prefix: str) -> None:
    assert topics.create(make_settings(prefix, partitions=1), TOPOLOGY) == []


@integration
def test_only_what_is_missing_is_made(make_settings: MakeSettings, admin: AdminClient, prefix: str) -> None:
    settings = make_settings(prefix, partitions=1)
    admin.delete_topics([prefix + "gaps"])[prefix + "gaps"].result(60)
    until(lambda: prefix + "gaps" not in admin.list_topics().topics)  # deleted is not yet gone
    assert topics.create(settings, TOPOLOGY) == [prefix + "gaps"]


@integration
def test_a_setting_changed_on_the_broker_is_told(make_settings: MakeSettings, admin: AdminClient, prefix: str) -> None:
    settings = make_settings(prefix, partitions=1)
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, prefix + "bars", incremental_configs=[entry])
    [done] = admin.incremental_alter_configs([resource]).values()
    done.result(60)
    until(lambda: drift(settings))  # the broker shows it a little later
    assert drift(settings) == {"bars": ("retention.ms: 1000, declared -1",)}
    assert topics.create(settings, TOPOLOGY) == []
    assert "bars" in drift(settings)  # told, never changed


@integration
def test_a_grown_partition_count_is_refused(make_settings: MakeSettings, admin: AdminClient, prefix: str) -> None:
    settings = make_settings(prefix, partitions=2)
    grown = admin.create_partitions([NewPartitions(prefix + "bars", 3)])
    grown[prefix + "bars"].result(60)
    until(lambda: drift(settings))  # the broker shows it a little later
    assert drift(settings) == {"bars": ("partitions: 3, declared 2",)}
    with pytest.raises(
        ConfigurationError, match=f"topic '{prefix}bars' has 3 partitions, expected 2: .*fixed for life"
    ):
        topics.check(settings, TOPOLOGY)


@integration
def test_missing_topics_are_refused_with_the_remedy(broker: str, prefix: str) -> None:
    settings = Settings.load(brokers=broker, prefix=prefix)
    with pytest.raises(
        ConfigurationError, match=f"17 topics are missing, '{prefix}market.events' first; .*topics create"
    ):
        topics.check(settings, TOPOLOGY)


@integration
def test_more_replicas_than_brokers_are_told(broker: str, prefix: str) -> None:
    settings = Settings.load(brokers=broker, prefix=prefix, replication=3)
    with pytest.raises(DependencyError, match=f"topic '{prefix}.*cannot be created: .*[Rr]eplication"):
        topics.create(settings, TOPOLOGY)


@integration
def test_the_clusters_brokers_are_told(broker: str) -> None:
    assert topics.broker_ids(Settings.load(brokers=broker)) == [1]


@pytest.mark.parametrize("ask", [topics.create, topics.check, topics.describe])
def test_no_broker_is_told_within_ten_seconds(
    ask: Callable[[Settings, Topology], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert topics.REQUEST_TIMEOUT_S < 10
    monkeypatch.setattr(topics, "REQUEST_TIMEOUT_S", 0.5)
    begun_s = time.monotonic()
    with pytest.raises(DependencyError, match=r"no broker answers at 127\.0\.0\.1:1 .*sep-stream up.*--brokers"):
        ask(Settings.load(brokers="127.0.0.1:1"), TOPOLOGY)
    assert time.monotonic() - begun_s < slow_bound_s(5)
