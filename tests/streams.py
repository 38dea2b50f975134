"""Random streams of events that try every rule, the same for the same seed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

Event = dict[str, Any]

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
MAX_JUMP_US = 7 * DAY_US
SANE_TIME_END_US = 7_258_118_400 * SECOND_US
"""The year 2200."""
START_US = 1_704_144_720 * SECOND_US
"""2024-01-01 21:32 UTC."""

INSTRUMENTS: dict[str, dict[str, Any]] = {
    "EUR/USD": {"tick_size": Decimal("0.00001"), "price_kind": "quote"},
    "USD/JPY": {"tick_size": Decimal("0.001"), "price_kind": "quote"},
    "CLZ6": {"tick_size": Decimal("0.01"), "price_kind": "trade"},
}
MODELS = ("0f" * 32, "a1" * 32, "5c" * 32)

_BILLIONTH = Decimal("0.000000001")
_FIRST_POINTS = {"EUR/USD": 110_000, "USD/JPY": 147_000, "CLZ6": 7_500}
_SOURCES = ("a", "b")
_NOTHING = dict.fromkeys(
    ("bid", "ask", "price", "open", "high", "low", "close", "volume", "duration_s", "sequence", "model_id")
)


def random_events(
    seed: int,
    count: int,
    instruments: Mapping[str, Mapping[str, Any]] = INSTRUMENTS,
    models: Sequence[str] = MODELS,
) -> list[Event]:
    """`count` events of all instruments, interleaved. models: ids that the MODEL events name; none, no such events."""
    rng = random.Random(seed)
    markets = [_Market(rng, symbol, instrument, models) for symbol, instrument in instruments.items()]
    events: list[Event] = []
    while len(events) < count:
        events += rng.choice(markets).some()
    return events[:count]


class _Market:
    """One instrument's part of the stream. `clock` follows what its watermark should be."""

    def __init__(self, rng: random.Random, symbol: str, instrument: Mapping[str, Any], models: Sequence[str]) -> None:
        self.rng, self.symbol, self.models = rng, symbol, models
        self.tick_size: Decimal = instrument["tick_size"]
        self.by_trades = instrument["price_kind"] == "trade"
        self.points = _FIRST_POINTS.get(symbol, 10_000)
        self.clock = START_US + rng.randrange(HOUR_US)
        self.newest = self.clock
        self.sequences = dict.fromkeys(_SOURCES, 0)
        self.recent: deque[Event] = deque(maxlen=20)
        self.acts = {
            self.next_candle: 34,
            self.sparse_tick: 20,
            self.tick: 14,
            self.same_time: 3,
            self.out_of_order: 5,
            self.on_the_boundary: 3,
            self.candle_of_this_minute: 4,
            self.late: 4,
            self.heartbeat: 5,
            self.repeat: 4,
            self.restart_sequence: 1,
            self.other_kind: 4,
            self.silence: 1.5,
            self.weekend: 0.15,
            self.jump: 1.2,
            self.catch_up: 0.8,
            self.dead: 4,
            **({self.model: 3} if models else {}),
        }

    def some(self) -> list[Event]:
        """The next event, or a few that belong together."""
        [act] = self.rng.choices(list(self.acts), list(self.acts.values()))
        events = act()
        self.recent.extend(events)
        told = (e["event_time"] for e in events if e["kind"] != "MODEL" and e["event_time"] < SANE_TIME_END_US)
        self.newest = max(self.newest, *told, self.newest)
        return events

    # events that are in order

    def next_candle(self) -> list[Event]:
        minute = -(-self.clock // MINUTE_US) * MINUTE_US + MINUTE_US * self.rng.choice((0, 0, 0, 0, 0, 1, 3))
        self.clock = minute + MINUTE_US
        return [self.candle(minute)]

    def sparse_tick(self) -> list[Event]:
        self.clock += self.rng.randrange(1, 4) * MINUTE_US + self.rng.randrange(MINUTE_US)
        return [self.price(self.clock)]

    def tick(self) -> list[Event]:
        events = []
        for _ in range(self.rng.randrange(1, 4)):
            self.clock += self.rng.randrange(20 * SECOND_US)
            events.append(self.price(self.clock))
        return events

    def same_time(self) -> list[Event]:
        return [self.price(self.clock) for _ in range(2)]

    def out_of_order(self) -> list[Event]:
        minute = self.clock // MINUTE_US * MINUTE_US
        return [self.price(self.rng.randrange(minute, self.clock + 1))]

    def on_the_boundary(self) -> list[Event]:
        self.clock = (self.clock // MINUTE_US + 1) * MINUTE_US - self.rng.choice((0, 0, 1))
        return [self.price(self.clock)]

    def candle_of_this_minute(self) -> list[Event]:
        minute = self.clock // MINUTE_US * MINUTE_US
        events = [self.price(self.clock), self.candle(minute)]
        self.clock = minute + MINUTE_US
        return events

    def heartbeat(self) -> list[Event]:
        time = self.clock + self.rng.choice((-HOUR_US, -1, 0, 0, 1, 30 * SECOND_US, 2 * MINUTE_US, 20 * MINUTE_US))
        self.clock = max(self.clock, time)
        return [self.event("HEARTBEAT", time)]

    def silence(self) -> list[Event]:
        self.clock += self.rng.choice((6, 16, 17, 31, 90)) * MINUTE_US + self.rng.choice((0, 1, 31 * SECOND_US))
        return [self.price(self.clock)] if self.rng.random() < 0.6 else self.next_candle()

    def weekend(self) -> list[Event]:
        self.clock += 48 * HOUR_US + self.rng.randrange(HOUR_US)
        return [self.price(self.clock)]

    def catch_up(self) -> list[Event]:
        """Go on from the newest time told, lest a jump that was confirmed unawares make all the rest late."""
        self.clock = max(self.clock, self.newest + MINUTE_US)
        return [self.price(self.clock) for _ in range(2)]

    def model(self) -> list[Event]:
        time = self.clock + self.rng.choice((-DAY_US, 0, HOUR_US, 30 * DAY_US))
        return [self.event("MODEL", time, model_id=self.rng.choice(self.models))]

    def other_kind(self) -> list[Event]:
        """A quote of what trades price, or a trade of what quotes price."""
        self.clock += self.rng.choice((0, 1, 10 * SECOND_US, 90 * SECOND_US))
        return [self.quote(self.clock) if self.by_trades else self.trade(self.clock)]

    # events that are refused, or nearly

    def late(self) -> list[Event]:
        minute = self.clock // MINUTE_US * MINUTE_US
        time = minute - self.rng.choice((1, 1, SECOND_US, MINUTE_US, 6 * MINUTE_US, 9 * DAY_US))
        if self.rng.random() < 0.3:
            return [self.candle(time // MINUTE_US * MINUTE_US)]
        return [self.price(time)]

    def repeat(self) -> list[Event]:
        """An earlier event once more, sometimes with its sequence at another time or from another source."""
        if not self.recent:
            return []
        again = dict(self.rng.choice(self.recent))
        if again["kind"] != "BAR" and self.rng.random() < 0.3:
            again["event_time"] = self.clock + self.rng.choice((-1, 0, 1))
        if self.rng.random() < 0.15:
            again["source"] = self.rng.choice(_SOURCES)
        if again["kind"] != "BAR" and 0 <= again["event_time"] - self.clock <= MAX_JUMP_US:
            self.clock = max(self.clock, again["event_time"])
        return [again]

    def restart_sequence(self) -> list[Event]:
        self.sequences[self.rng.choice(_SOURCES)] = 0
        self.clock += self.rng.choice((0, 1, SECOND_US))
        return [self.price(self.clock, sequence=1)]

    def jump(self) -> list[Event]:
        """One event far ahead and what follows it: as far, not as far, or something that decides nothing."""
        time = self.clock + MAX_JUMP_US + self.rng.choice((0, 1, 1, HOUR_US, 20 * DAY_US))
        candle = self.candle(self.whole(time + MINUTE_US - 1))
        first = self.rng.choice((self.price(time), self.event("HEARTBEAT", time), candle))
        between = self.rng.choice(([], [], self.dead(), self.repeat(), self.model() if self.models else []))
        time = first["event_time"]
        if time <= self.clock + MAX_JUMP_US:
            self.clock = time + MINUTE_US if first["kind"] == "BAR" else time
            return [first, *between, self.price(self.clock)]
        follower = self.rng.random()
        if follower < 0.45:
            second = max(
                self.clock + MAX_JUMP_US + 1, time + self.rng.choice((-1, 0, SECOND_US, 3 * MINUTE_US, 9 * DAY_US))
            )
            self.clock = max(time + MINUTE_US, second) if first["kind"] == "BAR" else max(time, second)
            return [first, *between, self.price(second)]
        if follower < 0.6:
            return [first, *between, self.event("HEARTBEAT", self.clock - self.rng.choice((0, SECOND_US)))]
        if follower < 0.7:
            return [first, *between, *self.late()]
        return [first, *between, self.price(self.clock)]

    def dead(self) -> list[Event]:
        """An event that breaks one rule: of several, which one is told is not defined."""
        time, minute = self.clock, self.whole(self.clock)
        kind = self.rng.choice(("QUOTE", "TRADE", "BAR"))
        sane = {"QUOTE": self.quote(time), "TRADE": self.trade(time), "BAR": self.candle(minute)}[kind]
        prices = {"QUOTE": ("bid", "ask"), "TRADE": ("price",), "BAR": ("open", "high", "low", "close")}[kind]
        half = self.tick_size / 2
        name = self.rng.choice(prices)
        candle = self.candle(minute)
        faults: list[Event] = [
            {**sane, "kind": "UNKNOWN"},
            {**sane, "event_time": self.rng.choice((-1, -MINUTE_US, SANE_TIME_END_US, 2**62))},
            {**sane, self.rng.choice(prices): None},
            {**candle, "duration_s": None},
            {**self.event("MODEL", time), "model_id": None},
            {**sane, name: self.rng.choice((Decimal(0), Decimal(-1), half - _BILLIONTH, -half))},
            {**sane, name: self.rng.choice((self.tick_size * 2**31, self.tick_size * 2**31 - half))},
            {**(quote := self.quote(time)), "bid": quote["ask"] + self.tick_size, "ask": quote["ask"]},
            {**candle, "duration_s": self.rng.choice((0, 1, 59, 300, 900, -60))},
            {**candle, "event_time": minute + self.rng.choice((1, SECOND_US, 30 * SECOND_US))},
            {**candle, "high": candle["low"], "low": candle["high"] + self.tick_size},
            {**candle, "open": candle["high"] + self.tick_size},
            {**candle, "close": max(candle["low"] - self.tick_size, self.tick_size)},
            {**candle, "bid": quote["ask"] + self.tick_size, "ask": quote["ask"]},
            {**sane, "volume": self.rng.choice((Decimal(-1), -_BILLIONTH))},
            self.event("MODEL", time, model_id=self.rng.choice(("", "0" * 63, "0" * 65, "A" * 64, "g" * 64))),
        ]
        return [self.rng.choice(faults)]

    # what they are made of

    def event(self, kind: str, time: int, **values: Any) -> Event:
        source = self.rng.choice(_SOURCES)
        sequence = None
        if self.rng.random() < 0.6:
            self.sequences[source] += self.rng.choice((1, 1, 1, 5))
            sequence = self.sequences[source]
        given = {"sequence": sequence, **values}
        return {"instrument": self.symbol, "kind": kind, "event_time": time, "source": source, **_NOTHING, **given}

    def price(self, time: int, **values: Any) -> Event:
        """A tick of the kind that makes the price."""
        return self.trade(time, **values) if self.by_trades else self.quote(time, **values)

    def quote(self, time: int, **values: Any) -> Event:
        bid = self.moved()
        spread = self.rng.choice((0, 0, 1, 2, 3, 12))
        prices = {"bid": self.decimal(bid), "ask": self.decimal(bid + spread)}
        if prices["ask"] < prices["bid"]:  # off the grid, both of the same point or not
            prices["ask"] = prices["bid"]
        return self.event("QUOTE", time, **prices, volume=self.volume(), **values)

    def trade(self, time: int, **values: Any) -> Event:
        return self.event("TRADE", time, price=self.decimal(self.moved()), volume=self.volume(), **values)

    def candle(self, minute: int) -> Event:
        points = [self.moved() for _ in range(self.rng.randrange(1, 5))]
        open_, high, low, close = (self.decimal(p, 0) for p in (points[0], max(points), min(points), points[-1]))
        prices = {"open": open_, "high": self.above(high), "low": self.below(low), "close": close}
        if self.rng.random() < 0.2:
            prices |= {"bid": close - self.tick_size, "ask": close + self.tick_size}
        elif self.rng.random() < 0.1:
            prices |= {"bid": close}
        return self.event("BAR", minute, **prices, duration_s=60, volume=self.volume())

    def whole(self, time: int) -> int:
        return time // MINUTE_US * MINUTE_US

    def moved(self) -> int:
        self.points = max(1_000, self.points + self.rng.choice((-9, -2, -1, 0, 0, 1, 2, 9)))
        return self.points

    def decimal(self, points: int, off_grid: float = 0.3) -> Decimal:
        """A price of so many points, or up to half a point from it, the half included."""
        price = points * self.tick_size
        if self.rng.random() >= off_grid:
            return price
        half = self.tick_size / 2
        return price + self.rng.choice((half, -half, half - _BILLIONTH, self.tick_size / 4, -_BILLIONTH))

    def above(self, price: Decimal) -> Decimal:
        return price + self.rng.choice((0, 0, self.tick_size / 4, self.tick_size / 2, -self.tick_size / 4))

    def below(self, price: Decimal) -> Decimal:
        return price + self.rng.choice((0, 0, self.tick_size / 4, -self.tick_size / 2, -self.tick_size))

    def volume(self) -> Decimal | None:
        return self.rng.choice(
            (None, None, Decimal(0), Decimal(3), Decimal("0.4"), Decimal("0.999999999"), Decimal(999_999_999))
        )
