"""`Settler`: signals in, closed trades out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import StateError
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.settling.machine import COUNTED, FREE, LANE_DTYPE, PLACE_DTYPE, run
from sep_stream.settling.parameters import SettleParameters

STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class SignalRows:
    """Signals with the bars that completed their windows, an instrument's in the order of its log.

    instrument: (n,) int16 · timeframe: (n,) uint8 · index, open_time_s: (n,) int64, of the bar · open, close: (n,)
    int64, points · spread: (n,) int64, points, -1 where none was told · available_at_s, anchor_time_s: (n,) int64,
    epoch seconds · direction: (n,) int8, 1 BUY, -1 SELL, 0 HOLD · gate_passed, confirmed: (n,) bool
    confidence: (n,) float64 · model: (n,) int32, position in `models`
    """

    instrument: npt.NDArray[np.int16]
    timeframe: npt.NDArray[np.uint8]
    index: npt.NDArray[np.int64]
    open_time_s: npt.NDArray[np.int64]
    open: npt.NDArray[np.int64]
    close: npt.NDArray[np.int64]
    spread: npt.NDArray[np.int64]
    available_at_s: npt.NDArray[np.int64]
    anchor_time_s: npt.NDArray[np.int64]
    direction: npt.NDArray[np.int8]
    gate_passed: npt.NDArray[np.bool_]
    confirmed: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float64]
    model: npt.NDArray[np.int32]
    models: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What signals ended. trades: (m,) TRADE_DTYPE, in the order of the signals whose bars ended them · models: ids
    by position · counts: see COUNTED"""

    trades: npt.NDArray[np.void]
    models: tuple[str, ...]
    counts: dict[str, int]


@dataclass(slots=True)
class Settler:
    """Trades on paper: in at the open of the first M1 bar at or after a signal, out at the close of the bar that ends
    its horizon, each on the side that costs the spread.

    Any cut of the signals into batches gives the same trades. `feed` advances the state that `snapshot` saves and
    `restore` brings back.
    """

    instruments: Instruments
    parameters: SettleParameters = field(default_factory=SettleParameters)
    models: list[str] = field(default_factory=list, init=False)
    _lanes: npt.NDArray[np.void] = field(init=False)
    _places: npt.NDArray[np.void] = field(init=False)
    _default_spread: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.instruments), len(TIMEFRAMES))
        self._lanes = np.zeros(shape, LANE_DTYPE)
        self._lanes["last_index"] = -1
        self._places = np.zeros((*shape, self.parameters.max_open), PLACE_DTYPE)
        self._default_spread = np.array([i.default_spread_points for i in self.instruments], np.int64)

    def feed(self, rows: SignalRows) -> Settled:
        """Trades closed by the bars of these signals."""
        counts = np.zeros(len(COUNTED), np.int64)
        trades = run(
            self._lanes, self._places, rows.instrument, rows.timeframe, rows.index, rows.open_time_s, rows.open,
            rows.close, np.where(rows.spread < 0, self._default_spread[rows.instrument], rows.spread),
            rows.available_at_s, rows.anchor_time_s, rows.direction, self._traded(rows), rows.confidence,
            self._model_codes(rows), np.array(self.parameters.horizon_bars, np.int64), self.parameters.slippage, counts,
        )  # fmt: skip
        return Settled(trades, tuple(self.models), dict(zip(COUNTED, counts.tolist(), strict=True)))

    def _traded(self, rows: SignalRows) -> npt.NDArray[np.bool_]:
        chosen = {"confirmed": rows.confirmed, "gated": rows.gate_passed, "all": True}[self.parameters.trade]
        traded: npt.NDArray[np.bool_] = (rows.direction != 0) & chosen
        return traded

    def _model_codes(self, rows: SignalRows) -> npt.NDArray[np.int32]:
        """Positions (n,) in `models`."""
        for model in rows.models:
            if model not in self.models:
                self.models.append(model)
        return np.array([self.models.index(model) for model in rows.models], np.int32)[rows.model]

    def snapshot(self) -> bytes:
        """The state as bytes that `restore` takes; the same for any chunking of the same signals."""
        used = np.flatnonzero((self._lanes["last_index"] >= 0).any(axis=1))
        places = self._places[used]
        busy = places["state"] != FREE
        models = sorted({self.models[code] for code in places["model"][busy].tolist()})
        recoded = np.array([models.index(m) if m in models else 0 for m in self.models] or [0], np.int32)
        places["model"] = recoded[places["model"]]
        places[~busy] = np.zeros((), PLACE_DTYPE)
        header = {"instruments": [self.instruments.identity(int(i)) for i in used], "models": models}
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        return len(text).to_bytes(4, "little") + text + self._lanes[used].tobytes() + places.tobytes()

    @classmethod
    def restore(cls, snapshot: bytes, instruments: Instruments, parameters: SettleParameters) -> Settler:
        """The settler as it was when `snapshot` was taken; StateError if the bytes don't fit."""
        settler = cls(instruments, parameters)
        try:
            length = int.from_bytes(snapshot[:4], "little")
            header = json.loads(snapshot[4 : 4 + length])
            settler._load(header, snapshot[4 + length :])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StateError(f"snapshot: not a settler's state ({type(error).__name__}: {error})") from error
        return settler

    def _load(self, header: dict[str, Any], rows: bytes) -> None:
        positions = [self.instruments.position_of(identity) for identity in header["instruments"]]
        lanes = np.frombuffer(rows, LANE_DTYPE, len(positions) * len(TIMEFRAMES))
        places = np.frombuffer(rows[lanes.nbytes :], PLACE_DTYPE)
        self._lanes[positions] = lanes.reshape(len(positions), len(TIMEFRAMES))
        self._places[positions] = places.reshape(len(positions), len(TIMEFRAMES), self.parameters.max_open)
        self.models = list(header["models"])
