"""`MarketDataConverter`: events in, closed bars and complete windows out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sep_stream.convert.machine import run
from sep_stream.convert.rules import check_events
from sep_stream.convert.series import extend
from sep_stream.convert.state import STATE_DTYPE, Tails, joined, parted, saved_dtype
from sep_stream.errors import ConfigurationError, StateError
from sep_stream.market.events import NULL, EventBatch, Kind, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import US_PER_S

STATE_VERSION: Final = 2
"""Version of a snapshot's state. 2 has the layout of 1; since then the first event of an instrument is held, and a
repeat of a held event is a duplicate, so that a log can give another state than a snapshot of 1 holds."""

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
    prices: (m,) PRICE_DTYPE, of the instruments whose price is news
    """

    bars: npt.NDArray[np.void]
    windows: npt.NDArray[np.void]
    series: Series
    models: tuple[str, ...]
    reason: npt.NDArray[np.uint8]
    rejections: tuple[Rejection, ...]
    prices: npt.NDArray[np.void]

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
    _tails: Tails = field(init=False)
    _sources: dict[str, int] = field(default_factory=dict, init=False)
    _last_sequence: npt.NDArray[np.int64] = field(init=False)
    _last_time_us: npt.NDArray[np.int64] = field(init=False)
    _held: dict[int, tuple[bytes | None, bytes | None]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.rows = np.zeros(len(self.instruments), STATE_DTYPE)
        self._tails = Tails.empty(len(self.instruments), self.parameters.window_bars)
        for name in ("watermark_us", "open_time_us", "price_time_us"):
            self.rows[name] = NULL
        for name in ("model", "tail_model", "price_spread"):
            self.rows[name] = -1
        self._last_sequence = np.full((len(self.instruments), 1), NULL, np.int64)
        self._last_time_us = self._last_sequence.copy()

    def feed(self, batch: EventBatch) -> ConvertOutput:
        """Bars closed and windows completed by a batch, and the events of it that were not used."""
        p = self.parameters
        reason, checked = check_events(batch, self.instruments)
        source, model = self._source_codes(batch, reason), self._model_codes(batch, reason)
        held_row = np.full(len(self.instruments), -1, np.int64)
        bars, refused, rejected, prices = run(
            self.rows, self._last_sequence, self._last_time_us, self.instruments.priced_by_trades, batch.instrument,
            batch.kind, batch.event_time, batch.sequence, source, model, batch.offset, checked, p.deadband,
            p.max_jump_s * US_PER_S, reason, held_row,
        )  # fmt: skip
        rejections = tuple(self._rejections(batch, reason, refused, rejected, held_row.tolist()))
        *series, windows = extend(self.rows, self._tails, bars, p.window_bars, p.forward)
        return ConvertOutput(bars, windows, Series(*series), tuple(self.models), reason, rejections, prices)

    def _source_codes(self, batch: EventBatch, reason: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Positions (n,) of the events' sources in the sequence tables; only sources that count are remembered."""
        if not self._sources.keys() >= set(batch.sources):
            counted = np.unique(batch.source[(batch.sequence != NULL) & (reason == Reason.OK)])
            for code in counted.tolist():
                self._sources.setdefault(batch.sources[code], len(self._sources))
        missing = len(self._sources) - self._last_sequence.shape[1]
        if missing > 0:
            padding = ((0, 0), (0, max(missing, self._last_sequence.shape[1])))
            self._last_sequence = np.pad(self._last_sequence, padding, constant_values=NULL)
            self._last_time_us = np.pad(self._last_time_us, padding, constant_values=NULL)
        return np.array([*(self._sources.get(name, 0) for name in batch.sources), 0], np.int32)[batch.source]

    def _model_codes(self, batch: EventBatch, reason: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Positions (n,) in `models` of the ids that the MODEL events put in force."""
        if not batch.models:
            return batch.model
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
        rejected: npt.NDArray[np.int64],
        held_row: Sequence[int],
    ) -> Iterator[Rejection]:
        def raw(row: int) -> tuple[bytes | None, bytes | None]:
            return (batch.keys[row] if batch.keys else None, batch.values[row] if batch.values else None)

        for instrument, row, offset in refused.tolist():
            key, value = raw(row) if row >= 0 else self._held[instrument]
            yield Rejection(row, offset, Reason.JUMP, instrument, key, value)
        for instrument in list(self._held):
            if not self.rows[instrument]["held"] or held_row[instrument] >= 0:
                del self._held[instrument]
        for instrument, row in enumerate(held_row):
            if row >= 0 and self.rows[instrument]["held"]:
                self._held[instrument] = raw(row)
        columns = (rejected, batch.offset[rejected], reason[rejected], batch.instrument[rejected])
        for row, offset, code, instrument in zip(*(column.tolist() for column in columns), strict=True):
            yield Rejection(row, offset, _REASONS[code], instrument, *raw(row))

    def snapshot(self) -> bytes:
        """The state as bytes that `restore` takes; the same for any chunking of the same events."""
        rows = self.rows
        used = np.flatnonzero((rows["watermark_us"] != NULL) | (rows["held"] == 1) | (rows["model"] >= 0))
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
        """Rows of a snapshot; held events name their source by its position in `names`, 0 where it doesn't matter."""
        rows = self.rows[used]
        position = np.zeros(len(names) + 1, np.int32)
        position[[self._sources[name] for name in names]] = np.arange(len(names))
        counted = (rows["held"] == 1) & (rows["held_sequence"] != NULL)
        rows["held_source"] = np.where(counted, position[rows["held_source"]], 0)
        return joined(rows, Tails(*(values[used] for values in self._tails)))

    @classmethod
    def restore(cls, snapshot: bytes, instruments: Instruments, parameters: ConvertParameters) -> MarketDataConverter:
        """The converter as it was when `snapshot` was taken; StateError if the bytes don't fit."""
        converter = cls(instruments, parameters)
        try:
            length = int.from_bytes(snapshot[:4], "little")
            header = json.loads(snapshot[4 : 4 + length])
            rows = np.frombuffer(snapshot[4 + length :], saved_dtype(parameters.window_bars))
            if len(rows) != len(header["instruments"]):
                raise StateError(f"snapshot: {len(rows)} rows for {len(header['instruments'])} instruments")
            converter._load(header, rows)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StateError(f"snapshot: not a converter's state ({type(error).__name__}: {error})") from error
        return converter

    def _load(self, header: Mapping[str, Any], saved: npt.NDArray[np.void]) -> None:
        positions = [self.instruments.position_of(identity) for identity in header["instruments"]]
        self.rows[positions], tails = parted(saved)
        for values, those in zip(self._tails, tails, strict=True):
            values[positions] = those
        self.models = list(header["models"])
        self._sources = {name: code for code, name in enumerate(header["sources"])}
        shape = (len(self.instruments), max(1, len(self._sources)))
        self._last_sequence = np.full(shape, NULL, np.int64)
        self._last_time_us = np.full(shape, NULL, np.int64)
        for place, name, sequence, time_us in header["sequences"]:
            self._last_sequence[positions[place], self._sources[name]] = sequence
            self._last_time_us[positions[place], self._sources[name]] = time_us
        self._held = {positions[place]: (_bytes(key), _bytes(value)) for place, key, value in header["held"]}


_REASONS: Final = {int(reason): reason for reason in Reason}


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
