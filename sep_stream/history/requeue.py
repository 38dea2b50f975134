"""Publishes refused events again, each at most once: `docs/decisions/requeue.md`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import batched, chain
from typing import Any, Final

import numpy as np

from sep_stream.convert import MarketDataConverter
from sep_stream.convert.machine import HELD, IGNORED
from sep_stream.errors import SepError
from sep_stream.history.event_log import EventLog
from sep_stream.history.refused import REQUEUED_FROM, SOURCE, Letter, RefusedLog
from sep_stream.history.transactions import Outgoing, Transactions
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events
from sep_stream.market.events import NULL, REASON_TEXT, EventBatch, Kind, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.market.timeframes import YEAR_2200_US
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology

TRANSACTION_EVENTS_MAX: Final = 1_000
"""Readers of market.events wait while a transaction is open: few enough to be through in a moment."""
TAIL_RECORDS_MAX: Final = 50_000
"""Of a partition of market.events: what a forecast knows of it."""
HELD_AS_JUMP: Final = "HELD"
_PER_MS: Final = 1_000

_DERIVED: Final = (
    "lay in {topic}: only events of market.events are requeued; windows and metrics are made from them anew, by a "
    "worker with the right settings under a new prefix"
)
_UNREADABLE: Final = "{reason}: requeued as it is, it is refused again; correct the producer and publish the event anew"


@dataclass(slots=True)
class Forecast:
    """What the converter would make of requeued events as of now.

    fate: by Reason's name, HELD_AS_JUMP among them · unjudged: of those that are OK, how many have no event of their
    instrument in the tail of the log to be late against · models: OK ones that put a model in force
    """

    fate: Counter[str] = field(default_factory=Counter)
    unjudged: int = 0
    models: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a requeue will do.

    letters: to be published, with event times, those of a partition in their order · requeued: were so before
    unfit: can't be, and why
    """

    letters: tuple[Letter, ...]
    requeued: tuple[Letter, ...]
    unfit: tuple[tuple[Letter, str], ...]
    forecast: Forecast


class Requeue:
    """Refused events to the end of market.events.

    Raises DependencyError where the broker does not answer or take them: the same can be done again, and publishes
    what was not published before.
    """

    def __init__(self, settings: Settings, topology: Topology, schemas: Schemas) -> None:
        self._settings, self._topology, self._schemas = settings, topology, schemas
        self._events, self._marks = settings.topic("market.events"), settings.topic("requeued")
        self._codec = BulkCodec(*schemas.of("market_event"))
        self._reader, self._refused = LogReader(settings), RefusedLog(settings, schemas)

    def plan(self, letters: Iterable[Letter]) -> Plan:
        """Looks and publishes nothing. Repeats of a letter, which a worker's crash can leave, count once."""
        once: dict[Any, Letter] = {}
        for letter in letters:
            once.setdefault(letter.origin, letter)
        done = self._refused.requeued()
        requeued, unfit, chosen = [], [], []
        by_partition: dict[int, list[Letter]] = defaultdict(list)
        for letter in once.values():
            if str(letter.origin) in done:
                requeued.append(letter)
            elif letter.origin.topic != self._events:
                unfit.append((letter, _DERIVED.format(topic=letter.origin.topic)))
            else:
                by_partition[self._partition(letter)].append(letter)
        forecast = Forecast()
        for partition, candidates in sorted(by_partition.items()):
            fit, unreadable = self._by_event_time(partition, candidates)
            unfit += unreadable
            chosen += fit
            self._judge(partition, fit, forecast)
        return Plan(tuple(chosen), tuple(requeued), tuple(unfit), forecast)

    def publish(self, letters: Sequence[Letter], note: Callable[[str], None]) -> int:
        """Publish the letters of a plan and return how many. Those requeued since it was made are left out."""
        transactions = Transactions(self._settings, "requeue")
        # Asked only now: any requeue begun before is over, published and remembered or neither.
        done = self._refused.requeued()
        left = [letter for letter in letters if str(letter.origin) not in done]
        published = 0
        for chunk in batched(left, TRANSACTION_EVENTS_MAX):
            try:
                transactions.commit(chain.from_iterable(map(self._records, chunk)))
            except SepError as error:
                raise type(error)(f"{error}; {published:,} of {len(left):,} were published before") from error
            published += len(chunk)
            note(f"{published:,} of {len(left):,} published")
        if published:
            transactions.settle()
        return published

    def _partition(self, letter: Letter) -> int:
        """Where its key belongs; a record without a key stays where it was."""
        if letter.key is None:
            return letter.origin.partition
        return partition_for(letter.key, self._settings.partitions)

    def _decode(self, partition: int, letters: Sequence[Letter], offset: int = 0) -> EventBatch:
        """The letters as events of a partition that lie there from `offset` on."""
        keys, values = [letter.key for letter in letters], [letter.value for letter in letters]
        offsets = np.arange(offset, offset + len(letters), dtype=np.int64)
        return decode_events(
            self._codec, self._topology.instruments, keys, values, offsets, partition, self._settings.partitions
        )

    def _by_event_time(self, partition: int, letters: list[Letter]) -> tuple[list[Letter], list[tuple[Letter, str]]]:
        """The letters in the order of their events, and those whose bytes tell no event time, with what is wrong:
        without one a record has no timestamp in market.events."""
        events = self._decode(partition, letters)
        times_us = events.event_time.tolist()
        fit = [
            replace(letter, event_time_us=time_us)
            for letter, time_us in zip(letters, times_us, strict=True)
            if 0 <= time_us < YEAR_2200_US
        ]
        unreadable = [
            (letter, _UNREADABLE.format(reason=REASON_TEXT[Reason(reason) or Reason.BAD_TIME]))
            for letter, time_us, reason in zip(letters, times_us, events.reason.tolist(), strict=True)
            if not 0 <= time_us < YEAR_2200_US
        ]
        return sorted(fit, key=lambda letter: letter.event_time_us or 0), unreadable

    def _judge(self, partition: int, letters: Sequence[Letter], forecast: Forecast) -> None:
        """Feed a converter with the tail of the log, then with the letters: the rules themselves tell their fate."""
        if not letters:
            return
        converter = MarketDataConverter(self._topology.instruments, self._settings.convert_parameters())
        low, high = self._reader.watermarks(self._events, partition)
        start = max(low, high - TAIL_RECORDS_MAX)
        for batch in EventLog(self._settings, self._topology, self._schemas).stretch(partition, start, high):
            converter.feed(batch)
        quiet = (converter.rows["watermark_us"] == NULL) & (start > low)
        events = self._decode(partition, letters, high)
        output = converter.feed(events)
        reason = output.reason.copy()
        for rejection in output.rejections:
            if rejection.row >= 0:
                reason[rejection.row] = rejection.reason
        reason[reason == IGNORED] = Reason.OK
        # Held as the first of its instrument, not as one far ahead of it: used once another follows.
        first = converter.rows["watermark_us"] == NULL
        reason[(reason == HELD) & first[events.instrument]] = Reason.OK
        ok = reason == Reason.OK
        forecast.fate.update(HELD_AS_JUMP if r == HELD else Reason(r).name for r in reason.tolist())
        forecast.unjudged += int(np.count_nonzero(quiet[events.instrument] & ok))
        forecast.models += int(np.count_nonzero((events.kind == Kind.MODEL) & ok))

    def _records(self, letter: Letter) -> tuple[Outgoing, Outgoing]:
        """The event, and the mark that remembers it."""
        origin, place = str(letter.origin), str(letter.place)
        mark = {
            "topic": letter.origin.topic,
            "partition": letter.origin.partition,
            "offset": letter.origin.offset,
            "letter": place,
        }
        time_ms = (letter.event_time_us or 0) // _PER_MS
        headers: list[tuple[str, bytes | None]] = [(SOURCE, origin.encode()), (REQUEUED_FROM, place.encode())]
        return (
            Outgoing(self._events, self._partition(letter), letter.key, letter.value, time_ms, headers, place),
            Outgoing(self._marks, 0, origin, self._schemas.encode("requeued", mark), 0, [], place),
        )
