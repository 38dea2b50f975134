"""What a consumer hands out between records: the end of a partition, and errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, Message

from sep_stream.errors import DependencyError, InputError, SepError
from sep_stream.runtime.asker import denial, is_denial
from sep_stream.runtime.roles import READER_GROUP
from sep_stream.runtime.settings import Settings

_AWAY: Final = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})
"""A connection that is lost comes back, or the read's silence ends it."""


class ReadFault(NamedTuple):
    """topic, partition: what it is about; None and -1 where that is no topic · offset: of the end of the partition"""

    error: KafkaError
    topic: str | None
    partition: int
    offset: int


def faults_among(messages: Sequence[Message]) -> list[ReadFault]:
    return [
        ReadFault(error, m.topic(), m.partition(), m.offset())
        for m, error in zip(messages, map(Message.error, messages), strict=True)
        if error is not None
    ]


def partition_end(faults: Iterable[ReadFault]) -> int | None:
    """The next offset of a partition, where an "error" says that its end is reached; markers of transactions lie
    before it, records of open ones behind."""
    return next((fault.offset for fault in faults if fault.error.code() == KafkaError._PARTITION_EOF), None)


def raise_fatal(faults: Iterable[ReadFault], settings: Settings) -> None:
    """Raises InputError for an offset that is gone, and DependencyError where the topic may not be read."""
    for fault in faults:
        if not fault.error.retriable() and fault.error.code() not in _AWAY:
            raise _fatal(fault, settings)


def _fatal(fault: ReadFault, settings: Settings) -> SepError:
    if is_denial(fault.error):
        about = f"topic {fault.topic!r}" if fault.topic else f"consumer group {settings.prefix + READER_GROUP!r}"
        return DependencyError(denial(settings, about, "read" if fault.topic else "describe"))
    return InputError(f"{fault.topic}/{fault.partition}: {fault.error.str()}")
