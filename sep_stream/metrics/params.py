"""What a window is: its lengths, the damping's test of rest, and the horizon it looks ahead to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from sep_stream.errors import ConfigurationError

METRICS_VERSION: Final = "sep-metrics/1"
"""The rules that all numbers of this package follow; records carry it."""

HORIZON_BARS: Final = (30, 6, 2)
"""Bars from a window's end to its outcome, by timeframe index."""

HISTORY_MIN: Final = 12
"""The first QBSA probe needs 8 bits before it; with 12 there is always one."""

WINDOW_BARS_MAX: Final = 16_384
"""Bound of history and of forward each: keeps the dot product of two paths of int8 within 31 bits."""


@dataclass(frozen=True, slots=True)
class WindowParams:
    """Lengths in bars, and when damping counts as settled. sep-metrics/1, section 3.

    history, forward: bars up to the anchor, and after it · samples: steps of the path that are kept, divides forward
    eps: a step smaller than this is at rest · hold: consecutive steps at rest that settle a window

    Raises ConfigurationError for values outside the contract.
    """

    history: int = 64
    forward: int = 64
    samples: int = 16
    eps: float = 0.002
    hold: int = 4

    def __post_init__(self) -> None:
        for name in ("history", "forward", "samples", "hold"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigurationError(f"window {name}: expected an integer, got {value!r}")
        if not HISTORY_MIN <= self.history <= WINDOW_BARS_MAX:
            raise ConfigurationError(
                f"window history: expected {HISTORY_MIN} to {WINDOW_BARS_MAX} bars, got {self.history}"
            )
        if not 1 <= self.hold <= self.forward <= WINDOW_BARS_MAX:
            raise ConfigurationError(
                f"window hold and forward: expected 1 <= hold <= forward <= {WINDOW_BARS_MAX}, "
                f"got hold {self.hold}, forward {self.forward}"
            )
        if self.samples < 1 or self.forward % self.samples:
            raise ConfigurationError(
                f"window samples: expected a divisor of forward ({self.forward}), got {self.samples}"
            )
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ConfigurationError(f"window eps: expected a finite number > 0, got {self.eps}")

    @property
    def window_bars(self) -> int:
        return self.history + self.forward

    @property
    def events(self) -> int:
        """Events of a whole window: one less than its bits."""
        return self.window_bars - 1

    @property
    def stride(self) -> int:
        """Steps between two samples of the path."""
        return self.forward // self.samples

    @property
    def path_values(self) -> int:
        return 3 * self.samples

    @property
    def probes(self) -> int:
        """QBSA probes of a history: t = 8, 12, … below `history`."""
        return len(range(PROBE_FIRST, self.history, PROBE_EVERY))


PROBE_FIRST: Final = 8
PROBE_EVERY: Final = 4
