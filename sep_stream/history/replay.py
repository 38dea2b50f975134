"""Publishes part of a topic again, to another topic or prefix: `docs/decisions/replay.md`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from sep_stream.errors import ConfigurationError, InputError, SepError, StateError
from sep_stream.history.merging import Requeued, merged
from sep_stream.history.pacing import in_play_order, paced
from sep_stream.history.refused import UNKNOWN_INSTRUMENT, Place
from sep_stream.history.span import Span
from sep_stream.history.transactions import Outgoing, Transactions
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime import topics
from sep_stream.runtime.log_reader import BATCH_RECORDS_MAX, LogReader, Record
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import TopicDeclaration, Topology

TRANSACTION_RECORDS_MAX: Final = 20_000
TRANSACTION_BYTES_MAX: Final = 32 * 1024 * 1024
PACED_BATCH_RECORDS: Final = 2_000
"""A paced replay reads all partitions at once: few of each are held."""
TAIL_RECORDS_MIN: Final = 100
"""Read first from a target's end, where the last record lies, transactions' markers and aborted records behind it."""
REPLAYED_FROM: Final = "replayed-from"
"""Header: the record's place in the source, as topic/partition/offset."""
REPLAY: Final = "replay"
"""Header: which replay wrote the record, see `Course.id`."""
EARLIEST_MS: Final = 1
"""librdkafka takes the timestamp 0 for "now"."""
_OURS: Final = frozenset({REPLAYED_FROM, REPLAY})
_OF_ONE_PREFIX: Final = frozenset({"snapshot", "requeued"})
"""Schemas of records about the offsets of their own prefix."""
_BY_INSTRUMENT: Final = ("instrument", "instrument|timeframe")
"""Keys, as topology/topics.toml declares them, that tell the instrument."""
_EVENTS: Final = "market.events"


@dataclass(frozen=True, slots=True)
class Course:
    """What is published again, and where to.

    topic: declared name · to_prefix, to_topic: together the target's name · symbols: whose records; none: all
    with_requeued: requeued events in their places, see `merging.merged`
    """

    topic: str
    to_prefix: str
    to_topic: str
    span: Span = field(default_factory=Span)
    symbols: tuple[str, ...] = ()
    with_requeued: bool = False

    def id(self, source: str, decided_by: tuple[object, ...] = ()) -> str:
        """16 hex digits that the records of this replay carry: whoever replays the same again goes on.

        decided_by: what else decides what is published, as JSON takes it
        """
        span = self.span
        told = (
            source, span.start_ms, span.stop_ms, span.start_offset, span.stop_offset, sorted(self.symbols),
            self.with_requeued, decided_by,
        )  # fmt: skip
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Progress:
    """How far a replay is.

    counts: records published, by instrument; those of none under UNKNOWN_INSTRUMENT
    resumed: by partition, the source's offset of the last record that an earlier run had published
    offsets: of the source, to be read in all · left: those not read yet, by partition
    """

    counts: Counter[str] = field(default_factory=Counter)
    resumed: dict[int, int] = field(default_factory=dict)
    offsets: int = 0
    left: dict[int, int] = field(default_factory=dict)

    @property
    def offsets_read(self) -> int:
        return self.offsets - sum(self.left.values())


Note = Callable[[Progress], None]


class Replay:
    """One replay. Making it looks at the source and the target, and changes nothing.

    Raises InputError for a course that can't be taken, and DependencyError where the broker does not answer.
    """

    def __init__(self, settings: Settings, topology: Topology, course: Course) -> None:
        self._course, self._jump_ms = course, settings.max_jump_s * 1_000
        self.source, self.target = settings.topic(course.topic), course.to_prefix + course.to_topic
        self._target_settings = settings.model_copy(update={"prefix": course.to_prefix})
        self._reader, self._target_reader = LogReader(settings), LogReader(self._target_settings)
        self._symbols = {symbol.encode(): symbol for symbol in topology.instruments.symbols}
        self._wanted_keys = {symbol.encode() for symbol in course.symbols}
        _refuse_course(topology, course, self.source, self.target)
        partitions = self._reader.partitions(self.source)
        self._target_partitions = self._partitions_of_target(topology, len(partitions))
        self._spread = self._target_partitions != len(partitions)
        if course.symbols:
            partitions = sorted({partition_for(key, len(partitions)) for key in self._wanted_keys})
        self._stretches = {p: course.span.offsets(self._reader, self.source, p) for p in partitions}
        if all(start >= stop for start, stop in self._stretches.values()):
            raise self._nothing()

    def run(self, speed: float | None = None, append: bool = False, note: Note = lambda _: None) -> Progress:
        """Publish what an earlier run of the same has not published, and return what was done.

        speed: so many times as fast as the records' times; None: as fast as can be · append: also behind records that
        this replay did not write · note: is called often
        """
        progress = Progress()
        requeued = self._requeued()
        replay_id = self._course.id(self.source, requeued.decided_by() if requeued else ()).encode()
        transactions = Transactions(self._target_settings, "replay")
        # Looked up only now: what another run had under way is by now published, or never will be.
        find = self._resume_points_of_all if self._spread else self._resume_points
        progress.resumed = find(replay_id, append)
        try:
            for chunk in chunks(self._records(progress, requeued, speed, note)):
                transactions.commit(self._outgoing(record, replay_id) for record in chunk)
                progress.counts.update(map(self._instrument, chunk))
                note(progress)
            if progress.counts:
                transactions.settle()
        except SepError as error:
            raise type(error)(
                f"{error}; {progress.counts.total():,} records were published before: the same command goes on there"
            ) from error
        if not progress.counts and not progress.resumed:
            raise self._nothing()
        return progress

    def _partitions_of_target(self, topology: Topology, partitions: int) -> int:
        """How many it has. InputError if it is missing, or can't take these records with another count."""
        try:
            found = topics.partitions_of(self._target_settings, self.target)
        except ConfigurationError:
            declared = any(self._course.to_topic == topic.name for topic in topology.topics)
            remedy = f"make it with {partitions} partitions and the settings of {self.source}"
            if declared:
                remedy = f"`sep-stream topics create --prefix {self._course.to_prefix}` makes it"
            raise InputError(f"the target topic {self.target!r} is not there; {remedy}") from None
        if found != partitions and self._course.with_requeued:
            raise InputError(
                f"the target topic {self.target!r} has {found} partitions, {self.source!r} has {partitions}: with "
                f"requeued events replay to a prefix made with SEP_PARTITIONS={partitions}, and that one to this"
            )
        return found

    def _nothing(self) -> InputError:
        whose = f" of {', '.join(self._course.symbols)}" if self._course.symbols else ""
        return InputError(f"{self.source} holds no records{whose} in what is asked for; nothing is published")

    def _requeued(self) -> Requeued | None:
        if not self._course.with_requeued:
            return None
        requeued = Requeued(self.source, self._symbols, self._jump_ms)
        for partition, (start, stop) in self._stretches.items():
            batches = self._reader.read(self.source, partition, start, stop)
            requeued.gather(record for batch in batches for record in batch.records() if self._wanted(record))
        return requeued

    def _resume_points(self, replay_id: bytes, append: bool) -> dict[int, int]:
        """By partition, the source's offset of the last record of this replay in the target."""
        points = {}
        for partition in self._stretches:
            for record in last_first(self._target_reader, self.target, partition):
                headers = dict(record.headers)
                place = Place.of_header(headers.get(REPLAYED_FROM))
                if place is not None and headers.get(REPLAY) == replay_id:
                    points[partition] = place.offset
                    break
                if not append:
                    raise self._not_ours(partition, record)
        return points

    def _resume_points_of_all(self, replay_id: bytes, append: bool) -> dict[int, int]:
        """The same where a source's records lie in several partitions of the target: it is read whole."""
        points: dict[int, int] = {}
        for partition in range(self._target_partitions):
            bounds = self._target_reader.watermarks(self.target, partition)
            foreign = None
            for batch in self._target_reader.read(self.target, partition, *bounds):
                for record in batch.records():
                    headers = dict(record.headers)
                    place = Place.of_header(headers.get(REPLAYED_FROM))
                    foreign = None
                    if place is None or headers.get(REPLAY) != replay_id:
                        foreign = record
                    elif place.partition in self._stretches:
                        points[place.partition] = max(place.offset, points.get(place.partition, -1))
            if foreign is not None and not append:
                raise self._not_ours(partition, foreign)
        return points

    def _not_ours(self, partition: int, record: Record) -> InputError:
        return InputError(
            f"{self.target}/{partition}: the last record there, offset {record.offset}, is not of this replay: to "
            "resume one, repeat its flags (with --with-requeued, events that have come since make it another one; "
            "--until leaves newer ones out); else take a new prefix, or --append to publish behind what is there"
        )

    def _records(
        self, progress: Progress, requeued: Requeued | None, speed: float | None, note: Note
    ) -> Iterator[Record | None]:
        """What is left to publish, in order; None where what came before is to be published without waiting."""
        # With requeued events the order is not that of offsets: it is gone through again from the beginning.
        done = {} if requeued else progress.resumed
        starts = {p: max(start, done.get(p, -1) + 1) for p, (start, _) in self._stretches.items()}
        progress.left = {p: max(0, stop - starts[p]) for p, (_, stop) in self._stretches.items()}
        progress.offsets = sum(progress.left.values())
        batch_records = BATCH_RECORDS_MAX if speed is None else PACED_BATCH_RECORDS

        def stream(partition: int) -> Iterator[Record]:
            read = self._read(partition, starts[partition], batch_records, progress, note)
            if requeued is None:
                return read
            return behind(merged(read, requeued, partition), progress.resumed.get(partition))

        streams = map(stream, self._stretches)
        if speed is None:
            return chain.from_iterable(streams)
        return paced(in_play_order(streams, self._jump_ms), speed, self._jump_ms)

    def _read(self, partition: int, start: int, batch_records: int, progress: Progress, note: Note) -> Iterator[Record]:
        """The wanted records of a partition from an offset on."""
        stop = self._stretches[partition][1]
        for batch in self._reader.read(self.source, partition, start, stop, batch_records):
            yield from filter(self._wanted, batch.records())
            progress.left[partition] = stop - 1 - int(batch.offsets[-1])
            note(progress)
        progress.left[partition] = 0

    def _wanted(self, record: Record) -> bool:
        if not self._course.span.holds_time(record.timestamp_ms):
            return False
        return not self._wanted_keys or _named(record) in self._wanted_keys

    def _instrument(self, record: Record) -> str:
        return self._symbols.get(_named(record), UNKNOWN_INSTRUMENT)

    def _partition(self, record: Record) -> int:
        """In the target: by the key, an instrument's alone or with a timeframe, where the counts differ."""
        if not self._spread:
            return record.partition
        return partition_for(_named(record), self._target_partitions)

    def _outgoing(self, record: Record, replay_id: bytes) -> Outgoing:
        place = f"{self.source}/{record.partition}/{record.offset}"
        headers = [header for header in record.headers if header[0] not in _OURS]
        headers += (REPLAYED_FROM, place.encode()), (REPLAY, replay_id)
        time_ms = max(EARLIEST_MS, record.timestamp_ms)
        return Outgoing(self.target, self._partition(record), record.key, record.value, time_ms, headers, place)


def chunks(records: Iterable[Record | None]) -> Iterator[list[Record]]:
    """The records in groups for a transaction each, none empty, cut where None stands."""
    chunk: list[Record] = []
    size_bytes = 0
    for record in records:
        full = len(chunk) >= TRANSACTION_RECORDS_MAX or size_bytes >= TRANSACTION_BYTES_MAX
        if chunk and (record is None or full):
            yield chunk
            chunk, size_bytes = [], 0
        if record is not None:
            chunk.append(record)
            size_bytes += len(record.value or b"")
    if chunk:
        yield chunk


def behind(records: Iterable[Record], offset: int | None) -> Iterator[Record]:
    """The records that follow the one with this offset; all where it is None. StateError if it is not among them."""
    records = iter(records)
    if offset is not None and not any(record.offset == offset for record in records):
        raise StateError(f"offset {offset}, which was replayed before, is no longer among the records to be replayed")
    return records


def last_first(reader: LogReader, topic: str, partition: int) -> Iterator[Record]:
    """The records of a partition from the last to the first, read in ever longer stretches."""
    low, stop = reader.watermarks(topic, partition)
    length = TAIL_RECORDS_MIN
    while stop > low:
        start = max(low, stop - length)
        batches = list(reader.read(topic, partition, start, stop))
        for batch in reversed(batches):
            yield from reversed(list(batch.records()))
        stop, length = start, min(10 * length, BATCH_RECORDS_MAX)


def _named(record: Record) -> bytes:
    """What a key names: an instrument, alone or before a timeframe."""
    return (record.key or b"").partition(b"|")[0]


def _refuse_course(topology: Topology, course: Course, source: str, target: str) -> None:
    """Raises InputError for what can't be asked for, whatever the topics hold."""
    declared = {topic.name: topic for topic in topology.topics}
    topic, to_topic = topology.topic(course.topic), declared.get(course.to_topic)
    if source == target:
        raise InputError(f"{source} can't be replayed into itself; name another --to-prefix or --to-topic")
    if topic.value in _OF_ONE_PREFIX:
        raise InputError(f"{source} is about offsets of its own prefix, which mean nothing elsewhere")
    if to_topic is not None and _kind(to_topic) != _kind(topic):
        raise InputError(
            f"{course.to_topic} holds {to_topic.value} records by {to_topic.key}, {course.topic} holds {topic.value} "
            f"records by {topic.key}"
        )
    if course.symbols and topic.key not in _BY_INSTRUMENT:
        raise InputError(f"the keys of {course.topic} name no instrument, but {topic.key}: leave out --instrument")
    if course.with_requeued and course.topic != _EVENTS:
        raise InputError(f"only {_EVENTS} has requeued events, {course.topic} has none")


def _kind(topic: TopicDeclaration) -> tuple[str, str]:
    return topic.value, topic.key
