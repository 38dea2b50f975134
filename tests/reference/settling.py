"""Signals to trades, one signal at a time: what is waiting and open are lists, prices are whole points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from tests.reference.converter import DURATION_S

Record = dict[str, Any]

HORIZON = {"M1": 30, "M5": 6, "M15": 2}
ENTRY_WAIT_S = 60
SILENCE_S = 3600


class Settling:
    """Feeds on signals with the bars that completed their windows; `trades` grows, `lost` counts those without one.

    Signals: instrument, timeframe, anchor_time, available_at (epoch seconds), direction, confidence, gate_passed,
    confirmed, model_id, and of the bar index, open_time, open, close, spread (points; None if none was told).
    """

    def __init__(
        self, default_spread: Mapping[str, int], trade: str = "confirmed", max_open: int = 1, slippage: int = 0
    ) -> None:
        self.default_spread, self.trade, self.max_open, self.slippage = default_spread, trade, max_open, slippage
        self.trades: list[Record] = []
        self.lost: Counter[str] = Counter()
        self._newest: dict[tuple[str, str], Record] = {}
        self._places: dict[tuple[str, str], list[Record]] = defaultdict(list)

    def feed(self, signal: Record) -> None:
        lane = signal["instrument"], signal["timeframe"]
        newest = self._newest.get(lane)
        if newest is not None and signal["index"] <= newest["index"]:
            self.lost["repeated"] += 1
            return
        if signal["timeframe"] == "M1":
            for timeframe in DURATION_S:
                self._enter(self._places[signal["instrument"], timeframe], signal)
        duration_s = DURATION_S[signal["timeframe"]]
        if newest is not None and signal["open_time"] - (newest["open_time"] + duration_s) > SILENCE_S:
            for place in self._places[lane]:
                place["spans_silence"] = True
        self._newest[lane] = signal
        for place in [place for place in self._places[lane] if place["target"] <= signal["index"]]:
            self._places[lane].remove(place)
            self._leave(place, signal, signal["open_time"] + duration_s)
        if signal["direction"] != "HOLD" and self._is_chosen(signal):
            if len(self._places[lane]) == self.max_open:
                self.lost["no_room"] += 1
            else:
                spread = self.default_spread[lane[0]] if signal["spread"] is None else signal["spread"]
                target = signal["index"] + HORIZON[lane[1]]
                self._places[lane].append(
                    {"signal": signal, "target": target, "spread": spread, "entry": None, "spans_silence": False}
                )

    def _is_chosen(self, signal: Record) -> bool:
        return {"all": True, "gated": signal["gate_passed"], "confirmed": signal["confirmed"]}[self.trade]

    def _enter(self, places: list[Record], bar: Record) -> None:
        for place in list(places):
            waited_s = bar["open_time"] - place["signal"]["available_at"]
            if place["entry"] is None and waited_s >= 0:
                if waited_s > ENTRY_WAIT_S:
                    places.remove(place)
                    self.lost["no_entry"] += 1
                else:
                    buys = place["signal"]["direction"] == "BUY"
                    place["entry"] = bar["open_time"], self._dealt(buys, bar["open"], place["spread"])

    def _leave(self, place: Record, bar: Record, end_s: int) -> None:
        if place["entry"] is None:
            self.lost["no_entry"] += 1
        elif place["target"] != bar["index"]:
            self.lost["exit_missing"] += 1
        else:
            signal, (entry_time, entry_price) = place["signal"], place["entry"]
            buys = signal["direction"] == "BUY"
            self.trades.append(
                {
                    **{name: signal[name] for name in ("instrument", "timeframe", "direction", "anchor_time",
                                                       "available_at", "confidence", "model_id")},
                    "spread": place["spread"],
                    "entry_time": entry_time,
                    "entry_price": entry_price,
                    "exit_time": end_s,
                    "exit_price": self._dealt(not buys, bar["close"], place["spread"]),
                    "spans_silence": place["spans_silence"],
                }
            )  # fmt: skip

    def _dealt(self, buys: bool, price: int, spread: int) -> int:
        ask = price + spread // 2
        return ask + self.slippage if buys else ask - spread - self.slippage


def result(trade: Record, tick_size: Decimal, units: Decimal, commission: Decimal) -> Record:
    """What a trade made: points after commission, and money to nine decimals, half up."""
    gained = trade["exit_price"] - trade["entry_price"]
    if trade["direction"] == "SELL":
        gained = -gained
    exact = gained * tick_size * units
    money = ((exact * 10**9 + Decimal("0.5")).to_integral_value(ROUND_FLOOR)).scaleb(-9) - 2 * commission
    return {"points": gained - float(2 * commission / (tick_size * units)), "profit_loss": money}
