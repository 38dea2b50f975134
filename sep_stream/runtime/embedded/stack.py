"""The parts of the embedded stack, in the order in which they start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from sep_stream.runtime.embedded.connect import EmbeddedConnect
from sep_stream.runtime.embedded.daemon import Part, PartStatus
from sep_stream.runtime.embedded.kafka import EmbeddedKafka
from sep_stream.runtime.embedded.postgres import EmbeddedPostgres
from sep_stream.runtime.embedded.redis import EmbeddedRedis
from sep_stream.runtime.embedded.registry import EmbeddedRegistry
from sep_stream.runtime.jars import Progress

_PARTS: Final[Mapping[str, Callable[[Path], Part]]] = {
    "kafka": EmbeddedKafka,
    "registry": EmbeddedRegistry,
    "postgres": EmbeddedPostgres,
    "redis": EmbeddedRedis,
    "connect": EmbeddedConnect,
}
"""In the order in which they start: each needs none after it."""
OPTIONAL_PARTS: Final = tuple(name for name in _PARTS if name != "kafka")
"""What `up --with` can add to the broker."""


class EmbeddedStack:
    """The servers of a data folder: the broker, and what was asked for beside it. kafka_port: see `EmbeddedKafka`"""

    def __init__(self, data_dir: Path, kafka_port: int | None = None) -> None:
        self.data_dir = data_dir
        self._parts = {name: make(data_dir) for name, make in _PARTS.items()}
        self._parts["kafka"] = EmbeddedKafka(data_dir, kafka_port)

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def start(self, names: Iterable[str], progress: Progress, secure: bool = False) -> Iterator[tuple[Part, str]]:
        """Start these parts; each with its address once it answers."""
        wanted = set(names)
        for name, part in self._parts.items():
            if name in wanted:
                yield part, part.start(progress, secure)

    def stop(self) -> list[Part]:
        """Stop what runs, the last started first; returns what was stopped."""
        return [part for part in reversed(self._parts.values()) if part.stop()]

    def wipe(self) -> None:
        """Delete the data of all parts; none may run."""
        for part in reversed(self._parts.values()):
            part.wipe()

    def statuses(self) -> list[PartStatus]:
        return [part.status() for part in self]
