"""The three timeframes that are held in step."""

from typing import Final

TIMEFRAMES: Final = ("M1", "M5", "M15")
"""Names by index: every array that has a timeframe axis or column uses this order."""

DURATION_S: Final = (60, 300, 900)
US_PER_S: Final = 1_000_000
DURATION_US: Final = tuple(s * US_PER_S for s in DURATION_S)
MINUTE_US: Final = DURATION_US[0]
YEAR_2200_US: Final = 7_258_118_400_000_000
"""Event times lie in [0, this)."""
