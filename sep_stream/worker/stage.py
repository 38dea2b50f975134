"""What the agents have in common: a batch in, records out, acknowledged in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import structlog

from sep_stream.market.bulk_avro import BulkCodec, Decoded, VarColumn
from sep_stream.market.events import NULL, REASON_TEXT, Reason
from sep_stream.runtime.log_reader import Record
from sep_stream.wire import Symbols
from sep_stream.worker.batches import Batch, Fetched
from sep_stream.worker.failpoints import reach
from sep_stream.worker.outbox import MESSAGE_BYTES_MAX, RECORD_ROOM_BYTES, Delivery, Outbox, Outgoing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Processed:
    """What batches gave. snapshots: to be sent once these and all earlier outputs are acknowledged."""

    outputs: Sequence[Outgoing] = ()
    snapshots: Sequence[Outgoing] = ()


class Stage(Protocol):
    """A stage of the pipeline. name: also that of its consumer group, after the prefix · topics: what it reads."""

    name: str

    @property
    def topics(self) -> tuple[str, ...]: ...

    async def process(self, batches: Sequence[Batch]) -> Processed:
        """Outputs of batches, those of a partition in their order; none of one whose epoch passes in the meantime."""


class Member(Protocol):
    """What an agent asks of the member of its group."""

    def is_current(self, batch: Batch) -> bool: ...

    def acknowledge(self, fetched: Fetched) -> None: ...


class BatchAgent:
    """Runs a stage over what its member fetches: sends what it gives, acknowledges in order, and fails loudly.

    What was fetched while the stage was at work it takes together next: while few records come, what a stage costs
    it costs for each call. fail: called with each error; the process is expected to end. Nothing is processed or
    acknowledged after it. records_max: taken at once, or a single fetch
    """

    def __init__(
        self, member: Member, stage: Stage, outbox: Outbox, fail: Callable[[BaseException], None], records_max: int
    ) -> None:
        self._member, self._stage, self._outbox, self._fail = member, stage, outbox, fail
        self._records_max = records_max
        self._waiting: deque[Fetched] = deque()
        self._work: asyncio.Task[None] | None = None
        self._acknowledged: asyncio.Task[None] | None = None
        self._broken = False

    async def run(self, stream: Any) -> None:
        async for fetched in stream.noack():
            self._waiting.append(fetched)
            if self._work is None or self._work.done():
                self._work = self._watched(self._process_waiting())

    async def _process_waiting(self) -> None:
        while self._waiting and not self._broken:
            taken = self._taken()
            current = [batch for fetched in taken for batch in fetched.batches if self._member.is_current(batch)]
            processed = await self._stage.process(current) if current else Processed()
            reach(f"{self._stage.name}.before_send")
            delivery = await self._outbox.send(processed.outputs)
            acknowledging = self._acknowledge(taken, processed.snapshots, delivery, self._acknowledged)
            self._acknowledged = self._watched(acknowledging)

    def _taken(self) -> list[Fetched]:
        taken = [self._waiting.popleft()]
        records = len(taken[0])
        while self._waiting and records + len(self._waiting[0]) <= self._records_max:
            taken.append(self._waiting.popleft())
            records += len(taken[-1])
        return taken

    async def _acknowledge(
        self,
        taken: Sequence[Fetched],
        snapshots: Sequence[Outgoing],
        delivery: Delivery,
        previous: asyncio.Task[None] | None,
    ) -> None:
        """Batches whose epoch has passed may be among them: nothing is committed for those."""
        await delivery.future
        reach(f"{self._stage.name}.after_send")
        if previous is not None:
            await previous
        if snapshots:
            reach(f"{self._stage.name}.before_snapshot")
            await (await self._outbox.send(snapshots)).future
            reach(f"{self._stage.name}.after_snapshot")
        for fetched in taken:
            self._member.acknowledge(fetched)

    async def save(self, snapshots: Sequence[Outgoing]) -> None:
        """Send snapshots of states whose outputs are all acknowledged, and wait until the broker has them."""
        if snapshots and not self._broken:
            reach(f"{self._stage.name}.before_last_snapshot")
            await (await self._outbox.send(snapshots)).future

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            error = task.exception()
            if error is not None:
                self._broken = True
                self._fail(error)


class Rows:
    """The records of some batches of a topic, one batch after the other. partition, offset: (n,) int64 · keys, values:
    n long"""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._records = [batch.records for batch in batches]
        self.partition = np.repeat([batch.partition for batch in batches], [len(batch) for batch in batches])
        self.offset = np.concatenate([records.offsets for records in self._records] or [np.empty(0, np.int64)])
        self.keys = list(chain.from_iterable(records.keys for records in self._records))
        self.values = list(chain.from_iterable(records.values for records in self._records))

    def __len__(self) -> int:
        return len(self.offset)

    def whole(self) -> Iterator[Record]:
        """One by one, with their timestamps and headers."""
        for records in self._records:
            yield from records.records()


_HOST: Final = socket.gethostname()


Headers = list[tuple[str, bytes]]


def origin(topic: str, engine: str) -> Callable[[int, int], Headers]:
    """Headers of an output by partition and offset of the record behind it: they tell where it came from, values
    don't."""
    place = topic.encode()
    made_by = ("made-by", f"{engine}@{_HOST}".encode())

    def headers(partition: int, offset: int) -> Headers:
        return [("source", b"%b/%d/%d" % (place, partition, offset)), made_by]

    return headers


class Refused(NamedTuple):
    """A record that is of no use: code and reason say why; instrument and event time where its value tells them.
    key_instrument: the instrument that its key names, where the value tells none
    (A tuple: there may be a flood of them.)"""

    code: str
    reason: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    instrument: str | None = None
    event_time_us: int | None = None
    key_instrument: str | None = None

    @property
    def listed_under(self) -> str | None:
        """The instrument that it is counted and listed under; None where neither value nor key tells one."""
        return self.instrument or self.key_instrument


UNKNOWN_INSTRUMENT: Final = "?"
"""Counts refused records whose instrument is not known."""


@dataclass(slots=True)
class Counters:
    """Records since the start of the process, by what became of them."""

    _counts: dict[str, int] = field(default_factory=dict)
    _refused: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def add(self, name: str, count: int = 1) -> None:
        if count:
            self._counts[name] = self._counts.get(name, 0) + count

    def add_refused(self, where: str, refused: Sequence[Refused]) -> None:
        """where: `late` or `dead`."""
        for r in refused:
            by_reason = self._refused.setdefault(where, {}).setdefault(r.listed_under or UNKNOWN_INSTRUMENT, {})
            reason = r.code.lower()
            by_reason[reason] = by_reason.get(reason, 0) + 1

    def fields(self) -> dict[str, Any]:
        """Of a log line: counts by name, and refused records as dead={"EUR/USD": {"not_positive": 3}}."""
        return self._counts | {
            where: {instrument: dict(by_reason) for instrument, by_reason in sorted(by_instrument.items())}
            for where, by_instrument in self._refused.items()
        }


REJECTED_BYTES_MAX: Final = MESSAGE_BYTES_MAX - RECORD_ROOM_BYTES
"""Of a refused record's value and of its key, which is written twice: what `late` and `dead.letters` take."""
CUT_KEY_BYTES: Final = 64 * 1024
"""What is kept of a key that alone is over half of that."""


def rejected_records(codec: BulkCodec, topic: str, lay_in: str, refused: Sequence[Refused]) -> list[Outgoing]:
    """Records for `late` or `dead.letters`: the original bytes, where they lay, and the reason.

    A record that no topic of ours could take is cut: its reason says so and where the whole lies, and a header `cut`
    tells the length of the whole value. codec: of `rejected` · lay_in: the topic of the refused records
    """
    if not refused:
        return []
    code, reason, partition, offset, key, value, _, time_us, _ = zip(*refused, strict=True)
    keys, values = VarColumn.from_list(key), VarColumn.from_list(value)
    size = 2 * np.maximum(keys.length, 0).astype(np.int64) + np.maximum(values.length, 0)
    too_large = set(np.flatnonzero(size > REJECTED_BYTES_MAX).tolist())
    if too_large:
        rest = [_cut(r, lay_in) if row in too_large else r for row, r in enumerate(refused)]
        cut = rejected_records(codec, topic, lay_in, rest)
        for row in too_large:
            cut[row] = cut[row]._replace(headers=[("cut", str(len(value[row] or b"")).encode())])
        return cut
    n = len(refused)
    columns = {
        "code": _words(code),
        "reason": _words(reason),
        "instrument": _words([r.listed_under for r in refused]),
        "event_time": np.fromiter((NULL if t is None else t for t in time_us), np.int64, n),
        "topic": _words([lay_in] * n),
        "partition": np.array(partition, np.int64),
        "offset": np.array(offset, np.int64),
        "key": keys,
        "value": values,
    }
    return [
        Outgoing(topic, r.partition, (r.instrument or "").encode() or r.key or b"", record)
        for r, record in zip(refused, codec.encode(columns, n).values(), strict=True)
    ]


def _words(words: Sequence[str | None]) -> VarColumn:
    """A column of few different words."""
    table = list(dict.fromkeys(word for word in words if word is not None))
    position: dict[str | None, int] = {word: k for k, word in enumerate(table)}
    codes = np.fromiter((position.get(word, -1) for word in words), np.int32, len(words))
    return VarColumn.from_codes(codes, [word.encode() for word in table])


def _cut(refused: Refused, lay_in: str) -> Refused:
    key, value = refused.key or b"", refused.value or b""
    if 2 * len(key) > REJECTED_BYTES_MAX // 2:
        key = key[:CUT_KEY_BYTES]
    kept = value[: REJECTED_BYTES_MAX - 2 * len(key)]
    reason = (
        f"{refused.reason}; too large to be kept whole: key and value have {len(refused.key or b'')} and {len(value)} "
        f"bytes, here are the first {len(key)} and {len(kept)}; all lie in {lay_in}/{refused.partition} "
        f"at offset {refused.offset}"
    )
    return refused._replace(
        reason=reason,
        key=None if refused.key is None else key,
        value=None if refused.value is None else kept,
    )


_DERIVED_TEXT: Final = {
    Reason.KEY_MISMATCH: "the record's key is not its instrument",
    Reason.BAD_TIME: "expected times between the years 1970 and 2200, bars on whole multiples of their timeframe, "
    "start_time <= anchor_time < available_at, and available_at where the bar of bar_open_time ends",
    Reason.NOT_POSITIVE: "a price is zero or negative",
    Reason.PRICE_RANGE: "a price or the spread is more points of its tick size than 31 bits hold, or more than "
    "decimal(18,9) holds for a trade",
    Reason.CROSSED: "bar_spread is negative",
}
"""What a reason means in a record that a stage made, where this differs from an event."""
_NO_RECORD: Final = frozenset(
    (Reason.TOMBSTONE, Reason.BAD_MAGIC, Reason.UNKNOWN_SCHEMA, Reason.MALFORMED, Reason.DECIMAL_RANGE)
)


def reason_text(code: Reason, expected: str) -> str:
    """Why a record of a derived topic can't be used. expected: the name of its schema"""
    if code in _NO_RECORD:
        return f"expected an Avro {expected}"
    return _DERIVED_TEXT.get(code) or REASON_TEXT[code]


def decode_faults(records: Rows, decoded: Decoded, symbols: Symbols, expected: str) -> list[Refused]:
    """Why records of a derived topic can't be used. expected: the name of their schema"""
    rows = decoded.errors.nonzero()[0]
    if not len(rows):
        return []
    refused = []
    instruments = symbols.positions(decoded.columns["instrument"].take(rows)).tolist()
    partitions = records.partition[rows].tolist()
    for row, position, partition in zip(rows.tolist(), instruments, partitions, strict=True):
        code, offset, key = Reason(int(decoded.errors[row])), int(records.offset[row]), records.keys[row]
        instrument = symbols.keys[position].decode() if position >= 0 else None
        refused.append(
            Refused(
                code.name, reason_text(code, expected), partition, offset, key, records.values[row], instrument,
                key_instrument=None if instrument else symbols.named_by(key),
            )
        )  # fmt: skip
    return refused
