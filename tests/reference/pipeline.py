"""Events to signals, one event at a time."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.reference.converter import DURATION_S, MAX_JUMP_US, Bar, Converter, Output, Window
from tests.reference.market import Event
from tests.reference.metrics import metrics
from tests.reference.scoring import VERSION, Model, gate_failed, score, signal_id

GRACE_S = 60
"""A longer timeframe's score confirms for its own duration and this much more."""

Record = dict[str, Any]


class Pipeline:
    """Feeds on events; `items`, `bars`, `windows`, `metrics` and `signals` grow.

    models: by id, of every MODEL event that will come. Records of metrics are windows without their bits and prices,
    with their metrics. Signals have the fields of the wire; times are epoch seconds, `matches` and `gate_failed` lists.
    """

    def __init__(
        self,
        instruments: Mapping[str, Mapping[str, Any]],
        params: Mapping[str, Any],
        models: Mapping[str, Model],
        deadband: int = 0,
        max_jump_us: int = MAX_JUMP_US,
    ) -> None:
        self.params, self.models = params, models
        self.ticks = {symbol: instrument["tick_size"] for symbol, instrument in instruments.items()}
        self.converter = Converter(instruments, params["history"], params["forward"], deadband, max_jump_us)
        self.items: list[Output] = []
        self.bars: list[Bar] = []
        self.windows: list[Window] = []
        self.metrics: list[Record] = []
        self.signals: list[Record] = []
        self._scores: dict[str, Record] = {}

    def feed(self, event: Event) -> None:
        items = self.converter.feed(event)
        self.items += items
        for kind, item, *_ in items:
            if kind == "bar":
                self.bars.append(item)
            if kind == "window":
                self._window(item)

    def _window(self, window: Window) -> None:
        self.windows.append(window)
        own = {name: value for name, value in window.items() if name not in ("bits", "prices", "m5", "m15")}
        record = {**own, **metrics(window["bits"], window["prices"], self.params)}
        self.metrics.append(record)
        if window["model_id"] is None:
            return
        signal = dict(self._score(window))
        longer = {name: self._counting(window, name) for name in ("M5", "M15")}
        agree = all(
            other is not None and other["direction"] == signal["direction"] and other["gate_passed"]
            for other in longer.values()
        )
        bar, tick = window["bar"], self.ticks[window["instrument"]]
        self.signals.append(
            {
                **signal,
                "confirmed": agree and signal["direction"] != "HOLD" and signal["gate_passed"],
                "m5_signal_id": longer["M5"] and longer["M5"]["signal_id"],
                "m15_signal_id": longer["M15"] and longer["M15"]["signal_id"],
                "bar_index": bar["index"],
                "bar_open_time": bar["open_time"],
                "bar_open": bar["open"] * tick,
                "bar_close": bar["close"] * tick,
                "bar_spread": None if bar["spread"] is None else Decimal(bar["spread"]) * tick,
            }
        )

    def _counting(self, window: Window, timeframe: str) -> Record | None:
        """The score of a longer timeframe that counts at an M1 close, if it is there and not stale."""
        newest = window.get(timeframe.lower())
        if newest is None or newest["model_id"] is None:
            return None
        if window["available_at"] - newest["available_at"] > DURATION_S[timeframe] + GRACE_S:
            return None
        return self._score(newest)

    def _score(self, window: Window) -> Record:
        """What the window's own model says of it, whatever the other timeframes say."""
        symbol, timeframe, model = window["instrument"], window["timeframe"], self.models[window["model_id"]]
        identity = signal_id(model.model_id, symbol, timeframe, window["anchor_time"])
        if identity not in self._scores:
            found = metrics(window["bits"], window["prices"], self.params)
            said = score(model, (symbol, timeframe), found["path"], window["start_time"])
            failed = gate_failed(said["confidence"], found, model.parameters["gate"])
            self._scores[identity] = {
                "signal_id": identity,
                "instrument": symbol,
                "timeframe": timeframe,
                "anchor_time": window["anchor_time"],
                "available_at": window["available_at"],
                **said,
                "gate_passed": not failed,
                "gate_failed": failed,
                "model_id": model.model_id,
                "metrics_version": VERSION,
            }
        return self._scores[identity]
