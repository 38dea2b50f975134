"""Publishes event batches to market.events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sep_stream.errors import DependencyError, InputError, SepError
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events
from sep_stream.market.events import EventBatch
from sep_stream.market.instruments import Instruments
from sep_stream.market.partitioner import partition_for

QUEUE_MESSAGES_MAX: Final = 50_000
"""Few enough that a broker of 10,000 events a second takes them all before DELIVERY_TIMEOUT_MS."""
DELIVERY_TIMEOUT_MS: Final = 8_000
"""An event that the broker has not taken by then ends the publishing."""
FLUSH_S_MAX: Final = 30.0
_FULL_QUEUE_WAIT_S: Final = 0.1
_PER_MS: Final = 1_000
_GONE: Final = frozenset(
    {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}
)


class Publisher:
    """An idempotent producer of MarketEvents, each in the partition that Kafka's murmur2 gives its instrument.

    kafka: librdkafka's configuration. Raises DependencyError once an event is not taken; `acknowledged` tells how
    many were.
    """

    def __init__(
        self, kafka: Mapping[str, Any], schemas: Schemas, instruments: Instruments, topic: str, partitions: int
    ) -> None:
        self._address = kafka["bootstrap.servers"]
        self._topic = topic
        self._instruments = instruments
        self._codec = BulkCodec(*schemas.of("market_event"))
        self._keys = [symbol.encode() for symbol in instruments.symbols]
        self._partitions = [partition_for(key, partitions) for key in self._keys]
        self._failure: KafkaError | None = None
        self._sent = 0
        self._acknowledged = 0
        self._producer = Producer(
            {
                **kafka,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "batch.num.messages": 50_000,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
                "on_delivery": self._on_delivery,
            }
        )

    @property
    def acknowledged(self) -> int:
        """Events that the broker had taken before it first failed to take one. Events of one partition are taken in
        order: where all are of one instrument, these are the first of those published."""
        return self._acknowledged

    def symbols(self, batch: EventBatch) -> list[str]:
        """The instrument's symbol of each event."""
        return [self._instruments[i].symbol for i in batch.instrument.tolist()]

    def publish(self, batch: EventBatch) -> None:
        """Hand the events to the producer, waiting while its queue is full."""
        values = encode_events(self._codec, self._instruments, batch).values()
        times_ms = (batch.event_time // _PER_MS).tolist()
        try:
            for value, position, time_ms in zip(values, batch.instrument.tolist(), times_ms, strict=True):
                self._produce(value, position, time_ms)
        except KafkaException as error:
            raise self._refusal(error.args[0]) from error
        self._producer.poll(0)
        self._raise_failure()

    def _produce(self, value: bytes, position: int, time_ms: int) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, self._keys[position], self._partitions[position], timestamp=time_ms
                )
                self._sent += 1
                return
            except BufferError:
                self._producer.poll(_FULL_QUEUE_WAIT_S)
                self._raise_failure()

    def flush(self) -> None:
        """Wait until the broker has taken all events published so far."""
        deadline_s = time.monotonic() + FLUSH_S_MAX
        while self._acknowledged < self._sent and time.monotonic() < deadline_s:
            self._producer.flush(0.2)
            self._raise_failure()
        if self._acknowledged < self._sent:
            raise self._gone("no answer")

    def settle(self) -> None:
        """After an error that is not the broker's: wait for what is under way, so that `acknowledged` is final."""
        if self._failure is None:
            self._producer.flush(DELIVERY_TIMEOUT_MS / _PER_MS)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if self._failure is not None:
            return
        if error is None:
            self._acknowledged += 1
        else:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._refusal(self._failure)

    def _refusal(self, error: KafkaError) -> SepError:
        if error.code() == KafkaError.INVALID_TIMESTAMP:
            return InputError(f"{self._topic}: the broker refuses events that are over a day in the future")
        if error.code() in _GONE:
            return self._gone(error.str())
        return DependencyError(f"{self._topic}: the broker at {self._address} refuses an event: {error.str()}")

    def _gone(self, why: str) -> DependencyError:
        return DependencyError(
            f"the broker at {self._address} does not take events: {why}; check that it runs (`sep-stream status`, "
            "`sep-stream up`), then publish the same again: events that carry a sequence are recognised"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        elif self._failure is not None:
            self._producer.purge()
