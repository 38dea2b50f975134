"""The synthetic market: the same from the same seed, in trading hours, without an edge."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from sep_stream.convert import MarketDataConverter
from sep_stream.errors import InputError
from sep_stream.market.events import EventBatch, Kind
from sep_stream.runtime.topology import Topology
from sep_stream.sources.synthetic import MINUTES_PER_DAY, synthetic_candles, synthetic_quotes

INSTRUMENTS = Topology.load().instruments
FOUR = ("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD")


def candles(*symbols: str, days: int = 10, seed: int = 1) -> EventBatch:
    return EventBatch.concatenate(list(synthetic_candles(INSTRUMENTS, symbols, days, seed)))


def of(batch: EventBatch, symbol: str) -> EventBatch:
    return batch.take(np.flatnonzero(batch.instrument == INSTRUMENTS.position(symbol)))


def test_an_instrument_depends_on_the_seed_and_its_symbol_alone() -> None:
    alone, among = candles("USD/JPY"), of(candles(*FOUR), "USD/JPY")
    reordered = of(candles(*reversed(FOUR)), "USDJPY")
    for other in (among, reordered):
        for name in ("event_time", "open", "high", "low", "close", "volume", "sequence"):
            assert np.array_equal(getattr(alone, name), getattr(other, name))
    assert not np.array_equal(alone.close, candles("USD/JPY", seed=2).close)
    assert np.array_equal(alone.close[:1000], candles("USD/JPY", days=1).close[:1000])


def test_all_events_are_accepted_and_make_bars() -> None:
    for batches in (
        synthetic_candles(INSTRUMENTS, (*FOUR, "CLZ6"), 6, 3),
        synthetic_quotes(INSTRUMENTS, FOUR, 6, 3, per_minute=5),
    ):
        converter = MarketDataConverter(INSTRUMENTS)
        for batch in batches:
            output = converter.feed(batch)
            assert output.rejections == ()
            assert not output.reason.any()
            assert set(batch.sources) == {"synthetic"}
        assert converter.rows["count"][: len(FOUR)].min(axis=0).tolist() > [6 * 1300, 6 * 280, 6 * 94]


def test_events_come_in_time_order_instruments_interleaved() -> None:
    batch = candles(*FOUR, days=2)
    assert (np.diff(batch.event_time) >= 0).all()
    assert set(batch.instrument[:4].tolist()) == {INSTRUMENTS.position(symbol) for symbol in FOUR}


def test_the_market_is_open_from_sunday_to_friday_2100_utc() -> None:
    batch = candles("EUR/USD", days=10)
    week_minutes = (batch.event_time // 60_000_000 + 4 * MINUTES_PER_DAY) % (7 * MINUTES_PER_DAY)  # since Sunday
    assert week_minutes.min() >= 21 * 60
    assert week_minutes.max() < 5 * MINUTES_PER_DAY + 21 * 60
    assert 10 * MINUTES_PER_DAY * 0.99 < len(batch) < 10 * MINUTES_PER_DAY  # some minutes are silent
    assert datetime.fromtimestamp(batch.event_time[0] / 1e6, UTC).hour == 21


def test_moves_are_as_likely_up_as_down_and_their_sizes_cluster() -> None:
    batch = candles(*FOUR, days=60)
    drifts, clustering = [], []
    for symbol in FOUR:
        closes = of(batch, symbol).close // INSTRUMENTS.tick_units[INSTRUMENTS.position(symbol)]
        moves = np.diff(closes).astype(np.float64)
        drifts.append(moves.mean() / moves.std() * np.sqrt(len(moves)))
        drifts.append(np.corrcoef(moves[1:], moves[:-1])[0, 1] * np.sqrt(len(moves)))
        sizes = np.abs(moves)
        clustering.append(np.corrcoef(sizes[1:], sizes[:-1])[0, 1])
    assert np.abs(drifts).max() < 4  # standard errors, of eight fixed draws
    assert min(clustering) > 0.05


def test_quotes_have_a_spread_and_no_volume() -> None:
    [batch] = synthetic_quotes(INSTRUMENTS, ["EUR/USD"], 1, 1)
    assert (batch.ask > batch.bid).all()
    assert set(batch.kind.tolist()) == {Kind.QUOTE}


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(InputError, match="trading_days"):
        next(synthetic_candles(INSTRUMENTS, FOUR, 0, 1))
    with pytest.raises(InputError, match="CLZ6 is priced by trades"):
        next(synthetic_quotes(INSTRUMENTS, ["CLZ6"], 1, 1))
    with pytest.raises(InputError, match="unknown instrument"):
        next(synthetic_candles(INSTRUMENTS, ["XXX"], 1, 1))
