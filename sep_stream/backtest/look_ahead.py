"""`--check-lookahead`: cut the data, compute again, and see that nothing said before the cut has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.scored import Scored
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.scoring.score import NAMED_MATCHES

SHOWN_MAX: Final = 10

Compute = Callable[[int | None], Iterable[Scored]]
"""The signals of all events before a time, epoch seconds; of all where it is None. The folds are the same each time."""


@dataclass(frozen=True, slots=True)
class CutResult:
    """cut_s: where the data were cut · signals: said before it · changed: of those · first: some of the changed, in
    words"""

    cut_s: int
    signals: int
    changed: int
    first: tuple[str, ...]


def cut_times(first_s: int, last_s: int, count: int, seed: int) -> list[int]:
    """So many random times in a range, rising; the same for the same seed."""
    times: list[int] = np.random.default_rng(seed).integers(first_s, last_s, count).tolist()
    return sorted(times)


def check_look_ahead(compute: Compute, cuts: Sequence[int]) -> Iterator[CutResult]:
    """For each cut: what was said before it, of the cut data and of all, has to be equal in every value.

    A signal that saw anything behind the cut can't be computed without it.
    """
    whole = _said(compute(None))
    for cut_s in cuts:
        signals, changed = 0, list[str]()
        for symbol, said in _said(compute(cut_s)).items():
            early = said[said["available_at"] <= cut_s]
            signals += len(early)
            changed += _changed(symbol, early, whole.get(symbol, said[:0]))
        yield CutResult(cut_s, signals, len(changed), tuple(changed[:SHOWN_MAX]))


_MATCHES: Final = (NAMED_MATCHES,)
_SAID_DTYPE: Final = np.dtype(
    [
        ("timeframe", "u1"),
        ("anchor_time", "<i8"),
        ("available_at", "<i8"),
        ("direction", "i1"),
        ("reason", "u1"),
        ("gate", "u1"),
        ("confirmed", "?"),
        ("confidence", "<f8"),
        ("p_up", "<f8"),
        ("expected_move", "<f8"),
        ("match_row", "<i8", _MATCHES),
        ("match_cosine", "<f8", _MATCHES),
        ("match_anchor_time_s", "<i8", _MATCHES),
        ("match_outcome", "<i4", _MATCHES),
    ]
)
"""All that a signal says. Model ids are left out: they follow from the libraries, whose rows are compared by what they
say."""


def _said(parts: Iterable[Scored]) -> dict[str, npt.NDArray[np.void]]:
    """What the signals of each instrument say, by timeframe and anchor."""
    found: dict[str, list[npt.NDArray[np.void]]] = {}
    for part in parts:
        signals = part.signals
        said = np.zeros(len(signals), _SAID_DTYPE)
        said["timeframe"] = part.signal_bars["timeframe"]
        said["anchor_time"] = part.anchor_time_s[signals.row]
        said["available_at"] = part.available_at_s[signals.row]
        for name in (_SAID_DTYPE.names or ())[3:]:
            said[name] = getattr(signals, name)
        found.setdefault(part.symbol, []).append(said)
    joined = {symbol: np.concatenate(said) for symbol, said in found.items()}
    return {symbol: said[np.argsort(_key(said), kind="stable")] for symbol, said in joined.items()}


def _key(said: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    key: npt.NDArray[np.int64] = (said["timeframe"].astype(np.int64) << 48) + said["anchor_time"]
    return key


def _changed(symbol: str, cut: npt.NDArray[np.void], whole: npt.NDArray[np.void]) -> list[str]:
    """Signals of the cut data that differ from those of all, in words."""
    known = np.append(_key(whole), -1)
    at = np.searchsorted(known[:-1], _key(cut))
    there = known[at] == _key(cut)
    pairs = np.where(there, at, 0)
    differs = ~there
    for name in _SAID_DTYPE.names or () if len(whole) else ():
        unequal = cut[name] != whole[name][pairs]
        differs |= unequal.any(axis=1) if unequal.ndim > 1 else unequal
    return [
        _told(symbol, cut[row], whole[pairs[row]] if there[row] else None) for row in np.flatnonzero(differs).tolist()
    ]


def _told(symbol: str, cut: np.void, whole: np.void | None) -> str:
    where = f"{symbol} {TIMEFRAMES[cut['timeframe']]}, anchor {cut['anchor_time']}"
    if whole is None:
        return f"{where}: only without the data behind the cut"
    names = [name for name in _SAID_DTYPE.names or () if np.any(cut[name] != whole[name])]
    return f"{where}: " + "; ".join(
        f"{name} {cut[name]} without what came later, {whole[name]} with it" for name in names
    )
