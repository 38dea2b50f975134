"""The declared topics, instruments and roles."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sep_stream.errors import ConfigurationError
from sep_stream.market.instruments import Instruments
from sep_stream.runtime.resources import resource
from sep_stream.runtime.roles import Role, load_roles

PARTITIONED_BY: Final = ("instrument", "single")


@dataclass(frozen=True, slots=True)
class TopicDeclaration:
    """A topic as `topology/topics.toml` declares it, without prefix.

    value: name of its schema; "" where its records have none of ours
    partitioned_by: `instrument` (the deployment's partition count) or `single`
    config: Kafka's topic settings · former: values of them that earlier versions declared
    """

    name: str
    value: str
    key: str
    partitioned_by: str
    doc: str
    config: Mapping[str, str]
    former: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Topology:
    topics: tuple[TopicDeclaration, ...]
    instruments: Instruments
    roles: tuple[Role, ...]
    _by_name: dict[str, TopicDeclaration] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {topic.name: topic for topic in self.topics})

    @classmethod
    def load(cls) -> Topology:
        """The topology of this package. Raises ConfigurationError naming the file and the entry that is wrong."""
        folder = resource("topology")
        path = folder / "instruments.toml"
        topics = _topics(folder / "topics.toml")
        roles = load_roles(folder / "roles.toml", [topic.name for topic in topics])
        return cls(topics, Instruments.from_toml(path.read_text(), str(path)), roles)

    def topic(self, name: str) -> TopicDeclaration:
        """The topic with this name, without prefix."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(self._by_name)
            raise ConfigurationError(f"topic {name!r} is not declared; known are {known}") from None

    def role(self, name: str) -> Role:
        """The role with this name."""
        for role in self.roles:
            if role.name == name:
                return role
        raise ConfigurationError(f"role {name!r} is not declared; known are {', '.join(r.name for r in self.roles)}")


def _topics(path: Path) -> tuple[TopicDeclaration, ...]:
    try:
        document = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    cleanup, entries, former = document.get("cleanup"), document.get("topic"), document.get("former", {})
    if not isinstance(cleanup, dict) or not isinstance(entries, list):
        raise ConfigurationError(f"{path}: expected tables [cleanup.NAME] and [[topic]]")
    topics = tuple(_topic(path, entry, cleanup, former) for entry in entries)
    for name, count in Counter(topic.name for topic in topics).items():
        if count > 1:
            raise ConfigurationError(f"{path}: topic {name!r} is declared {count} times")
    return topics


def _topic(
    path: Path,
    entry: Mapping[str, Any],
    cleanup: Mapping[str, Mapping[str, Any]],
    former: Mapping[str, Mapping[str, Sequence[Any]]],
) -> TopicDeclaration:
    name = entry.get("name", "?")
    try:
        config = {**cleanup[entry["cleanup"]], **entry.get("config", {})}
        declaration = TopicDeclaration(
            name=entry["name"],
            value=entry["value"],
            key=entry["key"],
            partitioned_by=entry["partitioned_by"],
            doc=entry["doc"],
            config={key: str(value) for key, value in config.items()},
            former={key: tuple(map(str, values)) for key, values in former.get(entry["cleanup"], {}).items()},
        )
    except KeyError as error:
        raise ConfigurationError(f"{path}: topic {name!r}: {error.args[0]!r} is missing or not declared") from error
    if declaration.partitioned_by not in PARTITIONED_BY:
        raise ConfigurationError(f"{path}: topic {name!r}: partitioned_by is one of {', '.join(PARTITIONED_BY)}")
    return declaration
