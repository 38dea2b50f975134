"""Makes the declared topics, brings their settings up to date and shows where the broker's differ."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.asker import Asker, denial, is_denial, settled
from sep_stream.runtime.kafka_config import resolve_brokers
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import TopicDeclaration, Topology

REQUEST_TIMEOUT_S: Final = 6.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class TopicState:
    """A declared topic as the broker has it. partitions: 0 where it is missing · drift: what differs, in words."""

    declaration: TopicDeclaration
    full_name: str
    partitions: int
    drift: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alteration:
    """A setting of a topic, by its full name, that an earlier version declared, and what is declared now."""

    topic: str
    setting: str
    former: str
    value: str


def partition_count(declaration: TopicDeclaration, settings: Settings) -> int:
    return settings.partitions if declaration.partitioned_by == "instrument" else 1


def describe(settings: Settings, topology: Topology) -> list[TopicState]:
    """Every declared topic with what differs from its declaration. DependencyError if the broker does not answer."""
    admin = connected_admin(settings)
    names = {settings.topic(d.name): d for d in topology.topics}
    found = {name: len(topic.partitions) for name, topic in _found(admin, settings, list(names)).items()}
    configs = _configs(admin, settings, found)
    return [
        TopicState(d, name, found.get(name, 0), tuple(_drift(d, settings, found.get(name, 0), configs.get(name, {}))))
        for name, d in names.items()
    ]


def create(settings: Settings, topology: Topology) -> list[str]:
    """Make the topics that are missing and return their names. Those that are there are left as they are: see
    `bring_up_to_date`."""
    admin = connected_admin(settings)
    found = _found(admin, settings, [settings.topic(d.name) for d in topology.topics])
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
            settled(future, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _refused(settings, name, "create", error.args[0]) from error
    made = [topic.topic for topic in missing]
    deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
    while len(_found(admin, settings, made)) < len(made):  # the broker hears of them from its controller
        if time.monotonic() > deadline_s:
            raise DependencyError(f"topic {made[0]!r}: made, but the broker does not tell of it; try once more")
        time.sleep(_POLL_S)
    return made


def bring_up_to_date(settings: Settings, topology: Topology) -> list[Alteration]:
    """Set what still has a value that an earlier version declared to what is declared now, and return what was set.

    All else that differs is left as it is. Raises DependencyError if the broker does not answer or forbids it.
    """
    admin = connected_admin(settings)
    declared = {settings.topic(d.name): d for d in topology.topics if d.former}
    if not declared:
        return []
    configs = _configs(admin, settings, _found(admin, settings, list(declared)))
    outdated = [
        Alteration(name, setting, configs[name][setting], declared[name].config[setting])
        for name in configs
        for setting, former in declared[name].former.items()
        if configs[name].get(setting) in former and configs[name][setting] != declared[name].config[setting]
    ]
    _alter(admin, settings, outdated)
    deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
    while not _are_in_force(admin, settings, outdated):  # the broker hears of them from its controller
        if time.monotonic() > deadline_s:
            raise DependencyError(
                f"topic {outdated[0].topic!r}: {outdated[0].setting} was set, but the broker does not show it; "
                "try once more"
            )
        time.sleep(_POLL_S)
    return outdated


def _alter(admin: AdminClient, settings: Settings, alterations: Sequence[Alteration]) -> None:
    entries: dict[str, list[ConfigEntry]] = {}
    for a in alterations:
        entry = ConfigEntry(a.setting, a.value, incremental_operation=AlterConfigOpType.SET)
        entries.setdefault(a.topic, []).append(entry)
    if not entries:
        return
    resources = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=some) for name, some in entries.items()]
    for resource, future in admin.incremental_alter_configs(resources).items():
        try:
            settled(future, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise _refused(settings, resource.name, "alter_configs", error.args[0]) from error


def _are_in_force(admin: AdminClient, settings: Settings, alterations: Sequence[Alteration]) -> bool:
    configs = _configs(admin, settings, dict.fromkeys(a.topic for a in alterations))
    return all(configs[a.topic].get(a.setting) == a.value for a in alterations)


def check(settings: Settings, topology: Topology, roles: Sequence[str] | None = None) -> None:
    """Refuse to work on topics that are missing or have other partition counts than declared.

    A count that changed would put an instrument's events in two places. Raises ConfigurationError.

    roles: only the topics that these need, and that they may do there, and with their groups, what they have to;
    DependencyError if the broker forbids it. Left out: all topics.
    """
    needed = [topology.role(role) for role in roles or ()]
    rights = _united(role.topics() for role in needed) if needed else {d.name: set() for d in topology.topics}
    admin = connected_admin(settings)
    found = _found(admin, settings, [settings.topic(name) for name in rights])
    missing = [settings.topic(name) for name in rights if settings.topic(name) not in found]
    if missing:
        raise ConfigurationError(
            f"{len(missing)} topics are missing, {missing[0]!r} first; `sep-stream topics create` makes them"
        )
    for name, operations in rights.items():
        full_name = settings.topic(name)
        partitions, expected = len(found[full_name].partitions), partition_count(topology.topic(name), settings)
        if partitions != expected:
            raise ConfigurationError(
                f"topic {full_name!r} has {partitions} partitions, expected {expected}: the count is fixed "
                "for life; set SEP_PARTITIONS to what the prefix was made with, or use a new prefix"
            )
        allowed = {operation.name.lower() for operation in found[full_name].authorized_operations or ()}
        for operation in sorted(operations - allowed):
            raise DependencyError(denial(settings, f"topic {full_name!r}", operation))
    _check_groups(admin, settings, _united(role.groups() for role in needed))


def _check_groups(admin: AdminClient, settings: Settings, rights: Mapping[str, set[str]]) -> None:
    for name, operations in rights.items():
        group = settings.prefix + name
        described = admin.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            found = settled(described[group], REQUEST_TIMEOUT_S).authorized_operations or ()
        except KafkaException as error:
            if not is_denial(error.args[0]):  # a group's coordinator may be on its way: not a matter of rights
                continue
            found = ()
        for operation in sorted(operations - {operation.name.lower() for operation in found}):
            raise DependencyError(denial(settings, f"consumer group {group!r}", operation))


def _united(rights: Iterable[Mapping[str, set[str]]]) -> dict[str, set[str]]:
    """What several roles need, by name."""
    united: dict[str, set[str]] = {}
    for role in rights:
        for name, operations in role.items():
            united.setdefault(name, set()).update(operations)
    return united


def partitions_of(settings: Settings, name: str) -> int:
    """How many partitions the broker's topic of this full name has. ConfigurationError where there is none."""
    found = _found(connected_admin(settings), settings, [name])
    if name not in found:
        raise ConfigurationError(
            f"topic {name!r} is not there; `sep-stream topics create` makes it, or --prefix names another deployment"
        )
    return len(found[name].partitions)


def topic_ids(settings: Settings, names: Sequence[str]) -> list[str]:
    """The ids that the broker gave these topics when they were made: a topic made anew has another one.
    ConfigurationError where one is missing. names: in full"""
    found = _found(connected_admin(settings), settings, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigurationError(f"topic {missing[0]!r} is not there; `sep-stream topics create` makes it")
    return [str(found[name].topic_id) for name in names]


def ids_of(admin: AdminClient, settings: Settings, names: Sequence[str]) -> dict[str, str]:
    """The ids of those topics that are there. DependencyError where the broker does not answer. names: in full"""
    return {name: str(topic.topic_id) for name, topic in _found(admin, settings, names).items()}


def broker_ids(settings: Settings) -> list[int]:
    """The cluster's brokers. DependencyError if none answers."""
    asker = Asker(settings, AdminClient)
    return sorted(broker.id for broker in _cluster(asker, settings).nodes)


def connected_admin(settings: Settings) -> AdminClient:
    """A client that has heard from the broker. DependencyError that says why if none answers."""
    asker = Asker(settings, AdminClient)
    _cluster(asker, settings)
    return asker.client


def _cluster(asker: Asker, settings: Settings) -> Any:
    try:
        return asker.ask(
            lambda left_s: settled(asker.client.describe_cluster(request_timeout=left_s), left_s),
            REQUEST_TIMEOUT_S,
            "the cluster",
        )
    except KafkaException as error:
        raise DependencyError(
            f"no broker answers at {resolve_brokers(settings)} ({error.args[0].str()}); start one with "
            "`sep-stream up`, or name yours with --brokers"
        ) from error


def _found(admin: AdminClient, settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    """Descriptions of those topics that are there. DependencyError where the broker won't tell."""
    found = {}
    described = admin.describe_topics(
        TopicCollection(list(names)), include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_S
    )
    for name, future in described.items():
        try:
            found[name] = settled(future, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _refused(settings, name, "describe", error.args[0]) from error
    return found


def _refused(settings: Settings, topic: str, operation: str, error: KafkaError) -> DependencyError:
    about = f"topic {topic!r}"
    if is_denial(error):
        return DependencyError(denial(settings, about, operation))
    done = {"create": "created", "alter_configs": "altered"}.get(operation, "described")
    return DependencyError(f"{about}: cannot be {done}: {error.str()}")


def _configs(admin: AdminClient, settings: Settings, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    result: dict[str, dict[str, str]] = {}
    for resource, future in admin.describe_configs(resources).items():
        try:
            entries: dict[str, Any] = settled(future, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise _refused(settings, resource.name, "describe_configs", error.args[0]) from error
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
