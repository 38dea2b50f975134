"""`--verify-against`: what workers made of a log, beside what a backtest makes of it, record by record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream import wire
from sep_stream.backtest.bars import InstrumentBars, MarketHistory
from sep_stream.backtest.scored import Scored, scored
from sep_stream.market.avro import HEADER_BYTES, Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.events import NULL
from sep_stream.market.instruments import Instruments
from sep_stream.metrics import METRICS_VERSION, Engine, WindowParams
from sep_stream.scoring import Model
from sep_stream.settling import SettleParameters, Settler, Stake

SHOWN_MAX: Final = 10
"""Differences that are told one by one."""

Records = Iterator[tuple[str, bytes]]
"""(place, value) of what lies in a topic: `topic/partition, offset`."""


@dataclass(slots=True)
class Comparison:
    """Records of a topic, made live, against those computed.

    equal, different: present in both · missing: computed and not in the topic · unexpected: in the topic and not
    computed · repeated: there more than once, which a crash may do · first: the first differences, in words
    """

    topic: str
    equal: int = 0
    different: int = 0
    missing: int = 0
    unexpected: int = 0
    repeated: int = 0
    first: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return not (self.different or self.missing or self.unexpected)

    def tell(self, what: str) -> None:
        if len(self.first) < SHOWN_MAX:
            self.first.append(what)


def models_in_force(history: MarketHistory) -> tuple[str, ...]:
    """Ids of the models that the log's MODEL events put in force for some bar."""
    used = {
        bars.models[model] for bars in history.bars for model in np.unique(bars.rows["model"]).tolist() if model >= 0
    }
    return tuple(sorted(used))


def replayed(
    history: MarketHistory, models: Sequence[Model], params: WindowParams, engine: str | Engine = "auto"
) -> Iterator[Scored]:
    """The signals that workers make of a log, under the models that its MODEL events put in force. models: of all
    `models_in_force`"""
    position = {model.model_id: k for k, model in enumerate(models)}
    for bars in history.bars:
        codes = np.array([position.get(model, -1) for model in bars.models] + [-1], np.int32)
        rows = np.arange(len(bars.rows))
        yield from scored(bars, rows, models, _stamped(bars, codes), history.symbols, params, engine)


def _stamped(bars: InstrumentBars, codes: npt.NDArray[np.int32]) -> Callable[..., npt.NDArray[np.int32]]:
    def model_of(timeframe: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        return codes[bars.rows["model"][bars.lane_rows[timeframe][index]]]

    return model_of


class Expected:
    """What the topics should hold, as the bytes that the stages write."""

    def __init__(self, schemas: Schemas, instruments: Instruments, settle: SettleParameters, stake: Stake) -> None:
        self._signal, self._result = (BulkCodec(*schemas.of(name)) for name in ("signal", "trading_result"))
        self._instruments, self._symbols, self._stake = instruments, wire.Symbols(instruments), stake
        self._settler = Settler(instruments, settle)
        self.signals: dict[bytes, bytes] = {}
        self.results: dict[bytes, bytes] = {}

    def add(self, part: Scored) -> None:
        """Signals of a stretch, those of an instrument in log order, and the trades that they end."""
        signals = wire.signal_columns(part.signals, self._metric_columns(part), part.models, METRICS_VERSION)
        self.signals.update(_by_id(self._signal, "signal_id", signals, len(part.signals)))
        settled = self._settler.feed(part.settled_by())
        if len(settled.trades):
            results = wire.result_columns(settled, self._instruments, self._symbols, self._stake)
            self.results.update(_by_id(self._result, "trade_id", results, len(settled.trades)))

    def _metric_columns(self, part: Scored) -> dict[str, Any]:
        """What `wire.signal_columns` takes from decoded metrics."""
        closed = part.bars.rows[part.rows]
        tick = self._instruments.tick_units[part.bars.position]
        return {
            "instrument": self._symbols.column(np.full(len(closed), part.bars.position, np.int16)),
            "timeframe": closed["timeframe"].astype(np.int64),
            "anchor_time": part.anchor_time_s * wire.MS_PER_S,
            "available_at": part.available_at_s * wire.MS_PER_S,
            "bar_index": closed["index"].astype(np.int64),
            "bar_open_time": closed["open_time_s"] * wire.MS_PER_S,
            "bar_open": closed["open"].astype(np.int64) * tick,
            "bar_close": closed["close"].astype(np.int64) * tick,
            "bar_spread": np.where(closed["spread"] < 0, NULL, closed["spread"].astype(np.int64) * tick),
        }


def _by_id(codec: BulkCodec, name: str, columns: Mapping[str, Any], n: int) -> Iterator[tuple[bytes, bytes]]:
    ids = [key or b"" for key in columns[name].to_list()]
    return zip(ids, codec.encode(columns, n).values(), strict=True)


def compare(
    topic: str, expected: Mapping[bytes, bytes], found: Records, schemas: Schemas, schema: str, identity: str
) -> Comparison:
    """What lies in a topic against what should. identity: the field that tells one record from another"""
    comparison, seen = Comparison(topic), set[bytes]()
    codec = BulkCodec(*schemas.of(schema))
    for place, value in found:
        decoded = codec.decode([value])
        if decoded.errors[0]:
            comparison.unexpected += 1
            comparison.tell(f"{place}: the value is no {schema}")
            continue
        [key] = decoded.columns[identity].to_list()
        if key in seen:
            comparison.repeated += 1
        if key not in expected:
            comparison.unexpected += 1
            comparison.tell(f"{place}: {identity} {key.decode()} is not what the log gives: {_brief(schemas, value)}")
        elif expected[key][HEADER_BYTES:] != value[HEADER_BYTES:]:  # by which id of the schema is no difference
            comparison.different += 1
            comparison.tell(f"{place}: {identity} {key.decode()}: {_fields(schemas, value, expected[key])}")
        elif key not in seen:
            comparison.equal += 1
        seen.add(key)
    missing = sorted(expected.keys() - seen)
    comparison.missing = len(missing)
    for key in missing[:SHOWN_MAX]:
        comparison.tell(f"{topic}: {identity} {key.decode()} is missing: {_brief(schemas, expected[key])}")
    return comparison


def _brief(schemas: Schemas, value: bytes) -> str:
    record = schemas.decode(value)[1]
    names = ("instrument", "timeframe", "anchor_time", "entry_time", "direction")
    return ", ".join(f"{name} {record[name]}" for name in names if name in record)


def _fields(schemas: Schemas, found: bytes, expected: bytes) -> str:
    """The fields in which two records differ."""
    live, computed = schemas.decode(found)[1], schemas.decode(expected)[1]
    differing = [name for name in computed if live.get(name) != computed[name]]
    return "; ".join(f"{name} is {live.get(name)}, computed {computed[name]}" for name in differing)
