"""Records of the topics prices.latest and signals.latest as entries of the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sep_stream import wire
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec, Decoded
from sep_stream.market.events import REASON_TEXT, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import TIMEFRAMES, YEAR_2200_US
from sep_stream.record_checks import RecordChecks
from sep_stream.stores.cache.keys import price_name, signal_name
from sep_stream.stores.cache.values import is_readable, price_fields, signal_fields
from sep_stream.stores.cache.writer import Entry

TOPICS: Final = ("prices.latest", "signals.latest")
OFFSET_DIGITS_MAX: Final = 15
"""Lua compares numbers up to 2^53."""
_US_PER_MS: Final = 1_000
_MS_PER_S: Final = 1_000
_SOURCE: Final = "source"
_NO_SOURCE: Final = "expected a header `source` as TOPIC/PARTITION/OFFSET: it tells which of two equal times is newer"
_KEY: Final = "the record's key is not what its value tells of: the instrument, and |timeframe for a signal"


_JSON_FIELDS: Final = ("gate_failed", "matches")
_JSON: Final = "gate_failed and matches: expected JSON arrays, as the topic `signals` has them"


def _decoded(text: bytes | None) -> str:
    return (text or b"").decode()


class Written(NamedTuple):
    """A record as it lies in its topic. (A tuple: there are many.)"""

    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Fault(NamedTuple):
    """Why the record in this row can't be used. instrument: where it is known"""

    row: int
    code: Reason
    reason: str
    instrument: str | None


@dataclass(frozen=True, slots=True)
class _Kind:
    """How records of one topic are read. times: columns, and microseconds in their units; the last is the event's"""

    schema: str
    codec: BulkCodec
    times: tuple[str, ...]
    unit_us: int
    timeframed: bool
    fields: Callable[[Mapping[str, Any], int], dict[str, str]]


class CacheRecords:
    """ttl_s: a value expires so long after its record was appended, whenever it is read"""

    def __init__(self, schemas: Schemas, instruments: Instruments, ttl_s: int) -> None:
        self._schemas, self._instruments, self._ttl_ms = schemas, instruments, ttl_s * _MS_PER_S
        self._symbols = wire.Symbols(instruments)
        self._checks = RecordChecks(self._symbols, instruments)
        price, signal = (BulkCodec(*schemas.of(name)) for name in ("latest_price", "signal"))
        self._kinds = {
            TOPICS[0]: _Kind("LatestPrice", price, ("event_time",), 1, False, price_fields),
            TOPICS[1]: _Kind(
                "Signal", signal, ("anchor_time", "bar_open_time", "available_at"), _US_PER_MS, True, signal_fields
            ),
        }

    def entries(self, topic: str, records: Sequence[Written], every: bool = False) -> tuple[list[Entry], list[Fault]]:
        """The newest entry of each name among the records, and why some are of no use.

        topic: without prefix · every: all entries, in their order
        """
        kind = self._kinds[topic]
        decoded = kind.codec.decode([record.value for record in records])
        names, faults = self._names(kind, decoded, records)
        times_us = decoded.columns[kind.times[-1]][list(names)] * kind.unit_us
        found: dict[str | int, tuple[int, int, int]] = {}
        for row, time_us in zip(names, times_us.tolist(), strict=True):
            offset = _source_offset(records[row].headers)
            if offset is None:
                faults.append(Fault(row, Reason.MISSING_FIELD, _NO_SOURCE, None))
                continue
            place, version = row if every else names[row], (time_us, offset, row)
            if place not in found or version > found[place]:
                found[place] = version
        return [self._entry(kind, names[v[-1]], *v, records) for v in found.values()], sorted(faults)

    def _names(self, kind: _Kind, decoded: Decoded, records: Sequence[Written]) -> tuple[dict[int, str], list[Fault]]:
        """Names by row, of those that are sound."""
        columns, errors = decoded.columns, decoded.errors
        if kind.timeframed:
            instrument = self._checks.names(decoded).tolist()
        else:
            positions = self._symbols.positions(columns["instrument"])
            errors[(errors == Reason.OK) & (positions < 0)] = Reason.UNKNOWN_INSTRUMENT
            instrument = positions.tolist()
        for name in kind.times:
            strange = (columns[name] < 0) | (columns[name] >= YEAR_2200_US // kind.unit_us)
            errors[(errors == Reason.OK) & strange] = Reason.BAD_TIME
        timeframe = columns["timeframe"].tolist() if kind.timeframed else [-1] * len(records)
        texts = (
            list(zip(*(map(_decoded, columns[name]) for name in _JSON_FIELDS), strict=True)) if kind.timeframed else []
        )
        symbols = self._instruments.symbols
        names: dict[int, str] = {}
        faults: list[Fault] = []
        for row, code in enumerate(errors.tolist()):
            symbol = symbols[instrument[row]] if instrument[row] >= 0 else None
            if code != Reason.OK or symbol is None:
                faults.append(Fault(row, Reason(code), _told(Reason(code), kind.schema), symbol))
                continue
            suffix = f"|{TIMEFRAMES[timeframe[row]]}" if kind.timeframed else ""
            if records[row].key != (symbol + suffix).encode():
                faults.append(Fault(row, Reason.KEY_MISMATCH, _KEY, symbol))
                continue
            if texts and not is_readable(*texts[row]):
                faults.append(Fault(row, Reason.MALFORMED, _JSON, symbol))
                continue
            names[row] = signal_name(symbol, TIMEFRAMES[timeframe[row]]) if kind.timeframed else price_name(symbol)
        return names, faults

    def _entry(self, kind: _Kind, name: str, time_us: int, offset: int, row: int, records: Sequence[Written]) -> Entry:
        record = records[row]
        _, value = self._schemas.decode(record.value or b"")
        return Entry(name, time_us, offset, record.timestamp_ms + self._ttl_ms, kind.fields(value, offset))


def _told(code: Reason, schema: str) -> str:
    if code == Reason.BAD_TIME:
        return f"expected an Avro {schema} whose times lie between the years 1970 and 2200"
    known = code in (Reason.UNKNOWN_INSTRUMENT, Reason.UNKNOWN_SYMBOL)
    return REASON_TEXT[code] if known else f"expected an Avro {schema}"


def _source_offset(headers: Sequence[tuple[str, bytes | None]]) -> int | None:
    """Of the record behind this one. The last header of the name counts, as it does in Kafka's own clients."""
    for name, value in reversed(headers):
        if name == _SOURCE and value is not None:
            digits = value.rpartition(b"/")[2]
            return int(digits) if digits.isdigit() and len(digits) <= OFFSET_DIGITS_MAX else None
    return None
