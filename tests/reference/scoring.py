"""Libraries, scores, gate, ids, models and training in plain Python. sep-metrics/1, section 7."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tests.reference.converter import DURATION_S, Bar, direction_bits
from tests.reference.metrics import metrics

VERSION = "sep-metrics/1"
NAMESPACE = uuid5(NAMESPACE_URL, VERSION)
DEFAULTS: dict[str, Any] = {
    "window": {"history": 64, "forward": 64, "samples": 16, "eps": 0.002, "hold": 4},
    "horizon_bars": [30, 6, 2],
    "matches": 32,
    "min_blocks": 16,
    "gate": {"confidence_min": 0.60, "coherence_min": 0.10, "stability_margin_min": 0.05},
    "deadband": 0,
}
"""Parameters of a model where nothing else is said."""

NAMED_MATCHES = 5

Key = tuple[str, str]
"""Symbol and timeframe name."""
Knots = tuple[Sequence[float], Sequence[float]]
"""x and y of a calibration table."""


@dataclass(frozen=True)
class Row:
    path: tuple[float, ...]
    anchor_time: int
    available_at: int
    outcome_at: int
    outcome: int


@dataclass(frozen=True)
class Library:
    """Rows in anchor order; mu and sigma are theirs."""

    rows: list[Row]
    width: int

    @cached_property
    def mu(self) -> list[float]:
        n = len(self.rows)
        return [math.fsum(row.path[d] for row in self.rows) / n if n else 0.0 for d in range(self.width)]

    @cached_property
    def sigma(self) -> list[float]:
        n = len(self.rows)
        sigmas = []
        for d, mu in enumerate(self.mu):
            deviations = [row.path[d] - mu for row in self.rows]
            sigmas.append(math.sqrt(math.fsum(x * x for x in deviations) / n) if n else 0.0)
        return sigmas

    @cached_property
    def quantised(self) -> list[list[int]]:
        return [self.quantise(row.path) for row in self.rows]

    @cached_property
    def squares(self) -> list[int]:
        return [dot(q, q) for q in self.quantised]

    @cached_property
    def outcome_times(self) -> list[int]:
        return [row.outcome_at for row in self.rows]

    def quantise(self, path: Sequence[float]) -> list[int]:
        return [
            0 if sigma < 1e-9 else max(-127, min(127, round(((value - mu) / sigma) * 32.0)))
            for value, mu, sigma in zip(path, self.mu, self.sigma, strict=True)
        ]

    def rows_sha256(self) -> str:
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(struct.pack(f"<{self.width}f", *row.path))
            digest.update(struct.pack("<qqqi", row.anchor_time, row.available_at, row.outcome_at, row.outcome))
        return digest.hexdigest()


@dataclass(frozen=True)
class Model:
    parameters: dict[str, Any]
    training_cut: int
    libraries: dict[Key, Library]
    calibrations: dict[Key, Knots] = field(default_factory=dict)

    @cached_property
    def model_id(self) -> str:
        return hashlib.sha256(
            json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        ).hexdigest()

    def document(self) -> dict[str, Any]:
        """What the id is taken of."""
        timeframes = list(DURATION_S)
        ordered = sorted(self.libraries, key=lambda key: (key[0], timeframes.index(key[1])))
        return {
            "metrics_version": VERSION,
            "parameters": self.parameters,
            "training_cut": self.training_cut,
            "calibration": [
                {
                    "instrument": key[0],
                    "timeframe": key[1],
                    "x": [float(x).hex() for x in self.calibrations[key][0]],
                    "y": [float(y).hex() for y in self.calibrations[key][1]],
                }
                for key in ordered
                if key in self.calibrations
            ],
            "libraries": [
                {
                    "instrument": key[0],
                    "timeframe": key[1],
                    "rows": len(self.libraries[key].rows),
                    "mu": [mu.hex() for mu in self.libraries[key].mu],
                    "sigma": [sigma.hex() for sigma in self.libraries[key].sigma],
                    "rows_sha256": self.libraries[key].rows_sha256(),
                }
                for key in ordered
            ],
        }


def dot(a: Sequence[int], b: Sequence[int]) -> int:
    return int(math.sumprod(a, b))


def cosine(dot_qr: int, dot_qq: int, dot_rr: int) -> float:
    return dot_qr / math.sqrt(float(dot_qq * dot_rr)) if dot_qq and dot_rr else 0.0


def calibrated(p_up: float, knots: Knots | None) -> float:
    """Piecewise linear between the knots, the end's value beyond them; the identity without any."""
    if knots is None or not knots[0]:
        return p_up
    xs, ys = knots
    if p_up <= xs[0]:
        return ys[0]
    for k in range(1, len(xs)):
        if p_up == xs[k]:
            return ys[k]
        if p_up < xs[k]:
            return ys[k - 1] + (p_up - xs[k - 1]) * ((ys[k] - ys[k - 1]) / (xs[k] - xs[k - 1]))
    return ys[-1]


def nearest(library: Library, path: Sequence[float], start_time: int, forward: int) -> list[tuple[float, int]]:
    """Cosine and row of each block's best eligible row, best first, the later one first on a tie."""
    query = library.quantise(path)
    square = dot(query, query)
    eligible = bisect_right(library.outcome_times, start_time)
    best: dict[int, tuple[float, int]] = {}
    for r in range(eligible):
        found = cosine(dot(query, library.quantised[r]), square, library.squares[r])
        if r // forward not in best or (found, r) > best[r // forward]:
            best[r // forward] = (found, r)
    return sorted(best.values(), reverse=True)


def score(model: Model, key: Key, path: Sequence[float], start_time: int) -> dict[str, Any]:
    """What a model says of a path whose window begins at `start_time`."""
    parameters, forward = model.parameters, model.parameters["window"]["forward"]
    library = model.libraries.get(key) or Library([], len(path))
    blocks = nearest(library, path, start_time, forward)
    votes = blocks[: parameters["matches"]]
    weight = up = move = 0.0
    for found, r in votes:
        c, outcome = max(0.0, found), library.rows[r].outcome
        weight += c * c
        up += (c * c) * (1.0 if outcome > 0 else 0.0 if outcome < 0 else 0.5)
        move += (c * c) * float(outcome)
    reason = "library" if len(blocks) < parameters["min_blocks"] else "weight" if weight == 0.0 else None
    p_up = p = 0.5
    expected_move = 0.0
    if reason is None:
        p_up = (up + 1) / (weight + 2)
        p = calibrated(p_up, model.calibrations.get(key))
        expected_move = move / weight
    return {
        "direction": "BUY" if p > 0.5 else "SELL" if p < 0.5 else "HOLD",
        "reason": reason,
        "confidence": max(p, 1 - p),
        "p_up": p_up,
        "expected_move": expected_move,
        "matches": [
            {"row": r, "anchor_time": library.rows[r].anchor_time, "cosine": found, "outcome": library.rows[r].outcome}
            for found, r in votes[:NAMED_MATCHES]
        ],
    }


def gate_failed(confidence: float, window_metrics: Mapping[str, Any], gate: Mapping[str, float]) -> list[str]:
    """Reasons that the gate fails for, in order; none if it passes."""
    _, coherence, stability = window_metrics["damped"]
    passes = {
        "confidence": confidence >= gate["confidence_min"],
        "coherence": coherence >= gate["coherence_min"],
        "stability": abs(stability - 0.5) >= gate["stability_margin_min"],
        "converged": window_metrics["converged"],
        "rupture_collapse": not window_metrics["rupture_collapse"],
        "qbsa_collapse": not window_metrics["qbsa_collapse"],
    }
    return [reason for reason, passed in passes.items() if not passed]


def signal_id(model_id: str, symbol: str, timeframe: str, anchor_time: int) -> str:
    return str(uuid5(NAMESPACE, f"signal|{model_id}|{symbol}|{timeframe}|{anchor_time}"))


def pattern_id(model_id: str, symbol: str, timeframe: str, anchor_time: int) -> str:
    return str(uuid5(NAMESPACE, f"pattern|{model_id}|{symbol}|{timeframe}|{anchor_time}"))


def trade_id(signal: str) -> str:
    return str(uuid5(NAMESPACE, f"trade|{signal}"))


def train(
    bars: Mapping[Key, Sequence[Bar]],
    params: Mapping[str, Any],
    cut_s: int,
    calibrations: Mapping[Key, Knots] | None = None,
    train_from_s: int | None = None,
    **others: Any,
) -> Model:
    """The model of every window that begins at `train_from_s` or later and whose outcome was known at `cut_s`.

    bars: all closed bars from the log's first on · params: of the window · others: parameters other than DEFAULTS
    """
    parameters = {**DEFAULTS, **others, "window": dict(params)}
    libraries = {}
    for key, series in bars.items():
        rows = _rows(key[1], series, parameters, cut_s, train_from_s)
        libraries[key] = Library(rows, 3 * params["samples"])
    return Model(parameters, cut_s, libraries, dict(calibrations or {}))


def _rows(
    timeframe: str, bars: Sequence[Bar], parameters: Mapping[str, Any], cut_s: int, train_from_s: int | None
) -> list[Row]:
    window = parameters["window"]
    history, forward = window["history"], window["forward"]
    duration = DURATION_S[timeframe]
    horizon = parameters["horizon_bars"][list(DURATION_S).index(timeframe)]
    closes = [bar["close"] for bar in bars]
    bits = direction_bits(closes, parameters["deadband"])
    rows = []
    for i in range(history - 1, len(bars) - forward - horizon):
        last, outcome = i + forward, i + forward + horizon
        if train_from_s is not None and bars[i - history + 1]["open_time"] < train_from_s:
            continue
        if bars[outcome]["open_time"] + duration > cut_s:
            break
        found = metrics(bits[i - history + 1 : last + 1], closes[i : last + 1], window)
        rows.append(
            Row(
                path=tuple(found["path"]),
                anchor_time=bars[i]["open_time"],
                available_at=bars[last]["open_time"] + duration,
                outcome_at=bars[outcome]["open_time"] + duration,
                outcome=closes[outcome] - closes[last],
            )
        )
    return rows


QUERIES, SCORED_MIN, KNOTS, SCORES_PER_KNOT = 4096, 500, 32, 50
"""Of a calibration: most rows scored, least scores for a table, most groups, least scores of each."""


def calibrate(model: Model, bars: Mapping[Key, Sequence[Bar]]) -> Model:
    """The model with tables fitted on its own rows, each scored by what was known before its window began."""
    tables = {key: isotonic(own_scores(model, key, bars[key])) for key in model.libraries}
    return replace(model, calibrations={key: knots for key, knots in tables.items() if knots[0]})


def own_scores(model: Model, key: Key, bars: Sequence[Bar]) -> list[tuple[float, Fraction]]:
    """Raw probability of rows of a library, and what came: 1 up, 0 down, a half for neither."""
    library, parameters = model.libraries[key], model.parameters
    history, forward = parameters["window"]["history"], parameters["window"]["forward"]
    anchor_of = {bar["open_time"]: i for i, bar in enumerate(bars)}
    starts = [bars[anchor_of[row.anchor_time] - history + 1]["open_time"] for row in library.rows]

    def blocks(r: int) -> int:
        return len({other // forward for other, row in enumerate(library.rows) if row.outcome_at <= starts[r]})

    first = next((r for r in range(len(library.rows)) if blocks(r) >= parameters["min_blocks"]), len(library.rows))
    horizon = parameters["horizon_bars"][list(DURATION_S).index(key[1])]
    stride = max(horizon, math.ceil((len(library.rows) - first) / QUERIES))
    plain, scores = replace(model, calibrations={}), []
    for r in range(first, len(library.rows), stride):
        row = library.rows[r]
        said = score(plain, key, row.path, starts[r])
        if said["reason"] is None:
            scores.append((said["p_up"], Fraction(1 + (row.outcome > 0) - (row.outcome < 0), 2)))
    return scores


def isotonic(scores: Sequence[tuple[float, Fraction]]) -> Knots:
    """The knots of a fit that never falls, by the max-min formula: the group at k is rated
    max over a <= k of min over b >= k of the rate of the groups a … b."""
    if len(scores) < SCORED_MIN:
        return [], []
    ordered = sorted(scores)
    groups = _groups([p for p, _ in ordered])
    seen = [len(group) + 2 for group in groups]
    up = [sum((ordered[k][1] for k in group), Fraction(1)) for group in groups]

    def rate(a: int, b: int) -> Fraction:
        return sum(up[a : b + 1], Fraction(0)) / sum(seen[a : b + 1])

    n = len(groups)
    fitted = [max(min(rate(a, b) for b in range(k, n)) for a in range(k + 1)) for k in range(n)]
    xs, ys = [], []
    for y in sorted(set(fitted)):
        pool = [k for group, value in zip(groups, fitted, strict=True) if value == y for k in group]
        xs.append(ordered[pool[0] + len(pool) // 2][0])
        ys.append(float(y))
    return xs, ys


def _groups(ordered: Sequence[float]) -> list[range]:
    """Positions in groups of at least the same size; equal ones stay together."""
    size = max(SCORES_PER_KNOT, math.ceil(len(ordered) / KNOTS))
    groups, first = [], 0
    for k in range(1, len(ordered)):
        if ordered[k - 1] < ordered[k] and k - first >= size and len(ordered) - k >= size:
            groups.append(range(first, k))
            first = k
    return [*groups, range(first, len(ordered))]
