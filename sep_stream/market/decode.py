"""Between Avro `MarketEvent` records and event batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import BulkCodec, Encoded, VarColumn
from sep_stream.market.events import NULL, EventBatch, Kind, Reason
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.partitioner import partition_for

_DECIMALS: Final = ("bid", "ask", "price", "open", "high", "low", "close", "volume")
_OK, _KEY_MISMATCH, _WRONG_PARTITION = int(Reason.OK), int(Reason.KEY_MISMATCH), int(Reason.WRONG_PARTITION)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def decode_events(
    codec: BulkCodec,
    instruments: Instruments,
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    offsets: npt.NDArray[np.int64],
    partition: int | npt.NDArray[np.int64] | None = None,
    partitions: int | None = None,
) -> EventBatch:
    """The events of records, each with the reason if it can't be one. partition: of all, or of each, (n,)

    Without `partition` and `partitions` keys are not checked: the records come from no log.
    """
    decoded = codec.decode(values)
    columns, reason = decoded.columns, decoded.errors
    codes, names = columns["instrument"].intern()
    places = [_canonical(instruments, name) for name in names]
    instrument = np.array([*places, -1], np.int16)[codes]
    if -1 in places:
        reason[(reason == Reason.OK) & (instrument < 0)] = Reason.UNKNOWN_INSTRUMENT
    if partition is not None and partitions is not None:
        key_codes, table = VarColumn.of(keys).intern()
        named = [_canonical(instruments, key) for key in table]
        # keys that name no instrument are a mismatch, however long: they are neither hashed nor remembered
        home = [partition_for(key, partitions) if place >= 0 else -1 for key, place in zip(table, named, strict=True)]
        where = partition if isinstance(partition, np.ndarray) else np.full(len(reason), partition, np.int64)
        _refuse_misplaced(
            reason, instrument, np.array([*named, -2], np.int16)[key_codes], np.array([*home, -1])[key_codes], where
        )
    source, sources = columns["source"].intern()
    model, models = columns["model_id"].intern()
    return EventBatch(
        instrument=instrument,
        kind=columns["kind"].astype(np.uint8),
        event_time=columns["event_time"],
        **{name: columns[name] for name in _DECIMALS},
        duration_s=columns["duration_s"],
        sequence=columns["sequence"],
        source=source,
        model=model,
        reason=reason,
        offset=offsets,
        sources=tuple(name.decode() for name in sources),
        models=tuple(name.decode() for name in models),
        keys=keys,
        values=values,
    )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_misplaced(reason: Any, instrument: Any, named: Any, home: Any, partition: Any) -> None:
    """named: the instrument of each record's key · home: the partition that it belongs in"""
    for k in range(len(reason)):
        if reason[k] == _OK and named[k] != instrument[k]:
            reason[k] = _KEY_MISMATCH
        elif reason[k] == _OK and home[k] != partition[k]:
            reason[k] = _WRONG_PARTITION


def _canonical(instruments: Instruments, name: bytes) -> int:
    try:
        position = instruments.canonical(name.decode())
    except UnicodeDecodeError:
        return -1
    return -1 if position is None else position


def encode_events(codec: BulkCodec, instruments: Instruments, batch: EventBatch) -> Encoded:
    """The records of a batch whose events are all OK."""
    columns: dict[str, Any] = {
        name: getattr(batch, name) for name in (*_DECIMALS, "event_time", "duration_s", "sequence")
    }
    columns["instrument"] = VarColumn.from_codes(
        batch.instrument.astype(np.int32), [symbol.encode() for symbol in instruments.symbols]
    )
    columns["kind"] = batch.kind.astype(np.int64)
    columns["source"] = VarColumn.from_codes(batch.source, [source.encode() for source in batch.sources])
    columns["model_id"] = VarColumn.from_codes(batch.model, [model.encode() for model in batch.models])
    return codec.encode(columns, len(batch))


def events_from_records(instruments: Instruments, records: Sequence[Mapping[str, Any]]) -> EventBatch:
    """A batch of events given as Avro-like records: Decimal prices, event_time as datetime or int µs.

    Fields left out are null; offsets count from 0. Raises InputError for an unknown instrument or kind and for a
    decimal that decimal(18,9) can't hold.
    """
    sources, models = (
        tuple(dict.fromkeys(r[name] for r in records if r.get(name) is not None)) for name in ("source", "model_id")
    )
    n = len(records)

    def column(name: str, of: Any, dtype: Any) -> npt.NDArray[Any]:
        return np.fromiter((of(name, r.get(name)) for r in records), dtype, n)

    decimals: dict[str, Any] = {name: column(name, _units, np.int64) for name in _DECIMALS}
    return EventBatch(
        instrument=np.fromiter((instruments.position(r["instrument"]) for r in records), np.int16, n),
        kind=np.fromiter((_kind(r["kind"]) for r in records), np.uint8, n),
        event_time=np.fromiter((_time_us(r["event_time"]) for r in records), np.int64, n),
        **decimals,
        duration_s=column("duration_s", _integer, np.int64),
        sequence=column("sequence", _integer, np.int64),
        source=np.fromiter((sources.index(r["source"]) for r in records), np.int32, n),
        model=np.fromiter(
            (models.index(r["model_id"]) if r.get("model_id") is not None else -1 for r in records), np.int32, n
        ),
        reason=np.zeros(n, np.uint8),
        offset=np.arange(n, dtype=np.int64),
        sources=sources,
        models=models,
    )


def _kind(name: str) -> int:
    try:
        return int(Kind[name])
    except KeyError:
        raise InputError(f"kind: expected one of {', '.join(Kind.__members__)}, got {name!r}") from None


def _time_us(value: Any) -> int:
    return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else int(value)


def _integer(_: str, value: int | None) -> int:
    return NULL if value is None else value


def _units(name: str, value: Decimal | None) -> int:
    """A decimal in units of 1e-9."""
    if value is None:
        return NULL
    fits = value.is_finite() and abs(value) < UNITS_PER_ONE
    units = int(value * UNITS_PER_ONE) if fits else NULL
    if not fits or Decimal(units).scaleb(-9) != value:  # compared with the value: the product rounds to 28 digits
        raise InputError(f"{name}: expected at most 18 digits, 9 of them decimals, got {value}")
    return units
