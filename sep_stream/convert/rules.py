"""The rules that one event must meet by itself, and its prices in points. sep-metrics/1, sections 1 and 8."""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.market.events import NULL, EventBatch, Kind, Reason
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.timeframes import DURATION_S, MINUTE_US, YEAR_2200_US

CHECKED_DTYPE: Final = np.dtype(
    [
        ("open", "<i8"),
        ("high", "<i8"),
        ("low", "<i8"),
        ("close", "<i8"),
        ("spread", "<i8"),
        ("volume_units", "<i8"),
        ("volume_nanos", "<i8"),
    ]
)
"""Prices and spread in points (spread -1: none told); volume as whole units and billionths of one."""

POINTS_MAX: Final = 2**31 - 1
"""Windows carry prices as int32."""

MODEL_ID_LENGTH: Final = 64  # SHA-256 in hex

_QUOTE, _TRADE, _BAR, _HEARTBEAT, _MODEL = (
    int(k) for k in (Kind.QUOTE, Kind.TRADE, Kind.BAR, Kind.HEARTBEAT, Kind.MODEL)
)
_OK = int(Reason.OK)
_UNKNOWN_KIND, _BAD_TIME, _MISSING = int(Reason.UNKNOWN_KIND), int(Reason.BAD_TIME), int(Reason.MISSING_FIELD)
_NOT_POSITIVE, _RANGE, _CROSSED = int(Reason.NOT_POSITIVE), int(Reason.PRICE_RANGE), int(Reason.CROSSED)
_DURATION, _UNALIGNED = int(Reason.BAD_DURATION), int(Reason.UNALIGNED)
_CANDLE, _VOLUME, _MODEL_ID = int(Reason.BAD_CANDLE), int(Reason.BAD_VOLUME), int(Reason.BAD_MODEL_ID)
_MINUTE_S = DURATION_S[0]


def check_events(batch: EventBatch, instruments: Instruments) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
    """Reasons (n,) uint8, those of decoding kept, and CHECKED_DTYPE rows (n,) valid where the reason is OK."""
    reason = batch.reason.copy()
    checked = np.zeros(len(batch), CHECKED_DTYPE)
    model_ok = np.array([is_model_id(m) for m in batch.models] + [False], np.bool_)
    _check(
        instruments.tick_units, batch.instrument, batch.kind, batch.event_time, batch.bid, batch.ask, batch.price,
        batch.open, batch.high, batch.low, batch.close, batch.duration_s, batch.volume, batch.model, model_ok,
        reason, checked,
    )  # fmt: skip
    return reason, checked


def is_model_id(text: str) -> bool:
    """Whether this is a SHA-256 in lower hex."""
    return len(text) == MODEL_ID_LENGTH and set(text) <= set("0123456789abcdef")


@nb.njit(cache=True, nogil=True, error_model="numpy")
def to_points(units: int, tick: int) -> int:
    """Units of 1e-9 as points of `tick` units, rounded half up, exactly; beyond 31 bits saturates."""
    whole = units // tick
    if whole > POINTS_MAX or whole < -POINTS_MAX:
        return POINTS_MAX + 1 if whole > 0 else -POINTS_MAX
    rest = units - whole * tick
    return whole + 1 if 2 * rest >= tick else whole


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _price_fault(points: int) -> int:
    if points <= 0:
        return _NOT_POSITIVE
    return _RANGE if points > POINTS_MAX else _OK


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _quote(out: Any, bid: int, ask: int, tick: int) -> int:
    b, a = to_points(bid, tick), to_points(ask, tick)
    fault = _price_fault(b)
    if fault == _OK:
        fault = _price_fault(a)
    if fault != _OK:
        return fault
    if a < b:
        return _CROSSED
    out.spread = a - b
    out.close = (b + a + 1) // 2
    return _OK


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _candle(out: Any, o: int, h: int, low: int, c: int, tick: int) -> int:
    out.open, out.high, out.low, out.close = (
        to_points(o, tick),
        to_points(h, tick),
        to_points(low, tick),
        to_points(c, tick),
    )
    for points in (out.open, out.high, out.low, out.close):
        fault = _price_fault(points)
        if fault != _OK:
            return fault
    if out.high < out.low or not (out.low <= out.open <= out.high and out.low <= out.close <= out.high):
        return _CANDLE
    return _OK


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _volume(out: Any, volume: int, if_missing: int) -> int:
    if volume == NULL:
        out.volume_units = if_missing
        return _OK
    if volume < 0:
        return _VOLUME
    out.volume_units = volume // UNITS_PER_ONE
    out.volume_nanos = volume % UNITS_PER_ONE
    return _OK


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _check(
    ticks: Any, instrument: Any, kind: Any, event_time: Any, bid: Any, ask: Any, price: Any, open_: Any, high: Any,
    low: Any, close: Any, duration_s: Any, volume: Any, model: Any, model_ok: Any, reason: Any, checked: Any,
) -> None:  # fmt: skip
    for k in range(len(kind)):
        if reason[k] != _OK:
            continue
        what, out = kind[k], checked[k]
        tick = ticks[instrument[k]]
        out.spread = -1
        fault = _OK
        if what > _MODEL:
            fault = _UNKNOWN_KIND
        elif event_time[k] < 0 or event_time[k] >= YEAR_2200_US:
            fault = _BAD_TIME
        elif what == _QUOTE:
            if bid[k] == NULL or ask[k] == NULL:
                fault = _MISSING
            else:
                fault = _quote(out, bid[k], ask[k], tick)
        elif what == _TRADE:
            if price[k] == NULL:
                fault = _MISSING
            else:
                out.close = to_points(price[k], tick)
                fault = _price_fault(out.close)
        elif what == _BAR:
            if (
                open_[k] == NULL or high[k] == NULL or low[k] == NULL or close[k] == NULL
                or duration_s[k] == NULL
            ):  # fmt: skip
                fault = _MISSING
            elif duration_s[k] != _MINUTE_S:
                fault = _DURATION
            elif event_time[k] % MINUTE_US != 0:
                fault = _UNALIGNED
            else:
                if bid[k] != NULL and ask[k] != NULL:
                    fault = _quote(out, bid[k], ask[k], tick)
                if fault == _OK:
                    fault = _candle(out, open_[k], high[k], low[k], close[k], tick)
        elif what == _MODEL:
            if model[k] < 0:
                fault = _MISSING
            elif not model_ok[model[k]]:
                fault = _MODEL_ID
        if fault == _OK and what <= _BAR:
            fault = _volume(out, volume[k], 0 if what == _BAR else 1)
        reason[k] = fault
