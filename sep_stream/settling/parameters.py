"""What the trades depend on besides the signals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from sep_stream.errors import ConfigurationError
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.metrics import HORIZON_BARS

TRADED: Final = ("confirmed", "gated", "all")
"""Which signals are traded: those that M5 and M15 confirm, those that pass their gate, or all with a direction."""

OPEN_TRADES_MAX: Final = 1_000
"""Of an instrument and timeframe: the state has a place for each."""


@dataclass(frozen=True, slots=True)
class SettleParameters:
    """trade: one of TRADED · max_open: trades of an instrument and timeframe that may be open at once
    slippage: points lost at the entry, and again at the exit · horizon_bars: how long a trade lasts, by timeframe

    Raises ConfigurationError for values outside these.
    """

    trade: str = "confirmed"
    max_open: int = 1
    slippage: int = 0
    horizon_bars: tuple[int, ...] = HORIZON_BARS

    def __post_init__(self) -> None:
        if self.trade not in TRADED:
            raise ConfigurationError(f"trade: expected one of {', '.join(TRADED)}, got {self.trade!r}")
        if not 1 <= self.max_open <= OPEN_TRADES_MAX:
            raise ConfigurationError(f"max_open: expected 1 to {OPEN_TRADES_MAX}, got {self.max_open}")
        if self.slippage < 0:
            raise ConfigurationError(f"slippage: expected points >= 0, got {self.slippage}")
        if len(self.horizon_bars) != len(TIMEFRAMES) or min(self.horizon_bars) < 1:
            raise ConfigurationError(f"horizon_bars: expected {len(TIMEFRAMES)} integers >= 1, got {self.horizon_bars}")

    def canonical(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
