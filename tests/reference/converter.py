"""Events to bars, bits and windows, one event at a time. sep-metrics/1, sections 1 to 3."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Any

from tests.reference.market import (
    MINUTE_US,
    Event,
    Instruments,
    fault,
    has_bid_and_ask,
    mid,
    to_points,
)

US = 1_000_000
DURATION_S = {"M1": 60, "M5": 300, "M15": 900}
LONGEST_FIRST = ("M15", "M5", "M1")
MAX_JUMP_US = 7 * 24 * 3600 * US

Bar = dict[str, Any]
Window = dict[str, Any]
Output = tuple[Any, ...]
"""("bar", Bar), ("window", Window), ("late", Event), ("duplicate", Event) or ("dead", Event, reason code)."""


class Converter:
    """The state of all instruments.

    Bars have instrument, timeframe, index, open_time (epoch s), open, high, low, close (points), volume (Decimal) and
    spread (points or None). Windows have instrument, timeframe, anchor_time, start_time, available_at (epoch s), bits,
    prices, model_id, bar (the one that completed the window), and for M1 m5 and m15: the newest window of that
    timeframe, or None.
    """

    def __init__(
        self,
        instruments: Instruments,
        history: int = 64,
        forward: int = 64,
        deadband: int = 0,
        max_jump_us: int = MAX_JUMP_US,
    ) -> None:
        self.instruments = instruments
        self._parameters = (history, forward, deadband, max_jump_us)
        self._logs: dict[str, InstrumentLog] = {}

    def feed(self, event: Event) -> list[Output]:
        """What this event causes, in order."""
        reason = fault(event, self.instruments)
        if reason is not None:
            return [("dead", event, reason)]
        symbol = event["instrument"]
        if symbol not in self._logs:
            self._logs[symbol] = InstrumentLog(symbol, **self.instruments[symbol], parameters=self._parameters)
        return self._logs[symbol].feed(event)


class InstrumentLog:
    """The state of one instrument."""

    def __init__(self, symbol: str, tick_size: Decimal, price_kind: str, parameters: tuple[int, int, int, int]) -> None:
        self.symbol, self.tick_size, self.price_kind = symbol, tick_size, price_kind
        self.history, self.forward, self.deadband, self.max_jump_us = parameters
        self.model_id: str | None = None
        self.watermark: int | None = None
        self.held: tuple[Event, str | None] | None = None
        """The first event or one that jumped ahead, and the model in force when it was read."""
        self.last_sequence: dict[str, int] = {}
        self.newest_time: dict[str, int] = {}
        """Both by source, of the accepted events that had a sequence."""
        self.open: dict[str, dict[int, Bar]] = {timeframe: {} for timeframe in DURATION_S}
        self.closed: dict[str, list[Bar]] = {timeframe: [] for timeframe in DURATION_S}
        self.bits: dict[str, list[int]] = {timeframe: [] for timeframe in DURATION_S}
        self.newest_window: dict[str, Window | None] = dict.fromkeys(DURATION_S)

    def feed(self, event: Event) -> list[Output]:
        if event["kind"] == "MODEL":
            self.model_id = event["model_id"]
            return []
        if self.is_duplicate(event) or self.is_duplicate_of_held(event):
            return [("duplicate", event)]
        outputs: list[Output] = []
        confirmed = False
        if self.held is not None:
            held_event, held_model_id = self.held
            is_first = self.watermark is None
            if self.refuses_held(event):
                outputs += [("dead", held_event, "JUMP")]
            else:
                outputs += self.accept(held_event, held_model_id)
                confirmed = not is_first
            self.held = None
        if self.is_jump(event) and not confirmed:
            self.held = (event, self.model_id)
            return outputs
        return outputs + self.accept(event, self.model_id)

    def is_duplicate(self, event: Event) -> bool:
        source, sequence, time = event["source"], event["sequence"], event["event_time"]
        if sequence is None or source not in self.last_sequence:
            return False
        return bool(sequence <= self.last_sequence[source] and time <= self.newest_time[source])

    def is_duplicate_of_held(self, event: Event) -> bool:
        """Whether the event would be a duplicate, were the held one processed before it as it is to be."""
        if self.held is None or self.refuses_held(event):
            return False
        held, _ = self.held
        if None in (event["sequence"], held["sequence"]) or event["source"] != held["source"]:
            return False
        return bool(event["sequence"] <= held["sequence"] and event["event_time"] <= held["event_time"])

    def refuses_held(self, event: Event) -> bool:
        """Whether the event shows that the held one's time is wrong."""
        assert self.held is not None
        if self.watermark is not None:
            return not self.is_jump(event)
        held, _ = self.held
        return bool(held["event_time"] > told_time(event) + self.max_jump_us)

    def is_jump(self, event: Event) -> bool:
        """Whether the event is to be held: it is far ahead of the watermark, or there is none."""
        return self.watermark is None or bool(event["event_time"] > self.watermark + self.max_jump_us)

    def accept(self, event: Event, model_id: str | None) -> list[Output]:
        """Takes the event into the state, unless it is late or a heartbeat that tells nothing new."""
        time = event["event_time"]
        if self.watermark is not None:
            if event["kind"] == "HEARTBEAT" and time <= self.watermark:
                return []
            if time < self.watermark // MINUTE_US * MINUTE_US:
                return [("late", event)]
        if event["sequence"] is not None:
            source = event["source"]
            self.last_sequence[source] = event["sequence"]
            self.newest_time[source] = max(time, self.newest_time.get(source, time))
        self.put_into_bar(event)
        self.watermark = max(told_time(event), self.watermark or 0)
        return self.close_bars(model_id)

    def put_into_bar(self, event: Event) -> None:
        kind, minute = event["kind"], event["event_time"] // MINUTE_US * 60
        if kind == "BAR":
            self.open["M1"][minute] = self.bar_of_candle(event, minute)
        elif kind == "QUOTE":
            bid, ask = to_points(event["bid"], self.tick_size), to_points(event["ask"], self.tick_size)
            if self.price_kind == "quote":
                self.add_price(minute, mid(bid, ask), event["volume"])
            if minute in self.open["M1"]:
                self.open["M1"][minute]["spread"] = ask - bid
        elif kind == "TRADE" and self.price_kind == "trade":
            self.add_price(minute, to_points(event["price"], self.tick_size), event["volume"])

    def bar_of_candle(self, event: Event, minute: int) -> Bar:
        prices = {name: to_points(event[name], self.tick_size) for name in ("open", "high", "low", "close")}
        spread = None
        if has_bid_and_ask(event):
            spread = to_points(event["ask"], self.tick_size) - to_points(event["bid"], self.tick_size)
        volume = Decimal(0) if event["volume"] is None else event["volume"]
        return {"open_time": minute, **prices, "volume": volume, "spread": spread}

    def add_price(self, minute: int, price: int, volume: Decimal | None) -> None:
        bar = self.open["M1"].setdefault(
            minute,
            {"open_time": minute, "open": price, "high": price, "low": price, "volume": Decimal(0), "spread": None},
        )
        bar["high"] = max(bar["high"], price)
        bar["low"] = min(bar["low"], price)
        bar["close"] = price
        bar["volume"] += 1 if volume is None else volume

    def close_bars(self, model_id: str | None) -> list[Output]:
        """Closes what the watermark has reached the end of: by end, and of equal ends the longest first."""
        outputs: list[Output] = []
        while (end := self.first_end_reached()) is not None:
            minute = self.open["M1"].get(end - DURATION_S["M1"])
            if minute is not None:
                self.fold(minute)
            for timeframe in LONGEST_FIRST:
                bar = self.open[timeframe].pop(end - DURATION_S[timeframe], None)
                if bar is not None:
                    outputs += self.emit(timeframe, bar, model_id)
        return outputs

    def first_end_reached(self) -> int | None:
        """The earliest end of an open bar that the watermark has reached, in epoch seconds."""
        assert self.watermark is not None
        ends = [time + DURATION_S[timeframe] for timeframe in DURATION_S for time in self.open[timeframe]]
        first = min(ends, default=None)
        return first if first is not None and first * US <= self.watermark else None

    def fold(self, minute: Bar) -> None:
        """Adds a closed M1 to the M5 and the M15 that it lies in."""
        for timeframe in ("M5", "M15"):
            open_time = minute["open_time"] // DURATION_S[timeframe] * DURATION_S[timeframe]
            bar = self.open[timeframe].get(open_time)
            if bar is None:
                self.open[timeframe][open_time] = {**minute, "open_time": open_time}
                continue
            bar["high"] = max(bar["high"], minute["high"])
            bar["low"] = min(bar["low"], minute["low"])
            bar["close"] = minute["close"]
            bar["volume"] += minute["volume"]
            bar["spread"] = minute["spread"]

    def emit(self, timeframe: str, bar: Bar, model_id: str | None) -> list[Output]:
        closed, bits = self.closed[timeframe], self.bits[timeframe]
        bar = {"instrument": self.symbol, "timeframe": timeframe, "index": len(closed), **bar}
        if not closed:
            bits.append(0)
        else:
            bits.append(next_bit(bits[-1], bar["close"] - closed[-1]["close"], self.deadband))
        closed.append(bar)
        outputs: list[Output] = [("bar", bar)]
        if len(closed) >= self.history + self.forward:
            window = self.window(timeframe, model_id)
            self.newest_window[timeframe] = window
            outputs.append(("window", window))
        return outputs

    def window(self, timeframe: str, model_id: str | None) -> Window:
        """The window that the last closed bar completes."""
        closed, bits = self.closed[timeframe], self.bits[timeframe]
        last = len(closed) - 1
        anchor = last - self.forward
        start = anchor - self.history + 1
        window = {
            "instrument": self.symbol,
            "timeframe": timeframe,
            "anchor_time": closed[anchor]["open_time"],
            "start_time": closed[start]["open_time"],
            "available_at": closed[last]["open_time"] + DURATION_S[timeframe],
            "bits": bits[start : last + 1],
            "prices": [bar["close"] for bar in closed[anchor : last + 1]],
            "model_id": model_id,
            "bar": closed[last],
        }
        if timeframe == "M1":
            window["m5"] = self.newest_window["M5"]
            window["m15"] = self.newest_window["M15"]
        return window


def told_time(event: Event) -> int:
    """The watermark that an event alone gives: its time, or the end of a candle."""
    return int(event["event_time"]) + (MINUTE_US if event["kind"] == "BAR" else 0)


def next_bit(last_bit: int, move: int, deadband: int) -> int:
    if move > deadband:
        return 1
    if move < -deadband:
        return 0
    return last_bit


def direction_bits(closes: list[int], deadband: int = 0) -> list[int]:
    """The bits of a whole series."""
    bits = [0]
    for previous, close in pairwise(closes):
        bits.append(next_bit(bits[-1], close - previous, deadband))
    return bits[: len(closes)]
