"""The declared roles: what each may do to which topics, groups, transactional ids and the cluster."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sep_stream.errors import ConfigurationError

OPERATIONS: Final = {
    "topic": ("read", "write", "create", "delete", "alter", "describe", "describe_configs", "alter_configs"),
    "group": ("read", "delete", "describe"),
    "transactional_id": ("write", "describe"),
    "cluster": ("create", "alter", "describe", "describe_configs", "alter_configs", "idempotent_write"),
}
"""Kafka's, by what they are done to."""
READER_GROUP: Final = "reader"
"""Named by readers that join no group: librdkafka wants one. Nothing is committed to it."""
WHOLE: Final = "="
"""Begins a name that takes no prefix, and that need not be declared."""
_EVERY_TOPIC: Final = "*"
_KEYS: Final = frozenset({"name", "doc", "topics", "groups", "transactional_ids", "cluster", "includes"})


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """resource, operation: of OPERATIONS · name: without the prefix, or a whole one after `=`; "" for the cluster"""

    resource: str
    name: str
    operation: str


@dataclass(frozen=True, slots=True)
class Role:
    """name: also that of its user · grants: sorted, those of included roles among them"""

    name: str
    doc: str
    grants: tuple[Grant, ...]

    def topics(self) -> dict[str, set[str]]:
        """Operations by topic."""
        return self._operations("topic")

    def groups(self) -> dict[str, set[str]]:
        return self._operations("group")

    def _operations(self, resource: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for grant in self.grants:
            if grant.resource == resource:
                found.setdefault(grant.name, set()).add(grant.operation)
        return found


def load_roles(path: Path, topics: Sequence[str]) -> tuple[Role, ...]:
    """The roles of a file over these declared topics.

    Raises ConfigurationError naming the file, the role and what is wrong with it.
    """
    try:
        entries = tomllib.loads(path.read_text()).get("role")
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError(f"{path}: expected tables [[role]]")
    roles: dict[str, Role] = {}
    for entry in entries:
        name = entry.get("name", "?")
        try:
            role = _role(entry, roles, topics)
        except ValueError as error:
            raise ConfigurationError(f"{path}: role {name!r}: {error}") from error
        if name in roles:
            raise ConfigurationError(f"{path}: role {name!r} is declared twice")
        roles[name] = role
    return tuple(roles.values())


def _role(entry: Mapping[str, Any], before: Mapping[str, Role], topics: Sequence[str]) -> Role:
    """Raises ValueError."""
    unknown = entry.keys() - _KEYS
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is not known; known are {', '.join(sorted(_KEYS))}")
    for key in ("name", "doc"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"{key!r} is missing")
    grants = {Grant("cluster", "", operation) for operation in _allowed("cluster", entry.get("cluster", []))}
    for operation, names in entry.get("topics", {}).items():
        grants |= {Grant("topic", name, *_allowed("topic", [operation])) for name in _declared(names, topics)}
    for resource in ("group", "transactional_id"):
        for operation, names in entry.get(f"{resource}s", {}).items():
            grants |= {Grant(resource, name, *_allowed(resource, [operation])) for name in names}
    for name in entry.get("includes", []):
        if name not in before:
            raise ValueError(f"includes {name!r}, which is not declared before it")
        grants |= set(before[name].grants)
    return Role(entry["name"], entry["doc"], tuple(sorted(grants)))


def _allowed(resource: str, operations: Iterable[str]) -> list[str]:
    for operation in operations:
        if operation not in OPERATIONS[resource]:
            raise ValueError(f"{resource}: {operation!r} is no operation; known are {', '.join(OPERATIONS[resource])}")
    return list(operations)


def _declared(names: Sequence[str], topics: Sequence[str]) -> Sequence[str]:
    if list(names) == [_EVERY_TOPIC]:
        return topics
    for name in names:
        if name not in topics and not name.startswith(WHOLE):
            raise ValueError(f"topic {name!r} is not declared; known are {', '.join(topics)}")
    return names
