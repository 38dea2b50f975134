"""Bars and metrics of converter outputs as plain rows, for files and research."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from sep_stream.convert import ConvertOutput
from sep_stream.market.instruments import UNITS_PER_ONE, Instrument, Instruments
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import HORIZON_BARS, WindowParams, compute_metrics

Rows = list[dict[str, Any]]


def bar_rows(output: ConvertOutput, instruments: Instruments) -> Rows:
    """The closed bars, in order of emission: prices as decimal text, times as ISO 8601."""
    return [_bar_row(bar, instruments[int(bar["instrument"])]) for bar in output.bars]


def _bar_row(bar: np.void, instrument: Instrument) -> dict[str, Any]:
    volume = Decimal(int(bar["volume_units"])) + Decimal(int(bar["volume_nanos"])) / UNITS_PER_ONE
    return {
        "instrument": instrument.symbol,
        "timeframe": TIMEFRAMES[bar["timeframe"]],
        "open_time": iso(int(bar["open_time_s"])),
        **{name: _price(int(bar[name]), instrument) for name in ("open", "high", "low", "close")},
        "volume": f"{volume:f}",
        "close_spread": None if bar["spread"] < 0 else _price(int(bar["spread"]), instrument),
    }


def _price(points: int, instrument: Instrument) -> str:
    return f"{points * instrument.tick_size:f}"


def iso(seconds: int) -> str:
    """An epoch second as 2024-02-05T00:00:00Z."""
    return f"{np.datetime64(seconds, 's')}Z"


@dataclass(slots=True)
class MetricRows:
    """Metrics of every window, each told once its outcome is known or the input ends.

    A window's outcome comes `horizon` bars after it; rows wait for it, in order within a timeframe.
    """

    params: WindowParams
    engine: str
    _waiting: dict[tuple[int, int], deque[tuple[int, int, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def feed(self, output: ConvertOutput, instruments: Instruments) -> Rows:
        """The rows whose outcome the output tells."""
        closes, ends = self._closes(output)
        self._add(output, instruments)
        done: Rows = []
        for lane, waiting in self._waiting.items():
            while waiting and (lane, waiting[0][0]) in closes:
                index, close, row = waiting.popleft()
                done.append(row | {"outcome": closes[lane, index] - close, "outcome_at": iso(ends[lane, index])})
        return done

    def finish(self) -> Rows:
        """The rows whose outcome lies beyond the input."""
        rest = [row | {"outcome": None, "outcome_at": None} for w in self._waiting.values() for _, _, row in w]
        self._waiting.clear()
        return rest

    def _closes(self, output: ConvertOutput) -> tuple[dict[Any, int], dict[Any, int]]:
        """Close and end of each new bar by lane and index."""
        closes, ends = {}, {}
        for bar in output.bars:
            key = (int(bar["instrument"]), int(bar["timeframe"])), int(bar["index"])
            closes[key] = int(bar["close"])
            ends[key] = int(bar["open_time_s"]) + DURATION_S[bar["timeframe"]]
        return closes, ends

    def _add(self, output: ConvertOutput, instruments: Instruments) -> None:
        anchors = output.windows["anchor"]
        m = compute_metrics(output.series.bits, output.series.close, anchors, self.params, self.engine)
        for k, window in enumerate(output.windows):
            bar = output.bars[window["bar"]]
            timeframe = int(bar["timeframe"])
            row = {
                "instrument": instruments[int(bar["instrument"])].symbol,
                "timeframe": TIMEFRAMES[timeframe],
                "anchor_time": iso(int(output.series.open_time_s[anchors[k]])),
                "available_at": iso(int(bar["open_time_s"]) + DURATION_S[timeframe]),
                "counts": m.counts[k].tolist(),
                "initial": m.initial[k].tolist(),
                "lambda": float(m.lam[k]),
                "damped": m.damped[k].tolist(),
                "settled_at": int(m.settled_at[k]),
                "converged": bool(m.converged[k]),
                "path": m.path[k].tolist(),
                "potential": float(m.potential[k]),
                "rupture_collapse": bool(m.rupture_collapse[k]),
                "qbsa": {
                    "probes": int(m.probes[k]),
                    "corrections": int(m.corrections[k]),
                    "ratio": float(m.ratio[k]),
                    "collapse": bool(m.qbsa_collapse[k]),
                },
            }
            lane = int(bar["instrument"]), timeframe
            self._waiting[lane].append((int(bar["index"]) + HORIZON_BARS[timeframe], int(bar["close"]), row))
