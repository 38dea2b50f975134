"""`TickProducer`: any Python program's way into market.events."""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from threading import RLock
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from sep_stream.convert.rules import check_events
from sep_stream.errors import InputError
from sep_stream.market.decode import events_from_records
from sep_stream.market.events import NULL, REASON_TEXT, EventBatch, Kind, Reason
from sep_stream.market.timeframes import DURATION_S
from sep_stream.runtime import topics
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources.publisher import FLUSH_S_MAX, Publisher
from sep_stream.stores.schemas import schemas_in_force

Number = str | Decimal | int
"""An exact number: its value, never a count of points."""

MICROS_MIN: Final = 10**14
"""A smaller count, before March 1973, is taken for one of seconds or milliseconds."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US_PER_MS: Final = 1_000
_NUMBERS: Final = ("bid", "ask", "price", "open", "high", "low", "close", "volume", "duration_s")


class TickProducer:
    """Publishes quotes, trades, candles and heartbeats to market.events, one by one or in batches.

        with TickProducer(Settings.load(brokers="broker:9092"), source="my-feed") as producer:
            producer.quote("EUR/USD", datetime.now(UTC), "1.07812", "1.07824", sequence=1)

    An event is checked before it is sent: InputError names what is wrong with it, and the producer goes on. What the
    pipeline would refuse is refused here by the same rules; only what depends on the instrument's other events, a late
    event or a jump of days, is told later, in `late` and `dead.letters`.

    Sending is asynchronous. The broker's answers are taken in by the next call; `flush`, and the end of the `with`
    block, wait for all. The first event that the broker does not take ends the producer: nothing later is sent, and
    that call and all after it raise DeliveryError, whose `untaken` tells for each instrument how many of its events
    were not taken, the earliest of them, and why. What the log holds of an instrument is always the first so many of
    its events, in their order. To go on, make a new producer and publish each instrument again from that event on.

    A sequence grows with the events of an instrument from this source. An event is a duplicate, and is counted but not
    used, if its sequence is not above the last one of its instrument and source and its time is not newer either: so
    what is published twice does no harm. Without a sequence no event is a duplicate, and one published twice counts
    twice. No sequence is made up here: one that begins anew with each start could not tell a repeat.

    An event waits while QUEUE_MESSAGES_MAX others are under way. Where the broker takes none for SILENCE_S_MAX, the
    wait ends with DeliveryError. Safe to use from several threads, one call at a time.
    """

    def __init__(self, settings: Settings, source: str) -> None:
        """source: names the feed in each single event; sequences are counted per instrument and source.

        Raises DependencyError if the broker does not answer, ConfigurationError if it has no market.events.
        """
        if not source:
            raise InputError("source: expected the feed's name")
        topology = Topology.load()
        declared = topology.topic("market.events")
        name = settings.topic(declared.name)
        self._instruments, self._source = topology.instruments, source
        self._ahead_ms_max = int(declared.config["message.timestamp.after.max.ms"])
        self._lock = RLock()
        schemas = schemas_in_force(settings, register=True)
        partitions = topics.partitions_of(settings, name)
        self._publisher = Publisher(librdkafka(settings), schemas, self._instruments, name, partitions)

    def quote(
        self,
        instrument: str,
        event_time: datetime | int,
        bid: Number,
        ask: Number,
        *,
        volume: Number | None = None,
        sequence: int | None = None,
    ) -> None:
        """Publish a quote.

        instrument: symbol or alias · event_time: with its zone, or µs since 1970 · bid, ask: at most 9 decimals; off
        the tick grid they are rounded by the pipeline · volume: None counts as 1 · sequence: see the class
        """
        self._one(Kind.QUOTE, instrument, event_time, sequence, {"bid": bid, "ask": ask}, volume)

    def trade(
        self,
        instrument: str,
        event_time: datetime | int,
        price: Number,
        *,
        volume: Number | None = None,
        sequence: int | None = None,
    ) -> None:
        """Publish a trade; arguments as of `quote`."""
        self._one(Kind.TRADE, instrument, event_time, sequence, {"price": price}, volume)

    def candle(
        self,
        instrument: str,
        open_time: datetime | int,
        open: Number,  # noqa: A002 - the field's name
        high: Number,
        low: Number,
        close: Number,
        *,
        volume: Number | None = None,
        bid: Number | None = None,
        ask: Number | None = None,
        sequence: int | None = None,
    ) -> None:
        """Publish a one-minute candle.

        open_time: a whole minute · volume: None counts as 0 · bid, ask: at its close, both or none
        """
        prices = {"open": open, "high": high, "low": low, "close": close}
        if (bid is None) != (ask is None):
            raise InputError("bid, ask: a candle carries both or none")
        if bid is not None and ask is not None:
            prices |= {"bid": bid, "ask": ask}
        self._one(Kind.BAR, instrument, open_time, sequence, prices, volume)

    def heartbeat(self, instrument: str, event_time: datetime | int, *, sequence: int | None = None) -> None:
        """Say that nothing older than `event_time`, the source's own time, will follow: it closes bars."""
        self._one(Kind.HEARTBEAT, instrument, event_time, sequence, {}, None)

    def publish(self, batch: EventBatch) -> None:
        """Publish a batch of events, many times faster than one by one; `EventBatch.of` makes one of columns.

        InputError names the first row that can't be used; then none is sent.
        """
        unknown = np.flatnonzero((batch.instrument < 0) | (batch.instrument >= len(self._instruments)))
        if len(unknown):
            raise InputError(
                f"row {unknown[0]}: instrument: {batch.instrument[unknown[0]]} is no position of a declared instrument"
            )
        reason, _ = check_events(batch, self._instruments)
        wrong = np.flatnonzero(reason != Reason.OK)
        if len(wrong):
            row = int(wrong[0])
            raise InputError(f"row {row}: {self._told(batch, row, Reason(int(reason[row])))}")
        self._send(batch)

    def flush(self, timeout_s: float = FLUSH_S_MAX) -> int:
        """Wait until the broker has taken all events published so far, and return how many they are.

        Raises DeliveryError if it has not within `timeout_s`: then, too, the producer has ended.
        """
        with self._lock:
            self._publisher.flush(timeout_s)
            return self._publisher.acknowledged

    def _one(
        self,
        kind: Kind,
        instrument: str,
        event_time: datetime | int,
        sequence: int | None,
        prices: Mapping[str, Number],
        volume: Number | None,
    ) -> None:
        record: dict[str, Any] = {name: _decimal(name, value) for name, value in prices.items()}
        record |= {
            "instrument": instrument,
            "kind": kind.name,
            "event_time": _time_us(event_time),
            "source": self._source,
            "sequence": None if sequence is None else _integer("sequence", sequence),
            "volume": None if volume is None else _decimal("volume", volume),
            "duration_s": DURATION_S[0] if kind == Kind.BAR else None,
        }
        batch = events_from_records(self._instruments, [record])
        reason, _ = check_events(batch, self._instruments)
        if reason[0] != Reason.OK:
            raise InputError(self._told(batch, 0, Reason(int(reason[0]))))
        self._send(batch)

    def _send(self, batch: EventBatch) -> None:
        self._check_future(batch)
        with self._lock:
            self._publisher.publish(batch)

    def _check_future(self, batch: EventBatch) -> None:
        """The broker's own guard, here so that a wrong time doesn't end the producer."""
        latest_us = int(batch.event_time.max(initial=0))
        if latest_us // _US_PER_MS > time.time() * 1_000 + self._ahead_ms_max:
            raise InputError(
                f"event_time: {_iso(latest_us)} is over {self._ahead_ms_max // 3_600_000} hours in the future by this "
                "machine's clock; the broker would refuse it"
            )

    def _told(self, batch: EventBatch, row: int, reason: Reason) -> str:
        """What is wrong with an event, with all its numbers."""
        numbers = [(name, int(getattr(batch, name)[row])) for name in _NUMBERS]
        shown = ", ".join(f"{name} {_text(name, value)}" for name, value in numbers if value != NULL)
        symbol, time_us = self._instruments[int(batch.instrument[row])].symbol, int(batch.event_time[row])
        return f"{symbol} at {_iso(time_us)}: {REASON_TEXT[reason]}" + (f"; got {shown}" if shown else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._publisher.__exit__(kind, error, trace)


def _decimal(name: str, value: Number) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | Decimal | int):
        raise InputError(
            f"{name}: expected an exact number as str, Decimal or int, got {type(value).__name__} {value!r}"
            + ("; a float is not the number that was meant" if isinstance(value, float) else "")
        )
    try:
        return Decimal(value)
    except InvalidOperation:
        raise InputError(f"{name}: expected a decimal number, got {value!r}") from None


def _integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name}: expected an integer, got {type(value).__name__} {value!r}") from None
    if not -(2**63) < number < 2**63:
        raise InputError(f"{name}: expected an integer of 64 bits, got {number}")
    return number


def _time_us(value: datetime | int) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InputError(f"event_time: {value.isoformat()} has no zone; give datetime(…, tzinfo=UTC)")
        return (value - _EPOCH) // timedelta(microseconds=1)
    time_us = _integer("event_time", value)
    if 0 <= time_us < MICROS_MIN:
        raise InputError(f"event_time: {time_us} is no count of µs since 1970 but of s or ms; give µs, or a datetime")
    return time_us


def _text(name: str, value: int) -> str:
    return str(value) if name == "duration_s" else f"{Decimal(value).scaleb(-9).normalize():f}"


def _iso(time_us: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time_us)).isoformat()
    except OverflowError:
        return f"{time_us} µs"
