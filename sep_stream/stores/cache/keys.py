"""Where things lie in Redis.

All names of a deployment begin with `cache:{PREFIX}:`. In braces, so that a Redis Cluster keeps them together; the
first word is what the ACLs of the embedded server allow.

    cache:{sep.}:price:EUR/USD       hash, expires: the latest price of an instrument
    cache:{sep.}:signal:EUR/USD:M5   hash, expires: the latest signal of an instrument and timeframe
    cache:{sep.}:updates             channel: each value as it is written
    cache:{sep.}:versions            hash: event time and source offset of the newest record by name, expired ones too
    cache:{sep.}:state               hash: of which log the values are and since when (epoch µs), and which run of the
                                     server took them in
    cache:{sep.}:fresh               id of the key space that is being filled; `cache:{sep.}:fresh:ID:…` are its keys
"""

from __future__ import annotations

from dataclasses import dataclass

PRICE, SIGNAL = "price", "signal"


def price_name(instrument: str) -> str:
    return f"{PRICE}:{instrument}"


def signal_name(instrument: str, timeframe: str) -> str:
    return f"{SIGNAL}:{instrument}:{timeframe}"


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Keys and channel of the deployment with this prefix."""

    prefix: str

    @property
    def root(self) -> str:
        return f"cache:{{{self.prefix}}}:"

    def of(self, name: str) -> str:
        """Of a value, by its name."""
        return self.root + name

    @property
    def updates(self) -> str:
        return self.of("updates")

    @property
    def versions(self) -> str:
        return self.of("versions")

    @property
    def state(self) -> str:
        return self.of("state")

    @property
    def fresh(self) -> str:
        return self.of("fresh")
