"""Notices that an input topic was deleted under a running worker: its group would wait for it without end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from confluent_kafka.admin import AdminClient

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topics import connected_admin, ids_of

CHECK_INTERVAL_S: Final = 5.0
MISSES_MAX: Final = 2
"""A broker that has just started may not know all of its topics yet."""


class InputTopics:
    """The topics that a worker reads. remedies: by full name, what to do where one was deleted"""

    def __init__(self, settings: Settings, remedies: Mapping[str, str]) -> None:
        self._settings, self._remedies = settings, remedies
        self._admin: AdminClient | None = None
        self._ids: dict[str, str] = {}
        self._misses: dict[str, int] = {}

    async def watch(self) -> None:
        """Raises StateError, which names the topic, once one is gone or was made anew. A broker that does not answer
        is watched elsewhere."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                found = await asyncio.to_thread(self._found)
            except DependencyError:
                continue
            self.check(found)

    def _found(self) -> dict[str, str]:
        if self._admin is None:
            self._admin = connected_admin(self._settings)
        return ids_of(self._admin, self._settings, list(self._remedies))

    def check(self, found: Mapping[str, str]) -> None:
        """Compare the ids by topic with those found before."""
        for name, remedy in self._remedies.items():
            topic_id = found.get(name)
            self._misses[name] = 0 if topic_id is not None else self._misses.get(name, 0) + 1
            if self._misses[name] >= MISSES_MAX:
                raise StateError(f"topic {name!r} was deleted while the worker ran; {remedy}")
            if topic_id is not None and self._ids.setdefault(name, topic_id) != topic_id:
                raise StateError(f"topic {name!r} was deleted and made anew while the worker ran; {remedy}")
