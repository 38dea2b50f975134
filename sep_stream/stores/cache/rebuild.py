"""Makes the cache anew from the log, while writers go on and readers see the old values until the new ones are whole.

Nothing that a writer has written meanwhile is lost: from `begin` on writers write into the fresh key space too, and
what they wrote before it lies in the log below the ends that are taken after it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from sep_stream.errors import DependencyError
from sep_stream.stores.cache.log import LatestLog
from sep_stream.stores.cache.writer import CacheWriter, Entry, Lost, keep_newest

REBUILD_S_MAX: Final = 300.0
"""For whoever fills a key space now, and for ourselves. A million records take a few seconds."""
_SIGN_INTERVAL_S: Final = 0.5
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """names: values known now, expired ones too · unusable: records that are no values"""

    names: int
    records: int
    unusable: int
    seconds: float


def rebuild(log: LatestLog, writer: CacheWriter) -> Rebuilt:
    """Fold the log into a fresh key space and put it in place. DependencyError where that takes too long."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < REBUILD_S_MAX:
        space = writer.begin()
        if space is None:
            time.sleep(_POLL_S)
            continue
        try:
            return _rebuilt(log, writer, space, begun_s)
        except Lost:
            continue
    raise DependencyError(f"Redis at {writer.address}: the cache could not be made anew in {REBUILD_S_MAX:.0f} s")


def _rebuilt(log: LatestLog, writer: CacheWriter, space: str, begun_s: float) -> Rebuilt:
    starts, ends = log.bounds()
    newest: dict[str, Entry] = {}
    records = unusable = 0
    sign_s = time.monotonic()
    for stretch in log.stretches(starts, ends):
        records += stretch.records
        unusable += stretch.unusable
        keep_newest(newest, stretch.entries)
        if time.monotonic() - sign_s > _SIGN_INTERVAL_S:
            writer.fill(space, ())
            sign_s = time.monotonic()
    writer.fill(space, newest.values())
    return Rebuilt(writer.swap(space), records, unusable, time.monotonic() - begun_s)
