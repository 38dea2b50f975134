"""Ids that follow from what they name, so that any run gives the same. sep-metrics/1, section 7."""

from __future__ import annotations

from typing import Final
from uuid import NAMESPACE_URL, uuid5

from sep_stream.metrics import METRICS_VERSION

NAMESPACE: Final = uuid5(NAMESPACE_URL, METRICS_VERSION)


def signal_id(model_id: str, symbol: str, timeframe: str, anchor_time_s: int) -> str:
    """Id of what a model says of the window at an anchor."""
    return str(uuid5(NAMESPACE, f"signal|{model_id}|{symbol}|{timeframe}|{anchor_time_s}"))


def pattern_id(model_id: str, symbol: str, timeframe: str, anchor_time_s: int) -> str:
    """Id of the path behind a signal."""
    return str(uuid5(NAMESPACE, f"pattern|{model_id}|{symbol}|{timeframe}|{anchor_time_s}"))


def trade_id(signal: str) -> str:
    """Id of the trade made on the signal with that id."""
    return str(uuid5(NAMESPACE, f"trade|{signal}"))
