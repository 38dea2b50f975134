"""Between the core's arrays and the columns of the Avro schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.convert import ConvertOutput, ConvertParameters, unpack_bits
from sep_stream.convert.encodings import WORD_BITS
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.events import NULL
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.metrics.columns import columns_of
from sep_stream.scoring.gate import GATE_REASONS
from sep_stream.scoring.ids import pattern_id, signal_id, trade_id
from sep_stream.scoring.signals import MetricRecords, Signals, WindowMetrics
from sep_stream.settling import Settled, SignalRows, Stake, earned

Columns = dict[str, Any]

MS_PER_S: Final = 1000
DURATION: Final = np.array(DURATION_S, np.int64)
DIRECTION_SYMBOL: Final = {1: 0, -1: 1, 0: 2}  # of the Avro enum: BUY, SELL, HOLD
_SETTLED_BY: Final = (
    "timeframe", "anchor_time", "available_at", "direction", "confidence", "gate_passed", "confirmed", "model_id",
    "bar_index", "bar_open_time", "bar_open", "bar_close", "bar_spread",
)  # fmt: skip
"""What of a signal makes trades."""
PREFIXES: Final = ("", "m5.", "m15.")
"""Of the fields of a record's own window, and of the newest ones of the longer timeframes beside it."""
_GATE_FAILED: Final = VarColumn.from_list(
    [
        json.dumps([reason for bit, reason in enumerate(GATE_REASONS) if mask >> bit & 1]).encode()
        for mask in range(2 ** len(GATE_REASONS))
    ]
)
"""By mask, the reasons as JSON."""
_REASONS: Final = VarColumn.from_list([None, b"library", b"weight"])
"""By HoldReason."""
_TO_JSON: Final = json.JSONEncoder(separators=(",", ":")).encode


def take(columns: Mapping[str, Any], rows: npt.NDArray[np.intp]) -> Columns:
    """The rows, rising, of decoded columns."""
    if len(rows) == len(next(iter(columns.values()))):
        return dict(columns)
    return {name: _rows(column, rows) for name, column in columns.items()}


class Symbols:
    """The instruments' symbols as Avro strings and record keys."""

    def __init__(self, instruments: Instruments) -> None:
        self.keys = [symbol.encode() for symbol in instruments.symbols]
        self._words = VarColumn.from_list(self.keys)
        self._position = {key: position for position, key in enumerate(self.keys)}

    def column(self, instrument: npt.NDArray[np.int16]) -> VarColumn:
        return self._words.take(instrument)

    def named_by(self, key: bytes | None) -> str | None:
        """The symbol that a record's key names, alone or before a `|`; None where it names none."""
        symbol = (key or b"").partition(b"|")[0]
        return symbol.decode() if symbol in self._position else None

    def positions(self, column: VarColumn) -> npt.NDArray[np.int16]:
        """Positions (n,) int16 of the instruments named, -1 where unknown."""
        codes, table = column.intern()
        found = np.array([self._position.get(name, -1) for name in table] + [-1], np.int16)
        return found[codes]


_BAR_LONGS: Final = ("timeframe", "open_time", "index", "open", "high", "low", "close", "spread")


def bar_columns(bars: npt.NDArray[np.void], instruments: Instruments, symbols: Symbols) -> Columns:
    """Columns of `bar`."""
    longs = np.empty((len(_BAR_LONGS) + 2, len(bars)), np.int64)
    _fill_bars(bars, instruments.tick_units, longs)
    return {
        "instrument": symbols.column(bars["instrument"]),
        **dict(zip(_BAR_LONGS, longs, strict=False)),
        "volume": longs[len(_BAR_LONGS) :].T,
    }


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_bars(bars: Any, tick_units: Any, out: Any) -> None:
    for k in range(len(bars)):
        bar = bars[k]
        tick = tick_units[bar.instrument]
        out[0, k], out[1, k], out[2, k] = bar.timeframe, bar.open_time_s * MS_PER_S, bar.index
        out[3, k], out[4, k], out[5, k], out[6, k] = bar.open * tick, bar.high * tick, bar.low * tick, bar.close * tick
        out[7, k] = bar.spread * tick if bar.spread >= 0 else NULL
        # units * 10^9 + nanos in 128 bits, from the halves of the units
        low = (bar.volume_units & 0xFFFFFFFF) * UNITS_PER_ONE + bar.volume_nanos
        high = (bar.volume_units >> 32) * UNITS_PER_ONE + (low >> 32)
        out[8, k], out[9, k] = high >> 32, (high << 32) | (low & 0xFFFFFFFF)


def price_columns(prices: npt.NDArray[np.void], instruments: Instruments, symbols: Symbols) -> Columns:
    """Columns of `latest_price` for PRICE_DTYPE rows."""
    tick = instruments.tick_units[prices["instrument"]]
    return {
        "instrument": symbols.column(prices["instrument"]),
        "event_time": prices["time_us"],
        "price": prices["price"] * tick,
        **{side: np.where(prices[side] == NULL, NULL, prices[side] * tick) for side in ("bid", "ask")},
    }


def _halves(value: int) -> tuple[int, Any]:
    """High and low half of a 128-bit integer, each as an int64."""
    return value >> 64, np.array(value & (2**64 - 1), np.uint64).astype(np.int64)


_WINDOW_LONGS: Final = (
    "timeframe", "history", "forward", "bar_index", "bar_open_time", "bar_open", "bar_close", "bar_spread",
    *(f"{prefix}{name}" for prefix in PREFIXES for name in ("anchor_time", "start_time", "available_at")),
)  # fmt: skip


def window_columns(
    output: ConvertOutput, parameters: ConvertParameters, instruments: Instruments, symbols: Symbols
) -> Columns:
    """Columns of `window`, the bits and prices cut out of the output's series. Where a longer timeframe has no window,
    what its columns hold means nothing."""
    n, p, series = len(output.windows), parameters, output.series
    longs, present = np.empty((len(_WINDOW_LONGS), n), np.int64), np.empty((2, n), np.bool_)
    words = np.zeros((len(PREFIXES) * n, -(-p.window_bars // WORD_BITS)), np.uint64)
    prices, model = np.zeros((len(words), p.forward + 1), np.int32), np.full(len(words), -1, np.int32)
    bar = np.empty(n, np.int16)
    _fill_windows(
        output.bars, output.windows, series.bits, series.close, series.open_time_s, series.model,
        instruments.tick_units, p.history, p.forward, bar, longs, present, words, prices, model,
    )  # fmt: skip
    gathered = {
        "bits": VarColumn.from_rows(words.view(np.uint8)),
        "prices": VarColumn.from_rows(prices.view(np.uint8)),
        "model_id": VarColumn.from_codes(model, [model.encode() for model in output.models]),
    }
    return {
        "instrument": symbols.column(bar),
        **dict(zip(_WINDOW_LONGS, longs, strict=True)),
        "m5": present[0],
        "m15": present[1],
        **{
            f"{prefix}{name}": column.take(slice(k * n, (k + 1) * n))
            for k, prefix in enumerate(PREFIXES)
            for name, column in gathered.items()
        },
    }


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_windows(
    bars: Any, windows: Any, bits: Any, close: Any, open_time_s: Any, series_model: Any, tick_units: Any, history: int,
    forward: int, instrument: Any, longs: Any, present: Any, words: Any, prices: Any, model: Any,
) -> None:  # fmt: skip
    n = len(windows)
    for k in range(n):
        bar = bars[windows[k].bar]
        tick = tick_units[bar.instrument]
        instrument[k] = bar.instrument
        longs[0, k], longs[1, k], longs[2, k] = bar.timeframe, history, forward
        longs[3, k], longs[4, k] = bar.index, bar.open_time_s * MS_PER_S
        longs[5, k], longs[6, k] = bar.open * tick, bar.close * tick
        longs[7, k] = bar.spread * tick if bar.spread >= 0 else NULL
        present[0, k], present[1, k] = windows[k].m5 >= 0, windows[k].m15 >= 0
        for which, anchor in enumerate((windows[k].anchor, windows[k].m5, windows[k].m15)):
            at, row = 8 + 3 * which, which * n + k
            if anchor < 0:
                longs[at, k], longs[at + 1, k], longs[at + 2, k] = 0, 0, 0
                continue
            timeframe = which if which > 0 else bar.timeframe
            first, last = anchor - history + 1, anchor + forward
            longs[at, k], longs[at + 1, k] = open_time_s[anchor] * MS_PER_S, open_time_s[first] * MS_PER_S
            longs[at + 2, k] = (open_time_s[last] + DURATION[timeframe]) * MS_PER_S
            model[row] = series_model[last]
            for j in range(history + forward):
                words[row, j // WORD_BITS] |= np.uint64(bits[first + j]) << np.uint64(j % WORD_BITS)
            for j in range(forward + 1):
                prices[row, j] = close[anchor + j]


def window_series(
    columns: Mapping[str, Any], params: WindowParams
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """bits (m,), points (m,) and anchors (k,) of all windows of decoded records: the records' own first, then the
    M5 and the M15 windows that are present."""
    span, windows = params.history + params.forward, [(prefix, _there(columns, prefix)) for prefix in PREFIXES]
    words = _fixed_rows([columns[f"{prefix}bits"].take(rows) for prefix, rows in windows], -(-span // 64) * 8)
    prices = _fixed_rows([columns[f"{prefix}prices"].take(rows) for prefix, rows in windows], 4 * (params.forward + 1))
    points = np.zeros((len(prices), span), np.int32)
    points[:, params.history - 1 :] = prices.view("<i4")
    anchors = np.arange(params.history - 1, len(points) * span, span, dtype=np.int64)
    return unpack_bits(words.view("<u8"), span).ravel(), points.ravel(), anchors


def _there(columns: Mapping[str, Any], prefix: str) -> Any:
    """The rows that hold a window."""
    return columns[prefix[:-1]].nonzero()[0] if prefix else slice(None)


def _stretches(series: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """(m - width + 1, width): all stretches of a contiguous series, sharing its memory. As numpy's sliding_window_view,
    whose checks take longer than a small batch's whole copy."""
    step = series.itemsize
    return np.ndarray((len(series) - width + 1, width), series.dtype, series, strides=(step, step))


def _fixed_rows(columns: Sequence[VarColumn], width: int) -> npt.NDArray[np.uint8]:
    """(n, width) uint8: the rows of decoded columns, one column after the other, that all have that length."""
    start = np.concatenate([column.start for column in columns])
    if not len(start):
        return np.empty((0, width), np.uint8)
    return _stretches(columns[0].data, width)[start]


def metrics_columns(windows: Mapping[str, Any], metrics: MetricsBatch, params: WindowParams, version: str) -> Columns:
    """Columns of `metrics` for decoded windows and the metrics of their `window_series`."""
    n = len(windows["history"])
    kept = ("instrument", "timeframe", "bar_index", "bar_open_time", "bar_open", "bar_close", "bar_spread")
    columns: Columns = {name: windows[name] for name in kept}
    columns["metrics_version"] = VarColumn.repeated(version.encode(), n)
    for name in ("history", "forward", "samples", "hold"):
        columns[name] = np.full(n, getattr(params, name), np.int64)
    columns["eps"] = np.full(n, params.eps)
    columns["m5"], columns["m15"] = windows["m5"], windows["m15"]
    longs = np.empty((len(PREFIXES), len(_METRIC_LONGS), n), np.int64)
    doubles = np.empty((len(PREFIXES), len(_METRIC_DOUBLES), n), np.float64)
    flags = np.empty((len(PREFIXES), len(_METRIC_FLAGS), n), np.bool_)
    row = np.empty((len(PREFIXES), n), np.int64)
    _fill_metrics(columns_of(metrics), windows["m5"], windows["m15"], longs, doubles, flags, row)
    path = VarColumn.from_rows(np.ascontiguousarray(metrics.path, "<f4").view(np.uint8))
    for k, prefix in enumerate(PREFIXES):
        for names, values in ((_METRIC_LONGS, longs[k]), (_METRIC_DOUBLES, doubles[k]), (_METRIC_FLAGS, flags[k])):
            columns |= zip([f"{prefix}{name}" for name in names], values, strict=True)
        columns[f"{prefix}path"] = path.take(row[k])
        for name in ("anchor_time", "start_time", "available_at", "model_id"):
            columns[f"{prefix}{name}"] = windows[f"{prefix}{name}"]
    return columns


_METRIC_LONGS: Final = ("n0", "n1", "n2", "settled_at", "qbsa_probes", "qbsa_corrections")
_METRIC_DOUBLES: Final = (
    "initial_h", "initial_c", "initial_s", "lambda", "damped_h", "damped_c", "damped_s", "potential", "qbsa_ratio",
)  # fmt: skip
_METRIC_FLAGS: Final = ("converged", "rupture_collapse", "qbsa_collapse")


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_metrics(m: Any, m5: Any, m15: Any, longs: Any, doubles: Any, flags: Any, row: Any) -> None:
    """row: (3, n), that of each record's window in `m`. An absent window takes the place of row 0: its columns are not
    written."""
    n, last = len(m5), -1
    for which in range(3):
        for k in range(n):
            there = which == 0 or (which == 1 and m5[k]) or (which == 2 and m15[k])
            last += 1 if there else 0
            r = last if there else 0
            row[which, k] = r
            whole, real, flag = longs[which, :, k], doubles[which, :, k], flags[which, :, k]
            for j in range(3):
                whole[j], real[j], real[4 + j] = m.counts[r, j], m.initial[r, j], m.damped[r, j]
            whole[3], whole[4], whole[5] = m.settled_at[r], m.probes[r], m.corrections[r]
            real[3], real[7], real[8] = m.lam[r], m.potential[r], m.ratio[r]
            flag[0], flag[1], flag[2] = m.converged[r], m.rupture_collapse[r], m.qbsa_collapse[r]


def metric_records(
    columns: Mapping[str, Any], params: WindowParams, symbols: Symbols
) -> tuple[MetricRecords, tuple[str, ...]]:
    """The scorer's input from decoded metrics, and the model ids that it refers to."""
    ids: dict[bytes, int] = {}
    parts = {prefix: _window_metrics(columns, prefix, params, ids) for prefix in PREFIXES}
    records = MetricRecords(
        instrument=symbols.positions(columns["instrument"]),
        timeframe=columns["timeframe"].astype(np.uint8),
        own=parts[""],
        m5=parts["m5."],
        m15=parts["m15."],
    )
    return records, tuple(model.decode() for model in ids)


def _window_metrics(
    columns: Mapping[str, Any], prefix: str, params: WindowParams, ids: dict[bytes, int]
) -> WindowMetrics:
    n = len(columns["history"])
    present = columns[prefix[:-1]] if prefix else np.ones(n, np.bool_)
    codes, table = columns[f"{prefix}model_id"].intern()
    position = np.array([ids.setdefault(model, len(ids)) for model in table] + [-1], np.int32)
    path = np.zeros((n, 3 * params.samples), np.float32)
    rows = np.flatnonzero(present)
    path[rows] = _fixed_rows([columns[f"{prefix}path"].take(rows)], 12 * params.samples).view("<f4")
    damped = np.empty((n, 3))
    for k, value in enumerate("hcs"):
        damped[:, k] = columns[f"{prefix}damped_{value}"]
    return WindowMetrics(
        present=present,
        anchor_time_s=columns[f"{prefix}anchor_time"] // MS_PER_S,
        start_time_s=columns[f"{prefix}start_time"] // MS_PER_S,
        available_at_s=columns[f"{prefix}available_at"] // MS_PER_S,
        model=position[codes],
        path=path,
        damped=damped,
        **{name: columns[f"{prefix}{name}"] for name in ("converged", "rupture_collapse", "qbsa_collapse")},
    )


def signal_columns(signals: Signals, metrics: Mapping[str, Any], model_ids: Sequence[str], version: str) -> Columns:
    """Columns of `signal` for the signals of decoded metrics."""
    rows = signals.row
    direction = np.array([DIRECTION_SYMBOL[d] for d in (1, 0, -1)], np.int64)  # by 1 - direction
    kept = ("instrument", "timeframe", "anchor_time", "available_at", "bar_index", "bar_open_time", "bar_open",
            "bar_close", "bar_spread")  # fmt: skip
    return {
        **{name: _rows(metrics[name], rows) for name in kept},
        "signal_id": _text(signals.signal_id),
        "direction": direction[1 - signals.direction.astype(np.int64)],
        "reason": _REASONS.take(signals.reason),
        "confidence": signals.confidence,
        "p_up": signals.p_up,
        "expected_move": signals.expected_move,
        "gate_passed": signals.gate_passed,
        "gate_failed": _GATE_FAILED.take(signals.gate),
        "confirmed": signals.confirmed,
        "m5_signal_id": _text(signals.m5_signal_id),
        "m15_signal_id": _text(signals.m15_signal_id),
        "matches": _text(_matches(signals)),
        "model_id": VarColumn.from_codes(signals.model.astype(np.int32), [m.encode() for m in model_ids]),
        "metrics_version": VarColumn.repeated(version.encode(), len(rows)),
    }


def signal_rows(
    columns: Mapping[str, Any], instrument: npt.NDArray[np.int16], rows: npt.NDArray[np.intp], instruments: Instruments
) -> SignalRows:
    """The settler's input from the rows of decoded signals that are sound."""
    found = take({name: columns[name] for name in _SETTLED_BY}, rows)
    instrument = instrument[rows]
    tick = instruments.tick_units[instrument]
    model, models = found["model_id"].intern()
    spread = found["bar_spread"]
    direction = np.zeros(len(DIRECTION_SYMBOL), np.int8)
    for value, symbol in DIRECTION_SYMBOL.items():
        direction[symbol] = value
    return SignalRows(
        instrument=instrument,
        timeframe=found["timeframe"].astype(np.uint8),
        index=found["bar_index"],
        open_time_s=found["bar_open_time"] // MS_PER_S,
        open=found["bar_open"] // tick,
        close=found["bar_close"] // tick,
        spread=np.where(spread == NULL, -1, spread // tick),
        available_at_s=found["available_at"] // MS_PER_S,
        anchor_time_s=found["anchor_time"] // MS_PER_S,
        direction=direction[found["direction"]],
        gate_passed=found["gate_passed"],
        confirmed=found["confirmed"],
        confidence=found["confidence"],
        model=model,
        models=tuple(name.decode() for name in models),
    )


def result_columns(settled: Settled, instruments: Instruments, symbols: Symbols, stake: Stake) -> Columns:
    """Columns of `trading_result` for closed trades."""
    trades = settled.trades
    tick = instruments.tick_units[trades["instrument"]]
    made = earned(trades, tick, stake)
    names = [
        (settled.models[model], instruments[position].symbol, TIMEFRAMES[timeframe], anchor)
        for model, position, timeframe, anchor in zip(
            *(trades[name].tolist() for name in ("model", "instrument", "timeframe", "anchor_time_s")), strict=True
        )
    ]
    signals = [signal_id(*name) for name in names]
    money = [_halves(units) for units in made.profit_loss_units]
    return {
        "trade_id": _text([trade_id(signal) for signal in signals]),
        "signal_id": _text(signals),
        "pattern_id": _text([pattern_id(*name) for name in names]),
        "instrument": symbols.column(trades["instrument"]),
        "timeframe": trades["timeframe"].astype(np.int64),
        "direction": np.where(trades["direction"] > 0, DIRECTION_SYMBOL[1], DIRECTION_SYMBOL[-1]),
        **{f"{end}_time": trades[f"{end}_time_s"] * MS_PER_S for end in ("entry", "exit")},
        **{f"{end}_price": trades[f"{end}_price"] * tick for end in ("entry", "exit")},
        "units": np.full(len(trades), stake.units_nanos, np.int64),
        "points": made.points,
        "profit_loss": np.array(money, np.int64).reshape(len(trades), 2),
        "spans_silence": trades["spans_silence"],
    }


def _rows(column: Any, rows: slice | npt.NDArray[np.int64]) -> Any:
    return column.take(rows) if isinstance(column, VarColumn) else column[rows]


def _text(values: Sequence[str | None]) -> VarColumn:
    return VarColumn.from_list([None if v is None else v.encode() for v in values])


def _matches(signals: Signals) -> list[str]:
    """The best matches of each signal as canonical JSON."""
    columns = (signals.match_row, signals.match_anchor_time_s, signals.match_cosine, signals.match_outcome)
    return [
        _TO_JSON(
            [
                {"row": row, "anchor_time": anchor, "cosine": cosine, "outcome": outcome}
                for row, anchor, cosine, outcome in zip(*matches, strict=True)
                if row >= 0
            ]
        )
        for matches in zip(*(column.tolist() for column in columns), strict=True)
    ]
