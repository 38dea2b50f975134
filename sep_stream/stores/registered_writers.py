"""Schemas that records name and this program does not know, looked up in the registry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from sep_stream.errors import DependencyError
from sep_stream.runtime.registry_address import RegistryAddress
from sep_stream.stores.schema_registry import SchemaRegistry

LOOK_S_MAX: Final = 10.0
"""Bound on all requests of one look; a worker waits for them."""
IDS_MAX: Final = 16
"""Ids that are asked for one by one in a look; of more, the subjects' own versions are listed first."""
UNKNOWN_S: Final = 60.0
"""An id that the registry does not know is not asked for again for so long. Not for ever: it may be given later."""
UNKNOWN_MAX: Final = 4096
"""Unknown ids that are remembered; the oldest is forgotten first."""


class RegisteredWriters:
    """Looks ids up when they are first met. Safe to share between threads.

    A flood of ids that nobody registered costs at most IDS_MAX requests and a list of each subject a batch.
    Raises DependencyError where the registry does not answer: then nobody can say whether a record is sound.

    subjects: those whose versions are listed
    """

    def __init__(
        self, address: RegistryAddress, subjects: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._subjects, self._clock = address, subjects, clock
        self._unknown: dict[int, float] = {}
        self._lock = threading.Lock()

    def __call__(self, ids: Sequence[int]) -> dict[int, str]:
        """The texts of those ids that the registry knows."""
        with self._lock:
            new = [schema_id for schema_id in ids if not self._is_known_to_be_unknown(schema_id)]
            if not new:
                return {}
            try:
                with SchemaRegistry(self._address, LOOK_S_MAX) as registry:
                    found = self._listed(registry, new) if len(new) > IDS_MAX else {}
                    asked = [schema_id for schema_id in new if schema_id not in found][:IDS_MAX]
                    texts = {schema_id: registry.schema(schema_id) for schema_id in asked}
            except DependencyError as error:
                raise DependencyError(
                    f"{error}; records name the schema id {new[0]}, which only it can know"
                ) from error
            self._remember([schema_id for schema_id, text in texts.items() if text is None])
            return found | {schema_id: text for schema_id, text in texts.items() if text is not None}

    def _listed(self, registry: SchemaRegistry, ids: Sequence[int]) -> dict[int, str]:
        """Those of the ids that are versions of our subjects."""
        versions = [version for subject in self._subjects for version in registry.versions(subject)]
        return {v.schema_id: v.text or "" for v in versions if v.is_avro and v.schema_id in ids}

    def _is_known_to_be_unknown(self, schema_id: int) -> bool:
        since_s = self._unknown.get(schema_id)
        return since_s is not None and self._clock() - since_s < UNKNOWN_S

    def _remember(self, ids: Sequence[int]) -> None:
        for schema_id in ids:
            self._unknown.pop(schema_id, None)  # so that it comes last again
            self._unknown[schema_id] = self._clock()
        while len(self._unknown) > UNKNOWN_MAX:
            self._unknown.pop(next(iter(self._unknown)))
