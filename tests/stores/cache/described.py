"""Records of the two topics, as they are decoded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def price_record(instrument: str, time_us: int, bid: str | None = None) -> dict[str, Any]:
    return {
        "instrument": instrument,
        "event_time": EPOCH + timedelta(microseconds=time_us),
        "price": Decimal("1.100000000"),
        "bid": None if bid is None else Decimal(bid),
        "ask": None if bid is None else Decimal("1.2"),
    }


def signal_record(
    instrument: str = "EUR/USD", timeframe: str = "M5", available_s: int = 1_700_000_300
) -> dict[str, Any]:
    available_at = EPOCH + timedelta(seconds=available_s)
    return {
        "signal_id": "5f0f7a9e-43a1-5a3e-8a2c-3d5b3c1d2e4f",
        "instrument": instrument,
        "timeframe": timeframe,
        "anchor_time": available_at - timedelta(seconds=900),
        "available_at": available_at,
        "direction": "BUY",
        "reason": None,
        "confidence": 0.1 + 0.2,
        "p_up": 0.5,
        "expected_move": -3.25,
        "gate_passed": False,
        "gate_failed": '["spread"]',
        "confirmed": True,
        "m5_signal_id": None,
        "m15_signal_id": None,
        "matches": '[{"row":3,"anchor_time":1699990000,"cosine":0.75,"outcome":-12}]',
        "model_id": "ab" * 32,
        "metrics_version": "sep-metrics/1",
        "bar_index": 17,
        "bar_open_time": available_at - timedelta(seconds=300),
        "bar_open": Decimal("1.123456789"),
        "bar_close": Decimal("1.1"),
        "bar_spread": None,
    }
