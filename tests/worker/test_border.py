"""Events close to the border of the future: what the broker takes into market.events goes through all that follows."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from sep_stream.errors import InputError
from sep_stream.market.timeframes import MINUTE_US, US_PER_S
from sep_stream.runtime.settings import Settings
from sep_stream.sources.tick_producer import TickProducer
from tests.worker.harness import SMALL, decoded, run_until_caught_up

DAY_US = 86_400 * US_PER_S
CANDLE = ("1.1", "1.1", "1.1", "1.1")
CANDLES = 24
"""Enough for a window, whose metrics and signals end later than their event, too."""


@pytest.mark.integration
def test_a_candle_that_ends_beyond_the_border_goes_through(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix, **SMALL)
    border_us = int(time.time() * US_PER_S) + DAY_US
    last_us = border_us // MINUTE_US * MINUTE_US
    with TickProducer(settings, source="near") as producer:
        for k in reversed(range(CANDLES)):
            producer.candle("EUR/USD", last_us - k * MINUTE_US, *CANDLE)
        with pytest.raises(InputError):
            producer.candle("EUR/USD", last_us + 10 * MINUTE_US, *CANDLE)
    run_until_caught_up(settings)
    times = [bar["open_time"].timestamp() * US_PER_S for bar in decoded(settings, "bars") if bar["timeframe"] == "M1"]
    assert len(times) == CANDLES
    assert max(times) == last_us
    assert decoded(settings, "metrics")
    assert decoded(settings, "dead.letters") == []
