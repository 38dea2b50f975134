"""Events to bars, bits and windows, one event at a time. sep-metrics/1, sections 1 to 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Event = dict[str, Any]
Bar = dict[str, Any]
Window = dict[str, Any]
Item = tuple[Any, ...]
"""("bar", bar), ("window", window), ("late", event), ("dead", event, reason) or ("duplicate", event)."""

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US
YEAR_2200_US = 7_258_118_400 * SECOND_US
TIMEFRAME_S = {"M1": 60, "M5": 300, "M15": 900}
POINTS_LIMIT = 2**31
BILLIONTHS = 10**9

NEEDED = {
    "QUOTE": ("bid", "ask"),
    "TRADE": ("price",),
    "BAR": ("open", "high", "low", "close", "duration_s"),
    "HEARTBEAT": (),
    "MODEL": ("model_id",),
}


def points_of(price: Decimal, tick_size: Decimal) -> int:
    """A price in points, rounded half up: floor(price / tick + 1/2) in whole numbers."""
    units, tick = int(price * BILLIONTHS), int(tick_size * BILLIONTHS)
    return (2 * units + tick) // (2 * tick)


@dataclass
class Series:
    """The closed bars of one instrument and timeframe."""

    open_times: list[int] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)
    bits: list[int] = field(default_factory=list)
    newest_window: Window | None = None


@dataclass
class Market:
    """What is remembered of one instrument."""

    tick_size: Decimal
    price_kind: str
    watermark: int | None = None
    model_id: str | None = None
    minute: Bar | None = None
    minutes_of: dict[str, list[Bar]] = field(default_factory=lambda: {"M5": [], "M15": []})
    series: dict[str, Series] = field(default_factory=lambda: {name: Series() for name in TIMEFRAME_S})
    last_sequence: dict[str, int] = field(default_factory=dict)
    last_time: dict[str, int] = field(default_factory=dict)
    held: tuple[Event, str | None] | None = None


class Converter:
    """Feeds on events in log order. `instruments`: symbol to tick_size (Decimal) and price_kind (quote or trade)."""

    def __init__(
        self,
        instruments: Mapping[str, Mapping[str, Any]],
        history: int = 64,
        forward: int = 64,
        deadband: int = 0,
        max_jump_us: int = 7 * DAY_US,
    ) -> None:
        self.history, self.forward, self.deadband, self.max_jump_us = history, forward, deadband, max_jump_us
        self.markets = {name: Market(i["tick_size"], i["price_kind"]) for name, i in instruments.items()}

    def feed(self, event: Event) -> list[Item]:
        """What the event gives, in order of emission."""
        market = self.markets[event["instrument"]]
        fault = self._fault(market, event)
        if fault is not None:
            return [("dead", event, fault)]
        if event["kind"] == "MODEL":
            market.model_id = event["model_id"]
            return []
        if self._is_duplicate(market, event):
            return [("duplicate", event)]
        jumps = market.watermark is not None and event["event_time"] - market.watermark > self.max_jump_us
        out: list[Item] = []
        if market.held is not None:
            held, model_id = market.held
            market.held = None
            if jumps:
                out += self._accept(market, held, model_id)
            else:
                out.append(("dead", held, "JUMP"))
        elif jumps:
            market.held = (event, market.model_id)
            return []
        return out + self._if_in_time(market, event)

    def _fault(self, market: Market, event: Event) -> str | None:
        """Why the event can't be used, whatever came before it."""
        kind, tick = event["kind"], market.tick_size
        if kind not in NEEDED:
            return "UNKNOWN_KIND"
        if not 0 <= event["event_time"] < YEAR_2200_US:
            return "BAD_TIME"
        if any(event[name] is None for name in NEEDED[kind]):
            return "MISSING_FIELD"
        if kind == "BAR":
            if event["duration_s"] != 60:
                return "BAD_DURATION"
            if event["event_time"] % MINUTE_US != 0:
                return "UNALIGNED"
        fault = None
        if kind == "QUOTE" or (kind == "BAR" and event["bid"] is not None and event["ask"] is not None):
            bid, ask = points_of(event["bid"], tick), points_of(event["ask"], tick)
            fault = price_fault(bid) or price_fault(ask) or ("CROSSED" if ask < bid else None)
        if kind == "TRADE":
            fault = price_fault(points_of(event["price"], tick))
        if kind == "BAR" and fault is None:
            o, h, low, c = (points_of(event[name], tick) for name in ("open", "high", "low", "close"))
            fault = price_fault(o) or price_fault(h) or price_fault(low) or price_fault(c)
            if fault is None and (h < low or not low <= o <= h or not low <= c <= h):
                fault = "BAD_CANDLE"
        if fault is None and kind in ("QUOTE", "TRADE", "BAR") and event["volume"] is not None and event["volume"] < 0:
            fault = "BAD_VOLUME"
        if kind == "MODEL" and not is_model_id(event["model_id"]):
            fault = "BAD_MODEL_ID"
        return fault

    @staticmethod
    def _is_duplicate(market: Market, event: Event) -> bool:
        source, sequence = event["source"], event["sequence"]
        if sequence is None or source not in market.last_sequence:
            return False
        return bool(sequence <= market.last_sequence[source] and event["event_time"] <= market.last_time[source])

    def _if_in_time(self, market: Market, event: Event) -> list[Item]:
        time, watermark = event["event_time"], market.watermark
        if watermark is not None:
            if event["kind"] == "HEARTBEAT" and time <= watermark:
                return []
            if event["kind"] != "HEARTBEAT" and time < watermark // MINUTE_US * MINUTE_US:
                return [("late", event)]
        return self._accept(market, event, market.model_id)

    def _accept(self, market: Market, event: Event, model_id: str | None) -> list[Item]:
        kind, time, source = event["kind"], event["event_time"], event["source"]
        if event["sequence"] is not None:
            market.last_sequence[source] = event["sequence"]
            market.last_time[source] = max(time, market.last_time.get(source, time))
        out = self._advance(market, event["instrument"], time, model_id)
        if kind == "BAR":
            market.minute = candle(market, event)
            out += self._advance(market, event["instrument"], time + MINUTE_US, model_id)
        elif kind.lower() == market.price_kind:
            add_tick(market, event)
        elif kind == "QUOTE" and market.minute is not None:
            market.minute["spread"] = spread_of(market, event)
        return out

    def _advance(self, market: Market, instrument: str, time: int, model_id: str | None) -> list[Item]:
        """Move the watermark, and close what ends by then: in order of the end, the longest timeframe first."""
        if market.watermark is None or time > market.watermark:
            market.watermark = time
        now_s = market.watermark // SECOND_US
        due: list[Bar] = []
        if market.minute is not None and market.minute["open_time"] + 60 <= now_s:
            due.append(market.minute)
            for minutes in market.minutes_of.values():
                minutes.append(market.minute)
            market.minute = None
        for timeframe, minutes in market.minutes_of.items():
            if not minutes:
                continue
            bar = aggregate(minutes, timeframe)
            if bar["open_time"] + TIMEFRAME_S[timeframe] <= now_s:
                due.append(bar)
                market.minutes_of[timeframe] = []
        due.sort(key=lambda bar: (end_of(bar), -TIMEFRAME_S[bar["timeframe"]]))
        return [item for bar in due for item in self._close(market, instrument, bar, model_id)]

    def _close(self, market: Market, instrument: str, bar: Bar, model_id: str | None) -> list[Item]:
        series = market.series[bar["timeframe"]]
        bar = {"instrument": instrument, "index": len(series.closes), **bar}
        series.bits.append(self._bit(series, bar["close"]))
        series.closes.append(bar["close"])
        series.open_times.append(bar["open_time"])
        anchor = len(series.closes) - 1 - self.forward
        first = anchor - self.history + 1
        if first < 0:
            return [("bar", bar)]
        window: Window = {
            "instrument": instrument,
            "timeframe": bar["timeframe"],
            "anchor_time": series.open_times[anchor],
            "start_time": series.open_times[first],
            "available_at": end_of(bar),
            "bits": series.bits[first:],
            "prices": series.closes[anchor:],
            "model_id": model_id,
            "bar": bar,
        }
        series.newest_window = dict(window)
        if bar["timeframe"] == "M1":
            window["m5"] = market.series["M5"].newest_window
            window["m15"] = market.series["M15"].newest_window
        return [("bar", bar), ("window", window)]

    def _bit(self, series: Series, close: int) -> int:
        if not series.closes:
            return 0
        move = close - series.closes[-1]
        if move > self.deadband:
            return 1
        return 0 if move < -self.deadband else series.bits[-1]


def price_fault(points: int) -> str | None:
    if points <= 0:
        return "NOT_POSITIVE"
    return "PRICE_RANGE" if points >= POINTS_LIMIT else None


def is_model_id(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def spread_of(market: Market, event: Event) -> int:
    return points_of(event["ask"], market.tick_size) - points_of(event["bid"], market.tick_size)


def price_of(market: Market, event: Event) -> int:
    """The trade's price, or the mid of the quote, its half point rounded up."""
    if event["kind"] == "TRADE":
        return points_of(event["price"], market.tick_size)
    return (points_of(event["bid"], market.tick_size) + points_of(event["ask"], market.tick_size) + 1) // 2


def candle(market: Market, event: Event) -> Bar:
    told = event["bid"] is not None and event["ask"] is not None
    return {
        "timeframe": "M1",
        "open_time": event["event_time"] // SECOND_US,
        **{name: points_of(event[name], market.tick_size) for name in ("open", "high", "low", "close")},
        "volume": Decimal(0) if event["volume"] is None else event["volume"],
        "spread": spread_of(market, event) if told else None,
    }


def add_tick(market: Market, event: Event) -> None:
    """A quote or trade that makes the price joins the open minute, or opens it."""
    price = price_of(market, event)
    volume = Decimal(1) if event["volume"] is None else event["volume"]
    bar = market.minute
    if bar is None:
        market.minute = bar = {
            "timeframe": "M1",
            "open_time": event["event_time"] // MINUTE_US * 60,
            "open": price,
            "high": price,
            "low": price,
            "close": price,
            "volume": Decimal(0),
            "spread": None,
        }
    bar["high"] = max(bar["high"], price)
    bar["low"] = min(bar["low"], price)
    bar["close"] = price
    bar["volume"] += volume
    if event["kind"] == "QUOTE":
        bar["spread"] = spread_of(market, event)


def aggregate(minutes: list[Bar], timeframe: str) -> Bar:
    """The longer bar that its closed minutes make."""
    return {
        "timeframe": timeframe,
        "open_time": minutes[0]["open_time"] // TIMEFRAME_S[timeframe] * TIMEFRAME_S[timeframe],
        "open": minutes[0]["open"],
        "high": max(bar["high"] for bar in minutes),
        "low": min(bar["low"] for bar in minutes),
        "close": minutes[-1]["close"],
        "volume": sum((bar["volume"] for bar in minutes), Decimal(0)),
        "spread": minutes[-1]["spread"],
    }


def end_of(bar: Bar) -> int:
    return int(bar["open_time"]) + TIMEFRAME_S[bar["timeframe"]]
