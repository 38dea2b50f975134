"""Publishes event batches to market.events."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sep_stream.errors import DependencyError
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events
from sep_stream.market.events import EventBatch
from sep_stream.market.instruments import Instruments
from sep_stream.market.partitioner import partition_for

QUEUE_MESSAGES_MAX: Final = 50_000
"""Events under way at once; `publish` waits while there are so many."""
SILENCE_S_MAX: Final = 8.0
"""A broker that takes none of the events under way for this long ends the publishing."""
FLUSH_S_MAX: Final = 30.0
PURGE_S_MAX: Final = 5.0
TOLD_MAX: Final = 5
"""Instruments named in an error's message; its `untaken` holds all."""
_POLL_S: Final = 0.1
_PER_MS: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNDECIDED: Final = {
    KafkaError._PURGE_INFLIGHT: "sent, but the broker has not said that it took it",
    KafkaError._PURGE_QUEUE: "not sent: the publishing had ended",
}
"""What is said of events that were under way when the publishing ended."""
_SILENT: Final = logging.getLogger(__name__)
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True, slots=True)
class Untaken:
    """Events of an instrument that the broker did not take. event_time: of the earliest · reason: why that one"""

    instrument: str
    count: int
    event_time: datetime
    reason: str


class DeliveryError(DependencyError):
    """The broker did not take all events. acknowledged: how many it took · untaken: the others, by instrument"""

    def __init__(self, message: str, acknowledged: int, untaken: tuple[Untaken, ...]) -> None:
        super().__init__(message)
        self.acknowledged = acknowledged
        self.untaken = untaken


class Publisher:
    """An idempotent producer of MarketEvents, each in the partition that Kafka's murmur2 gives its instrument.

    The first event that is not taken ends it: nothing that was published later is sent, so that what the log holds of
    an instrument is always the first so many of its events, and the rest can be published again in their order. (With
    a gap in the log, the missing event would come back as a duplicate: its sequence would not be above the last.)

    kafka: librdkafka's configuration. Once an event is not taken, all calls raise DeliveryError.
    """

    def __init__(
        self, kafka: Mapping[str, Any], schemas: Schemas, instruments: Instruments, topic: str, partitions: int
    ) -> None:
        self._address = kafka["bootstrap.servers"]
        self._topic = topic
        self._instruments = instruments
        self._schemas = schemas
        self._codec = BulkCodec(*schemas.of("market_event"))
        self._keys = [symbol.encode() for symbol in instruments.symbols]
        self._partitions = [partition_for(key, partitions) for key in self._keys]
        self._sent = 0
        self._acknowledged = 0
        self._heard_s = 0.0
        self._refused: list[tuple[KafkaError, bytes]] = []
        self._in_hand: tuple[EventBatch, int] | None = None
        self._failure: DeliveryError | None = None
        self._producer = Producer(
            {
                **kafka,
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "batch.num.messages": 50_000,
                # Events never expire one by one, which would leave gaps: SILENCE_S_MAX ends all of them at once.
                "delivery.timeout.ms": 0,
                "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
                "on_delivery": self._on_delivery,
                "logger": _SILENT,  # what it would say of a failure is raised by us
            }
        )

    @property
    def acknowledged(self) -> int:
        """Events that the broker has taken. Where all are of one instrument, these are the first of those published."""
        return self._acknowledged

    def symbols(self, batch: EventBatch) -> list[str]:
        """The instrument's symbol of each event."""
        return [self._instruments[i].symbol for i in batch.instrument.tolist()]

    def publish(self, batch: EventBatch) -> None:
        """Hand the events to the producer, waiting while its queue is full."""
        if self._failure is not None:
            raise self._failure
        values = encode_events(self._codec, self._instruments, batch).values()
        times_ms = (batch.event_time // _PER_MS).tolist()
        if self._sent == self._acknowledged:
            self._heard_s = time.monotonic()
        self._in_hand = (batch, self._sent)
        for value, position, time_ms in zip(values, batch.instrument.tolist(), times_ms, strict=True):
            self._produce(value, position, time_ms)
        self._in_hand = None
        self._serve(0)

    def _produce(self, value: bytes, position: int, time_ms: int) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, self._keys[position], self._partitions[position], timestamp=time_ms
                )
                self._sent += 1
                return
            except BufferError:
                self._serve(_POLL_S)
            except KafkaException as error:
                self._end(error.args[0])

    def flush(self, timeout_s: float = FLUSH_S_MAX) -> None:
        """Wait until the broker has taken all events published so far; that it has not in time is a failure too."""
        deadline_s = time.monotonic() + timeout_s
        while self._under_way:
            self._serve(min(_POLL_S, timeout_s))
            if self._under_way and time.monotonic() > deadline_s:
                self._end(f"not all were taken within {timeout_s:g} s")
        if self._failure is not None:
            raise self._failure

    @property
    def _under_way(self) -> int:
        return self._sent - self._acknowledged - len(self._refused)

    def _serve(self, wait_s: float) -> None:
        """Take in the broker's answers, waiting so long for the first. Raises what ends the publishing."""
        fatal = self._poll(wait_s)
        if self._refused or fatal is not None:
            self._end(self._refused[0][0] if self._refused else fatal)
        if self._under_way and time.monotonic() - self._heard_s > SILENCE_S_MAX:
            self._end(f"no answer for {SILENCE_S_MAX:.0f} s")

    def _poll(self, wait_s: float) -> KafkaError | None:
        """Take in the broker's answers. The error, if the producer can't go on after it."""
        try:
            self._producer.poll(wait_s)
        except KafkaException as error:
            return error.args[0]
        return None

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        self._heard_s = time.monotonic()
        if error is None:
            self._acknowledged += 1
        else:
            self._refused.append((error, message.value() or b""))

    def _end(self, cause: KafkaError | str) -> None:
        """Send nothing more, wait for the fate of what is under way, and raise the failure."""
        self._producer.purge()
        deadline_s = time.monotonic() + PURGE_S_MAX
        while self._under_way and time.monotonic() < deadline_s:
            self._poll(_POLL_S)
        first = next((error for error, _ in self._refused if error.code() not in _UNDECIDED), cause)
        untaken = tuple(self._untaken())
        told = [f"{u.count:,} of {u.instrument} from {u.event_time.isoformat()} on ({u.reason})" for u in untaken]
        more = f" and of {len(told) - TOLD_MAX} more instruments" if len(told) > TOLD_MAX else ""
        self._failure = DeliveryError(
            f"{self._told(first)}. {self._acknowledged:,} events were taken, not taken: "
            f"{', '.join(told[:TOLD_MAX])}{more}",
            self._acknowledged,
            untaken,
        )
        raise self._failure

    def _told(self, cause: KafkaError | str) -> str:
        if isinstance(cause, str):
            return (
                f"the broker at {self._address} does not take events: {cause}; check that it runs (`sep-stream "
                "status`, `sep-stream up`), then publish the same again: events that carry a sequence are recognised"
            )
        if cause.code() == KafkaError.INVALID_TIMESTAMP:
            return f"{self._topic}: the broker refuses events that are over a day in the future"
        return f"{self._topic}: the broker at {self._address} refuses an event: {cause.str()}"

    def _untaken(self) -> Iterator[Untaken]:
        """By instrument, the events that were refused or under way, and those of the batch in hand not yet sent."""
        events: list[tuple[str, datetime, str]] = []
        for error, value in self._refused:
            record = self._schemas.decode(value)[1]
            events.append((record["instrument"], record["event_time"], _UNDECIDED.get(error.code(), error.str())))
        if self._in_hand is not None:
            batch, first = self._in_hand
            unsent = batch.take(slice(self._sent - first, None))
            for symbol, time_us in zip(self.symbols(unsent), unsent.event_time.tolist(), strict=True):
                at = _EPOCH + timedelta(microseconds=time_us)
                events.append((symbol, at, _UNDECIDED[KafkaError._PURGE_QUEUE]))
        for symbol in dict.fromkeys(symbol for symbol, _, _ in events):
            mine = [event for event in events if event[0] == symbol]
            _, earliest, reason = min(mine, key=lambda event: event[1])
            yield Untaken(symbol, len(mine), earliest, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was published is on its way: wait for it after an error too, so that `acknowledged` is final."""
        try:
            self.flush()
        except DeliveryError as failure:
            if error is None:
                raise
            if error is not failure:
                error.add_note(str(failure))
