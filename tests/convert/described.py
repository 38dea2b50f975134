"""What a converter gave, in the words of the reference: positions in the log for events, dicts for bars and windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from sep_stream.convert import ConvertOutput, ConvertParameters, MarketDataConverter
from sep_stream.market.decode import decode_events, events_from_records
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.runtime.resources import resource
from tests.market.schema_values import CODECS, written
from tests.reference.converter import Converter
from tests.reference.market import DECIMALS

TOML = resource("topology") / "instruments.toml"
DECLARED = Instruments.from_toml(TOML.read_text(), str(TOML))
PARTITIONS = 8
SHORT = ConvertParameters(history=12, forward=8)


@dataclass
class Described:
    """bars, windows: with the position of the event that gave them · dead: position and reason"""

    bars: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    windows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    dead: list[tuple[int, str]] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)

    def ordered(self) -> Described:
        """With dead letters in log order: a batch tells those that were held apart from the others."""
        return Described(self.bars, self.windows, sorted(self.late), sorted(self.dead), self.duplicates)


def by_reference(
    events: Iterable[Mapping[str, Any]],
    instruments: Mapping[str, Mapping[str, Any]],
    parameters: ConvertParameters = SHORT,
) -> Described:
    """What the reference gives of the events."""
    reference = Converter(
        instruments,
        parameters.history,
        parameters.forward,
        parameters.deadband,
        parameters.max_jump_s * 10**6,
    )
    out = Described()
    for position, event in enumerate(events):
        for kind, item, *rest in reference.feed({**event, "position": position}):
            match kind:
                case "bar":
                    out.bars.append((position, item))
                case "window":
                    out.windows.append((position, item))
                case "late":
                    out.late.append(item["position"])
                case "dead":
                    out.dead.append((item["position"], rest[0]))
                case "duplicate":
                    out.duplicates.append(item["position"])
    return out.ordered()


def by_package(
    events: Sequence[Mapping[str, Any]],
    instruments: Instruments,
    parameters: ConvertParameters = SHORT,
    cuts: Sequence[int] = (),
    restored: bool = False,
) -> Described:
    """What the package gives of the events in batches that end at `cuts`; restored: from a snapshot at each."""
    return _fed(events_from_records(instruments, events), instruments, parameters, cuts, restored)


def by_wire(
    events: Sequence[Mapping[str, Any]],
    instruments: Instruments,
    parameters: ConvertParameters = SHORT,
    keys: Sequence[bytes | None] | None = None,
    partition: int | None = None,
) -> Described:
    """What the package gives of the events' records as fastavro writes them.

    partition: of PARTITIONS, where the records lie under their keys; without it keys are not checked.
    """
    values = [written("market_event", {**event, **_unscaled(event)}) for event in events]
    partitions = None if partition is None else PARTITIONS
    batch = decode_events(
        CODECS["market_event"], instruments, keys or [None] * len(values), values, np.arange(len(values)), partition,
        partitions,
    )  # fmt: skip
    return _fed(batch, instruments, parameters)


def _unscaled(event: Mapping[str, Any]) -> dict[str, int]:
    """The decimals of an event, as on the wire."""
    return {name: int(event[name].scaleb(9)) for name in DECIMALS if event[name] is not None}


def _fed(
    batch: EventBatch,
    instruments: Instruments,
    parameters: ConvertParameters,
    cuts: Sequence[int] = (),
    restored: bool = False,
) -> Described:
    converter = MarketDataConverter(instruments, parameters)
    out = Described()
    for start, stop in zip((0, *cuts), (*cuts, len(batch)), strict=True):
        part = batch.take(slice(start, stop))
        add(out, converter.feed(part), part, instruments, parameters)
        if restored:
            converter = MarketDataConverter.restore(converter.snapshot(), instruments, parameters)
    return out.ordered()


def add(
    out: Described,
    output: ConvertOutput,
    batch: EventBatch,
    instruments: Instruments,
    parameters: ConvertParameters,
) -> None:
    bars = [bar_of(row, instruments) for row in output.bars]
    closed_by = [int(batch.offset[row]) for row in output.bars["row"]]
    out.bars += zip(closed_by, bars, strict=True)
    for window in output.windows:
        bar = bars[window["bar"]]
        described = window_of(output, int(window["anchor"]), bar["instrument"], bar["timeframe"], parameters)
        described["bar"] = bar
        if bar["timeframe"] == "M1":
            for name in ("m5", "m15"):
                anchor = int(window[name])
                described[name] = (
                    window_of(output, anchor, bar["instrument"], name.upper(), parameters) if anchor >= 0 else None
                )
        out.windows.append((closed_by[window["bar"]], described))
    for rejection in output.rejections:
        if rejection.reason == Reason.LATE:
            out.late.append(rejection.offset)
        else:
            out.dead.append((rejection.offset, rejection.reason.name))
    out.duplicates += batch.offset[output.reason == Reason.DUPLICATE].tolist()


def bar_of(row: np.void, instruments: Instruments) -> dict[str, Any]:
    return {
        "instrument": instruments[int(row["instrument"])].symbol,
        "timeframe": TIMEFRAMES[row["timeframe"]],
        "index": int(row["index"]),
        "open_time": int(row["open_time_s"]),
        **{name: int(row[name]) for name in ("open", "high", "low", "close")},
        "volume": int(row["volume_units"]) + Decimal(int(row["volume_nanos"])) / 10**9,
        "spread": None if row["spread"] < 0 else int(row["spread"]),
    }


def window_of(
    output: ConvertOutput, anchor: int, symbol: str, timeframe: str, parameters: ConvertParameters
) -> dict[str, Any]:
    series, first, last = output.series, anchor - parameters.history + 1, anchor + parameters.forward
    model = int(series.model[last])
    return {
        "instrument": symbol,
        "timeframe": timeframe,
        "anchor_time": int(series.open_time_s[anchor]),
        "start_time": int(series.open_time_s[first]),
        "available_at": int(series.open_time_s[last]) + DURATION_S[TIMEFRAMES.index(timeframe)],
        "bits": series.bits[first : last + 1].tolist(),
        "prices": series.close[anchor : last + 1].tolist(),
        "model_id": output.models[model] if model >= 0 else None,
    }


def without_bars(described: Described) -> Described:
    """Longer windows without the bar that completed them, which the package does not name."""
    for _, window in described.windows:
        for name in ("m5", "m15"):
            if window.get(name) is not None:
                window[name] = {key: value for key, value in window[name].items() if key != "bar"}
    return described
