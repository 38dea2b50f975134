"""Cached values: as text in Redis, so that any client can read them, and typed here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from sep_stream.errors import InputError
from sep_stream.stores.cache.keys import PRICE

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_US_PER_MS: Final = 1_000

Fields = Mapping[str, str]
"""Of a hash in Redis; what is null is left out. Decimals and floats as text that round-trips, times as integers in the
units of the record's schema, but event_time in microseconds everywhere, booleans as 0 and 1."""


class Direction(StrEnum):
    BUY = "BUY"
    SELL = "SELL"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class LatestPrice:
    """price: mid of a quote, price of a trade, close of a candle · offset: of market.events, how far it was read"""

    instrument: str
    event_time_us: int
    price: Decimal
    bid: Decimal | None
    ask: Decimal | None
    offset: int


@dataclass(frozen=True, slots=True)
class Match:
    """A row of the model's library that a signal came from. outcome_points: what followed there"""

    row: int
    anchor_time_s: int
    cosine: float
    outcome_points: int


@dataclass(frozen=True, slots=True)
class LatestSignal:
    """As in the topic `signals`. event_time_us: when it was available · offset: of `metrics`"""

    instrument: str
    timeframe: str
    event_time_us: int
    signal_id: str
    anchor_time_ms: int
    available_at_ms: int
    direction: Direction
    reason: str | None
    confidence: float
    p_up: float
    expected_move_points: float
    gate_passed: bool
    gate_failed: tuple[str, ...]
    confirmed: bool
    m5_signal_id: str | None
    m15_signal_id: str | None
    matches: tuple[Match, ...]
    model_id: str
    metrics_version: str
    bar_index: int
    bar_open_time_ms: int
    bar_open: Decimal
    bar_close: Decimal
    bar_spread: Decimal | None
    offset: int


Value = LatestPrice | LatestSignal


def price_fields(record: Mapping[str, Any], offset: int) -> dict[str, str]:
    """Of a decoded LatestPrice."""
    event_us = (record["event_time"] - _EPOCH) // _US
    fields = {name: _text(value) for name, value in record.items()}
    return _present(fields | {"event_time": str(event_us), "offset": str(offset)})


def signal_fields(record: Mapping[str, Any], offset: int) -> dict[str, str]:
    """Of a decoded Signal."""
    available_us = (record["available_at"] - _EPOCH) // _US
    fields = {name: _text(value) for name, value in record.items()}
    return _present(fields | {"event_time": str(available_us), "offset": str(offset)})


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    if isinstance(value, datetime):
        return str((value - _EPOCH) // _US // _US_PER_MS)
    return repr(value)


def _present(fields: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}


def typed(name: str, fields: Fields) -> Value:
    """The value of that name. InputError where something else was written there."""
    try:
        return _price(fields) if name.startswith(PRICE) else _signal(fields)
    except (KeyError, ValueError, ArithmeticError, TypeError) as error:
        raise InputError(
            f"the cache's {name} is none: {type(error).__name__} {error}; `sep-stream cache rebuild` makes it anew"
        ) from error


def _price(f: Fields) -> LatestPrice:
    return LatestPrice(
        f["instrument"], int(f["event_time"]), Decimal(f["price"]), _decimal(f.get("bid")), _decimal(f.get("ask")),
        int(f["offset"]),
    )  # fmt: skip


def _signal(f: Fields) -> LatestSignal:
    return LatestSignal(
        instrument=f["instrument"],
        timeframe=f["timeframe"],
        event_time_us=int(f["event_time"]),
        signal_id=f["signal_id"],
        anchor_time_ms=int(f["anchor_time"]),
        available_at_ms=int(f["available_at"]),
        direction=Direction(f["direction"]),
        reason=f.get("reason"),
        confidence=float(f["confidence"]),
        p_up=float(f["p_up"]),
        expected_move_points=float(f["expected_move"]),
        gate_passed=f["gate_passed"] == "1",
        gate_failed=_gate_failed(f["gate_failed"]),
        confirmed=f["confirmed"] == "1",
        m5_signal_id=f.get("m5_signal_id"),
        m15_signal_id=f.get("m15_signal_id"),
        matches=_matches(f["matches"]),
        model_id=f["model_id"],
        metrics_version=f["metrics_version"],
        bar_index=int(f["bar_index"]),
        bar_open_time_ms=int(f["bar_open_time"]),
        bar_open=Decimal(f["bar_open"]),
        bar_close=Decimal(f["bar_close"]),
        bar_spread=_decimal(f.get("bar_spread")),
        offset=int(f["offset"]),
    )


def is_readable(gate_failed: str, matches: str) -> bool:
    """Whether these fields of a signal are the JSON that `typed` takes."""
    try:
        _gate_failed(gate_failed)
        _matches(matches)
    except (KeyError, ValueError, TypeError, RecursionError):
        return False
    return True


def _gate_failed(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _matches(text: str) -> tuple[Match, ...]:
    return tuple(Match(m["row"], m["anchor_time"], m["cosine"], m["outcome"]) for m in json.loads(text))


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
