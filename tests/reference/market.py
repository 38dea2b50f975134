"""What one event says on its own: its prices in points, and whether it can be used at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

Event = Mapping[str, Any]
"""instrument, kind, event_time (µs), bid … close, volume (Decimal or None), duration_s, source, sequence, model_id."""

Instruments = Mapping[str, Mapping[str, Any]]
"""By symbol: tick_size (Decimal) and price_kind ("quote" or "trade")."""

MINUTE_US = 60_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_END_US = (datetime(2200, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
POINTS_END = 2**31

UNITS = 10**9
UNITS_END = 10**18
"""The wire's decimal(18,9): 18 digits, 9 of them after the point."""

DECIMALS = ("bid", "ask", "price", "open", "high", "low", "close", "volume")
NEEDED = {
    "QUOTE": ("bid", "ask"),
    "TRADE": ("price",),
    "BAR": ("open", "high", "low", "close", "duration_s"),
    "HEARTBEAT": (),
    "MODEL": ("model_id",),
}
PRICES = {
    "QUOTE": ("bid", "ask"),
    "TRADE": ("price",),
    "BAR": ("open", "high", "low", "close"),
    "HEARTBEAT": (),
    "MODEL": (),
}
KINDS_WITH_VOLUME = ("QUOTE", "TRADE", "BAR")


def to_points(price: Decimal, tick_size: Decimal) -> int:
    """The price in points, rounded half up, exactly."""
    price_units, tick_units = int(price * UNITS), int(tick_size * UNITS)
    return (2 * price_units + tick_units) // (2 * tick_units)


def mid(bid: int, ask: int) -> int:
    return (bid + ask + 1) // 2


def has_bid_and_ask(event: Event) -> bool:
    return event["bid"] is not None and event["ask"] is not None


def fault(event: Event, instruments: Instruments) -> str | None:
    """Why the event is a dead letter whatever came before it, as a reason code; None if it is not."""
    if not all(fits_the_wire(event[name]) for name in DECIMALS):
        return "DECIMAL_RANGE"
    if event["instrument"] not in instruments:
        return "UNKNOWN_INSTRUMENT"
    kind = event["kind"]
    if kind not in NEEDED:
        return "UNKNOWN_KIND"
    if not 0 <= event["event_time"] < TIME_END_US:
        return "BAD_TIME"
    if any(event[name] is None for name in NEEDED[kind]):
        return "MISSING_FIELD"
    return (
        price_fault(event, instruments[event["instrument"]]["tick_size"])
        or (candle_fault(event, instruments[event["instrument"]]["tick_size"]) if kind == "BAR" else None)
        or volume_fault(event)
        or model_fault(event)
    )


def fits_the_wire(value: Decimal | None) -> bool:
    if value is None:
        return True
    if not value.is_finite():
        return False
    units = Fraction(value) * UNITS
    return units.denominator == 1 and abs(units) < UNITS_END


def price_fault(event: Event, tick_size: Decimal) -> str | None:
    names = PRICES[event["kind"]]
    if event["kind"] == "BAR" and has_bid_and_ask(event):
        names = (*names, "bid", "ask")
    points = {name: to_points(event[name], tick_size) for name in names}
    for price in points.values():
        if price <= 0:
            return "NOT_POSITIVE"
        if price >= POINTS_END:
            return "PRICE_RANGE"
    if "bid" in points and points["ask"] < points["bid"]:
        return "CROSSED"
    return None


def candle_fault(event: Event, tick_size: Decimal) -> str | None:
    if event["duration_s"] != 60:
        return "BAD_DURATION"
    if event["event_time"] % MINUTE_US != 0:
        return "UNALIGNED"
    open_, high, low, close = (to_points(event[name], tick_size) for name in ("open", "high", "low", "close"))
    sane = low <= high and low <= open_ <= high and low <= close <= high
    return None if sane else "BAD_CANDLE"


def volume_fault(event: Event) -> str | None:
    negative = event["kind"] in KINDS_WITH_VOLUME and event["volume"] is not None and event["volume"] < 0
    return "BAD_VOLUME" if negative else None


def model_fault(event: Event) -> str | None:
    bad = event["kind"] == "MODEL" and not re.fullmatch("[0-9a-f]{64}", event["model_id"])
    return "BAD_MODEL_ID" if bad else None
