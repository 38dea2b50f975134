"""`RefusedLog`: what `late` and `dead.letters` hold, counted and searched in bulk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec, VarColumn
from sep_stream.market.events import NULL, REFUSALS, Reason
from sep_stream.runtime.log_reader import SILENCE_S_MAX, LogReader, RecordBatch
from sep_stream.runtime.settings import Settings
from sep_stream.stores.schemas import schemas_in_force

REFUSED_TOPICS: Final = ("dead.letters", "late")
UNKNOWN_INSTRUMENT: Final = "?"
"""Asks for letters whose instrument is not known."""
SOURCE: Final = "source"
"""Header of a requeued event: where it lay when it was refused, as topic/partition/offset."""
REQUEUED_FROM: Final = "requeued-from"
"""Header of a requeued event: its letter."""

_CORRECT: Final = "correct the producer and publish the event anew: requeued as it is, it is refused again"
REMEDY: Final[Mapping[str, str]] = dict.fromkeys((reason.name for reason in REFUSALS), _CORRECT) | {
    Reason.INCOMPATIBLE_SCHEMA.name: "correct the producer's schema: `sep-stream schemas check` names the field",
    Reason.UNKNOWN_SCHEMA.name: "run a version that knows the schema, then requeue it; or correct the producer",
    Reason.UNKNOWN_INSTRUMENT.name: "declare the instrument in topology/instruments.toml, start the workers anew, then "
    "requeue it; for a name of another system, publish it anew under the symbol",
    Reason.KEY_MISMATCH.name: "publish it anew with the instrument's symbol as its key: requeueing keeps the key",
    Reason.WRONG_PARTITION.name: "requeue it: it goes to the partition of its key; and correct the producer's "
    "partitioner",
    Reason.JUMP.name: "if its time is right, requeue it once newer events have come; else correct the source's clock",
    Reason.LATE.name: "none in this log: its minute stays closed; requeued, it is late again",
    Reason.UNKNOWN_SYMBOL.name: "run a version that knows it; or correct the producer",
    Reason.PARAMETERS.name: "run this stage with the settings that made the record, or process market.events under a "
    "new prefix",
}
"""What helps, by code."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies, written topic/partition/offset."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def of_header(cls, value: bytes | None) -> Self | None:
        """The place that a record's header names; None if it names none."""
        topic, *numbers = (value or b"").decode(errors="replace").rsplit("/", 2)
        if len(numbers) != 2 or not all(n.isascii() and n.isdecimal() for n in numbers):
            return None
        return cls(topic, *map(int, numbers))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InputError for what is no place in `late` or `dead.letters`."""
        topic, *numbers = text.rsplit("/", 2)
        if topic not in REFUSED_TOPICS or len(numbers) != 2 or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise InputError(f"expected dead.letters/PARTITION/OFFSET or late/PARTITION/OFFSET, got {text!r}")
        return cls(topic, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class Letter:
    """A refused record. place: its own, the topic without prefix · origin: where the refused record lies, the topic
    with it · refused_ms: when the broker took it · instrument, event_time_us: where they are known"""

    place: Place
    origin: Place
    refused_ms: int
    code: str
    reason: str
    instrument: str | None
    event_time_us: int | None
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: codes of any reason where empty · instrument: a symbol, UNKNOWN_INSTRUMENT, or None for any
    start_us, stop_us: start <= event time < stop; with either, those without an event time are not wanted"""

    topics: tuple[str, ...] = REFUSED_TOPICS
    codes: frozenset[str] = frozenset()
    instrument: str | None = None
    start_us: int | None = None
    stop_us: int | None = None


Counts = Counter[tuple[str, str, str | None]]
"""Letters by topic, code and instrument."""


@dataclass(frozen=True, slots=True)
class Tally:
    """uncounted: older records, beyond the bound · unreadable: records that are no letter"""

    counts: Counts
    uncounted: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Found:
    """letters: the newest that are wanted, at most as many as asked for, in the order of the log · counts: of all that
    are wanted · undated: left out because their event time is not known · unreadable: records that are no letter"""

    letters: tuple[Letter, ...]
    counts: Counts
    undated: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Original:
    """What a letter does not repeat of the refused record."""

    timestamp_ms: int
    headers: tuple[tuple[str, bytes | None], ...]


class RefusedLog:
    """Reads `late` and `dead.letters` as they stand when a read begins. Raises what LogReader raises."""

    def __init__(self, settings: Settings, schemas: Schemas | None = None) -> None:
        self._settings = settings
        self._codec = BulkCodec(*(schemas or schemas_in_force(settings)).of("rejected"))
        self._reader = LogReader(settings)

    def tally(self, topic: str, records_max: int) -> Tally:
        """Counts of the newest records, about `records_max`: as many of each partition, and no others are read."""
        counts: Counts = Counter()
        uncounted = unreadable = 0
        bounds = self._bounds(topic)
        for partition, low, high in bounds:
            start = max(low, high - records_max // len(bounds))
            uncounted += start - low
            for stretch in self._stretches(topic, partition, start, high):
                counts += stretch.counts(np.flatnonzero(stretch.readable))
                unreadable += int(np.count_nonzero(~stretch.readable))
        return Tally(counts, uncounted, unreadable)

    def search(self, wanted: Wanted, letters_max: int) -> Found:
        """All that is wanted is counted; the newest `letters_max` are given. One pass, in bounded memory."""
        counts: Counts = Counter()
        newest: list[Letter] = []
        undated = unreadable = 0
        for topic in wanted.topics:
            for bounds in self._bounds(topic):
                for stretch in self._stretches(topic, *bounds):
                    rows, without_time = stretch.matching(wanted)
                    counts += stretch.counts(rows)
                    undated += without_time
                    unreadable += int(np.count_nonzero(~stretch.readable))
                    last = stretch.letters(rows[-letters_max:] if letters_max else rows[:0])
                    newest = nlargest(letters_max, [*newest, *last], key=_age)
        return Found(tuple(sorted(newest, key=_log_order)), counts, undated, unreadable)

    def letter(self, place: Place) -> Letter:
        """The letter at a place. Raises InputError where there is none."""
        name = self._settings.topic(place.topic)
        partitions = self._reader.partitions(name)
        if place.partition not in partitions:
            raise InputError(f"{place}: {name} has partitions 0 to {partitions[-1]}")
        low, high = self._reader.watermarks(name, place.partition)
        if not low <= place.offset < high:
            held = f"the offsets {low} to {high - 1}" if high > low else "none"
            raise InputError(f"{place}: there is no such record; the partition holds {held}")
        for stretch in self._stretches(place.topic, place.partition, place.offset, place.offset + 1):
            if not stretch.readable.all():
                raise InputError(
                    f"{place}: not an Avro Rejected ({Reason(int(stretch.errors[0])).name}): no worker wrote it"
                )
            return next(stretch.letters(np.zeros(1, np.intp)))
        raise InputError(f"{place}: there is no record at this offset, only a transaction's marker")

    def original(self, letter: Letter) -> Original | None:
        """The refused record's timestamp and headers; None where it is no longer in its topic."""
        topic, partition, offset = letter.origin.topic, letter.origin.partition, letter.origin.offset
        if partition not in self._reader.partitions(topic):
            return None
        low, high = self._reader.watermarks(topic, partition)
        if not low <= offset < high:
            return None
        follower = self._reader.follow(topic, {partition: offset})
        deadline_s = time.monotonic() + SILENCE_S_MAX
        try:
            while time.monotonic() < deadline_s:
                for message in follower.poll(0.2):
                    found = message.offset() == offset
                    return Original(message.timestamp()[1], tuple(message.headers() or ())) if found else None
        finally:
            follower.close()
        return None

    def requeued(self) -> set[str]:
        """The origins of the letters whose events were published again, each as topic/partition/offset."""
        return {
            key.decode()
            for bounds in self._bounds("requeued")
            for batch in self._reader.read(self._settings.topic("requeued"), *bounds)
            for key in batch.keys
            if key is not None
        }

    def _bounds(self, topic: str) -> list[tuple[int, int, int]]:
        """(partition, first offset, next offset)"""
        name = self._settings.topic(topic)
        return [(partition, *self._reader.watermarks(name, partition)) for partition in self._reader.partitions(name)]

    def _stretches(self, topic: str, partition: int, start: int, stop: int) -> Iterator[_Stretch]:
        for batch in self._reader.read(self._settings.topic(topic), partition, start, stop):
            decoded = self._codec.decode(batch.values)
            yield _Stretch(topic, partition, batch, decoded.columns, decoded.errors)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Decoded records of a partition. errors: (n,) uint8 of Reason"""

    topic: str
    partition: int
    batch: RecordBatch
    columns: Mapping[str, Any]
    errors: npt.NDArray[np.uint8]

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        return self.errors == Reason.OK

    def matching(self, wanted: Wanted) -> tuple[npt.NDArray[np.intp], int]:
        """The rows that are wanted, and how many more would be if their event time were known."""
        keep = self.readable
        if wanted.codes:
            keep &= _is_one_of(self.columns["code"], {code.encode() for code in wanted.codes})
        if wanted.instrument is not None:
            column = self.columns["instrument"]
            unknown = wanted.instrument == UNKNOWN_INSTRUMENT
            keep &= column.length < 0 if unknown else _is_one_of(column, {wanted.instrument.encode()})
        if wanted.start_us is None and wanted.stop_us is None:
            return np.flatnonzero(keep), 0
        time_us = self.columns["event_time"]
        undated = int(np.count_nonzero(keep & (time_us == NULL)))
        keep &= time_us != NULL
        if wanted.start_us is not None:
            keep &= time_us >= wanted.start_us
        if wanted.stop_us is not None:
            keep &= time_us < wanted.stop_us
        return np.flatnonzero(keep), undated

    def counts(self, rows: npt.NDArray[np.intp]) -> Counts:
        codes, code_table = self.columns["code"].take(rows).intern()
        instruments, table = self.columns["instrument"].take(rows).intern()
        pairs, number = np.unique(np.stack((codes, instruments)), axis=1, return_counts=True)
        return Counter(
            {
                (self.topic, code_table[code].decode(), None if i < 0 else table[i].decode()): count
                for (code, i), count in zip(pairs.T.tolist(), number.tolist(), strict=True)
            }
        )

    def letters(self, rows: npt.NDArray[np.intp]) -> Iterator[Letter]:
        def of(name: str) -> list[Any]:
            column = self.columns[name]
            return column.take(rows).to_list() if isinstance(column, VarColumn) else column[rows].tolist()

        places = (Place(self.topic, self.partition, offset) for offset in self.batch.offsets[rows].tolist())
        origins = (
            Place(topic.decode(), partition, offset)
            for topic, partition, offset in zip(of("topic"), of("partition"), of("offset"), strict=True)
        )
        columns = (of(name) for name in ("code", "reason", "instrument", "event_time", "key", "value"))
        refused_ms = self.batch.timestamps_ms[rows].tolist()
        for place, origin, ms, code, reason, instrument, time_us, key, value in zip(
            places, origins, refused_ms, *columns, strict=True
        ):
            yield Letter(
                place,
                origin,
                ms,
                code.decode(),
                reason.decode(),
                None if instrument is None else instrument.decode(),
                None if time_us == NULL else time_us,
                key,
                value,
            )


def _log_order(letter: Letter) -> tuple[str, int, int]:
    return letter.place.topic, letter.place.partition, letter.place.offset


def _age(letter: Letter) -> tuple[int, tuple[str, int, int]]:
    return letter.refused_ms, _log_order(letter)


def _is_one_of(column: VarColumn, names: set[bytes]) -> npt.NDArray[np.bool_]:
    """(n,) bool"""
    codes, table = column.intern()
    return np.array([*(name in names for name in table), False], np.bool_)[codes]
