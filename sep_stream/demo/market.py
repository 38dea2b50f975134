"""What the demo plays: real files or a market made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sep_stream.errors import InputError
from sep_stream.market.events import EventBatch
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import US_PER_S
from sep_stream.sources.synthetic import synthetic_candles

SYNTHETIC_SYMBOLS: Final = ("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD")
HISTORY_SHARE: Final = 0.8
"""Of the events: the part that the model is trained on."""


@dataclass(frozen=True, slots=True)
class Market:
    """title: what it is, in words · events: all, in time order · cut_s: where history ends, epoch seconds, a minute"""

    title: str
    synthetic: bool
    events: EventBatch
    cut_s: int

    @property
    def history_rows(self) -> int:
        return int(np.searchsorted(self.events.event_time, self.cut_s * US_PER_S))


def synthetic(instruments: Instruments, seed: int, trading_days: int) -> Market:
    """A seeded market of four instruments without an edge."""
    batches = list(synthetic_candles(instruments, SYNTHETIC_SYMBOLS, trading_days, seed))
    symbols = ", ".join(SYNTHETIC_SYMBOLS)
    title = f"SYNTHETIC market, seed {seed}: {trading_days} trading days of {symbols}, no edge built in"
    return _market(title, True, batches)


def from_files(instruments: Instruments, files: Sequence[Path], instrument: str, assume_utc: bool) -> Market:
    """Candles or quotes of files, one after the other in time.

    Raises InputError where a file begins before the one before it ends: two views of the same time are not merged.
    """
    from sep_stream.sources.files import read_events

    batches: list[EventBatch] = []
    for path in files:
        read = list(read_events(path, instruments, instrument, assume_utc=assume_utc))
        if batches and read and read[0].event_time[0] <= batches[-1].event_time[-1]:
            raise InputError(f"{path}: begins before the file given before it ends; give files in time order")
        batches += read
    if not batches:
        raise InputError(f"{', '.join(str(f) for f in files)}: no candles or quotes in there")
    return _market(f"{', '.join(f.name for f in files)} as {instrument}", False, batches)


def _market(title: str, is_synthetic: bool, batches: list[EventBatch]) -> Market:
    events = EventBatch.concatenate(batches)
    cut_us = int(events.event_time[int(len(events) * HISTORY_SHARE)])
    return Market(title, is_synthetic, events, cut_us // (60 * US_PER_S) * 60)
