"""The latest price of each instrument and the latest signal of each instrument and timeframe, in Redis."""

from sep_stream.stores.cache.reader import Cache
from sep_stream.stores.cache.values import Direction, LatestPrice, LatestSignal, Match

__all__ = ["Cache", "Direction", "LatestPrice", "LatestSignal", "Match"]
