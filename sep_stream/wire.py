"""Between the core's arrays and the columns of the Avro schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.convert import ConvertOutput, ConvertParameters, pack_bits, unpack_bits
from sep_stream.market.bulk_avro import Decoded, VarColumn
from sep_stream.market.events import NULL, Reason
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.scoring.gate import GATE_REASONS
from sep_stream.scoring.ids import pattern_id, signal_id, trade_id
from sep_stream.scoring.signals import MetricRecords, Signals, WindowMetrics
from sep_stream.settling import Settled, SignalRows, Stake, earned

Columns = dict[str, Any]

MS_PER_S: Final = 1000
DURATION: Final = np.array(DURATION_S, np.int64)
_DIRECTION_SYMBOL: Final = {1: 0, -1: 1, 0: 2}  # of the Avro enum: BUY, SELL, HOLD
_SETTLED_BY: Final = (
    "timeframe", "anchor_time", "available_at", "direction", "confidence", "gate_passed", "confirmed", "model_id",
    "bar_index", "bar_open_time", "bar_open", "bar_close", "bar_spread",
)  # fmt: skip
"""What of a signal makes trades."""
_CONFIRMATIONS: Final = ((1, "m5"), (2, "m15"))
_GATE_FAILED: Final = VarColumn.from_list(
    [
        json.dumps([reason for bit, reason in enumerate(GATE_REASONS) if mask >> bit & 1]).encode()
        for mask in range(2 ** len(GATE_REASONS))
    ]
)
"""By mask, the reasons as JSON."""


def take(columns: Mapping[str, Any], rows: npt.NDArray[np.intp]) -> Columns:
    """The rows of decoded columns."""
    return {name: _rows(column, rows) for name, column in columns.items()}


class Symbols:
    """The instruments' symbols as Avro strings and record keys."""

    def __init__(self, instruments: Instruments) -> None:
        self.keys = [symbol.encode() for symbol in instruments.symbols]
        self._words = VarColumn.from_list(self.keys)
        self._position = {key: position for position, key in enumerate(self.keys)}

    def column(self, instrument: npt.NDArray[np.int16]) -> VarColumn:
        return self._words.take(instrument)

    def positions(self, column: VarColumn) -> npt.NDArray[np.int16]:
        """Positions (n,) int16 of the instruments named, -1 where unknown."""
        codes, table = column.intern()
        found = np.array([self._position.get(name, -1) for name in table] + [-1], np.int16)
        return found[codes]


def bar_columns(bars: npt.NDArray[np.void], instruments: Instruments, symbols: Symbols) -> Columns:
    tick = instruments.tick_units[bars["instrument"]]
    return {
        "instrument": symbols.column(bars["instrument"]),
        "timeframe": bars["timeframe"].astype(np.int64),
        "open_time": bars["open_time_s"] * MS_PER_S,
        "index": bars["index"],
        **{name: bars[name] * tick for name in ("open", "high", "low", "close")},
        "volume": _volume(bars["volume_units"], bars["volume_nanos"]),
        "spread": _spread(bars["spread"], tick),
    }


def _volume(units: npt.NDArray[np.int64], nanos: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n, 2) int64: high and low half of units * 10^9 + nanos as a 128-bit integer."""
    halves = np.zeros((len(units), 2), np.int64)
    fits = units < 2**63 // UNITS_PER_ONE - 1
    halves[:, 1] = np.where(fits, units, 0) * UNITS_PER_ONE + nanos
    for row in np.flatnonzero(~fits):
        halves[row] = _halves(int(units[row]) * UNITS_PER_ONE + int(nanos[row]))
    return halves


def _halves(value: int) -> tuple[int, Any]:
    """High and low half of a 128-bit integer, each as an int64."""
    return value >> 64, np.array(value & (2**64 - 1), np.uint64).astype(np.int64)


def _spread(points: npt.NDArray[np.int64], tick: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.where(points < 0, NULL, points * tick)


def window_columns(
    output: ConvertOutput, parameters: ConvertParameters, instruments: Instruments, symbols: Symbols
) -> Columns:
    bars, windows = output.bars[output.windows["bar"]], output.windows
    n, tick = len(bars), instruments.tick_units[bars["instrument"]]
    present = {name: windows[name] >= 0 for _, name in _CONFIRMATIONS}
    # An absent window takes the place of the record's own: its columns are not written.
    anchors = [
        windows["anchor"],
        *(np.where(there, windows[name], windows["anchor"]) for name, there in present.items()),
    ]
    timeframes = [bars["timeframe"], *(np.full(n, timeframe, np.uint8) for timeframe, _ in _CONFIRMATIONS)]
    gathered = _gathered(output, parameters, np.concatenate(anchors), np.concatenate(timeframes))
    own, m5, m15 = ({name: _rows(c, slice(k * n, (k + 1) * n)) for name, c in gathered.items()} for k in range(3))
    return {
        "instrument": symbols.column(bars["instrument"]),
        "timeframe": bars["timeframe"].astype(np.int64),
        "history": np.full(n, parameters.history, np.int64),
        "forward": np.full(n, parameters.forward, np.int64),
        **own,
        "bar_index": bars["index"],
        "bar_open_time": bars["open_time_s"] * MS_PER_S,
        "bar_open": bars["open"] * tick,
        "bar_close": bars["close"] * tick,
        "bar_spread": _spread(bars["spread"], tick),
        **present,
        **{f"m5.{name}": column for name, column in m5.items()},
        **{f"m15.{name}": column for name, column in m15.items()},
    }


def _gathered(
    output: ConvertOutput, parameters: ConvertParameters, anchor: npt.NDArray[np.int64], timeframe: npt.NDArray[Any]
) -> Columns:
    """Windows cut out of the series of an output."""
    series, p = output.series, parameters
    first, last = anchor - p.history + 1, anchor + p.forward
    bits = _stretches(series.bits, p.window_bars)[first]
    prices = _stretches(series.close, p.forward + 1)[anchor]
    return {
        "anchor_time": series.open_time_s[anchor] * MS_PER_S,
        "start_time": series.open_time_s[first] * MS_PER_S,
        "available_at": (series.open_time_s[last] + DURATION[timeframe]) * MS_PER_S,
        "bits": VarColumn.from_rows(pack_bits(bits).view(np.uint8)),
        "prices": VarColumn.from_rows(np.ascontiguousarray(prices, "<i4").view(np.uint8)),
        "model_id": VarColumn.from_codes(series.model[last], [model.encode() for model in output.models]),
    }


def misfit_windows(columns: Mapping[str, Any], params: WindowParams) -> npt.NDArray[np.bool_]:
    """Rows (n,) bool of decoded windows that were not made with these lengths."""
    bits_bytes = -(-(params.history + params.forward) // 64) * 8
    bad = (columns["history"] != params.history) | (columns["forward"] != params.forward)
    for prefix in ("", "m5.", "m15."):
        present = columns[prefix[:-1]] if prefix else np.ones(len(bad), np.bool_)
        bad |= present & (columns[f"{prefix}bits"].length != bits_bytes)
        bad |= present & (columns[f"{prefix}prices"].length != 4 * (params.forward + 1))
    return bad


def window_series(
    columns: Mapping[str, Any], params: WindowParams
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """bits (m,), points (m,) and anchors (k,) of all windows of decoded records: the records' own first, then the
    M5 and the M15 windows that are present."""
    span = params.history + params.forward
    bits, prices = [], []
    for prefix in ("", "m5.", "m15."):
        rows = np.flatnonzero(columns[prefix[:-1]]) if prefix else np.arange(len(columns["history"]))
        words = _fixed_rows(columns[f"{prefix}bits"], rows, -(-span // 64) * 8)
        bits.append(unpack_bits(words.view("<u8"), span))
        prices.append(_fixed_rows(columns[f"{prefix}prices"], rows, 4 * (params.forward + 1)).view("<i4"))
    all_prices = np.concatenate(prices)
    points = np.zeros((len(all_prices), span), np.int32)
    points[:, params.history - 1 :] = all_prices
    anchors = np.arange(len(all_prices), dtype=np.int64) * span + params.history - 1
    return np.concatenate(bits).ravel(), points.ravel(), anchors


def _stretches(series: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """(m - width + 1, width): all stretches of a contiguous series, sharing its memory. As numpy's sliding_window_view,
    whose checks take longer than a small batch's whole copy."""
    step = series.itemsize
    return np.ndarray((len(series) - width + 1, width), series.dtype, series, strides=(step, step))


def _fixed_rows(column: VarColumn, rows: npt.NDArray[np.intp], width: int) -> npt.NDArray[np.uint8]:
    """(len(rows), width) uint8: the bytes of rows that all have that length."""
    if not len(rows):
        return np.empty((0, width), np.uint8)
    return np.ascontiguousarray(_stretches(column.data, width)[column.start[rows]])


def metrics_columns(windows: Mapping[str, Any], metrics: MetricsBatch, params: WindowParams, version: str) -> Columns:
    """Columns of `metrics` for decoded windows and the metrics of their `window_series`."""
    n = len(windows["history"])
    kept = ("instrument", "timeframe", "bar_index", "bar_open_time", "bar_open", "bar_close", "bar_spread")
    columns: Columns = {name: windows[name] for name in kept}
    columns["metrics_version"] = VarColumn.from_codes(np.zeros(n, np.int32), [version.encode()])
    for name in ("history", "forward", "samples", "hold"):
        columns[name] = np.full(n, getattr(params, name), np.int64)
    columns["eps"] = np.full(n, params.eps)
    fields, start = _metric_fields(metrics), 0
    for prefix in ("", "m5.", "m15."):
        present = windows[prefix[:-1]] if prefix else np.ones(n, np.bool_)
        count = int(present.sum())
        # An absent record takes the place of row 0: its columns are not written.
        rows = np.where(present, start + np.cumsum(present) - 1, 0)
        start += count
        if prefix:
            columns[prefix[:-1]] = present
        columns |= {f"{prefix}{field}": _rows(column, rows) for field, column in fields.items()}
        for name in ("anchor_time", "start_time", "available_at", "model_id"):
            columns[f"{prefix}{name}"] = windows[f"{prefix}{name}"]
    return columns


def _metric_fields(m: MetricsBatch) -> Columns:
    return {
        **{f"n{k}": m.counts[:, k].astype(np.int64) for k in range(3)},
        **{f"initial_{v}": m.initial[:, k] for k, v in enumerate("hcs")},
        "lambda": m.lam,
        **{f"damped_{v}": m.damped[:, k] for k, v in enumerate("hcs")},
        "settled_at": m.settled_at.astype(np.int64),
        "converged": m.converged,
        "path": VarColumn.from_rows(np.ascontiguousarray(m.path, "<f4").view(np.uint8)),
        "potential": m.potential,
        "rupture_collapse": m.rupture_collapse,
        "qbsa_probes": m.probes.astype(np.int64),
        "qbsa_corrections": m.corrections.astype(np.int64),
        "qbsa_ratio": m.ratio,
        "qbsa_collapse": m.qbsa_collapse,
    }


def metric_records(
    columns: Mapping[str, Any], params: WindowParams, symbols: Symbols
) -> tuple[MetricRecords, tuple[str, ...]]:
    """The scorer's input from decoded metrics, and the model ids that it refers to."""
    ids: dict[bytes, int] = {}
    parts = {prefix: _window_metrics(columns, prefix, params, ids) for prefix in ("", "m5.", "m15.")}
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
    path[rows] = _fixed_rows(columns[f"{prefix}path"], rows, 12 * params.samples).view("<f4")
    metrics = MetricsBatch(
        initial=_stack(columns, prefix, "initial_", np.float64),
        lam=columns[f"{prefix}lambda"],
        damped=_stack(columns, prefix, "damped_", np.float64),
        settled_at=columns[f"{prefix}settled_at"].astype(np.int32),
        converged=columns[f"{prefix}converged"],
        path=path,
        potential=columns[f"{prefix}potential"],
        counts=np.stack([columns[f"{prefix}n{k}"] for k in range(3)], axis=1).astype(np.int32),
        rupture_collapse=columns[f"{prefix}rupture_collapse"],
        probes=columns[f"{prefix}qbsa_probes"].astype(np.int32),
        corrections=columns[f"{prefix}qbsa_corrections"].astype(np.int32),
        ratio=columns[f"{prefix}qbsa_ratio"],
        qbsa_collapse=columns[f"{prefix}qbsa_collapse"],
    )
    return WindowMetrics(
        present=present,
        anchor_time_s=columns[f"{prefix}anchor_time"] // MS_PER_S,
        start_time_s=columns[f"{prefix}start_time"] // MS_PER_S,
        available_at_s=columns[f"{prefix}available_at"] // MS_PER_S,
        model=position[codes],
        metrics=metrics,
    )


def _stack(columns: Mapping[str, Any], prefix: str, stem: str, dtype: Any) -> npt.NDArray[Any]:
    return np.stack([columns[f"{prefix}{stem}{v}"] for v in "hcs"], axis=1).astype(dtype)


def misfit_metrics(columns: Mapping[str, Any], params: WindowParams) -> npt.NDArray[np.bool_]:
    """Rows (n,) bool of decoded metrics that were not made with these parameters."""
    bad = columns["eps"] != params.eps
    for name in ("history", "forward", "samples", "hold"):
        bad |= columns[name] != getattr(params, name)
    for prefix in ("", "m5.", "m15."):
        present = columns[prefix[:-1]] if prefix else np.ones(len(bad), np.bool_)
        bad |= present & (columns[f"{prefix}path"].length != 12 * params.samples)
    return bad


def signal_columns(signals: Signals, metrics: Mapping[str, Any], model_ids: Sequence[str], version: str) -> Columns:
    """Columns of `signal` for the signals of decoded metrics."""
    rows = signals.row
    direction = np.array([_DIRECTION_SYMBOL[d] for d in (1, 0, -1)], np.int64)  # by 1 - direction
    kept = ("instrument", "timeframe", "anchor_time", "available_at", "bar_index", "bar_open_time", "bar_open",
            "bar_close", "bar_spread")  # fmt: skip
    return {
        **{name: _rows(metrics[name], rows) for name in kept},
        "signal_id": _text(signals.signal_id),
        "direction": direction[1 - signals.direction.astype(np.int64)],
        "reason": VarColumn.from_codes(signals.reason.astype(np.int32) - 1, [b"library", b"weight"]),
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
        "metrics_version": VarColumn.from_codes(np.zeros(len(rows), np.int32), [version.encode()]),
    }


def refuse_unknown(decoded: Decoded, symbols: Symbols) -> npt.NDArray[np.int16]:
    """Instruments (n,) int16 of decoded signals; rows of one that is not declared, and of enums that this version does
    not know, get their reason."""
    columns, errors = decoded.columns, decoded.errors
    instrument = symbols.positions(columns["instrument"])
    errors[(errors == Reason.OK) & (instrument < 0)] = Reason.UNKNOWN_INSTRUMENT
    unknown = (columns["timeframe"] >= len(DURATION_S)) | (columns["direction"] >= len(_DIRECTION_SYMBOL))
    errors[(errors == Reason.OK) & unknown] = Reason.MALFORMED
    return instrument


def signal_rows(
    columns: Mapping[str, Any], instrument: npt.NDArray[np.int16], rows: npt.NDArray[np.intp], instruments: Instruments
) -> SignalRows:
    """The settler's input from the rows of decoded signals that are sound."""
    found = take({name: columns[name] for name in _SETTLED_BY}, rows)
    instrument = instrument[rows]
    tick = instruments.tick_units[instrument]
    model, models = found["model_id"].intern()
    spread = found["bar_spread"]
    direction = np.zeros(len(_DIRECTION_SYMBOL), np.int8)
    for value, symbol in _DIRECTION_SYMBOL.items():
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
        "direction": np.where(trades["direction"] > 0, _DIRECTION_SYMBOL[1], _DIRECTION_SYMBOL[-1]),
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
    to_json = json.JSONEncoder(separators=(",", ":")).encode
    columns = (signals.match_row, signals.match_anchor_time_s, signals.match_cosine, signals.match_outcome)
    return [
        to_json(
            [
                {"row": row, "anchor_time": anchor, "cosine": cosine, "outcome": outcome}
                for row, anchor, cosine, outcome in zip(*matches, strict=True)
                if row >= 0
            ]
        )
        for matches in zip(*(column.tolist() for column in columns), strict=True)
    ]
