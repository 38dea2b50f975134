"""Event batches made of columns."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from sep_stream.errors import InputError
from sep_stream.market.decode import events_from_records
from sep_stream.market.events import EventBatch, Kind
from sep_stream.runtime.topology import Topology

INSTRUMENTS = Topology.load().instruments
TIMES = np.array([1_707_091_200_000_000, 1_707_091_260_000_000], np.int64)


def test_columns_make_the_batch_that_records_make() -> None:
    close = np.array([1_100_000_000, 1_200_000_000], np.int64)
    made = EventBatch.of(
        Kind.BAR, 0, TIMES, "feed", open=close, high=close, low=close, close=close, duration_s=60, sequence=TIMES
    )
    records = [
        {"instrument": "EUR/USD", "kind": "BAR", "event_time": time, "source": "feed", "duration_s": 60}
        | {"sequence": time, **dict.fromkeys(("open", "high", "low", "close"), Decimal(units).scaleb(-9))}
        for time, units in zip(TIMES.tolist(), close.tolist(), strict=True)
    ]
    expected = events_from_records(INSTRUMENTS, records)
    for field in fields(EventBatch):
        assert np.array_equal(getattr(made, field.name), getattr(expected, field.name)), field.name


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"bid": np.array([1.1, 1.2])}, "bid: expected 2 integers, or one for all, got float64"),
        ({"ask": np.array([1, 2, 3])}, r"ask: expected 2 integers.*shape \(3,\)"),
        ({"volume": "3"}, "volume"),
    ],
)
def test_a_column_that_does_not_fit_is_named(columns: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        EventBatch.of(Kind.QUOTE, 0, TIMES, "feed", **columns)
