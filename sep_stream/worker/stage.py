"""What the agents have in common: a batch in, records out, acknowledged in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import structlog

from sep_stream.market.bulk_avro import BulkCodec, Decoded, VarColumn
from sep_stream.market.events import NULL, REASON_TEXT, Reason
from sep_stream.worker.failpoints import reach
from sep_stream.worker.outbox import MESSAGE_BYTES_MAX, RECORD_ROOM_BYTES, Outbox, Outgoing
from sep_stream.worker.transport import Batch, BatchApp
from sep_stream.worker.wire import Symbols

IN_FLIGHT_BATCHES_MAX: Final = 32
"""Batches of a stage whose records are on their way; the next waits."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Processed:
    """What a batch gave. snapshot: to be sent once these and all earlier outputs are acknowledged."""

    outputs: Sequence[Outgoing] = ()
    snapshot: Outgoing | None = None


class Stage(Protocol):
    """A stage of the pipeline. name: also that of its consumer group, after the prefix · topic: what it reads."""

    name: str
    topic: str

    async def process(self, batch: Batch) -> Processed | None:
        """Outputs of a batch; None where its epoch has passed in the meantime."""


class BatchAgent:
    """Runs a stage over its topic: sends what it gives, acknowledges in order, and fails loudly.

    The batches of a partition are processed and sent one after the other; those of different partitions take turns
    wherever the stage waits, for a thread or for room to send. fail: called with each error; the process is expected
    to end. Nothing of the partition is processed or acknowledged after it.
    """

    def __init__(self, app: BatchApp, stage: Stage, outbox: Outbox, fail: Callable[[BaseException], None]) -> None:
        self._app, self._stage, self._outbox, self._fail = app, stage, outbox, fail
        self._room = asyncio.Semaphore(IN_FLIGHT_BATCHES_MAX)
        self._turns: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[int, asyncio.Task[None]] = {}
        self._broken = False

    async def run(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._room.acquire()
            partition = event.message.value.partition
            task = asyncio.create_task(self._handle(event.message, self._last.get(partition)))
            self._last[partition] = task
            task.add_done_callback(self._finished)

    async def _handle(self, message: Any, previous: asyncio.Task[None] | None) -> None:
        async with self._turns[message.value.partition]:
            try:
                processed = await self._process(message.value)
                if processed is None:
                    return
                reach(f"{self._stage.name}.before_send")
                delivery = await self._outbox.send(processed.outputs)
            except BaseException:
                self._broken = True
                raise
        await delivery.future
        reach(f"{self._stage.name}.after_send")
        if previous is not None:
            await previous
        if processed.snapshot is not None:
            reach(f"{self._stage.name}.before_snapshot")
            await (await self._outbox.send([processed.snapshot])).future
            reach(f"{self._stage.name}.after_snapshot")
        self._app.consumer.acknowledge(message)

    async def _process(self, batch: Batch) -> Processed | None:
        if self._broken or not self._app.is_current(batch):
            return None
        return await self._stage.process(batch)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._room.release()
        with contextlib.suppress(asyncio.CancelledError):
            error = task.exception()
            if error is not None:
                self._fail(error)


_HOST: Final = socket.gethostname()


def origin(batch: Batch, engine: str) -> Callable[[int], list[tuple[str, bytes]]]:
    """Headers of an output by the offset of the record behind it: they tell where it came from, values don't."""
    place = f"{batch.topic}/{batch.partition}/".encode()
    made_by = ("made-by", f"{engine}@{_HOST}".encode())

    def headers(offset: int) -> list[tuple[str, bytes]]:
        return [("source", b"%b%d" % (place, offset)), made_by]

    return headers


class Refused(NamedTuple):
    """A record that is of no use: code and reason say why; instrument and event time where they are known.
    (A tuple: there may be a flood of them.)"""

    code: str
    reason: str
    offset: int
    key: bytes | None
    value: bytes | None
    instrument: str | None = None
    event_time_us: int | None = None


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
            by_reason = self._refused.setdefault(where, {}).setdefault(r.instrument or UNKNOWN_INSTRUMENT, {})
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


def rejected_records(codec: BulkCodec, topic: str, batch: Batch, refused: Sequence[Refused]) -> list[Outgoing]:
    """Records for `late` or `dead.letters`: the original bytes, where they lay, and the reason.

    A record that no topic of ours could take is cut: its reason says so and where the whole lies, and a header `cut`
    tells the length of the whole value. codec: of `rejected`
    """
    if not refused:
        return []
    code, reason, offset, key, value, instrument, time_us = zip(*refused, strict=True)
    keys, values = VarColumn.from_list(key), VarColumn.from_list(value)
    size = 2 * np.maximum(keys.length, 0).astype(np.int64) + np.maximum(values.length, 0)
    too_large = set(np.flatnonzero(size > REJECTED_BYTES_MAX).tolist())
    if too_large:
        rest = [_cut(r, batch) if row in too_large else r for row, r in enumerate(refused)]
        cut = rejected_records(codec, topic, batch, rest)
        for row in too_large:
            cut[row] = cut[row]._replace(headers=[("cut", str(len(value[row] or b"")).encode())])
        return cut
    n = len(refused)
    columns = {
        "code": _words(code),
        "reason": _words(reason),
        "instrument": _words(instrument),
        "event_time": np.fromiter((NULL if t is None else t for t in time_us), np.int64, n),
        "topic": _words([batch.topic] * n),
        "partition": np.full(n, batch.partition, np.int64),
        "offset": np.array(offset, np.int64),
        "key": keys,
        "value": values,
    }
    return [
        Outgoing(topic, batch.partition, (r.instrument or "").encode() or r.key or b"", record)
        for r, record in zip(refused, codec.encode(columns, n).values(), strict=True)
    ]


def _words(words: Sequence[str | None]) -> VarColumn:
    """A column of few different words."""
    table = list(dict.fromkeys(word for word in words if word is not None))
    position: dict[str | None, int] = {word: k for k, word in enumerate(table)}
    codes = np.fromiter((position.get(word, -1) for word in words), np.int32, len(words))
    return VarColumn.from_codes(codes, [word.encode() for word in table])


def _cut(refused: Refused, batch: Batch) -> Refused:
    key, value = refused.key or b"", refused.value or b""
    if 2 * len(key) > REJECTED_BYTES_MAX // 2:
        key = key[:CUT_KEY_BYTES]
    kept = value[: REJECTED_BYTES_MAX - 2 * len(key)]
    reason = (
        f"{refused.reason}; too large to be kept whole: key and value have {len(refused.key or b'')} and {len(value)} "
        f"bytes, here are the first {len(key)} and {len(kept)}; all lie in {batch.topic}/{batch.partition} "
        f"at offset {refused.offset}"
    )
    return refused._replace(
        reason=reason,
        key=None if refused.key is None else key,
        value=None if refused.value is None else kept,
    )


def decode_faults(batch: Batch, decoded: Decoded, misfit: Any, symbols: Symbols, expected: str) -> list[Refused]:
    """Why records of a derived topic can't be used. misfit: (n,) bool, those made with other parameters."""
    refused = []
    rows = np.flatnonzero((decoded.errors != Reason.OK) | misfit)
    instruments = symbols.positions(decoded.columns["instrument"].take(rows)).tolist()
    for row, position in zip(rows.tolist(), instruments, strict=True):
        record, code = batch.records[row], Reason(int(decoded.errors[row]))
        reason = f"expected an Avro {expected}"
        if code == Reason.OK:
            code, reason = Reason.PARAMETERS, REASON_TEXT[Reason.PARAMETERS]
        instrument = symbols.keys[position].decode() if position >= 0 else None
        refused.append(Refused(code.name, reason, record.offset, record.key, record.value, instrument))
    return refused
