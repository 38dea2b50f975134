"""Publishes records in transactions: a group of them whole or not at all, and one publisher of a name at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from sep_stream.errors import DependencyError, InputError, SepError
from sep_stream.runtime.asker import denial, is_denial
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings

TRANSACTION_TIMEOUT_MS: Final = 15_000
"""For so long a publisher that was killed can hold up those who read its topics, unless another one begins."""
DELIVERY_TIMEOUT_MS: Final = 8_000
ANSWER_S_MAX: Final = 30.0
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What the largest of our topics take (`max.message.bytes` in topology/topics.toml)."""
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})


class Outgoing(NamedTuple):
    """A record to publish. timestamp_ms: 0 where the topic stamps its own · origin: what it is made from, for messages.
    (A tuple: there are many.)"""

    topic: str
    partition: int
    key: bytes | str | None
    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes | None]]
    origin: str


class Transactions:
    """Of the transactional id PREFIXname. Making it ends the transaction of any other process of that id: what the
    other had under way is then either published or can't be any more.

    Raises DependencyError where the broker does not answer or take records.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._producer = self._begun()

    def _begun(self) -> Producer:
        transactional_id = self._settings.prefix + self._name
        producer = Producer(
            librdkafka(
                self._settings,
                **{
                    "transactional.id": transactional_id,
                    "compression.type": "lz4",
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "delivery.report.only.error": True,
                },
            )
        )
        try:
            producer.init_transactions(ANSWER_S_MAX)
        except KafkaException as error:
            raise DependencyError(
                f"the broker begins no transactions as {transactional_id!r}: {error.args[0].str()}"
            ) from error
        return producer

    def commit(self, records: Iterable[Outgoing]) -> None:
        """Publish the records: all of them or, where this raises, none. Fewer than librdkafka queues (100,000).

        Raises InputError for a timestamp that the topic does not take.
        """
        refusals: list[tuple[Outgoing, KafkaError]] = []

        def on_report(record: Outgoing, error: KafkaError | None, _: Any) -> None:
            if error is not None:
                refusals.append((record, error))

        try:
            self._producer.begin_transaction()
            for record in records:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    timestamp=record.timestamp_ms,
                    headers=record.headers,
                    on_delivery=partial(on_report, record),
                )
            self._producer.commit_transaction(ANSWER_S_MAX)
        except KafkaException as error:
            self._abort(error.args[0])
            raise self._told(refusals, error.args[0]) from error

    def settle(self) -> None:
        """Wait until what was committed can be read everywhere, and publish nothing more.

        The broker answers a commit before it has told the partitions: who asks at once for their end may not find the
        last records. It begins no other transaction of this id before it has.
        """
        self._begun()

    def _abort(self, error: KafkaError) -> None:
        """End the transaction now, where it can be; readers of its topics wait for it."""
        if error.fatal():
            return  # another's start has ended it
        try:
            self._producer.abort_transaction(ANSWER_S_MAX)
        except KafkaException:
            return  # the broker ends it after TRANSACTION_TIMEOUT_MS

    def _told(self, refusals: Sequence[tuple[Outgoing, KafkaError]], error: KafkaError) -> SepError:
        """What went wrong with a transaction, in words."""
        if error.code() in _FENCED:
            return DependencyError(
                f"another {self._name} began meanwhile and ended this one; run it again for what is left"
            )
        if any(why.code() == KafkaError.INVALID_TIMESTAMP for _, why in refusals):
            # A batch is refused whole, for its newest record.
            newest = max((record for record, _ in refusals), key=lambda record: record.timestamp_ms)
            return InputError(
                f"{newest.origin}: the broker refuses events that are over a day in the future; leave it out (--until)"
            )
        if not refusals:
            return DependencyError(f"the broker does not take the {self._name}: {error.str()}; run it again")
        record, why = refusals[0]
        if is_denial(why):
            return DependencyError(denial(self._settings, f"topic {record.topic!r}", "write"))
        return DependencyError(f"{record.topic}: the broker does not take the records: {why.str()}; run it again")
