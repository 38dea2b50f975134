"""Sends what a batch gave and tells when the broker has all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from sep_stream.errors import DependencyError

QUEUE_MESSAGES_MAX: Final = 200_000
QUEUE_KBYTES_MAX: Final = 256 * 1024
DELIVERY_TIMEOUT_MS: Final = 60_000
"""A send that is not acknowledged by then ends the process: its input stays uncommitted."""
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What the largest of our topics take (`max.message.bytes` in topology/topics.toml)."""
RECORD_ROOM_BYTES: Final = 64 * 1024
"""Of that, for a record's frame, headers and names."""
LINGER_MS: Final = 0
"""None: it would cost each hop several times itself while records are few; when there are many they queue anyway."""
_REPORT_INTERVAL_S: Final = 0.002


class Outgoing(NamedTuple):
    """A record to send. timestamp_ms: 0 where the topic stamps its own. (A tuple: there are many.)"""

    topic: str
    partition: int
    key: bytes
    value: bytes
    timestamp_ms: int = 0
    headers: list[tuple[str, bytes]] | None = None


@dataclass(slots=True)
class Delivery:
    """The records of one batch on their way. future: done once the broker has acknowledged all of them."""

    future: asyncio.Future[None]
    sent: int = 0
    acknowledged: int = 0
    closed: bool = False

    def on_report(self, error: KafkaError | None, message: Any) -> None:
        """Called for each record, by `poll` on the loop's thread."""
        if error is not None:
            self._fail(
                DependencyError(
                    f"{message.topic()}/{message.partition()}: the broker did not take a record: {error.str()}; "
                    "its input is not committed and will be handled again"
                )
            )
            return
        self.acknowledged += 1
        self._succeed_if_complete()

    def close(self) -> None:
        """No more records follow."""
        self.closed = True
        self._succeed_if_complete()

    def _succeed_if_complete(self) -> None:
        if self.closed and self.acknowledged == self.sent and not self.future.done():
            self.future.set_result(None)

    def _fail(self, failure: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(failure)


class Outbox:
    """An idempotent producer, `acks=all`, whose sends are awaited batch by batch.

    librdkafka rather than Faust's own producer: ten times the records per second on one core. Its reports are polled
    on the event loop: a thread of its own would fight with the stages for the interpreter, record by record.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = Producer(
            {
                **config,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": LINGER_MS,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
                "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
                "message.max.bytes": MESSAGE_BYTES_MAX,
            }
        )
        self._reports: asyncio.Task[None] | None = None

    async def _take_reports(self) -> None:
        while len(self._producer):
            self._producer.poll(0)
            await asyncio.sleep(_REPORT_INTERVAL_S)

    async def send(self, records: Iterable[Outgoing]) -> Delivery:
        """Hand records to the producer, waiting while its queue is full; await `.future` for the broker's word."""
        delivery = Delivery(asyncio.get_running_loop().create_future())
        produce, on_report = self._producer.produce, delivery.on_report
        for record in records:
            while True:
                try:
                    produce(
                        record.topic,
                        record.value,
                        record.key,
                        record.partition,
                        on_delivery=on_report,
                        timestamp=record.timestamp_ms,
                        headers=record.headers or [],
                    )
                    break
                except BufferError:
                    self._producer.poll(0)
                    await asyncio.sleep(_REPORT_INTERVAL_S)
                except KafkaException as error:
                    raise DependencyError(f"{record.topic}: cannot send: {error.args[0].str()}") from error
            delivery.sent += 1
        delivery.close()
        if self._reports is None or self._reports.done():
            self._reports = asyncio.create_task(self._take_reports())
        return delivery

    def broker_answers(self, topic: str, timeout_s: float) -> bool:
        """Asked of one topic: a list of all of a large cluster's would hold up the interpreter."""
        try:
            self._producer.list_topics(topic, timeout_s)
        except KafkaException:
            return False
        return True
