"""`MarketDataConverter`: events in, closed bars and complete windows out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sep_stream.convert.machine import HELD, run
from sep_stream.convert.rules import check_events
from sep_stream.convert.state import N_TIMEFRAMES, state_dtype
from sep_stream.errors import ConfigurationError, StateError
from sep_stream.market.events import NULL, EventBatch, Kind, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import US_PER_S

STATE_VERSION: Final = 1

WINDOW_DTYPE: Final = np.dtype([("bar", "<i8"), ("anchor", "<i8"), ("m5", "<i8"), ("m15", "<i8")])
"""A complete window: the row of the bar that completed it, its anchor's position in the series, and for M1 the
anchors of the newest complete M5 and M15 windows (-1 where there is none)."""

_SEVEN_DAYS_S: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class ConvertParameters:
    """What the converter's output depends on besides the events: window lengths in bars, deadband in points."""

    history: int = 64
    forward: int = 64
    deadband: int = 0
    max_jump_s: int = _SEVEN_DAYS_S

    def __post_init__(self) -> None:
        for name, least in (("history", 12), ("forward", 1), ("deadband", 0), ("max_jump_s", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected an integer >= {least}, got {getattr(self, name)}")

    @property
    def window_bars(self) -> int:
        return self.history + self.forward

    def canonical(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


class Rejection(NamedTuple):
    """An event that was not used. row: in the batch, or -1 for one held since an earlier batch. (A tuple: there may
    be a flood of them.)"""

    row: int
    offset: int
    reason: Reason
    instrument: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Series:
    """Closed bars of several lanes (instrument and timeframe), one lane after the other, each in time order.

    bits: (m,) uint8 · close: (m,) int32 points · open_time_s: (m,) int64 · model: (m,) int32, in force at the close,
    known for the newest bar before the batch and those after it
    """

    bits: npt.NDArray[np.uint8]
    close: npt.NDArray[np.int32]
    open_time_s: npt.NDArray[np.int64]
    model: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ConvertOutput:
    """What a batch of events gave.

    bars: (b,) BAR_DTYPE in order of emission · windows: (w,) WINDOW_DTYPE in the same order, positions in `series`
    models: ids by position · reason: (n,) uint8 per event of the batch, HELD or IGNORED among them
    prices: positions of the instruments whose price is news
    """

    bars: npt.NDArray[np.void]
    windows: npt.NDArray[np.void]
    series: Series
    models: tuple[str, ...]
    reason: npt.NDArray[np.uint8]
    rejections: tuple[Rejection, ...]
    prices: npt.NDArray[np.int64]

    @classmethod
    def concatenate(cls, outputs: Sequence[ConvertOutput]) -> ConvertOutput:
        """Of at least one converter, each with its own instruments: as if their batches lay one after the other."""
        if len(outputs) == 1:
            return outputs[0]
        models = tuple(dict.fromkeys(model for output in outputs for model in output.models))
        bars, windows, series_model, rejections = [], [], [], []
        events = closed = length = 0
        for output in outputs:
            bars.append(output.bars.copy())
            bars[-1]["row"] += events
            windows.append(output.windows.copy())
            windows[-1]["bar"] += closed
            for name in ("anchor", "m5", "m15"):
                position = windows[-1][name]
                position[position >= 0] += length
            recode = np.array([models.index(model) for model in output.models] + [-1], np.int32)
            series_model.append(recode[output.series.model])
            rejections += [r._replace(row=r.row + events) if r.row >= 0 else r for r in output.rejections]
            events, closed, length = (
                events + len(output.reason), closed + len(output.bars), length + len(output.series.bits)
            )  # fmt: skip
        bits, close, open_time_s = (
            np.concatenate([getattr(output.series, name) for output in outputs])
            for name in ("bits", "close", "open_time_s")
        )
        return cls(
            bars=np.concatenate(bars),
            windows=np.concatenate(windows),
            series=Series(bits, close, open_time_s, np.concatenate(series_model)),
            models=models,
            reason=np.concatenate([output.reason for output in outputs]),
            rejections=tuple(rejections),
            prices=np.concatenate([output.prices for output in outputs]),
        )


@dataclass(slots=True)
class MarketDataConverter:
    """Turns events, in log order, into bars, bits and windows of M1, M5 and M15.

    Any cut of the events into batches gives the same bars and windows. `feed` advances the state that `snapshot`
    saves and `restore` brings back.
    """

    instruments: Instruments
    parameters: ConvertParameters = field(default_factory=ConvertParameters)
    models: list[str] = field(default_factory=list, init=False)
    rows: npt.NDArray[np.void] = field(init=False)
    _sources: dict[str, int] = field(default_factory=dict, init=False)
    _last_sequence: npt.NDArray[np.int64] = field(init=False)
    _last_time_us: npt.NDArray[np.int64] = field(init=False)
    _held: dict[int, tuple[bytes | None, bytes | None]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.rows = np.zeros(len(self.instruments), state_dtype(self.parameters.window_bars))
        for name in ("watermark_us", "open_time_us", "price_time_us"):
            self.rows[name] = NULL
        for name in ("model", "tail_model", "price_spread"):
            self.rows[name] = -1
        self._last_sequence = np.full((len(self.instruments), 1), NULL, np.int64)
        self._last_time_us = self._last_sequence.copy()

    def feed(self, batch: EventBatch) -> ConvertOutput:
        """Bars closed and windows completed by a batch, and the events of it that were not used."""
        reason, checked = check_events(batch, self.instruments)
        source, model = self._source_codes(batch, reason), self._model_codes(batch, reason)
        count_before, price_before = self.rows["count"].copy(), self.rows["price_time_us"].copy()
        price_value_before = self.rows[["price", "price_spread"]].copy()
        held_row = np.full(len(self.instruments), -1, np.int64)
        bars, refused = run(
            self.rows, self._last_sequence, self._last_time_us, self.instruments.priced_by_trades, batch.instrument,
            batch.kind, batch.event_time, batch.sequence, source, model, batch.offset, checked,
            self.parameters.deadband, self.parameters.max_jump_s * US_PER_S, reason, held_row,
        )  # fmt: skip
        rejections = tuple(self._rejections(batch, reason, refused, held_row))
        series, windows = self._windows(bars, count_before)
        news = (self.rows["price_time_us"] != price_before) | (
            self.rows[["price", "price_spread"]] != price_value_before
        )
        return ConvertOutput(bars, windows, series, tuple(self.models), reason, rejections, np.flatnonzero(news))

    def _source_codes(self, batch: EventBatch, reason: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Positions (n,) of the events' sources in the sequence tables; only sources that count are remembered."""
        codes = np.zeros(len(batch.sources) + 1, np.int32)
        counted = np.unique(batch.source[(batch.sequence != NULL) & (reason == Reason.OK)])
        for code in counted:
            codes[code] = self._sources.setdefault(batch.sources[code], len(self._sources))
        missing = len(self._sources) - self._last_sequence.shape[1]
        if missing > 0:
            padding = ((0, 0), (0, max(missing, self._last_sequence.shape[1])))
            self._last_sequence = np.pad(self._last_sequence, padding, constant_values=NULL)
            self._last_time_us = np.pad(self._last_time_us, padding, constant_values=NULL)
        return codes[batch.source]

    def _model_codes(self, batch: EventBatch, reason: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Positions (n,) in `models` of the ids that the MODEL events put in force."""
        codes = np.full(len(batch.models) + 1, -1, np.int32)
        markers = np.flatnonzero((batch.kind == Kind.MODEL) & (reason == Reason.OK))
        for code in dict.fromkeys(batch.model[markers].tolist()):
            model_id = batch.models[code]
            if model_id not in self.models:
                self.models.append(model_id)
            codes[code] = self.models.index(model_id)
        return codes[batch.model]

    def _rejections(
        self,
        batch: EventBatch,
        reason: npt.NDArray[np.uint8],
        refused: npt.NDArray[np.int64],
        held_row: npt.NDArray[np.int64],
    ) -> Iterator[Rejection]:
        def raw(row: int) -> tuple[bytes | None, bytes | None]:
            return (batch.keys[row] if batch.keys else None, batch.values[row] if batch.values else None)

        for instrument, row, offset in refused.tolist():
            key, value = raw(row) if row >= 0 else self._held[instrument]
            yield Rejection(row, offset, Reason.JUMP, instrument, key, value)
        for instrument in list(self._held):
            if not self.rows[instrument]["held"] or held_row[instrument] >= 0:
                del self._held[instrument]
        for instrument in np.flatnonzero(self.rows["held"]).tolist():
            if held_row[instrument] >= 0:
                self._held[instrument] = raw(int(held_row[instrument]))
        rows = np.flatnonzero((reason != Reason.OK) & (reason != Reason.DUPLICATE) & (reason < HELD))
        codes = {code: Reason(code) for code in np.unique(reason[rows]).tolist()}
        columns = (rows, batch.offset[rows], reason[rows], batch.instrument[rows])
        for row, offset, code, instrument in zip(*(column.tolist() for column in columns), strict=True):
            yield Rejection(row, offset, codes[code], instrument, *raw(row))

    def _windows(
        self, bars: npt.NDArray[np.void], count_before: npt.NDArray[np.int64]
    ) -> tuple[Series, npt.NDArray[np.void]]:
        """The lanes that the new bars lie in, each with the tail from before, and the windows complete in them."""
        lane = bars["instrument"].astype(np.int64) * N_TIMEFRAMES + bars["timeframe"]
        order = np.argsort(lane, kind="stable")
        active = np.unique(bars["instrument"]).astype(np.int64)
        lanes = (active[:, None] * N_TIMEFRAMES + np.arange(N_TIMEFRAMES)).ravel()
        first = np.searchsorted(lane[order], lanes)
        last = np.searchsorted(lane[order], lanes, side="right")

        base = np.zeros(len(self.instruments) * N_TIMEFRAMES, np.int64)  # position of a lane's bar 0, were it there
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        length = 0
        for k, start, stop in zip(lanes.tolist(), first.tolist(), last.tolist(), strict=True):
            row, tf = self.rows[k // N_TIMEFRAMES], k % N_TIMEFRAMES
            before = int(count_before[k // N_TIMEFRAMES, tf])
            carried = min(before, self.parameters.window_bars)
            new = bars[order[start:stop]]
            part = self._extend_tail(row, tf, carried, new)
            base[k] = length + carried - before
            length += len(part[0])
            parts.append(part)
        series = Series(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else _EMPTY_SERIES
        return series, self._complete(bars, lane, base)

    def _extend_tail(
        self, row: np.void, tf: int, carried: int, new: npt.NDArray[np.void]
    ) -> tuple[npt.NDArray[Any], ...]:
        """A lane of the series: the bars carried over and the new ones; the row's tail moves on."""
        tail = self.parameters.window_bars
        models = np.full(carried, -1, np.int32)
        models[-1:] = row["tail_model"][tf]
        bits = np.concatenate((row["tail_bits"][tf, tail - carried :], new["bit"]))
        close = np.concatenate((row["tail_close"][tf, tail - carried :], new["close"]))
        time_s = np.concatenate((row["tail_time_s"][tf, tail - carried :], new["open_time_s"]))
        model = np.concatenate((models, new["model"]))
        if len(new):
            kept = min(len(bits), tail)
            for name, column in (("tail_bits", bits), ("tail_close", close), ("tail_time_s", time_s)):
                row[name][tf, tail - kept :] = column[-kept:]
            row["tail_model"][tf] = model[-1]
        return bits, close, time_s, model

    def _complete(
        self, bars: npt.NDArray[np.void], lane: npt.NDArray[np.int64], base: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.void]:
        need, forward = self.parameters.window_bars, self.parameters.forward
        complete = np.flatnonzero(bars["index"] >= need - 1)
        windows = np.full(len(complete), -1, WINDOW_DTYPE)
        windows["bar"] = complete
        windows["anchor"] = base[lane[complete]] + bars["index"][complete] - forward
        m1 = np.flatnonzero(bars["timeframe"][complete] == 0)
        for tf, name in ((1, "m5"), (2, "m15")):
            newest = bars[f"{name}_count"][complete[m1]] - 1
            there = newest >= need - 1
            windows[name][m1[there]] = base[lane[complete[m1[there]]] + tf] + newest[there] - forward
        return windows

    def latest_price(self, position: int) -> dict[str, Any]:
        """The newest price of an instrument as a `LatestPrice` record; by event time, the later of equal ones."""
        row, tick = self.rows[position], self.instruments[position].tick_size
        price, spread = int(row["price"]), int(row["price_spread"])
        # the mid is floor((bid + ask + 1) / 2), which gives both back
        bid = price - (spread + 1) // 2 if spread >= 0 else None
        return {
            "instrument": self.instruments[position].symbol,
            "event_time": int(row["price_time_us"]),
            "price": price * tick,
            "bid": None if bid is None else bid * tick,
            "ask": None if bid is None else (bid + spread) * tick,
        }

    def snapshot(self) -> bytes:
        """The state as bytes that `restore` takes; the same for any chunking of the same events."""
        used = np.flatnonzero((self.rows["watermark_us"] != NULL) | (self.rows["model"] >= 0))
        names = sorted(self._sources)
        sequences = [
            [place, name, int(self._last_sequence[i, code]), int(self._last_time_us[i, code])]
            for place, i in enumerate(used)
            for name, code in sorted(self._sources.items())
            if self._last_sequence[i, code] != NULL
        ]
        header = {
            "instruments": [self.instruments.identity(int(i)) for i in used],
            "models": self.models,
            "sources": names,
            "sequences": sequences,
            "held": [
                [place, _text(key), _text(value)]
                for place, i in enumerate(used.tolist())
                if i in self._held
                for key, value in [self._held[i]]
            ],
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        return len(text).to_bytes(4, "little") + text + self._saved_rows(used, names).tobytes()

    def _saved_rows(self, used: npt.NDArray[np.intp], names: list[str]) -> npt.NDArray[np.void]:
        """Rows whose held events name their source by its position in `names`, 0 where it doesn't matter."""
        rows = self.rows[used]
        position = np.zeros(len(names) + 1, np.int32)
        position[[self._sources[name] for name in names]] = np.arange(len(names))
        counted = (rows["held"] == 1) & (rows["held_sequence"] != NULL)
        rows["held_source"] = np.where(counted, position[rows["held_source"]], 0)
        return rows

    @classmethod
    def restore(cls, snapshot: bytes, instruments: Instruments, parameters: ConvertParameters) -> MarketDataConverter:
        """The converter as it was when `snapshot` was taken; StateError if the bytes don't fit."""
        converter = cls(instruments, parameters)
        try:
            length = int.from_bytes(snapshot[:4], "little")
            header = json.loads(snapshot[4 : 4 + length])
            rows = np.frombuffer(snapshot[4 + length :], converter.rows.dtype)
            if len(rows) != len(header["instruments"]):
                raise StateError(f"snapshot: {len(rows)} rows for {len(header['instruments'])} instruments")
            converter._load(header, rows)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StateError(f"snapshot: not a converter's state ({type(error).__name__}: {error})") from error
        return converter

    def _load(self, header: Mapping[str, Any], rows: npt.NDArray[np.void]) -> None:
        positions = [self.instruments.position_of(identity) for identity in header["instruments"]]
        self.rows[positions] = rows
        self.models = list(header["models"])
        self._sources = {name: code for code, name in enumerate(header["sources"])}
        shape = (len(self.instruments), max(1, len(self._sources)))
        self._last_sequence = np.full(shape, NULL, np.int64)
        self._last_time_us = np.full(shape, NULL, np.int64)
        for place, name, sequence, time_us in header["sequences"]:
            self._last_sequence[positions[place], self._sources[name]] = sequence
            self._last_time_us[positions[place], self._sources[name]] = time_us
        self._held = {positions[place]: (_bytes(key), _bytes(value)) for place, key, value in header["held"]}


_EMPTY_SERIES: Final = Series(
    np.empty(0, np.uint8), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32)
)


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
