"""Bars and metrics of files as columns, with an account of the rows that were not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.convert import ConvertOutput, MarketDataConverter
from sep_stream.convert.machine import HELD
from sep_stream.convert.state import BAR_DTYPE
from sep_stream.market.events import NULL, REASON_TEXT, EventBatch, Reason
from sep_stream.market.instruments import Instrument
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import HORIZON_BARS, Engine, WindowParams, compute_metrics
from sep_stream.sources.files import place_in
from sep_stream.sources.table import Note

REPORTED_EACH_MAX: Final = 20
"""Rows named for each reason; those after them are only counted."""
ANCHORS_AT_ONCE: Final = 4096

Columns = Mapping[str, Any]
"""n-long columns by name: lists, or datetime64[s] arrays in UTC with NaT for null. Decimals are Decimal."""


class Conversion:
    """The events of files through the converter, and an account of those that were not used.

    position: of the files' instrument · batches: with the file that each is of · note: takes lines of the account
    """

    def __init__(
        self, converter: MarketDataConverter, position: int, batches: Iterable[tuple[Path, EventBatch]], note: Note
    ) -> None:
        self._converter, self._position, self._batches, self._note = converter, position, batches, note
        self._unused: Counter[Reason] = Counter()
        self._events = 0
        self._bars = 0
        self._held_in: Path | None = None

    @property
    def instrument(self) -> Instrument:
        return self._converter.instruments[self._position]

    @property
    def unused(self) -> dict[str, int]:
        """How many events were not used so far, by reason."""
        return {reason.name.lower(): count for reason, count in self._unused.items()}

    def closed_bars(self) -> Iterator[npt.NDArray[np.void]]:
        """Rows (b,) BAR_DTYPE of all timeframes in the order of their closing, batch by batch."""
        for output in self._outputs():
            yield output.bars

    def bar_columns(self, timeframes: Sequence[int]) -> Iterator[Columns]:
        """Columns of the bars of these timeframes in the order of their closing, batch by batch."""
        for output in self._outputs():
            yield _bar_columns(output.bars[np.isin(output.bars["timeframe"], timeframes)], self.instrument)

    def metric_columns(
        self, timeframes: Sequence[int], params: WindowParams, engine: str | Engine
    ) -> Iterator[Columns]:
        """Columns of the windows of these timeframes, one timeframe after the other, ANCHORS_AT_ONCE at a time.

        All bars are read first: a window's outcome lies behind it.
        """
        bars = np.concatenate([np.empty(0, BAR_DTYPE), *(output.bars for output in self._outputs())])
        for timeframe in timeframes:
            yield from _metric_columns(bars[bars["timeframe"] == timeframe], timeframe, self.instrument, params, engine)

    def _outputs(self) -> Iterator[ConvertOutput]:
        for path, batch in self._batches:
            output = self._converter.feed(batch)
            for rejection in output.rejections:
                # One held since an earlier batch can lie in another file.
                file = path if rejection.row >= 0 else self._held_in or path
                self._tell(file, rejection.offset, rejection.reason)
            for row in np.flatnonzero(output.reason == Reason.DUPLICATE).tolist():
                self._tell(path, int(batch.offset[row]), Reason.DUPLICATE)
            if (output.reason == HELD).any():
                self._held_in = path
            self._events += len(batch)
            self._bars += len(output.bars)
            yield output

    def _tell(self, path: Path, place: int, reason: Reason) -> None:
        self._unused[reason] += 1
        if self._unused[reason] <= REPORTED_EACH_MAX:
            self._note(f"{path}: {place_in(path)} {place}: not used ({reason.name.lower()}): {REASON_TEXT[reason]}")

    def report(self) -> None:
        """Give the account of all events."""
        self._note(f"{self._events:,} events, {self._bars:,} bars closed")
        for reason, count in self.unused.items():
            self._note(f"{count:,} rows were not used: {reason}")
        if self._converter.rows["held"][self._position]:
            first = self._converter.rows["watermark_us"][self._position] == NULL
            why = "no other confirms its time" if first else "it is far ahead of the one before it and none follows"
            self._note(f"{self._held_in}: its last row was not used: {why}, so its time may be wrong")


def _bar_columns(closed: npt.NDArray[np.void], instrument: Instrument) -> Columns:
    tick = instrument.tick_size
    spreads = (None if points < 0 else points * tick for points in closed["spread"].tolist())
    return {
        "instrument": [instrument.symbol] * len(closed),
        "timeframe": [TIMEFRAMES[k] for k in closed["timeframe"].tolist()],
        "open_time": closed["open_time_s"].astype("datetime64[s]"),
        **{name: [points * tick for points in closed[name].tolist()] for name in ("open", "high", "low", "close")},
        "volume": list(map(_volume, closed["volume_units"].tolist(), closed["volume_nanos"].tolist())),
        "close_spread": list(spreads),
    }


def _volume(units: int, nanos: int) -> Decimal:
    return Decimal(units) if not nanos else Decimal(f"{units}.{nanos:09d}".rstrip("0"))


def bar_schema() -> Any:
    """The Arrow schema of bars."""
    import pyarrow as pa

    price = pa.decimal128(18, 9)
    fields: list[tuple[str, Any]] = [
        ("instrument", pa.string()),
        ("timeframe", pa.string()),
        ("open_time", pa.timestamp("s", "UTC")),
        *((name, price) for name in ("open", "high", "low", "close")),
        ("volume", pa.decimal128(38, 9)),
        ("close_spread", price),
    ]
    return pa.schema(fields)


def _metric_columns(
    lane: npt.NDArray[np.void], timeframe: int, instrument: Instrument, params: WindowParams, engine: str | Engine
) -> Iterator[Columns]:
    bits, close = lane["bit"].copy(), lane["close"].copy()
    anchors = np.arange(params.history - 1, len(lane) - params.forward, dtype=np.int64)
    for first in range(0, len(anchors), ANCHORS_AT_ONCE):
        at = anchors[first : first + ANCHORS_AT_ONCE]
        begin, end = at[0] - params.history + 1, at[-1] + params.forward + 1
        m = compute_metrics(bits[begin:end], close[begin:end], at - begin, params, engine)
        probes = zip(m.probes.tolist(), m.corrections.tolist(), m.ratio.tolist(), m.qbsa_collapse.tolist(), strict=True)
        yield {
            "instrument": [instrument.symbol] * len(at),
            "timeframe": [TIMEFRAMES[timeframe]] * len(at),
            "anchor_time": lane["open_time_s"][at].astype("datetime64[s]"),
            "available_at": (lane["open_time_s"][at + params.forward] + DURATION_S[timeframe]).astype("datetime64[s]"),
            "counts": m.counts.tolist(),
            "initial": m.initial.tolist(),
            "lambda": m.lam.tolist(),
            "damped": m.damped.tolist(),
            "settled_at": m.settled_at.tolist(),
            "converged": m.converged.tolist(),
            "path": m.path.tolist(),
            "potential": m.potential.tolist(),
            "rupture_collapse": m.rupture_collapse.tolist(),
            "qbsa": [dict(zip(("probes", "corrections", "ratio", "collapse"), row, strict=True)) for row in probes],
            **_outcomes(lane, timeframe, at + params.forward),
        }


def _outcomes(lane: npt.NDArray[np.void], timeframe: int, last: npt.NDArray[np.int64]) -> Columns:
    """The moves in points over the horizon after the windows' last bars, and when they were known."""
    end = last + HORIZON_BARS[timeframe]
    known = end < len(lane)
    at = lane["open_time_s"][np.where(known, end, 0)] + DURATION_S[timeframe]
    moves = lane["close"][np.where(known, end, 0)] - lane["close"][last]
    return {
        "outcome": [move if there else None for move, there in zip(moves.tolist(), known.tolist(), strict=True)],
        "outcome_at": np.where(known, at.astype("datetime64[s]"), np.datetime64("NaT", "s")),
    }


def metric_schema(params: WindowParams) -> Any:
    """The Arrow schema of metrics."""
    import pyarrow as pa

    time, triple = pa.timestamp("s", "UTC"), pa.list_(pa.float64(), 3)
    qbsa = pa.struct(
        [("probes", pa.int32()), ("corrections", pa.int32()), ("ratio", pa.float64()), ("collapse", pa.bool_())]
    )
    fields: list[tuple[str, Any]] = [
        ("instrument", pa.string()),
        ("timeframe", pa.string()),
        ("anchor_time", time),
        ("available_at", time),
        ("counts", pa.list_(pa.int32(), 3)),
        ("initial", triple),
        ("lambda", pa.float64()),
        ("damped", triple),
        ("settled_at", pa.int32()),
        ("converged", pa.bool_()),
        ("path", pa.list_(pa.float32(), 3 * params.samples)),
        ("potential", pa.float64()),
        ("rupture_collapse", pa.bool_()),
        ("qbsa", qbsa),
        ("outcome", pa.int32()),
        ("outcome_at", time),
    ]
    return pa.schema(fields)
