# /// script
# requires-python = ">=3.12,<3.13"
# dependencies = ["pandas==3.0.0", "pyarrow"]
# ///
"""Pandas making the same M1, M5 and M15 bars and bits of quotes, as one would write it.

FILE: Parquet with instrument, time_us, bid and ask (points); prints events a second, without the reading.
"""

from __future__ import annotations

import sys
import time

import pandas as pd

quotes = pd.read_parquet(sys.argv[1])


def bars_of(group: pd.DataFrame) -> dict[str, pd.DataFrame]:
    mid = pd.Series(
        ((group["bid"] + group["ask"] + 1) // 2).to_numpy(), index=pd.to_datetime(group["time_us"], unit="us")
    )
    m1 = mid.resample("1min").agg(["first", "max", "min", "last", "count"]).dropna()
    m1.columns = ["open", "high", "low", "close", "volume"]
    merged = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    found = {"M1": m1} | {name: m1.resample(f"{name[1:]}min").agg(merged).dropna() for name in ("M5", "M15")}
    for bars in found.values():
        moved = bars["close"].diff()
        bits = pd.Series(pd.NA, index=bars.index, dtype="Int8")
        bits[moved > 0], bits[moved < 0] = 1, 0
        bars["bit"] = bits.ffill().fillna(0)
    return found


bars_of(quotes[quotes["instrument"] == quotes["instrument"].iloc[0]].head(10_000))
begun_s = time.perf_counter()
made = {name: bars_of(group) for name, group in quotes.groupby("instrument")}
print("bars", sum(len(bars) for found in made.values() for bars in found.values()))
print("events_per_s", len(quotes) / (time.perf_counter() - begun_s))
