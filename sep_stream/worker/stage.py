"""What the agents have in common: a batch in, records out, acknowledged in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from sep_stream.market.avro import Schemas
from sep_stream.market.events import Reason
from sep_stream.worker.failpoints import reach
from sep_stream.worker.outbox import Outbox, Outgoing
from sep_stream.worker.transport import Batch, BatchApp

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


@dataclass(slots=True)
class Counters:
    """Records since the start of the process, by what became of them."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, count: int = 1) -> None:
        if count:
            self.counts[name] = self.counts.get(name, 0) + count


class BatchAgent:
    """Runs a stage over its topic: sends what it gives, acknowledges in order, and fails loudly.

    fail: called with the first error; the process is expected to end without acknowledging anything further.
    """

    def __init__(self, app: BatchApp, stage: Stage, outbox: Outbox, fail: Callable[[BaseException], None]) -> None:
        self._app, self._stage, self._outbox, self._fail = app, stage, outbox, fail
        self._room = asyncio.Semaphore(IN_FLIGHT_BATCHES_MAX)
        self._last: dict[int, asyncio.Task[None]] = {}

    async def run(self, stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await self._handle(event.message)
            except BaseException as error:
                self._fail(error)
                raise

    async def _handle(self, message: Any) -> None:
        batch: Batch = message.value
        if not self._app.is_current(batch):
            return
        processed = await self._stage.process(batch)
        if processed is None:
            return
        await self._room.acquire()
        reach(f"{self._stage.name}.before_send")
        delivery = await self._outbox.send(processed.outputs)
        previous = self._last.get(batch.partition)
        finish = asyncio.create_task(self._finish(message, delivery.future, previous, processed.snapshot))
        self._last[batch.partition] = finish
        finish.add_done_callback(self._finished)

    async def _finish(
        self,
        message: Any,
        delivered: asyncio.Future[None],
        previous: asyncio.Task[None] | None,
        snapshot: Outgoing | None,
    ) -> None:
        await delivered
        reach(f"{self._stage.name}.after_send")
        if previous is not None:
            await previous
        if snapshot is not None:
            reach(f"{self._stage.name}.before_snapshot")
            await (await self._outbox.send([snapshot])).future
            reach(f"{self._stage.name}.after_snapshot")
        self._app.consumer.acknowledge(message)

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


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is of no use: code and reason say why; instrument and event time where they are known."""

    code: str
    reason: str
    offset: int
    key: bytes | None
    value: bytes | None
    instrument: str | None = None
    event_time_us: int | None = None


def rejected_records(schemas: Schemas, topic: str, batch: Batch, refused: Iterable[Refused]) -> list[Outgoing]:
    """Records for `late` or `dead.letters`: the original bytes, where they lay, and the reason."""
    return [
        Outgoing(
            topic,
            batch.partition,
            (r.instrument or "").encode() or r.key or b"",
            schemas.encode(
                "rejected",
                {
                    "code": r.code,
                    "reason": r.reason,
                    "instrument": r.instrument,
                    "event_time": r.event_time_us,
                    "topic": batch.topic,
                    "partition": batch.partition,
                    "offset": r.offset,
                    "key": r.key,
                    "value": r.value,
                },
            ),
        )
        for r in refused
    ]


MISFIT: Final = "PARAMETERS"
MISFIT_TEXT: Final = "made with other window parameters than this worker's settings"


def decode_faults(batch: Batch, errors: Any, misfit: Any, expected: str) -> list[Refused]:
    """Why records of a derived topic can't be used."""
    refused = []
    for row, record in enumerate(batch.records):
        if errors[row]:
            code = Reason(int(errors[row]))
            refused.append(Refused(code.name, f"expected an Avro {expected}", record.offset, record.key, record.value))
        elif misfit[row]:
            refused.append(Refused(MISFIT, MISFIT_TEXT, record.offset, record.key, record.value))
    return refused
