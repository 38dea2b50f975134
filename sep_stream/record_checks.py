"""What decoded records of the derived topics must be for a stage to use them. What is not gets its reason.

Windows, metrics and signals may come from any producer. Their schemas let through values that no converter makes: each
check here is one that a later step needs, so that no record ends a stage or changes what others give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.convert.rules import POINTS_MAX, is_model_id
from sep_stream.market.bulk_avro import Decoded, VarColumn
from sep_stream.market.events import NULL, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import DURATION_US, YEAR_2200_US
from sep_stream.metrics import METRICS_VERSION, WindowParams
from sep_stream.wire import DIRECTION_SYMBOL, PREFIXES, Symbols

_US_PER_MS: Final = 1_000
_DURATION_MS: Final = np.array(DURATION_US, np.int64) // _US_PER_MS
_YEAR_2200_MS: Final = YEAR_2200_US // _US_PER_MS
_PRICE_UNITS_MAX: Final = 6 * 10**17
"""A trade is dealt at a price with half a spread on it, of which each may be as large as this: together 9 · 10^17, of
the 10^18 that decimal(18,9) holds."""
_OK, _PARAMETERS = int(Reason.OK), int(Reason.PARAMETERS)
_UNKNOWN_INSTRUMENT, _KEY_MISMATCH = int(Reason.UNKNOWN_INSTRUMENT), int(Reason.KEY_MISMATCH)
_UNKNOWN_SYMBOL, _BAD_TIME, _BAD_INDEX = int(Reason.UNKNOWN_SYMBOL), int(Reason.BAD_TIME), int(Reason.BAD_INDEX)
_NOT_POSITIVE, _PRICE_RANGE, _CROSSED = int(Reason.NOT_POSITIVE), int(Reason.PRICE_RANGE), int(Reason.CROSSED)
_WINDOW_AHEAD, _NOT_FINITE = int(Reason.WINDOW_AHEAD), int(Reason.NOT_FINITE)
_TIMEFRAMES, _DIRECTIONS = len(DURATION_US), len(DIRECTION_SYMBOL)


class RecordChecks:
    """Gives decoded records that are of no use their reason."""

    def __init__(self, symbols: Symbols, instruments: Instruments) -> None:
        self._symbols, self._ticks = symbols, instruments.tick_units

    def windows(self, decoded: Decoded, keys: Sequence[bytes | None], params: WindowParams) -> None:
        """Check records of `window`. keys: of the records · params: that they must have been made with"""
        columns, errors = decoded.columns, decoded.errors
        self._bar(decoded, keys, "start_time")
        for name in ("history", "forward"):
            _refuse_others(errors, columns[name], getattr(params, name))
        bits_bytes = -(-(params.history + params.forward) // 64) * 8
        for prefix in PREFIXES:
            bits, prices = columns[f"{prefix}bits"], columns[f"{prefix}prices"]
            _refuse_lengths(errors, bits.length, bits_bytes)
            _refuse_lengths(errors, prices.length, 4 * (params.forward + 1))
            _refuse_prices(errors, prices.data, prices.start, prices.length)
        _longer_windows(decoded)

    def metrics(self, decoded: Decoded, keys: Sequence[bytes | None], params: WindowParams) -> None:
        """Check records of `metrics`. keys: of the records · params: that they must have been made with"""
        columns, errors = decoded.columns, decoded.errors
        self._bar(decoded, keys, "start_time")
        for name in ("history", "forward", "samples", "hold"):
            _refuse_others(errors, columns[name], getattr(params, name))
        _refuse_others(errors, columns["eps"], float(params.eps))
        _refuse_versions(decoded)
        for prefix in PREFIXES:
            path, damped = columns[f"{prefix}path"], [columns[f"{prefix}damped_{value}"] for value in "hcs"]
            _refuse_lengths(errors, path.length, 12 * params.samples)
            _refuse_infinite(errors, path.data, path.start, path.length, *damped)
        _longer_windows(decoded)

    def signals(self, decoded: Decoded, keys: Sequence[bytes | None]) -> npt.NDArray[np.int16]:
        """Check records of `signal`, and return their instruments (n,) int16. keys: of the records"""
        instrument = self._bar(decoded, keys, "anchor_time")
        _refuse_directions(decoded.errors, decoded.columns["direction"])
        _refuse_versions(decoded)
        _refuse_model_ids(decoded, "model_id")
        return instrument

    def names(self, decoded: Decoded) -> npt.NDArray[np.int16]:
        """Check only that the instrument is declared and that timeframe and direction are known, of records of
        `signal`; return the instruments (n,) int16."""
        instrument = self._symbols.positions(decoded.columns["instrument"])
        _refuse_names(decoded.errors, instrument, decoded.columns["timeframe"])
        _refuse_directions(decoded.errors, decoded.columns["direction"])
        return instrument

    def _bar(self, decoded: Decoded, keys: Sequence[bytes | None], first_time: str) -> npt.NDArray[np.int16]:
        """The bar that completed the window, and its times. first_time: column of the earliest"""
        columns = decoded.columns
        instrument = self._symbols.positions(columns["instrument"])
        _refuse_names(decoded.errors, instrument, columns["timeframe"])
        _refuse_keys(decoded.errors, instrument, self._symbols.positions(VarColumn.of(keys)))
        _refuse_times(
            decoded.errors, columns["timeframe"], columns[first_time], columns["anchor_time"], columns["available_at"],
            columns["bar_open_time"], columns["bar_index"],
        )  # fmt: skip
        _refuse_bars(
            decoded.errors, self._ticks, instrument, columns["bar_open"], columns["bar_close"], columns["bar_spread"]
        )
        return instrument


def _longer_windows(decoded: Decoded) -> None:
    """What windows and metrics say of the newest M5 and M15 windows, and the models of all three."""
    columns = decoded.columns
    for timeframe, prefix in enumerate(PREFIXES):
        if timeframe > 0:
            _refuse_longer(
                decoded.errors, columns[prefix[:-1]], timeframe, columns[f"{prefix}start_time"],
                columns[f"{prefix}anchor_time"], columns[f"{prefix}available_at"], columns["available_at"],
            )  # fmt: skip
        _refuse_model_ids(decoded, f"{prefix}model_id")


def _refuse_model_ids(decoded: Decoded, name: str) -> None:
    """Null is none, and is let through."""
    codes, table = decoded.columns[name].intern()
    wrong = np.array([not is_model_id(model.decode()) for model in table] + [False])
    if wrong.any():
        decoded.errors[(decoded.errors == Reason.OK) & wrong[codes]] = Reason.BAD_MODEL_ID


def _refuse_versions(decoded: Decoded) -> None:
    codes, table = decoded.columns["metrics_version"].intern()
    wrong = np.array([version != METRICS_VERSION.encode() for version in table] + [False])
    if wrong.any():
        decoded.errors[(decoded.errors == Reason.OK) & wrong[codes]] = Reason.PARAMETERS


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_names(errors: Any, instrument: Any, timeframe: Any) -> None:
    for k in range(len(errors)):
        if errors[k] == _OK and instrument[k] < 0:
            errors[k] = _UNKNOWN_INSTRUMENT
        elif errors[k] == _OK and timeframe[k] >= _TIMEFRAMES:
            errors[k] = _UNKNOWN_SYMBOL


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_directions(errors: Any, direction: Any) -> None:
    for k in range(len(errors)):
        if errors[k] == _OK and direction[k] >= _DIRECTIONS:
            errors[k] = _UNKNOWN_SYMBOL


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_keys(errors: Any, instrument: Any, named: Any) -> None:
    """named: the instrument of each record's key"""
    for k in range(len(errors)):
        if errors[k] == _OK and named[k] != instrument[k]:
            errors[k] = _KEY_MISMATCH


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_times(
    errors: Any, timeframe: Any, start: Any, anchor: Any, available: Any, open_time: Any, index: Any
) -> None:
    """Times in ms. A window becomes available when the bar that completes it ends."""
    for k in range(len(errors)):
        if errors[k] != _OK:
            continue
        duration, t = _DURATION_MS[timeframe[k]], open_time[k]
        is_bar = 0 <= t < _YEAR_2200_MS and t % duration == 0
        if not (is_bar and available[k] == t + duration and 0 <= start[k] <= anchor[k] < available[k]):
            errors[k] = _BAD_TIME
        elif not 0 <= index[k] <= t // duration:  # each bar has a place in time of its own
            errors[k] = _BAD_INDEX


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_bars(errors: Any, ticks: Any, instrument: Any, open_: Any, close: Any, spread: Any) -> None:
    """Prices in units of 1e-9."""
    for k in range(len(errors)):
        if errors[k] != _OK:
            continue
        tick = ticks[instrument[k]]
        units_max = min(_PRICE_UNITS_MAX, POINTS_MAX * tick)
        if open_[k] < tick or close[k] < tick:
            errors[k] = _NOT_POSITIVE
        elif open_[k] > units_max or close[k] > units_max or spread[k] > units_max:
            errors[k] = _PRICE_RANGE
        elif spread[k] < 0 and spread[k] != NULL:
            errors[k] = _CROSSED


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_longer(
    errors: Any, present: Any, timeframe: int, start: Any, anchor: Any, available: Any, own_available: Any
) -> None:
    """Times in ms of the newest M5 or M15 windows, where they are present."""
    duration = _DURATION_MS[timeframe]
    for k in range(len(errors)):
        if errors[k] != _OK or not present[k]:
            continue
        if available[k] > own_available[k]:
            errors[k] = _WINDOW_AHEAD
        elif not 0 <= start[k] <= anchor[k] < available[k] or available[k] % duration != 0:
            errors[k] = _BAD_TIME


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_lengths(errors: Any, length: Any, expected: int) -> None:
    """length: -1 in the records that have no window there"""
    for k in range(len(errors)):
        if errors[k] == _OK and length[k] >= 0 and length[k] != expected:
            errors[k] = _PARAMETERS


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_others(errors: Any, values: Any, expected: Any) -> None:
    for k in range(len(errors)):
        if errors[k] == _OK and values[k] != expected:
            errors[k] = _PARAMETERS


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_prices(errors: Any, data: Any, start: Any, length: Any) -> None:
    """Closes, int32 little-endian points: engines subtract them as 32 bits."""
    for k in range(len(errors)):
        if errors[k] != _OK:
            continue
        for at in range(start[k], start[k] + length[k] - 3, 4):
            if data[at + 3] >= 128 or (data[at] | data[at + 1] | data[at + 2] | data[at + 3]) == 0:
                errors[k] = _NOT_POSITIVE
                break


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuse_infinite(errors: Any, data: Any, start: Any, length: Any, h: Any, c: Any, s: Any) -> None:
    """Paths, float32 little-endian, and damped metrics. A float whose exponent's bits are all set is no number."""
    for k in range(len(errors)):
        if errors[k] != _OK or length[k] < 0:
            continue
        finite = np.isfinite(h[k]) and np.isfinite(c[k]) and np.isfinite(s[k])
        for at in range(start[k], start[k] + length[k] - 3, 4):
            finite = finite and not (data[at + 3] & 127 == 127 and data[at + 2] >= 128)
        if not finite:
            errors[k] = _NOT_FINITE
