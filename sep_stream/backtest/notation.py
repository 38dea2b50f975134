"""How the report writes numbers and times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

NOTHING: Final = "\N{EN DASH}"
"""Stands where there is no number, or too little to tell one."""
MINUS: Final = "\N{MINUS SIGN}"
TIED: Final = "\N{NO-BREAK SPACE}"


def signed(value: float | None, decimals: int = 2) -> str:
    """+1.25, −0.10 or 0.00."""
    if value is None:
        return NOTHING
    text = f"{value:+z,.{decimals}f}".replace("-", MINUS)
    return text[1:] if not text.strip("+0.") else text


def plain(value: float | None, decimals: int = 2) -> str:
    return NOTHING if value is None else f"{value:z,.{decimals}f}".replace("-", MINUS)


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}{TIED}%"


def p_text(p_value: float | None) -> str:
    """p = 0.042 or p < 0.001"""
    if p_value is None:
        return NOTHING
    return f"p{TIED}<{TIED}0.001" if p_value < 0.001 else f"p{TIED}={TIED}{p_value:.3f}"


def signed_range(found: Mapping[str, Any], decimals: int = 2) -> str:
    """The interval of an estimate: −0.40 to +0.15."""
    return _range(signed(found["low"], decimals), signed(found["high"], decimals))


def percent_range(found: Mapping[str, Any]) -> str:
    low, high = percent(found["low"]), percent(found["high"])
    return _range(low.removesuffix(f"{TIED}%"), high)


def with_range(text: str, bounds: str) -> str:
    return text if bounds == NOTHING else f"{text} ({bounds})"


def _range(low: str, high: str) -> str:
    return NOTHING if NOTHING in (low, high) else f"{low} to {high}"


def counted(count: int, one: str) -> str:
    """1 trade, 2,000 trades."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def time_text(epoch_s: int | None) -> str:
    """2024-01-31 13:05 or, off the minute, 13:05:07, UTC."""
    if epoch_s is None:
        return NOTHING
    return str(np.datetime64(epoch_s, "s")).replace("T", " ").removesuffix(":00" if epoch_s % 60 == 0 else "")


def decimals_of(prices: Iterable[float]) -> int:
    """As many as the prices need, of the nine that the wire has; what lies behind is the noise of binary fractions."""
    return max((len(f"{price:.9f}".rstrip("0").partition(".")[2]) for price in prices), default=0)
