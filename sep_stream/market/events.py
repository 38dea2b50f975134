"""Market events, one by one and as struct-of-arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError

NULL: Final = np.iinfo(np.int64).min
"""Stands for a missing value in an int64 column; outside decimal(18,9) and any sane time."""


class Kind(IntEnum):
    """Same order as the symbols of the Avro enum `EventKind`."""

    QUOTE = 0
    TRADE = 1
    BAR = 2
    HEARTBEAT = 3
    MODEL = 4
    UNKNOWN = 5


class Reason(IntEnum):
    """Why a record is not used. All but LATE are dead letters; DUPLICATE is only counted."""

    OK = 0
    # found while decoding
    TOMBSTONE = 1
    BAD_MAGIC = 2
    UNKNOWN_SCHEMA = 3
    MALFORMED = 4
    DECIMAL_RANGE = 5
    UNKNOWN_INSTRUMENT = 6
    KEY_MISMATCH = 7
    WRONG_PARTITION = 8
    INCOMPATIBLE_SCHEMA = 9
    # found by the rules for one event
    UNKNOWN_KIND = 20
    BAD_TIME = 21
    MISSING_FIELD = 22
    NOT_POSITIVE = 23
    PRICE_RANGE = 24
    CROSSED = 25
    BAD_DURATION = 26
    UNALIGNED = 27
    BAD_CANDLE = 28
    BAD_VOLUME = 29
    BAD_MODEL_ID = 30
    # found by the instrument's history
    DUPLICATE = 40
    JUMP = 41
    LATE = 42
    # found by the stages after the converter
    PARAMETERS = 50
    UNKNOWN_SYMBOL = 51
    BAD_INDEX = 52
    WINDOW_AHEAD = 53
    NOT_FINITE = 54
    BAD_MANIFEST = 55


_PRODUCE: Final = (
    "produce with key = instrument (the canonical symbol in UTF-8, as EUR/USD) and Kafka's murmur2 partitioner "
    "(Java's default; librdkafka: partitioner=murmur2_random)"
)
"""The remedy where an instrument's events would be split over two converters."""

REASON_TEXT: Final[dict[Reason, str]] = {
    Reason.TOMBSTONE: "the record has no value; expected an Avro MarketEvent",
    Reason.BAD_MAGIC: "the value does not begin with the Confluent magic byte 0 and a 4-byte schema id",
    Reason.UNKNOWN_SCHEMA: "the schema id is not one of the MarketEvent schemas known here",
    Reason.INCOMPATIBLE_SCHEMA: "its writer's schema is not compatible with ours; see `sep-stream schemas list`",
    Reason.MALFORMED: "the value is not the Avro encoding of its schema (truncated, trailing or invalid bytes)",
    Reason.DECIMAL_RANGE: "a decimal has more than 18 digits; expected decimal(18,9)",
    Reason.UNKNOWN_INSTRUMENT: "the instrument is not declared in topology/instruments.toml by this symbol",
    Reason.KEY_MISMATCH: f"the record's key is not the event's instrument; {_PRODUCE}",
    Reason.WRONG_PARTITION: f"the record lies in another partition than its key belongs in; {_PRODUCE}",
    Reason.UNKNOWN_KIND: "kind: expected QUOTE, TRADE, BAR, HEARTBEAT or MODEL",
    Reason.BAD_TIME: "event_time: expected microseconds since 1970, between the years 1970 and 2200",
    Reason.MISSING_FIELD: "a field that this kind needs is null "
    "(QUOTE: bid, ask; TRADE: price; BAR: open, high, low, close, duration_s; MODEL: model_id)",
    Reason.NOT_POSITIVE: "a price is zero or negative after rounding to the tick size",
    Reason.PRICE_RANGE: "a price is more points of its tick size than 31 bits hold",
    Reason.CROSSED: "ask is below bid",
    Reason.BAD_DURATION: "duration_s: only one-minute candles (60) are accepted",
    Reason.UNALIGNED: "event_time of a BAR is its open time, a whole minute",
    Reason.BAD_CANDLE: "high is below low, or open or close lies outside them",
    Reason.BAD_VOLUME: "volume is negative",
    Reason.BAD_MODEL_ID: "model_id: expected a SHA-256 as 64 lower-case hex digits",
    Reason.DUPLICATE: "its sequence is not above the last of its instrument and source, nor its time newer",
    Reason.JUMP: "event_time is more than max_jump ahead of the instrument's watermark, and the next event's is not",
    Reason.LATE: "its minute has closed",
    Reason.PARAMETERS: "made with other window parameters than this worker's settings, or by another metrics version",
    Reason.UNKNOWN_SYMBOL: "timeframe or direction is one that this version does not know",
    Reason.BAD_INDEX: "bar_index: expected at least 0, and no more bars than fit between 1970 and bar_open_time",
    Reason.WINDOW_AHEAD: "its M5 or M15 window ends after its own",
    Reason.NOT_FINITE: "a damped metric or a step of the path is NaN or infinite",
    Reason.BAD_MANIFEST: "expected the model's id as key and as model_id, a location below models_url without `..`, "
    "and a SHA-256 as 64 lower-case hex digits",
}

REFUSALS: Final = tuple(reason for reason in REASON_TEXT if reason != Reason.DUPLICATE)
"""The reasons for which a record ends in dead.letters or late."""

Integers = npt.NDArray[np.int64] | int
"""A column, or one value for all rows."""

_TABLES: Final = ("sources", "models", "keys", "values")
"""Fields of EventBatch that are not n-long arrays."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of a stretch of one partition, in log order, as n-long columns.

    Prices and volume are counts of 1e-9; NULL where missing. A row with `reason` != OK carries
    nothing else that can be trusted but its offset.

    instrument: (n,) int16, position in Instruments, -1 unknown · kind: (n,) uint8, see Kind
    event_time: (n,) int64, µs since the epoch · bid … volume: (n,) int64 · duration_s: (n,) int64, s
    sequence: (n,) int64 · source: (n,) int32, position in `sources` · model: (n,) int32, position in `models`, -1 none
    reason: (n,) uint8, see Reason · offset: (n,) int64
    keys, values: the original bytes of each record, or None where the batch does not come from a log
    """

    instrument: npt.NDArray[np.int16]
    kind: npt.NDArray[np.uint8]
    event_time: npt.NDArray[np.int64]
    bid: npt.NDArray[np.int64]
    ask: npt.NDArray[np.int64]
    price: npt.NDArray[np.int64]
    open: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    close: npt.NDArray[np.int64]
    duration_s: npt.NDArray[np.int64]
    volume: npt.NDArray[np.int64]
    sequence: npt.NDArray[np.int64]
    source: npt.NDArray[np.int32]
    model: npt.NDArray[np.int32]
    reason: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]
    sources: tuple[str, ...]
    models: tuple[str, ...]
    keys: Sequence[bytes | None] | None = None
    values: Sequence[bytes | None] | None = None

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def of(
        cls,
        kind: Kind,
        instrument: Integers,
        event_time: npt.NDArray[np.int64],
        source: str,
        *,
        bid: Integers = NULL,
        ask: Integers = NULL,
        price: Integers = NULL,
        open: Integers = NULL,  # noqa: A002 - the field's name
        high: Integers = NULL,
        low: Integers = NULL,
        close: Integers = NULL,
        duration_s: Integers = NULL,
        volume: Integers = NULL,
        sequence: Integers = NULL,
        offset: npt.NDArray[np.int64] | None = None,
    ) -> EventBatch:
        """Events of one kind and source, given as columns in the units of the fields; what is left out is missing.

        A column is (n,) integers, or one for all. Offsets count from 0. Raises InputError that names a column which is
        not of integers, or not as long as `event_time`.
        """
        n = len(event_time)
        columns = {
            "event_time": event_time, "bid": bid, "ask": ask, "price": price, "open": open, "high": high, "low": low,
            "close": close, "duration_s": duration_s, "volume": volume, "sequence": sequence,
            "offset": np.arange(n, dtype=np.int64) if offset is None else offset,
        }  # fmt: skip
        integers: dict[str, Any] = {name: _column(name, column, n) for name, column in columns.items()}
        return cls(
            **integers,
            instrument=_column("instrument", instrument, n).astype(np.int16),
            kind=np.full(n, kind, np.uint8),
            source=np.zeros(n, np.int32),
            model=np.full(n, -1, np.int32),
            reason=np.zeros(n, np.uint8),
            sources=(source,),
            models=(),
        )

    def take(self, rows: slice | npt.NDArray[np.intp]) -> EventBatch:
        """Some of the events. The original bytes are left behind."""
        return self._rows(rows, None, None)

    def stretch(self, start: int, stop: int) -> EventBatch:
        """The events in [start, stop), with the original bytes."""
        rows = slice(start, stop)
        return self._rows(rows, self.keys and self.keys[rows], self.values and self.values[rows])

    def _rows(
        self,
        rows: slice | npt.NDArray[np.intp],
        keys: Sequence[bytes | None] | None,
        values: Sequence[bytes | None] | None,
    ) -> EventBatch:
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return EventBatch(**columns, sources=self.sources, models=self.models, keys=keys, values=values)

    def between(self, start_us: int | None, stop_us: int | None) -> EventBatch:
        """The events with start <= event time < stop, µs since the epoch; None is no bound. What is no event has no
        time, and comes before all."""
        keep = np.ones(len(self), np.bool_)
        if start_us is not None:
            keep &= self.event_time >= start_us
        if stop_us is not None:
            keep &= self.event_time < stop_us
        return self if keep.all() else self.take(np.flatnonzero(keep))

    @classmethod
    def concatenate(cls, batches: Sequence[EventBatch]) -> EventBatch:
        """All events of at least one batch, in order. The original bytes are left behind."""
        sources, models = (
            tuple(dict.fromkeys(name for batch in batches for name in getattr(batch, table)))
            for table in ("sources", "models")
        )
        source, model = [], []
        for batch in batches:
            source.append(_recoded(batch.source, batch.sources, sources))
            model.append(_recoded(batch.model, batch.models, models))
        columns: dict[str, Any] = {
            f.name: np.concatenate([getattr(batch, f.name) for batch in batches])
            for f in fields(cls)
            if f.name not in (*_TABLES, "source", "model")
        }
        return cls(
            **columns, source=np.concatenate(source), model=np.concatenate(model), sources=sources, models=models
        )


_COLUMNS: Final = tuple(f.name for f in fields(EventBatch) if f.name not in _TABLES)


def _column(name: str, column: Integers, n: int) -> npt.NDArray[np.int64]:
    values = np.asarray(column)
    if values.dtype.kind not in "iu" or values.shape not in ((), (n,)):
        raise InputError(f"{name}: expected {n} integers, or one for all, got {values.dtype} of shape {values.shape}")
    return np.full(n, values, np.int64)


def _recoded(codes: npt.NDArray[np.int32], table: Sequence[str], new_table: Sequence[str]) -> npt.NDArray[np.int32]:
    """Codes of the same names in another table; -1 stays."""
    position = {name: code for code, name in enumerate(new_table)}
    return np.array([*(position[name] for name in table), -1], np.int32)[codes]
