"""A seeded synthetic market: random walks without an edge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.events import NULL, EventBatch, Integers, Kind
from sep_stream.market.instruments import UNITS_PER_ONE, Instrument, Instruments
from sep_stream.market.timeframes import DURATION_S, MINUTE_US, US_PER_S

SOURCE: Final = "synthetic"
START: Final = datetime(2024, 1, 1, tzinfo=UTC)
MINUTES_PER_DAY: Final = 1440
STEPS_PER_MINUTE: Final = 4
"""Moves inside a candle; its open, high, low and close come from them."""
MISSING_SHARE: Final = 0.003
"""Of the minutes: no candle, as on a quiet night."""
_OPEN_MINUTE: Final = 21 * 60  # UTC, Sunday to Thursday; a day is 24 hours, so the week ends Friday 21:00
_FIRST_PRICE: Final = {
    "EUR/USD": "1.10000",
    "GBP/USD": "1.27000",
    "USD/JPY": "147.000",
    "AUD/USD": "0.66000",
    "USD/CAD": "1.35000",
    "NZD/USD": "0.61000",
    "USD/CHF": "0.88000",
    "EUR/JPY": "161.000",
}


def synthetic_candles(
    instruments: Instruments, symbols: Sequence[str], trading_days: int, seed: int, start: datetime = START
) -> Iterator[EventBatch]:
    """M1 candles of `symbols`, a batch for each trading day, interleaved in time order.

    A day runs from 21:00 to 21:00 UTC, Sunday to Friday. An instrument's prices depend on the seed and its symbol
    alone. Each move is as likely up as down, whatever came before; only its size follows the hour and clusters.
    """
    if trading_days < 1:
        raise InputError(f"trading_days: expected at least 1, got {trading_days}")
    walks = [_Walk(instruments, symbol, seed) for symbol in symbols]
    for day_us in _trading_days(start, trading_days):
        yield _interleaved([walk.day(day_us) for walk in walks])


def synthetic_quotes(
    instruments: Instruments,
    symbols: Sequence[str],
    trading_days: int,
    seed: int,
    start: datetime = START,
    per_minute: int = 20,
) -> Iterator[EventBatch]:
    """Quotes of `symbols`, `per_minute` each, spread evenly over each minute; otherwise as `synthetic_candles`."""
    if trading_days < 1 or not 1 <= per_minute <= 60_000:
        raise InputError("trading_days: expected at least 1; per_minute: expected 1 to 60000")
    for symbol in symbols:
        if instruments.priced_by_trades[instruments.position(symbol)]:
            raise InputError(f"{symbol} is priced by trades: quotes make no bars of it; choose candles")
    walks = [_Walk(instruments, symbol, seed) for symbol in symbols]
    for day_us in _trading_days(start, trading_days):
        yield _interleaved([walk.quotes(day_us, per_minute) for walk in walks])


def _trading_days(start: datetime, count: int) -> Iterator[int]:
    """Openings of trading days, µs: 21:00 UTC of Sunday to Thursday."""
    day = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while count:
        if day.weekday() in (6, 0, 1, 2, 3):
            yield int(day.timestamp()) * US_PER_S + _OPEN_MINUTE * MINUTE_US
            count -= 1
        day += timedelta(days=1)


class _Walk:
    """The price of one instrument as it goes on from day to day."""

    def __init__(self, instruments: Instruments, symbol: str, seed: int) -> None:
        self._position = instruments.position(symbol)
        self._instrument: Instrument = instruments[self._position]
        name = self._instrument.symbol
        digest = hashlib.sha256(f"{seed}|{name}".encode()).digest()
        self._random = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
        first = Decimal(_FIRST_PRICE.get(name, self._instrument.tick_size * 100_000))
        self._points = int(first / self._instrument.tick_size)
        self._floor = max(1_000, self._points // 10)
        self._log_volatility = 0.0
        self._sequence = 0

    def day(self, day_us: int) -> EventBatch:
        minutes, path = self._day_path(STEPS_PER_MINUTE)
        prices = {"open": path[:, 0], "high": path.max(axis=1), "low": path.min(axis=1), "close": path[:, -1]}
        volume = (self._random.poisson(40, len(minutes)) + 1) * UNITS_PER_ONE
        return self._events(Kind.BAR, day_us + minutes * MINUTE_US, prices, volume)

    def quotes(self, day_us: int, per_minute: int) -> EventBatch:
        minutes, mid = self._day_path(per_minute)
        times = day_us + minutes[:, None] * MINUTE_US + np.arange(per_minute) * (MINUTE_US // per_minute)
        spread = self._instrument.default_spread_points + self._random.integers(0, 3, mid.size)
        bid = mid.ravel() - spread // 2
        return self._events(Kind.QUOTE, times.ravel(), {"bid": bid, "ask": bid + spread})

    def _day_path(self, steps: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Minutes (n,) of the day that are not missing, and the price in them (n, steps), in points.

        Sizes and signs of the moves are drawn apart: each is as likely up as down.
        """
        minutes = np.arange(MINUTES_PER_DAY, dtype=np.int64)
        shocks = self._random.normal(0.0, 0.05, MINUTES_PER_DAY)
        clustered = np.empty(MINUTES_PER_DAY)
        level = self._log_volatility
        for k, shock in enumerate(shocks.tolist()):
            level = 0.985 * level + shock
            clustered[k] = level
        self._log_volatility = level
        hour = (minutes / 60 + _OPEN_MINUTE / 60) % 24
        daily = 0.6 + 0.8 * np.exp(-(((hour - 14) / 5) ** 2))
        scale = 6.0 / np.sqrt(steps) * daily * np.exp(clustered)
        size = self._random.exponential(1.0, (MINUTES_PER_DAY, steps)) * scale[:, None]
        sign = self._random.integers(0, 2, (MINUTES_PER_DAY, steps)) * 2 - 1
        kept = self._random.random(MINUTES_PER_DAY) >= MISSING_SHARE
        path = self._advance((np.rint(size) * sign).astype(np.int64).ravel())
        return minutes[kept], path.reshape(-1, steps)[kept]

    def _advance(self, moves: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The path of the price, mirrored at a floor so that it stays positive."""
        path = self._floor + np.abs(self._points + np.cumsum(moves) - self._floor)
        self._points = int(path[-1])
        return path

    def _events(
        self,
        kind: Kind,
        event_time: npt.NDArray[np.int64],
        points: Mapping[str, npt.NDArray[np.int64]],
        volume: Integers = NULL,
    ) -> EventBatch:
        """points: prices by the name of their column, in points."""
        first, tick = self._sequence, self._instrument.tick_units
        self._sequence += len(event_time)
        return EventBatch.of(
            kind,
            self._position,
            event_time,
            SOURCE,
            **{name: price * tick for name, price in points.items()},
            duration_s=DURATION_S[0] if kind == Kind.BAR else NULL,
            volume=volume,
            sequence=np.arange(first, self._sequence, dtype=np.int64),
        )


def _interleaved(batches: Sequence[EventBatch]) -> EventBatch:
    """All events by time; those of one time in the order of the batches."""
    merged = EventBatch.concatenate(batches)
    return merged.take(np.argsort(merged.event_time, kind="stable"))
