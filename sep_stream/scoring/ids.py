"""Ids that follow from what they name, so that any run gives the same. sep-metrics/1, section 7."""

from __future__ import annotations

from hashlib import sha1
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from sep_stream.metrics import METRICS_VERSION

NAMESPACE: Final = uuid5(NAMESPACE_URL, METRICS_VERSION)


def signal_id(model_id: str, symbol: str, timeframe: str, anchor_time_s: int) -> str:
    """Id of what a model says of the window at an anchor."""
    return _uuid5(f"signal|{model_id}|{symbol}|{timeframe}|{anchor_time_s}")


def pattern_id(model_id: str, symbol: str, timeframe: str, anchor_time_s: int) -> str:
    """Id of the path behind a signal."""
    return _uuid5(f"pattern|{model_id}|{symbol}|{timeframe}|{anchor_time_s}")


def trade_id(signal: str) -> str:
    """Id of the trade made on the signal with that id."""
    return _uuid5(f"trade|{signal}")


_NAMESPACE_BYTES: Final = NAMESPACE.bytes
_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


def _uuid5(name: str) -> str:
    """What `str(uuid5(NAMESPACE, name))` gives, in a third of its time: a backtest makes millions. RFC 9562, 5.5."""
    digits = sha1(_NAMESPACE_BYTES + name.encode(), usedforsecurity=False).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"
