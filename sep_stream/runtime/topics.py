"""Makes the declared topics and tells where the broker's differ."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import TopicDeclaration, Topology

REQUEST_TIMEOUT_S: Final = 6.0
_RETRY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class TopicState:
    """A declared topic as the broker has it. partitions: 0 where it is missing · drift: what differs, in words."""

    declaration: TopicDeclaration
    full_name: str
    partitions: int
    drift: tuple[str, ...]


def partition_count(declaration: TopicDeclaration, settings: Settings) -> int:
    return settings.partitions if declaration.partitioned_by == "instrument" else 1


def describe(settings: Settings, topology: Topology) -> list[TopicState]:
    """Every declared topic with what differs from its declaration. DependencyError if the broker does not answer."""
    admin = _admin(settings)
    found = _metadata(admin, settings)
    names = {settings.topic(d.name): d for d in topology.topics}
    configs = _configs(admin, settings, [name for name in names if name in found])
    return [
        TopicState(d, name, found.get(name, 0), tuple(_drift(d, settings, found.get(name, 0), configs.get(name, {}))))
        for name, d in names.items()
    ]


def create(settings: Settings, topology: Topology) -> list[str]:
    """Make the topics that are missing and return their names. Those that are there are left as they are."""
    admin = _admin(settings)
    found = _metadata(admin, settings)
    missing = [
        NewTopic(
            settings.topic(d.name),
            partition_count(d, settings),
            settings.replication,
            config=dict(d.config),
        )
        for d in topology.topics
        if settings.topic(d.name) not in found
    ]
    if not missing:
        return []
    for name, future in admin.create_topics(missing, operation_timeout=REQUEST_TIMEOUT_S).items():
        try:
            future.result(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise DependencyError(f"topic {name!r}: cannot be created: {error.args[0].str()}") from error
    names = [topic.topic for topic in missing]
    _await_known(admin, settings, names)
    return names


def _await_known(admin: AdminClient, settings: Settings, names: Iterable[str]) -> None:
    """Wait until the broker tells of these topics: it acknowledges them a moment before."""
    deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
    while unknown := set(names) - set(_metadata(admin, settings)):
        if time.monotonic() > deadline_s:
            raise DependencyError(
                f"topic {min(unknown)!r}: the broker made it but does not know it after {REQUEST_TIMEOUT_S:.0f} s"
            )
        time.sleep(_RETRY_S)


def check(settings: Settings, topology: Topology) -> None:
    """Refuse to work on topics that are missing or have other partition counts than declared.

    A count that changed would put an instrument's events in two places. Raises ConfigurationError.
    """
    states = describe(settings, topology)
    missing = [s.full_name for s in states if not s.partitions]
    if missing:
        raise ConfigurationError(
            f"{len(missing)} topics are missing, {missing[0]!r} first; `sep-stream topics create` makes them"
        )
    for state in states:
        expected = partition_count(state.declaration, settings)
        if state.partitions != expected:
            raise ConfigurationError(
                f"topic {state.full_name!r} has {state.partitions} partitions, expected {expected}: the count is fixed "
                "for life; set SEP_PARTITIONS to what the prefix was made with, or use a new prefix"
            )


def partitions_of(settings: Settings, name: str) -> int:
    """How many partitions the broker's topic of this full name has. ConfigurationError where there is none."""
    found = _metadata(_admin(settings), settings)
    if name not in found:
        raise ConfigurationError(
            f"topic {name!r} is not there; `sep-stream topics create` makes it, or --prefix names another deployment"
        )
    return found[name]


def broker_ids(settings: Settings) -> list[int]:
    """The cluster's brokers. DependencyError if none answers."""
    return sorted(_cluster(_admin(settings), settings).brokers)


def _admin(settings: Settings) -> AdminClient:
    return AdminClient(librdkafka(settings))


def _metadata(admin: AdminClient, settings: Settings) -> dict[str, int]:
    """Partition counts of the topics that are there."""
    return {name: len(topic.partitions) for name, topic in _cluster(admin, settings).topics.items()}


def _cluster(admin: AdminClient, settings: Settings) -> Any:
    try:
        return admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as error:
        address = librdkafka(settings)["bootstrap.servers"]
        raise DependencyError(
            f"no broker answers at {address} ({error.args[0].str()}); start one with `sep-stream up`, "
            "or name yours with --brokers"
        ) from error


def _configs(admin: AdminClient, settings: Settings, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    result: dict[str, dict[str, str]] = {}
    for resource, future in admin.describe_configs(resources).items():
        try:
            entries: dict[str, Any] = future.result(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise DependencyError(f"topic {resource.name!r}: cannot be described: {error.args[0].str()}") from error
        result[resource.name] = {key: entry.value for key, entry in entries.items()}
    return result


def _drift(declaration: TopicDeclaration, settings: Settings, partitions: int, config: dict[str, str]) -> list[str]:
    if not partitions:
        return ["missing"]
    expected = partition_count(declaration, settings)
    drift = [] if partitions == expected else [f"partitions: {partitions}, declared {expected}"]
    return drift + [
        f"{key}: {config.get(key)}, declared {value}"
        for key, value in declaration.config.items()
        if config.get(key) != value
    ]
