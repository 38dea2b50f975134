"""The declared sinks of `connectors/`: topics into tables, for the deployment of the settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sep_stream.errors import ConfigurationError, DependencyError, SepError
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.private_files import private_folder, write_private
from sep_stream.runtime.registry_address import RegistryAddress
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.stores.connect import Connect, ConnectorState, connect_url, settle

DEFAULTS: Final = "defaults.json"
"""What all sinks share; each file overrides it."""
DEAD_LETTERS: Final = "connect.dead.letters"
ANSWER_S_MAX: Final = 5.0
_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")
_CONNECTION: Final = {"connectTimeout": "10", "socketTimeout": "60", "tcpKeepAlive": "true", "ApplicationName": "sink"}
"""Seconds: a server that falls silent is given up, so that the sink tries anew."""
_TLS: Final = {"sslmode": "sslmode", "sslrootcert": "sslrootcert", "channel_binding": "channelBinding"}
"""libpq's names, and those of the driver."""


@dataclass(frozen=True, slots=True)
class Sink:
    """A connector as it should be. table: also the name of its file · topic: with the prefix · group: its consumers'"""

    name: str
    table: str
    topic: str
    group: str
    config: Mapping[str, str]


def sink_names(settings: Settings) -> list[str]:
    """Of the deployment's connectors."""
    return [settings.topic(path.stem) for path in _files()]


def declared_sinks(settings: Settings) -> list[Sink]:
    """All of them.

    Raises DependencyError where database or registry is missing, ConfigurationError for what contradicts itself.
    """
    shared = _read(resource("connectors") / DEFAULTS)
    registry = _registry(settings)
    return [_sink(settings, path, shared, registry) for path in _files()]


def apply_sinks(
    settings: Settings, restart: bool = False, progress: Callable[[str], None] = lambda line: None
) -> list[ConnectorState]:
    """Set up the declared sinks where they are not as declared; their states once they run or have failed.

    restart: what has failed is started anew. Raises what `declared_sinks` and `Connect` raise.
    """
    with Connect(connect_url(settings)) as client:
        sinks = declared_sinks(settings)
        check_plugins(client.plugins(), client.url, sinks)
        for sink in sinks:
            if client.put(sink.name, sink.config):
                progress(f"{sink.name}: {sink.topic} into {sink.table}")
            elif restart:
                client.restart(sink.name)
        return settle(client, [sink.name for sink in sinks])


def check_plugins(plugins: Collection[str], url: str, sinks: Iterable[Sink]) -> None:
    """DependencyError where Connect lacks what a sink is made of."""
    for sink in sinks:
        for role in ("connector.class", "value.converter"):
            if sink.config[role] not in plugins:
                raise DependencyError(
                    f"Kafka Connect at {url} lacks the plugin {sink.config[role]} that {sink.name} needs; put it into "
                    "its plugin.path and start it again (the embedded one has it)"
                )


def registry_answers(settings: Settings) -> bool:
    from sep_stream.stores.schema_registry import SchemaRegistry

    try:
        with SchemaRegistry(_registry(settings), ANSWER_S_MAX) as registry:
            registry.subjects()
    except SepError:
        return False
    return True


def lags(settings: Settings) -> dict[str, int]:
    """How many offsets each sink has yet to read, by its name. Empty where the broker is not to be had."""
    reader = LogReader(settings)
    try:
        return {settings.topic(table): _lag(reader, settings, table) for table in tables()}
    except SepError:
        return {}


def dead_letters(settings: Settings) -> int:
    """How many records no sink could read. 0 where the broker is not to be had."""
    reader, topic = LogReader(settings), settings.topic(DEAD_LETTERS)
    try:
        bounds = [reader.watermarks(topic, partition) for partition in reader.partitions(topic)]
    except SepError:
        return 0
    return sum(high - low for low, high in bounds)


def _lag(reader: LogReader, settings: Settings, table: str) -> int:
    topic = topic_of(settings, table)
    partitions = reader.partitions(topic)
    committed = reader.committed(group_of(settings, table), topic, partitions)
    bounds = {partition: reader.watermarks(topic, partition) for partition in partitions}
    return sum(high - max(low, committed.get(partition, low)) for partition, (low, high) in bounds.items())


def group_of(settings: Settings, table: str) -> str:
    """The consumer group of a table's sink."""
    return settings.topic(f"connect.{table}")


def topic_of(settings: Settings, table: str) -> str:
    """What a table's sink reads."""
    topic = _read(resource("connectors") / f"{table}.json")["config"]["topics"]
    return _filled(topic, {"prefix": settings.prefix}, table)


def tables() -> list[str]:
    return [path.stem for path in _files()]


def _files() -> list[Path]:
    return sorted(path for path in resource("connectors").glob("*.json") if path.name != DEFAULTS)


def _sink(settings: Settings, path: Path, shared: Mapping[str, str], registry: RegistryAddress) -> Sink:
    declared = _read(path)
    values = {
        "prefix": settings.prefix,
        "table": path.stem,
        "replication": str(settings.replication),
        "registry_url": settings.connect_registry or registry.native_url or "",
        **_database(settings, declared["role"]),
    }
    config = {**shared, **declared["config"], **_registry_login(settings, registry)}
    config = {name: _filled(text, values, path.name) for name, text in config.items()}
    group = config["consumer.override.group.id"]
    return Sink(settings.topic(path.stem), path.stem, config["topics"], group, config)


def _registry(settings: Settings) -> RegistryAddress:
    """The converter knows a schema by its id, from the registry alone."""
    from sep_stream.stores.registration import needed_registry

    try:
        address = needed_registry(settings)
    except DependencyError as error:
        raise DependencyError(f"the sinks read Avro through a registry: {error}") from error
    if address.native_url is None and settings.connect_registry is None:
        raise ConfigurationError(
            f"schema_registry: {address.url}: the sinks' converter reads Apicurio registries, at "
            "http://HOST:PORT/apis/ccompat/v7; name one, or its own API with SEP_CONNECT_REGISTRY"
        )
    return address


def _registry_login(settings: Settings, registry: RegistryAddress) -> dict[str, str]:
    """Nothing for the embedded registry, which lets everybody read."""
    user, login = registry.username, "value.converter.apicurio.registry.auth"
    if user is None or registry.is_ours:
        return {}
    if settings.connect_url is None:
        raise ConfigurationError(
            f"schema_registry: {registry.url} asks for a login, which the embedded Connect's converter can't give; let "
            "it be read without one, or name a Connect of your own with SEP_CONNECT_URL"
        )
    return {f"{login}.username": user, f"{login}.password": _looked_up(settings, "registry", user, registry.password)}


def _database(settings: Settings, role: str) -> dict[str, str]:
    """Where the sink connects, and as whom; the password as something that only Connect's worker can look up."""
    from psycopg import conninfo

    from sep_stream.stores.database import database_conninfo

    given: dict[str, Any] = conninfo.conninfo_to_dict(database_conninfo(settings, role))
    options = {driver: str(given[libpq]) for libpq, driver in _TLS.items() if given.get(libpq)}
    address = f"jdbc:postgresql://{given.get('host') or 'localhost'}:{given.get('port') or 5432}/{given.get('dbname')}"
    of_role = settings.database_url is None or settings.connect_password is not None
    user = role if of_role else str(given.get("user") or "")
    return {
        "database_url": f"{settings.connect_database or address}?{urlencode(_CONNECTION | options)}",
        "database_user": user,
        "database_password": _looked_up(settings, "database", user, given.get("password")),
    }


def _looked_up(settings: Settings, what: str, user: str, password: str | None) -> str:
    """What stands for a password in a connector's configuration, which its REST API shows to everybody who asks."""
    if settings.connect_password is not None:
        return settings.connect_password.replace("{user}", user)
    if settings.connect_url is not None:
        raise ConfigurationError(
            f"connect_password: Kafka Connect at {settings.connect_url} can't read files of ours; say how it looks up "
            f"the password of {what} user {user!r}, as in SEP_CONNECT_PASSWORD='${{dir:/run/secrets:{{user}}}}'"
        )
    from sep_stream.runtime.embedded import EmbeddedConnect

    folder = EmbeddedConnect(settings.data_dir).secrets
    private_folder(folder)
    write_private(folder / f"{what}.{user}", password or "")
    return f"${{dir:{folder}:{what}.{user}}}"


def _filled(text: str, values: Mapping[str, str], file: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigurationError(f"connectors/{file}: {match[0]} stands for nothing; known are {', '.join(values)}")
        return values[match[1]]

    return _PLACEHOLDER.sub(value, text)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: not JSON: {error}") from error
    return found
