"""Makes the golden files of this folder with the reference: `python -m tests.golden.make`.

README.md tells their format.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.reference.converter import Converter, Output, direction_bits
from tests.reference.market import MINUTE_US
from tests.reference.metrics import metrics
from tests.reference.pipeline import Pipeline
from tests.reference.scoring import Model, train

FOLDER = Path(__file__).parent
VERSION = "sep-metrics/1"
START_US = 1_709_553_600 * 1_000_000
"""2024-03-04 12:00 UTC, a Monday."""
INSTRUMENTS: dict[str, dict[str, Any]] = {
    "EUR/USD": {"tick_size": Decimal("0.00001"), "price_kind": "quote"},
    "ESZ6": {"tick_size": Decimal("0.25"), "price_kind": "trade"},
}
FIELDS = (
    *("instrument", "kind", "event_time", "bid", "ask", "price", "open", "high", "low", "close"),
    *("volume", "duration_s", "source", "sequence", "model_id"),
)
DECIMALS = ("bid", "ask", "price", "open", "high", "low", "close", "volume")

Document = dict[str, Any]


class Lcg:
    """Whole numbers that depend on the seed and nothing else: Knuth's MMIX generator, its upper half."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, n: int) -> int:
        self._state = (self._state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (self._state >> 33) % n

    def one_in(self, n: int) -> bool:
        return self.below(n) == 0

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)


# events.json: every rule for events, bars and windows

EVENT_WINDOW = {"history": 12, "forward": 4}
STEPS_PER_INSTRUMENT = 160
MODELS = ["a" * 64, "b" * 64]
DEADBANDS = [0, 2]


def events_document() -> Document:
    events = list(interleaved(Lcg(20_240_304)))
    return {
        "instruments": {s: {**i, "tick_size": str(i["tick_size"])} for s, i in INSTRUMENTS.items()},
        **EVENT_WINDOW,
        "models": MODELS,
        "deadbands": DEADBANDS,
        "events": [written_event(event) for event in events],
        "outputs": {str(deadband): event_outputs(events, deadband) for deadband in DEADBANDS},
    }


def event_outputs(events: Sequence[Mapping[str, Any]], deadband: int) -> list[Any]:
    converter = Converter(INSTRUMENTS, **EVENT_WINDOW, deadband=deadband)
    position = {id(event): k for k, event in enumerate(events)}
    written = [written_output(o, position) for event in events for o in converter.feed(event)]
    return [row for row in written if deadband == 0 or row[0] == "window"]


def written_event(event: Mapping[str, Any]) -> Document:
    return {name: str(v) if name in DECIMALS else v for name in FIELDS if (v := event[name]) is not None}


def read_event(row: Mapping[str, Any]) -> dict[str, Any]:
    """An event as the reference takes it."""
    return {name: Decimal(row[name]) if name in DECIMALS and name in row else row.get(name) for name in FIELDS}


def written_output(output: Output, position: Mapping[int, int]) -> list[Any]:
    kind, item, *reason = output
    if kind == "bar":
        names = ("instrument", "timeframe", "index", "open_time", "open", "high", "low", "close")
        return [kind, *(item[name] for name in names), f"{item['volume']:f}", item["spread"]]
    if kind == "window":
        return [
            kind,
            item["instrument"],
            item["timeframe"],
            *window_row(item),
            item["bar"]["index"],
            *longer_rows(item),
        ]
    return [kind, position[id(item)], *reason]


def window_row(window: Mapping[str, Any]) -> list[Any]:
    times = [window[name] for name in ("anchor_time", "start_time", "available_at")]
    return [*times, "".join(map(str, window["bits"])), window["prices"], model_row(window)]


def longer_rows(window: Mapping[str, Any]) -> list[Any]:
    """anchor_time and model of the newest longer windows that an M1 window carries."""
    longer = [window.get(name) for name in ("m5", "m15")]
    return [w and [w["anchor_time"], model_row(w)] for w in longer]


def model_row(window: Mapping[str, Any]) -> int | None:
    return None if window["model_id"] is None else MODELS.index(window["model_id"])


def interleaved(lcg: Lcg) -> Iterator[dict[str, Any]]:
    logs = [list(instrument_events(lcg, symbol)) for symbol in INSTRUMENTS]
    while any(logs):
        log = logs[lcg.below(len(logs))]
        if log:
            yield log.pop(0)


def instrument_events(lcg: Lcg, symbol: str) -> Iterator[dict[str, Any]]:
    market = Market(lcg, symbol)
    for _ in range(STEPS_PER_INSTRUMENT):
        yield from market.some()


class Market:
    """What happens to one instrument: mostly sane ticks and candles."""

    def __init__(self, lcg: Lcg, symbol: str) -> None:
        self.lcg, self.symbol = lcg, symbol
        self.tick_size: Decimal = INSTRUMENTS[symbol]["tick_size"]
        self.by_trades = INSTRUMENTS[symbol]["price_kind"] == "trade"
        self.time, self.points, self.sequence = START_US, 18_000 if self.by_trades else 110_000, 0
        self.faults = 5 if self.by_trades else 0  # so that the two together show every fault
        self.last: dict[str, Any] | None = None

    def some(self) -> Iterator[dict[str, Any]]:
        strange = [
            self.late, self.repeat, self.jump, self.confirmed_jump, self.heartbeat, self.other_kind,
            self.silence, self.dead, self.model, self.restart, self.candle_over_ticks,
        ]  # fmt: skip
        if self.lcg.one_in(4):
            yield from strange[self.lcg.below(len(strange))]()
        elif self.lcg.one_in(2):
            self.time = self.whole_minute() + self.lcg.below(2) * MINUTE_US
            yield self.candle(self.time)
            self.time += MINUTE_US
        else:
            self.time += self.lcg.below(2 * MINUTE_US)
            yield self.tick(self.time)

    def late(self) -> Iterator[dict[str, Any]]:
        yield self.tick(self.time // MINUTE_US * MINUTE_US - 1 - self.lcg.below(3 * MINUTE_US), sequence=None)

    def repeat(self) -> Iterator[dict[str, Any]]:
        if self.last is not None:
            yield dict(self.last)

    def jump(self) -> Iterator[dict[str, Any]]:
        yield self.tick(self.time + 7 * 86_400_000_000 + MINUTE_US + self.lcg.below(1_000), sequence=None)
        yield self.tick(self.time)

    def confirmed_jump(self) -> Iterator[dict[str, Any]]:
        if self.lcg.one_in(3):
            self.time += 7 * 86_400_000_000 + MINUTE_US + self.lcg.below(1_000)
            yield self.tick(self.time)
            yield from self.model()
            yield self.tick(self.time + 1)

    def heartbeat(self) -> Iterator[dict[str, Any]]:
        time = self.time + self.lcg.between(-1, 3) * MINUTE_US
        self.time = max(self.time, time)
        yield self.event("HEARTBEAT", time)

    def other_kind(self) -> Iterator[dict[str, Any]]:
        self.time += self.lcg.below(MINUTE_US)
        yield self.quote(self.time) if self.by_trades else self.trade(self.time)

    def silence(self) -> Iterator[dict[str, Any]]:
        self.time += self.lcg.between(5, 50) * MINUTE_US
        yield self.tick(self.time)

    def model(self) -> Iterator[dict[str, Any]]:
        yield self.event("MODEL", START_US, model_id=MODELS[self.lcg.below(2)])

    def restart(self) -> Iterator[dict[str, Any]]:
        self.sequence, self.time = 0, self.time + 1
        yield self.tick(self.time)

    def candle_over_ticks(self) -> Iterator[dict[str, Any]]:
        self.time = self.whole_minute() + self.lcg.below(MINUTE_US)
        yield self.tick(self.time)
        minute = self.time // MINUTE_US * MINUTE_US
        yield self.candle(minute)
        self.time = minute + MINUTE_US

    def dead(self) -> Iterator[dict[str, Any]]:
        candle, quote = self.candle(self.whole_minute()), self.quote(self.time)
        faults: list[dict[str, Any]] = [
            quote | {"kind": "UNKNOWN"},
            quote | {"event_time": -1},
            quote | {"ask": None},
            quote | {"bid": Decimal(0)},
            quote | {"ask": self.tick_size * 2**31},
            quote | {"bid": quote["ask"] + self.tick_size},
            candle | {"duration_s": 300},
            candle | {"event_time": candle["event_time"] + 1},
            candle | {"open": candle["high"] + self.tick_size},
            quote | {"volume": Decimal(-1)},
            self.event("MODEL", self.time, model_id="A" * 64),
        ]
        yield faults[self.faults % len(faults)]
        self.faults += 1

    def whole_minute(self) -> int:
        return -(-self.time // MINUTE_US) * MINUTE_US

    def tick(self, time: int, **fields: Any) -> dict[str, Any]:
        self.last = self.trade(time, **fields) if self.by_trades else self.quote(time, **fields)
        return self.last

    def quote(self, time: int, **fields: Any) -> dict[str, Any]:
        bid = self.price()
        ask = bid + self.lcg.below(9) * self.tick_size
        return self.event("QUOTE", time, **{"bid": bid, "ask": ask, "volume": self.volume(), **fields})

    def trade(self, time: int, **fields: Any) -> dict[str, Any]:
        return self.event("TRADE", time, **{"price": self.price(), "volume": self.volume(), **fields})

    def candle(self, minute: int) -> dict[str, Any]:
        prices = [self.price() for _ in range(4)]
        named = {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1]}
        both = {"bid": prices[-1], "ask": prices[-1] + 3 * self.tick_size} if self.lcg.one_in(4) else {}
        return self.event("BAR", minute, **named, **both, duration_s=60, volume=self.volume())

    def price(self) -> Decimal:
        """The last price moved a little, off the grid in one of three, often by exactly half a point."""
        self.points += self.lcg.between(-6, 6)
        eighths = self.lcg.between(-4, 4) if self.lcg.one_in(3) else 0
        return self.points * self.tick_size + eighths * self.tick_size / 8

    def volume(self) -> Decimal | None:
        return (None, Decimal(0), Decimal(7), Decimal("0.25"))[self.lcg.below(4)]

    def event(self, kind: str, time: int, **fields: Any) -> dict[str, Any]:
        self.sequence += 1
        sequence = self.sequence if self.lcg.one_in(2) else None
        base = {**dict.fromkeys(FIELDS), "instrument": self.symbol, "kind": kind, "event_time": time}
        return base | {"source": "s", "sequence": sequence} | fields


# metrics.json: windows of a walk under several parameters

METRIC_BARS = 420
METRIC_CASES: list[tuple[dict[str, Any], int]] = [
    ({"history": 64, "forward": 64, "samples": 16, "eps": 0.002, "hold": 4}, 0),
    ({"history": 64, "forward": 64, "samples": 16, "eps": 0.002, "hold": 4}, 9),
    ({"history": 12, "forward": 4, "samples": 4, "eps": 0.002, "hold": 4}, 0),
    ({"history": 12, "forward": 1, "samples": 1, "eps": 0.5, "hold": 1}, 0),
    ({"history": 13, "forward": 8, "samples": 4, "eps": 0.03, "hold": 2}, 25),
    ({"history": 100, "forward": 96, "samples": 8, "eps": 0.0005, "hold": 6}, 3),
    ({"history": 31, "forward": 200, "samples": 20, "eps": 1e-9, "hold": 4}, 0),
]
ANCHORS_PER_CASE = 4


def metrics_document() -> Document:
    closes = walk(Lcg(20_240_229), METRIC_BARS)
    return {"closes": closes, "cases": [metric_case(closes, *case) for case in METRIC_CASES]}


def walk(lcg: Lcg, bars: int) -> list[int]:
    """Moves of up to 30 points, with a stretch that rises without a pause and one that stands still."""
    close, closes = 1_500_000, []
    for k in range(bars):
        close += abs(lcg.between(-30, 30)) + 1 if 120 <= k < 230 else 0 if 300 <= k < 340 else lcg.between(-30, 30)
        closes.append(close)
    return closes


def metric_case(closes: list[int], params: dict[str, Any], deadband: int) -> Document:
    history, forward = params["history"], params["forward"]
    bits = direction_bits(closes, deadband)
    first, last = history - 1, len(closes) - 1 - forward
    anchors = [first + (last - first) * k // (ANCHORS_PER_CASE - 1) for k in range(ANCHORS_PER_CASE)]
    windows = [(bits[i - history + 1 : i + forward + 1], closes[i : i + forward + 1]) for i in anchors]
    found = [hexed(metrics(b, p, params)) for b, p in windows]
    return {
        "params": {**params, "eps": params["eps"].hex()},
        "deadband": deadband,
        "anchors": anchors,
        "windows": found,
    }


# signals.json: two models in force one after the other

SYMBOL = "EUR/USD"
SIGNAL_WINDOW: dict[str, Any] = {"history": 12, "forward": 8, "samples": 4, "eps": 0.03, "hold": 2}
CANDLES = 1_650
FIRST_CUT, SECOND_CUT = 1_250, 1_500
"""Candles that the models have seen; each is activated there."""
LOOSE_GATE = {"confidence_min": 0.51, "coherence_min": 0.1, "stability_margin_min": 0.02}
KNOTS = ([0.4, 0.48, 0.5, 0.52, 0.6], [0.3, 0.45, 0.5, 0.58, 0.8])
EVERY = {"M1": 26, "M5": 10, "M15": 5}
"""Of the signals, to keep the file small."""


def signals_document() -> Document:
    candles = candle_rows(Lcg(20_240_307))
    events = [candle_event(row) for row in candles]
    models = trained(events)
    markers = {FIRST_CUT: models[0].model_id, SECOND_CUT: models[1].model_id}
    pipeline = Pipeline(INSTRUMENTS, SIGNAL_WINDOW, {m.model_id: m for m in models})
    for k, event in enumerate(events):
        if k in markers:
            pipeline.feed(model_event(markers[k]))
        pipeline.feed(event)
    return {
        "metrics_version": VERSION,
        "instrument": SYMBOL,
        "candles": candles,
        "window": {**SIGNAL_WINDOW, "eps": SIGNAL_WINDOW["eps"].hex()},
        "models": [{"before_candle": k, **written_model(m)} for k, m in zip(markers, models, strict=True)],
        "every": EVERY,
        "signals": [written_signal(signal) for signal in chosen(pipeline.signals)],
    }


def candle_rows(lcg: Lcg) -> list[list[int]]:
    """[open time in epoch s, open, high, low, close in points], with gaps of up to two minutes."""
    time, close, rows = START_US // 1_000_000, 110_000, []
    for _ in range(CANDLES):
        prices = [close + lcg.between(-8, 8) for _ in range(4)]
        close = prices[-1]
        rows.append([time, prices[0], max(prices), min(prices), close])
        time += 60 * lcg.between(1, 3)
    return rows


def candle_event(row: Sequence[int]) -> dict[str, Any]:
    time, *points = row
    tick_size: Decimal = INSTRUMENTS[SYMBOL]["tick_size"]
    prices = dict(zip(("open", "high", "low", "close"), (p * tick_size for p in points), strict=True))
    given = {"instrument": SYMBOL, "kind": "BAR", "event_time": time * 1_000_000, "duration_s": 60, "source": "s"}
    return {**dict.fromkeys(FIELDS), **given, **prices}


def model_event(model_id: str) -> dict[str, Any]:
    given = {"instrument": SYMBOL, "kind": "MODEL", "event_time": START_US, "source": "s", "model_id": model_id}
    return {**dict.fromkeys(FIELDS), **given}


def trained(events: Sequence[Mapping[str, Any]]) -> list[Model]:
    converter = Converter(INSTRUMENTS, SIGNAL_WINDOW["history"], SIGNAL_WINDOW["forward"])
    bars: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        for kind, bar, *_ in converter.feed(event):
            if kind == "bar":
                bars[(SYMBOL, bar["timeframe"])].append(bar)
    first_cut, second_cut = (events[k]["event_time"] // 1_000_000 for k in (FIRST_CUT, SECOND_CUT))
    uncalibrated = train(bars, SIGNAL_WINDOW, first_cut, gate=LOOSE_GATE)
    others = train(bars, SIGNAL_WINDOW, second_cut, matches=12, min_blocks=8, horizon_bars=[10, 4, 3], gate=LOOSE_GATE)
    return [uncalibrated, replace(others, calibrations={(SYMBOL, "M1"): KNOTS})]


def written_model(model: Model) -> Document:
    """The document that the id is taken of, and the id."""
    return {"model_id": model.model_id, "document": model.document()}


def chosen(signals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for signal in signals:
        if seen[signal["timeframe"]] % EVERY[signal["timeframe"]] == 0:
            kept.append(signal)
        seen[signal["timeframe"]] += 1
    return kept


def written_signal(signal: Mapping[str, Any]) -> Document:
    prices = {
        name: None if signal[name] is None else f"{signal[name]:f}" for name in ("bar_open", "bar_close", "bar_spread")
    }
    return {name: hexed(value) for name, value in {**signal, **prices}.items()}


# the files


def hexed(value: Any) -> Any:
    """The same with floats in hexadecimal."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {k: hexed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [hexed(v) for v in value]
    return value


DOCUMENTS: dict[str, Callable[[], Document]] = {
    "events.json": events_document,
    "metrics.json": metrics_document,
    "signals.json": signals_document,
}
"""What makes the contents of a file."""


def text_of(document: Document) -> str:
    """JSON with each record of a list of records on a line of its own."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {lines(value)}" for name, value in document.items()) + "\n}\n"


def lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(json.dumps(v, separators=(",", ":")) for v in value) + "\n]"
    if isinstance(value, dict) and any(isinstance(v, list) and len(v) > 20 for v in value.values()):
        return "{\n" + ",\n".join(f"{json.dumps(k)}: {lines(v)}" for k, v in value.items()) + "\n}"
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    for file_name, made in DOCUMENTS.items():
        (FOLDER / file_name).write_text(text_of(made()))
