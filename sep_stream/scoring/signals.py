"""`score_records`: metrics in, signals out, with the confirmation of the longer timeframes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, Final

import numba as nb
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

_Name = tuple[str, str, str, int]
"""A window's model id, symbol, timeframe and anchor."""
_CacheKey = tuple[_Name, bytes]
"""A window's name, and all that its score is made from. Records that name the same window may contradict each other."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowMetrics:
    """What one window a record is scored by, as columns.

    present: (n,) bool; where it is false the row means nothing · anchor_time_s, start_time_s, available_at_s:
    (n,) int64, epoch seconds: open of the anchor's bar, open of the window's first, end of its last
    model: (n,) int32, position of the model in force, -1 none · the others: as of MetricsBatch
    """

    present: npt.NDArray[np.bool_]
    anchor_time_s: npt.NDArray[np.int64]
    start_time_s: npt.NDArray[np.int64]
    available_at_s: npt.NDArray[np.int64]
    model: npt.NDArray[np.int32]
    path: npt.NDArray[np.float32]
    damped: npt.NDArray[np.float64]
    converged: npt.NDArray[np.bool_]
    rupture_collapse: npt.NDArray[np.bool_]
    qbsa_collapse: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        present: npt.NDArray[np.bool_],
        anchor_time_s: npt.NDArray[np.int64],
        start_time_s: npt.NDArray[np.int64],
        available_at_s: npt.NDArray[np.int64],
        model: npt.NDArray[np.int32],
        metrics: MetricsBatch,
    ) -> WindowMetrics:
        """Windows with their metrics. Each column: (n,)"""
        return cls(
            present, anchor_time_s, start_time_s, available_at_s, model,
            metrics.path, metrics.damped, metrics.converged, metrics.rupture_collapse, metrics.qbsa_collapse,
        )  # fmt: skip

    @classmethod
    def absent(cls, n: int, samples: int) -> WindowMetrics:
        """n rows without a window, with paths of `samples` steps."""
        nothing = np.zeros(n, np.int64)
        no_model = np.full(n, -1, np.int32)
        return cls.of(nothing != 0, nothing, nothing, nothing, no_model, MetricsBatch.zeros(n, samples))

    @classmethod
    def concatenate(cls, parts: Sequence[WindowMetrics]) -> WindowMetrics:
        """The rows of at least one part, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, rows: npt.NDArray[np.intp]) -> WindowMetrics:
        """The given rows, in that order."""
        return WindowMetrics(*(getattr(self, field.name)[rows] for field in fields(self)))


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

    A key holds all that a score is made from: a record that contradicts others changes nothing for them.
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
    own = _with_model(records.own.present, records.own.model)
    m5, m15 = (_counting(records, timeframe) for timeframe in (1, 2))
    windows = _Windows.of(records, own, m5, m15)
    scores, ids, position = _score_distinct(windows, models, symbols, cache, engine)
    own_at, m5_at, m15_at = np.split(position, [len(own), len(own) + len(m5)])
    chosen = scores[own_at]
    confirmation = [_by_record(len(records), rows, at)[own] for rows, at in ((m5, m5_at), (m15, m15_at))]
    confirmed = np.empty(len(own), np.bool_)
    _confirm(scores["direction"], scores["gate"], own_at, *confirmation, confirmed)
    return Signals(
        row=own,
        model=records.own.model[own],
        signal_id=[ids[k] for k in own_at.tolist()],
        gate_passed=chosen["gate"] == 0,
        confirmed=confirmed,
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
        position = _greatest(window.present, window.model)
        if position >= len(models):
            raise ModelError(f"metric records: {name}: model {position} of {len(models)}")


def _counting(records: MetricRecords, timeframe: int) -> npt.NDArray[np.int64]:
    """Rows of the M1 records whose newest window of a longer timeframe has a model and is not stale."""
    own, window = records.own, (records.own, records.m5, records.m15)[timeframe]
    rows, ahead = _not_stale(
        records.timeframe, own.model, own.available_at_s, window.present, window.model, window.available_at_s,
        DURATION_S[timeframe] + CONFIRMATION_GRACE_S,
    )  # fmt: skip
    if ahead >= 0:
        raise InputError(
            f"metric record {ahead}: its {TIMEFRAMES[timeframe]} window ends at {window.available_at_s[ahead]}, "
            f"after its own end {own.available_at_s[ahead]}"
        )
    return rows


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _not_stale(
    timeframe: Any, own_model: Any, own_available_at_s: Any, present: Any, model: Any, available_at_s: Any,
    age_s_max: int,
) -> Any:  # fmt: skip
    """The rows, and the first whose window ends after the record's own, -1 where none does."""
    rows, n, ahead = np.empty(len(timeframe), np.int64), 0, -1
    for k in range(len(timeframe)):
        if timeframe[k] != 0 or own_model[k] < 0 or not present[k] or model[k] < 0:
            continue
        age_s = own_available_at_s[k] - available_at_s[k]
        if age_s < 0 and ahead < 0:
            ahead = k
        if age_s <= age_s_max:
            rows[n] = k
            n += 1
    return rows[:n].copy(), ahead


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _with_model(present: Any, model: Any) -> Any:
    """Rows of the windows that are present and have a model."""
    rows, n = np.empty(len(model), np.int64), 0
    for k in range(len(model)):
        if present[k] and model[k] >= 0:
            rows[n] = k
            n += 1
    return rows[:n].copy()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _greatest(present: Any, model: Any) -> int:
    """Of the models of windows that are present; -1 without any."""
    greatest = -1
    for k in range(len(model)):
        if present[k]:
            greatest = max(greatest, model[k])
    return greatest


def _by_record(n: int, rows: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions (n,) of the scores by record, -1 where none counted."""
    position = np.full(n, -1, np.int64)
    position[rows] = at
    return position


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _confirm(direction: Any, gate: Any, own: Any, m5: Any, m15: Any, confirmed: Any) -> None:
    """direction, gate: of all scores · own, m5, m15: (s,) positions among them, -1 where none counted"""
    for k in range(len(own)):
        said = direction[own[k]]
        agrees = said != HOLD and gate[own[k]] == 0
        for at in (m5[k], m15[k]):
            agrees = agrees and at >= 0 and direction[at] == said and gate[at] == 0
        confirmed[k] = agrees


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Windows to be scored, several of them perhaps the same one: columns of WindowMetrics."""

    model: npt.NDArray[np.int64]
    instrument: npt.NDArray[np.int64]
    timeframe: npt.NDArray[np.int64]
    anchor_time_s: npt.NDArray[np.int64]
    start_time_s: npt.NDArray[np.int64]
    path: npt.NDArray[np.float32]
    damped: npt.NDArray[np.float64]
    converged: npt.NDArray[np.bool_]
    rupture_collapse: npt.NDArray[np.bool_]
    qbsa_collapse: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.model)

    @classmethod
    def of(
        cls, records: MetricRecords, own: npt.NDArray[np.int64], m5: npt.NDArray[np.int64], m15: npt.NDArray[np.int64]
    ) -> _Windows:
        parts = ((records.own, own), (records.m5, m5), (records.m15, m15))
        timeframe = (records.timeframe[own], np.full(len(m5), 1), np.full(len(m15), 2))

        def joined(name: str) -> Any:
            return np.concatenate([getattr(window, name)[rows] for window, rows in parts])

        return cls(
            model=joined("model").astype(np.int64),
            instrument=np.concatenate([records.instrument[rows] for _, rows in parts]).astype(np.int64),
            timeframe=np.concatenate(timeframe).astype(np.int64),
            anchor_time_s=joined("anchor_time_s"),
            start_time_s=joined("start_time_s"),
            path=joined("path"),
            damped=joined("damped"),
            converged=joined("converged"),
            rupture_collapse=joined("rupture_collapse"),
            qbsa_collapse=joined("qbsa_collapse"),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> _Windows:
        return _Windows(*(getattr(self, field.name)[rows] for field in fields(self)))

    def distinct(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first of each group of equal windows, by model, instrument and timeframe; and each window's group."""
        keys = (self.anchor_time_s, self.timeframe, self.instrument, self.model)
        first, group = _groups(
            np.lexsort(keys), *keys, self.start_time_s, self.path, self.damped, self.converged, self.rupture_collapse,
            self.qbsa_collapse,
        )  # fmt: skip
        return first, group

    def content(self, row: int) -> bytes:
        """All that a window's score is made from, but for its library's name."""
        flags = (self.converged[row], self.rupture_collapse[row], self.qbsa_collapse[row])
        return b"".join(
            (self.start_time_s[row].tobytes(), self.path[row].tobytes(), self.damped[row].tobytes(), *flags)
        )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _groups(
    order: Any, anchor_time_s: Any, timeframe: Any, instrument: Any, model: Any, start_time_s: Any, path: Any,
    damped: Any, converged: Any, rupture_collapse: Any, qbsa_collapse: Any,
) -> Any:  # fmt: skip
    first, group, n = np.empty(len(order), np.int64), np.empty(len(order), np.int64), 0
    for k in range(len(order)):
        row, before = order[k], order[k - 1]
        if (
            k == 0
            or anchor_time_s[row] != anchor_time_s[before]
            or timeframe[row] != timeframe[before]
            or instrument[row] != instrument[before]
            or model[row] != model[before]
            or start_time_s[row] != start_time_s[before]
            or converged[row] != converged[before]
            or rupture_collapse[row] != rupture_collapse[before]
            or qbsa_collapse[row] != qbsa_collapse[before]
            or not _same_rows(path, row, before)
            or not _same_rows(damped, row, before)
        ):
            first[n] = row
            n += 1
        group[row] = n - 1
    return first[:n].copy(), group


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _same_rows(columns: Any, a: int, b: int) -> bool:
    same = True
    for d in range(columns.shape[1]):
        same &= columns[a, d] == columns[b, d]
    return same


def _score_distinct(
    windows: _Windows, models: Sequence[Model], symbols: Sequence[str], cache: ScoreCache | None, engine: str | Engine
) -> tuple[npt.NDArray[np.void], list[str], npt.NDArray[np.int64]]:
    """Each distinct window's score and id, and where each window's own is among them."""
    first, group = windows.distinct()
    distinct = windows.take(first)
    names = _names(distinct, models, symbols)
    scores = np.zeros(len(distinct), _SCORE_DTYPE)
    longer = [k for k, timeframe in enumerate(distinct.timeframe.tolist()) if timeframe > 0]
    missing = dict.fromkeys(range(len(distinct)))
    keys: dict[int, _CacheKey] = {k: (names[k], distinct.content(k)) for k in longer} if cache is not None else {}
    for k, key in keys.items():
        if cache is not None and (found := cache.get(key)) is not None:
            scores[k] = found
            del missing[k]
    _fill_scores(scores, list(missing), distinct, models, symbols, engine)
    for k, key in keys.items():
        if cache is not None and k in missing:
            cache.put(key, scores[k])
    return scores, [signal_id(*name) for name in names], group


def _names(windows: _Windows, models: Sequence[Model], symbols: Sequence[str]) -> list[_Name]:
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
    rows: Sequence[int],
    windows: _Windows,
    models: Sequence[Model],
    symbols: Sequence[str],
    engine: str | Engine,
) -> None:
    """Score the given rows, which are sorted by model and library: all of one library at once."""
    model, instrument, timeframe = windows.model.tolist(), windows.instrument.tolist(), windows.timeframe.tolist()
    for (m, i, tf), part in groupby(rows, lambda row: (model[row], instrument[row], timeframe[row])):
        _score_of_library(scores, np.array(list(part)), windows, models[m], symbols[i], TIMEFRAMES[tf], engine)
    for m, part in groupby(rows, lambda row: model[row]):
        of_model = np.array(list(part))
        gate = models[m].parameters.gate
        scores["gate"][of_model] = gate_failures(windows.take(of_model), scores["confidence"][of_model], gate)


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
        windows.path[rows],
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
