"""The declared topics on the real broker: made once, brought up to date, and other differences shown."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from sep_stream.cli import cli
from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from tests.waiting import slow_bound_s, until

TOPOLOGY = Topology.load()

MakeSettings = Callable[..., Settings]

integration = pytest.mark.integration
AHEAD = "message.timestamp.after.max.ms"


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


def alter(settings: Settings, admin: AdminClient, config: dict[str, str], *names: str) -> None:
    """Set this on the broker, for these topics."""
    entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in config.items()]
    resources = [
        ConfigResource(ResourceType.TOPIC, settings.topic(name), incremental_configs=entries) for name in names
    ]
    for done in admin.incremental_alter_configs(resources).values():
        done.result(60)
    until(lambda: set(names) <= drift(settings).keys())  # the broker shows it a little later


@integration
def test_a_setting_changed_on_the_broker_is_told(make_settings: MakeSettings, admin: AdminClient, prefix: str) -> None:
    settings = make_settings(prefix, partitions=1)
    alter(settings, admin, {"retention.ms": "1000"}, "bars")
    assert drift(settings) == {"bars": ("retention.ms: 1000, declared -1",)}
    assert topics.create(settings, TOPOLOGY) == []
    assert topics.bring_up_to_date(settings, TOPOLOGY) == []
    assert "bars" in drift(settings)  # shown, never changed


@integration
def test_topics_made_by_an_earlier_version_are_altered_and_this_is_shown(
    make_settings: MakeSettings, admin: AdminClient, prefix: str
) -> None:
    """What an earlier version declared is altered in each topic that has it; what somebody chose is not."""
    settings = make_settings(prefix, partitions=1)
    outdated = [t.name for t in TOPOLOGY.topics if t.former and t.name != "market.events"]
    assert {"bars", "metrics", "signals", "patterns", "trading.results"} == set(outdated)
    alter(settings, admin, {AHEAD: "86400000", "retention.ms": "1000"}, *outdated)
    alter(settings, admin, {AHEAD: "5000"}, "patterns")
    told = CliRunner().invoke(cli, ["topics", "create"], env=settings.environment())
    assert told.exit_code == 0
    *altered, last = told.output.splitlines()
    assert sorted(altered) == [
        f"altered {prefix}{name}: {AHEAD} from 86400000, as earlier versions had it, to {2**63 - 1}"
        for name in sorted(outdated)
        if name != "patterns"
    ]
    assert last == "0 topics made, the others were there"
    kept = ("retention.ms: 1000, declared -1",)
    chosen = (*kept, f"{AHEAD}: 5000, declared {2**63 - 1}")
    assert drift(settings) == {name: chosen if name == "patterns" else kept for name in outdated}
    again = CliRunner().invoke(cli, ["topics", "create"], env=settings.environment())
    assert again.output == "0 topics made, the others were there\n"


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


@pytest.mark.parametrize("ask", [topics.create, topics.bring_up_to_date, topics.check, topics.describe])
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
