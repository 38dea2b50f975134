"""Proof that a worker goes on: of each partition that it has, and of its place in each group.

A partition goes on if its committed offset, what is fetched of it or the work on it moves, or if nothing is left to
read. A member is one as long as its group's coordinator says so. What does not go on is told within 10 s and ends the
process after ENDS_AFTER_S: a new process does better than one that stands still.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.asker import settled
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.worker.batches import Place

CHECK_INTERVAL_S: Final = 2.0
ANSWER_S_MAX: Final = 5.0
TOLD_AFTER_S: Final = 7.0
"""With two looks on top, told within 10 s or so."""
WORK_S_MAX: Final = 60.0
"""A fetch may be worked on for so long, without a sign of life, before its partition counts as standing still."""
ENDS_AFTER_S: Final = 120.0
"""Longer than a group waits for a member that does not answer: that one is at fault then, and not this."""

log = structlog.get_logger(__name__)


class OwnWord(NamedTuple):
    """What a member says. member_id: empty until it has joined · position: the offset fetched next, by partition ·
    in_flight: partitions of which a fetch is being worked on · alive: counts signs of life of that work"""

    group: str
    member_id: str
    position: Mapping[Place, int | None]
    in_flight: frozenset[Place]
    alive: int


class BrokersWord(NamedTuple):
    """What the broker says of the member's group. members: their partitions by id · committed, end: by partition, the
    end for readers of committed records"""

    members: Mapping[str, frozenset[Place]]
    committed: Mapping[Place, int]
    end: Mapping[Place, int]


class Fault(NamedTuple):
    """Something that does not go on. what: a partition or a group"""

    what: str
    still_s: float
    about: str


@dataclass(slots=True)
class _Standing:
    moves: object
    still_s: float = 0.0
    told: bool = False


class Progress:
    """Judges a group look by look. only_markers: does a partition hold no record from an offset on up to another? The
    ends of transactions, and what they aborted, are no records. It is asked where offsets alone don't tell."""

    def __init__(self, only_markers: Callable[[Place, int, int], bool]) -> None:
        self._only_markers = only_markers
        self._standing: dict[str, _Standing] = {}
        self.faults: list[Fault] = []
        """As of the last look."""

    def look(self, own: OwnWord, brokers: BrokersWord, elapsed_s: float) -> list[Fault]:
        """What does not go on. elapsed_s: since the last look, without time in which this process itself stood still"""
        given = brokers.members.get(own.member_id)
        found = {f"group {own.group}": self._membership(own, given is not None, elapsed_s)}
        places = own.position.keys() | (given or frozenset())
        found |= {str(place): self._partition(place, own, brokers, elapsed_s) for place in sorted(places)}
        self._standing = {what: self._standing[what] for what in found}
        self.faults = [fault for fault in found.values() if fault is not None]
        return self.faults

    def _membership(self, own: OwnWord, is_member: bool, elapsed_s: float) -> Fault | None:
        what = f"group {own.group}"
        standing = self._stand(what, is_member, is_member, elapsed_s)
        return self._judged(what, standing, standing.still_s, "its coordinator does not know this worker as a member")

    def _partition(self, place: Place, own: OwnWord, brokers: BrokersWord, elapsed_s: float) -> Fault | None:
        committed, end = brokers.committed.get(place, 0), brokers.end.get(place, 0)
        is_read, in_flight = place in own.position, place in own.in_flight
        position = own.position.get(place) or 0
        moves = (committed, position, is_read, own.alive if in_flight else None)
        standing = self._stand(str(place), moves, is_read and committed >= end, elapsed_s)
        still_s = standing.still_s - (WORK_S_MAX if in_flight else 0.0)
        if still_s >= TOLD_AFTER_S and is_read and not in_flight and self._only_markers(place, committed, end):
            standing.still_s = still_s = 0.0
        if not is_read:
            doing = "was given to this worker, which does not read it"
        elif in_flight:
            doing = f"was read up to offset {position}, and what was read is still worked on"
        else:
            doing = f"was read up to offset {position}, and nothing is worked on"
        about = f"group {own.group} has committed offset {committed} of {end}; the partition {doing}"
        return self._judged(str(place), standing, still_s, about)

    def _stand(self, what: str, moves: object, is_fine: bool, elapsed_s: float) -> _Standing:
        standing = self._standing.setdefault(what, _Standing(moves))
        standing.still_s = 0.0 if is_fine or standing.moves != moves else standing.still_s + elapsed_s
        standing.moves = moves
        return standing

    def _judged(self, what: str, standing: _Standing, still_s: float, about: str) -> Fault | None:
        stands = still_s >= TOLD_AFTER_S
        if stands != standing.told:
            standing.told = stands
            if stands:
                log.error("stands still", what=what, seconds=round(still_s), about=about)
            else:
                log.info("goes on again", what=what)
        return Fault(what, still_s, about) if stands else None


class Member(Protocol):
    """A member of a group. Any thread may ask it."""

    def own_word(self) -> OwnWord: ...


class ProgressWatch:
    """Looks at the members of this process regularly, on a thread of its own: the event loop may be what stands still.

    end: called with the StateError for what has stood still for ENDS_AFTER_S
    """

    def __init__(self, settings: Settings, members: Sequence[Member], end: Callable[[StateError], None]) -> None:
        self._members, self._end = members, end
        self._admin = AdminClient(librdkafka(settings))
        self._reader = LogReader(settings, ANSWER_S_MAX)
        self._progress = [Progress(self._only_markers) for _ in members]
        self._stopping = threading.Event()
        self.looks_failed = 0
        """The broker did not answer: for how long it may not is another watch's affair."""

    @property
    def faults(self) -> list[Fault]:
        """What does not go on, as of the last look."""
        return [fault for progress in self._progress for fault in progress.faults]

    def start(self) -> None:
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        seen_s = time.monotonic()
        while not self._stopping.wait(CHECK_INTERVAL_S):
            now_s = time.monotonic()
            # Time in which the whole process stood still, stopped or starved, is nobody's fault.
            elapsed_s, seen_s = min(now_s - seen_s, 2 * CHECK_INTERVAL_S), now_s
            for member, progress in zip(self._members, self._progress, strict=True):
                try:
                    faults = self._look(member.own_word(), progress, elapsed_s)
                except (KafkaException, DependencyError):
                    self.looks_failed += 1
                    continue
                worst = max(faults, key=lambda fault: fault.still_s, default=None)
                if worst is not None and worst.still_s >= ENDS_AFTER_S:
                    self._end(_ending(worst))
                    return

    def _look(self, own: OwnWord, progress: Progress, elapsed_s: float) -> list[Fault]:
        return progress.look(own, self._brokers_word(own), elapsed_s)

    def _brokers_word(self, own: OwnWord) -> BrokersWord:
        described = self._admin.describe_consumer_groups([own.group], request_timeout=ANSWER_S_MAX)[own.group]
        request = [ConsumerGroupTopicPartitions(own.group)]
        offsets = self._admin.list_consumer_group_offsets(request, request_timeout=ANSWER_S_MAX)[own.group]
        members = {
            member.member_id: frozenset(Place(tp.topic, tp.partition) for tp in member.assignment.topic_partitions)
            for member in settled(described, ANSWER_S_MAX).members
        }
        places = own.position.keys() | members.get(own.member_id, frozenset())
        ends = self._admin.list_offsets(
            {TopicPartition(*place): OffsetSpec.latest() for place in places},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=ANSWER_S_MAX,
        ) if places else {}  # fmt: skip
        committed = settled(offsets, ANSWER_S_MAX).topic_partitions
        return BrokersWord(
            members,
            {Place(tp.topic, tp.partition): tp.offset for tp in committed if tp.offset >= 0},
            {Place(tp.topic, tp.partition): settled(end, ANSWER_S_MAX).offset for tp, end in ends.items()},
        )

    def _only_markers(self, place: Place, start: int, end: int) -> bool:
        try:
            low, high = self._reader.watermarks(*place)
            return not any(map(len, self._reader.read(*place, max(low, start), min(end, high))))
        except DependencyError:  # the broker answers, but does not hand out these records
            return False


def _ending(fault: Fault) -> StateError:
    return StateError(
        f"{fault.what}: has stood still for {fault.still_s:.0f} s: {fault.about}; start the worker again, which loses "
        "nothing; if that does not help, its log and the broker's tell more"
    )
