"""`score_records`: metrics in, signals out, with the confirmation of the longer timeframes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError, ModelError
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import Engine, MetricsBatch, WindowParams
from sep_stream.scoring.gate import gate_failures
from sep_stream.scoring.ids import signal_id
from sep_stream.scoring.model import Model
from sep_stream.scoring.score import HOLD, NAMED_MATCHES, score

CONFIRMATION_GRACE_S: Final = 60
"""A longer timeframe's score confirms for its own duration and this much after it came."""

CACHED_SCORES_MAX: Final = 4096

_SCORE_DTYPE: Final = np.dtype(
    [
        ("direction", "i1"),
        ("reason", "u1"),
        ("gate", "u1"),
        ("confidence", "f8"),
        ("p_up", "f8"),
        ("expected_move", "f8"),
        ("match_row", "i8", (NAMED_MATCHES,)),
        ("match_cosine", "f8", (NAMED_MATCHES,)),
        ("match_anchor_time_s", "i8", (NAMED_MATCHES,)),
        ("match_outcome", "i4", (NAMED_MATCHES,)),
    ]
)

_CacheKey = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True, eq=False)
class WindowMetrics:
    """The metrics of one window a record, as columns.

    present: (n,) bool; where it is false the row means nothing · anchor_time_s, start_time_s, available_at_s:
    (n,) int64, epoch seconds: open of the anchor's bar, open of the window's first, end of its last
    model: (n,) int32, position of the model in force, -1 none · metrics: n rows
    """

    present: npt.NDArray[np.bool_]
    anchor_time_s: npt.NDArray[np.int64]
    start_time_s: npt.NDArray[np.int64]
    available_at_s: npt.NDArray[np.int64]
    model: npt.NDArray[np.int32]
    metrics: MetricsBatch


@dataclass(frozen=True, slots=True, eq=False)
class MetricRecords:
    """One row per closed window, with the newest M5 and M15 windows beside those of M1.

    instrument: (n,) int16, position among the symbols · timeframe: (n,) uint8, index in TIMEFRAMES
    """

    instrument: npt.NDArray[np.int16]
    timeframe: npt.NDArray[np.uint8]
    own: WindowMetrics
    m5: WindowMetrics
    m15: WindowMetrics

    def __len__(self) -> int:
        return len(self.instrument)


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """What the models in force say: one signal for each record whose window has a model, in the records' order.

    row: (s,) int64, of the record · model: (s,) int32 · direction: (s,) int8, 1 BUY, -1 SELL, 0 HOLD
    reason: (s,) uint8, see HoldReason · confidence, p_up (uncalibrated), expected_move (points): (s,) float64
    gate: (s,) uint8, mask of the reasons that failed · gate_passed, confirmed: (s,) bool
    match_row, match_anchor_time_s: (s, 5) int64 · match_cosine: (s, 5) float64 · match_outcome: (s, 5) int32, points;
    best first, row -1 where there are fewer
    m5_signal_id, m15_signal_id: of the scores that counted for the confirmation
    without_model: records that gave no signal
    """

    row: npt.NDArray[np.int64]
    model: npt.NDArray[np.int32]
    signal_id: list[str]
    direction: npt.NDArray[np.int8]
    reason: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float64]
    p_up: npt.NDArray[np.float64]
    expected_move: npt.NDArray[np.float64]
    gate: npt.NDArray[np.uint8]
    gate_passed: npt.NDArray[np.bool_]
    confirmed: npt.NDArray[np.bool_]
    m5_signal_id: list[str | None]
    m15_signal_id: list[str | None]
    match_row: npt.NDArray[np.int64]
    match_cosine: npt.NDArray[np.float64]
    match_anchor_time_s: npt.NDArray[np.int64]
    match_outcome: npt.NDArray[np.int32]
    without_model: int

    def __len__(self) -> int:
        return len(self.row)


@dataclass(slots=True)
class ScoreCache:
    """Scores of M5 and M15 windows, which come again in every M1 record until the next one; the oldest used go first.

    One cache serves one log: there, model, instrument, timeframe and anchor say which window it is.
    """

    size: int = CACHED_SCORES_MAX
    _scores: OrderedDict[_CacheKey, np.void] = field(default_factory=OrderedDict, init=False)

    def get(self, key: _CacheKey) -> np.void | None:
        found = self._scores.get(key)
        if found is not None:
            self._scores.move_to_end(key)
        return found

    def put(self, key: _CacheKey, score_row: np.void) -> None:
        self._scores[key] = score_row.copy()
        self._scores.move_to_end(key)
        while len(self._scores) > self.size:
            self._scores.popitem(last=False)

    def __len__(self) -> int:
        return len(self._scores)


def score_records(
    records: MetricRecords,
    models: Sequence[Model],
    symbols: Sequence[str],
    params: WindowParams,
    cache: ScoreCache | None = None,
    engine: str | Engine = "auto",
) -> Signals:
    """The signals of some records, each under the model in force when its window closed.

    models, symbols: what `model` and `instrument` are positions in · params: that the metrics were computed with
    cache: scores that earlier calls left · engine: as of `score`; neither changes anything but the time this takes

    Raises ModelError if a model was made for other windows, InputError if a record contradicts itself.
    """
    _check(records, models, symbols, params)
    own = np.flatnonzero(records.own.present & (records.own.model >= 0))
    m5, m15 = (_counting(records, timeframe) for timeframe in (1, 2))
    windows = _Windows.of(records, own, m5, m15)
    scores, ids, position = _score_distinct(windows, models, symbols, cache, engine)
    own_at, m5_at, m15_at = np.split(position, [len(own), len(own) + len(m5)])
    chosen = scores[own_at]
    confirmation = [_by_record(len(records), rows, at)[own] for rows, at in ((m5, m5_at), (m15, m15_at))]
    return Signals(
        row=own,
        model=records.own.model[own],
        signal_id=[ids[k] for k in own_at.tolist()],
        gate_passed=chosen["gate"] == 0,
        confirmed=_confirmed(chosen, scores, confirmation),
        m5_signal_id=[ids[k] if k >= 0 else None for k in confirmation[0].tolist()],
        m15_signal_id=[ids[k] if k >= 0 else None for k in confirmation[1].tolist()],
        without_model=len(records) - len(own),
        **{name: np.ascontiguousarray(chosen[name]) for name in _SCORE_DTYPE.names or ()},
    )


def _check(records: MetricRecords, models: Sequence[Model], symbols: Sequence[str], params: WindowParams) -> None:
    for model in models:
        if model.parameters.window != params:
            raise ModelError(f"model {model.model_id}: made for {model.parameters.window}, the metrics for {params}")
    for name, column, count in (
        ("instrument", records.instrument, len(symbols)),
        ("timeframe", records.timeframe, len(TIMEFRAMES)),
    ):
        if len(column) and (column.min() < 0 or column.max() >= count):
            raise InputError(f"metric records: {name}: expected 0 to {count - 1}, got {column.min()} to {column.max()}")
    for name in ("own", "m5", "m15"):
        window: WindowMetrics = getattr(records, name)
        position = window.model[window.present]
        if len(position) and position.max() >= len(models):
            raise ModelError(f"metric records: {name}: model {position.max()} of {len(models)}")


def _counting(records: MetricRecords, timeframe: int) -> npt.NDArray[np.int64]:
    """Rows of the M1 records whose newest window of a longer timeframe has a model and is not stale."""
    window = (records.own, records.m5, records.m15)[timeframe]
    candidate = (records.timeframe == 0) & (records.own.model >= 0) & window.present & (window.model >= 0)
    age_s = records.own.available_at_s - window.available_at_s
    if (age_s[candidate] < 0).any():
        row = int(np.flatnonzero(candidate & (age_s < 0))[0])
        raise InputError(
            f"metric record {row}: its {TIMEFRAMES[timeframe]} window ends at {window.available_at_s[row]}, "
            f"after its own end {records.own.available_at_s[row]}"
        )
    return np.flatnonzero(candidate & (age_s <= DURATION_S[timeframe] + CONFIRMATION_GRACE_S))


def _by_record(n: int, rows: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions (n,) of the scores by record, -1 where none counted."""
    position = np.full(n, -1, np.int64)
    position[rows] = at
    return position


def _confirmed(
    own: npt.NDArray[np.void], scores: npt.NDArray[np.void], confirmation: list[npt.NDArray[np.int64]]
) -> npt.NDArray[np.bool_]:
    confirmed: npt.NDArray[np.bool_] = (own["direction"] != HOLD) & (own["gate"] == 0)
    for at in confirmation:
        confirmed &= at >= 0
        longer = scores[at[confirmed]]
        agrees = (longer["direction"] == own["direction"][confirmed]) & (longer["gate"] == 0)
        confirmed[confirmed] = agrees
    return confirmed


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Windows to be scored, several of them perhaps the same one."""

    model: npt.NDArray[np.int64]
    instrument: npt.NDArray[np.int64]
    timeframe: npt.NDArray[np.int64]
    anchor_time_s: npt.NDArray[np.int64]
    start_time_s: npt.NDArray[np.int64]
    metrics: MetricsBatch

    def __len__(self) -> int:
        return len(self.model)

    @classmethod
    def of(
        cls, records: MetricRecords, own: npt.NDArray[np.int64], m5: npt.NDArray[np.int64], m15: npt.NDArray[np.int64]
    ) -> _Windows:
        parts = ((records.own, own), (records.m5, m5), (records.m15, m15))
        timeframe = (records.timeframe[own], np.full(len(m5), 1), np.full(len(m15), 2))

        def joined(name: str) -> npt.NDArray[np.int64]:
            return np.concatenate([getattr(window, name)[rows] for window, rows in parts]).astype(np.int64)

        return cls(
            model=joined("model"),
            instrument=np.concatenate([records.instrument[rows] for _, rows in parts]).astype(np.int64),
            timeframe=np.concatenate(timeframe).astype(np.int64),
            anchor_time_s=joined("anchor_time_s"),
            start_time_s=joined("start_time_s"),
            metrics=MetricsBatch.concatenate([window.metrics.take(rows) for window, rows in parts]),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> _Windows:
        return _Windows(
            self.model[rows],
            self.instrument[rows],
            self.timeframe[rows],
            self.anchor_time_s[rows],
            self.start_time_s[rows],
            self.metrics.take(rows),
        )

    def distinct(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first of each group of equal windows, by model, instrument and timeframe; and each window's group."""
        keys = (self.anchor_time_s, self.timeframe, self.instrument, self.model)
        order = np.lexsort(keys)
        new = np.ones(len(order), np.bool_)
        new[1:] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
        group = np.empty(len(order), np.int64)
        group[order] = np.cumsum(new) - 1
        return order[new], group


def _score_distinct(
    windows: _Windows, models: Sequence[Model], symbols: Sequence[str], cache: ScoreCache | None, engine: str | Engine
) -> tuple[npt.NDArray[np.void], list[str], npt.NDArray[np.int64]]:
    """Each distinct window's score and id, and where each window's own is among them."""
    first, group = windows.distinct()
    distinct = windows.take(first)
    keys = _keys(distinct, models, symbols)
    scores = np.zeros(len(distinct), _SCORE_DTYPE)
    missing = np.ones(len(distinct), np.bool_)
    if cache is not None:
        for k in np.flatnonzero(distinct.timeframe > 0).tolist():
            found = cache.get(keys[k])
            if found is not None:
                scores[k] = found
                missing[k] = False
    _fill_scores(scores, np.flatnonzero(missing), distinct, models, symbols, engine)
    if cache is not None:
        for k in np.flatnonzero(missing & (distinct.timeframe > 0)).tolist():
            cache.put(keys[k], scores[k])
    return scores, [signal_id(*key) for key in keys], group


def _keys(windows: _Windows, models: Sequence[Model], symbols: Sequence[str]) -> list[_CacheKey]:
    return [
        (models[model].model_id, symbols[instrument], TIMEFRAMES[timeframe], anchor_time_s)
        for model, instrument, timeframe, anchor_time_s in zip(
            windows.model.tolist(),
            windows.instrument.tolist(),
            windows.timeframe.tolist(),
            windows.anchor_time_s.tolist(),
            strict=True,
        )
    ]


def _fill_scores(
    scores: npt.NDArray[np.void],
    rows: npt.NDArray[np.int64],
    windows: _Windows,
    models: Sequence[Model],
    symbols: Sequence[str],
    engine: str | Engine,
) -> None:
    """Score the given rows, which are sorted by model and library: all of one library at once."""
    library = np.stack([windows.model[rows], windows.instrument[rows], windows.timeframe[rows]])
    for part in _runs(rows, library):
        k = part[0]
        model, symbol = models[windows.model[k]], symbols[windows.instrument[k]]
        _score_of_library(scores, part, windows, model, symbol, TIMEFRAMES[windows.timeframe[k]], engine)
    for part in _runs(rows, library[:1]):
        gate = models[windows.model[part[0]]].parameters.gate
        scores["gate"][part] = gate_failures(windows.metrics.take(part), scores["confidence"][part], gate)


def _runs(rows: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The rows in stretches of equal keys, (k, n)."""
    bounds = np.flatnonzero((np.diff(keys) != 0).any(axis=0)) + 1
    return np.split(rows, bounds) if len(rows) else []


def _score_of_library(
    scores: npt.NDArray[np.void],
    rows: npt.NDArray[np.int64],
    windows: _Windows,
    model: Model,
    symbol: str,
    timeframe: str,
    engine: str | Engine,
) -> None:
    library, p = model.library(symbol, timeframe), model.parameters
    scored = score(
        library,
        p.window.forward,
        windows.metrics.path[rows],
        windows.start_time_s[rows],
        model.calibration(symbol, timeframe),
        p.matches,
        p.min_blocks,
        engine,
    )
    for name in ("direction", "reason", "confidence", "p_up", "expected_move", "match_row", "match_cosine"):
        scores[name][rows] = getattr(scored, name)
    named = scored.match_row >= 0
    at = np.where(named, scored.match_row, 0)
    if len(library.outcome):
        scores["match_anchor_time_s"][rows] = np.where(named, library.anchor_time_s[at], 0)
        scores["match_outcome"][rows] = np.where(named, library.outcome[at], 0)
