"""Our schemas in a schema registry: what it holds of them, registering them, and the ids that are in force."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sep_stream.errors import DependencyError, InputError
from sep_stream.market.avro import Schema, Schemas
from sep_stream.market.evolution import differences, reading_faults
from sep_stream.market.writers import Writer
from sep_stream.runtime.registry_address import RegistryAddress, resolve_registry
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.stores.schema_registry import RefusedError, SchemaRegistry, Version

COMPATIBILITY: Final = "FULL_TRANSITIVE"
"""What every subject of ours asks of a new version: old and new read each other's records. A registry's default may be
NONE."""


@dataclass(frozen=True, slots=True)
class SubjectVersion:
    """A version of a subject. unreadable: why this program can't read its records; empty: it can"""

    version: int
    schema_id: int
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A topic's values in a registry, as Confluent's clients name them. schema_id, version: None where this version of
    the schema is not there · faults: why it can't come there · is_new: it was registered just now · versions: all that
    are there, where they were looked at"""

    name: str
    schema: str
    pinned_id: int
    schema_id: int | None
    version: int | None
    compatibility: str
    faults: tuple[str, ...] = ()
    is_new: bool = False
    versions: tuple[SubjectVersion, ...] = ()

    @property
    def unreadable(self) -> list[str]:
        """Which versions this program can't read, and why."""
        return [
            f"version {version.version} (id {version.schema_id}) can't be read: {'; '.join(version.unreadable)}"
            for version in self.versions
            if version.unreadable
        ]


def agreed_ids(registry: SchemaRegistry, settings: Settings, schemas: Schemas, register: bool) -> dict[str, list[int]]:
    """The ids by schema that the registry has for them; several where topics differ. register: see `register_all`."""
    found = [(schema.name, registry.find(name, schema.text)) for name, schema in subjects_of(settings, schemas)]
    ids = [(name, version.schema_id) for name, version in found if version is not None]
    if register and len(ids) < len(found):
        subjects = register_all(registry, settings, schemas)
        ids = [(subject.schema, subject.schema_id) for subject in subjects if subject.schema_id is not None]
    return {name: [schema_id for other, schema_id in ids if other == name] for name, _ in ids}


def other_versions(
    registry: SchemaRegistry, settings: Settings, schemas: Schemas, ids: Mapping[str, Sequence[int]]
) -> dict[int, str]:
    """Texts by id of the versions that must be known before their records come: those that are not this program's but
    may have its pinned ids. Where a schema is registered under its pinned id, there are none; others are found when a
    record names them.
    """
    found: dict[int, str] = {}
    for name, schema in subjects_of(settings, schemas):
        own = ids.get(schema.name, ())
        if set(own) == {schema.schema_id}:
            continue
        versions = {version.schema_id: version for version in registry.versions(name) if version.is_avro}
        found |= {key: version.text or "" for key, version in versions.items() if key not in own}
    return found


def look(registry: SchemaRegistry, settings: Settings, schemas: Schemas) -> Iterator[Subject]:
    """What the registry holds of each topic's schema, and what stands against this version of it."""
    for name, schema in subjects_of(settings, schemas):
        found = registry.find(name, schema.text)
        versions = registry.versions(name)
        yield Subject(
            name, schema.name, schema.schema_id, found.schema_id if found else None, found.version if found else None,
            registry.compatibility(name), () if found else _faults(schema, versions),
            versions=tuple(_seen(schema, version) for version in versions),
        )  # fmt: skip


def register_all(registry: SchemaRegistry, settings: Settings, schemas: Schemas) -> list[Subject]:
    """Register what the registry lacks, under its pinned id where the registry lets us, and keep what it holds.

    Raises InputError that names the field, before anything is registered, if a schema is not compatible with all
    versions that are there.
    """
    seen = list(look(registry, settings, schemas))
    faults = [f"{subject.name}: {fault}" for subject in seen for fault in subject.faults]
    if faults:
        raise InputError(
            f"{registry.address.url}: not compatible with what is registered: {'; '.join(faults)}. A field that comes "
            "or goes needs a default, and a type stays; else use another --prefix"
        )
    for subject in seen:
        if subject.compatibility != COMPATIBILITY:
            registry.set_compatibility(subject.name, COMPATIBILITY)
    missing = [subject for subject in seen if subject.schema_id is None]
    are_kept = registry.keep_under({subject.pinned_id: schemas[subject.schema].text for subject in missing})
    return [_registered(registry, subject, schemas[subject.schema].text, are_kept) for subject in seen]


def _registered(registry: SchemaRegistry, subject: Subject, text: str, is_kept: bool) -> Subject:
    is_new = subject.schema_id is None
    if is_new and not is_kept and not registry.versions(subject.name):
        registry.add_under(subject.name, text, subject.pinned_id)
    try:
        schema_id = registry.add(subject.name, text) if is_new else subject.schema_id
    except RefusedError as error:
        raise InputError(f"{registry.address.url}: {subject.name}: the schema is refused: {error.told}") from error
    found = registry.find(subject.name, text)
    return Subject(
        subject.name, subject.schema, subject.pinned_id, schema_id, found.version if found else None,
        COMPATIBILITY, is_new=is_new,
    )  # fmt: skip


def _seen(schema: Schema, version: Version) -> SubjectVersion:
    return SubjectVersion(version.version, version.schema_id, tuple(_unreadable(schema, version)))


def _unreadable(schema: Schema, version: Version) -> list[str]:
    """Why records of a version can't be read. Its record's name is looked at first: by it the schema is found."""
    writer = Writer.parse(version.text or "") if version.is_avro else None
    if writer is None or not writer.record:
        return ["it is no Avro record"]
    if writer.record != schema.raw["name"]:
        return [f"it is the record {writer.record}, expected {schema.raw['name']}"]
    return [str(difference) for difference in reading_faults(schema.raw, writer.raw)]


def subjects_of(settings: Settings, schemas: Schemas) -> list[tuple[str, Schema]]:
    """Subject and schema of every declared topic that has one."""
    topics = Topology.load().topics
    return [(f"{settings.topic(topic.name)}-value", schemas[topic.value]) for topic in topics if topic.value]


def _faults(schema: Schema, versions: Sequence[Version]) -> tuple[str, ...]:
    """Why a schema is not compatible with versions that are there, by field."""
    told = []
    for version in versions:
        if not version.is_avro:
            told.append(f"version {version.version} is no Avro schema")
            continue
        told += [
            f"against version {version.version}, {difference}"
            for difference in differences(schema.raw, json.loads(version.text or "null"))
        ]
    return tuple(told)


def needed_registry(settings: Settings) -> RegistryAddress:
    """The registry, for a command that can't do without. DependencyError tells how to come by one."""
    address = resolve_registry(settings)
    if address is None:
        raise DependencyError(
            f"no schema registry: none runs in {settings.data_dir}; start one with `sep-stream up --with registry`, or "
            "name yours with SEP_SCHEMA_REGISTRY, as http://HOST:PORT/apis/ccompat/v7"
        )
    return address
