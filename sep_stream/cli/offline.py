"""`sep-stream bars` and `sep-stream metrics`: the core over files, without a broker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
import numpy.typing as npt

from sep_stream.cli._common import progress
from sep_stream.cli._sink import Columns, out_option, sink
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.runtime.settings import Settings
from sep_stream.sources.formats import FORMATS

if TYPE_CHECKING:
    from sep_stream.convert import ConvertOutput, MarketDataConverter
    from sep_stream.market.events import EventBatch, Reason
    from sep_stream.market.instruments import Instrument
    from sep_stream.metrics import WindowParams

REPORTED_EACH_MAX: Final = 20
"""Rows named for each reason; those after them are only counted."""
ANCHORS_AT_ONCE: Final = 4096
_NANOS: Final = 10**9

_ARGUMENT = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
_FLAGS = (
    click.option("--instrument", required=True, help="Whose prices the files hold, e.g. EUR/USD."),
    click.option("--timeframe", "timeframes", multiple=True, type=click.Choice(TIMEFRAMES), help="Only these."),
    click.option("--format", type=click.Choice(FORMATS), help="Left out: told from the content."),
    click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC."),
    click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Instead of sep-stream.toml."),
    out_option,
)


def _input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed((_ARGUMENT, *_FLAGS)):
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  sep-stream bars candles.csv --instrument EUR/USD
  sep-stream bars january.csv february.csv --instrument EUR/USD --timeframe M15 --out bars.parquet"""
)
@_input_options
def bars(
    files: tuple[Path, ...],
    instrument: str,
    timeframes: tuple[str, ...],
    format: str | None,
    assume_utc: bool,
    config: Path | None,
    out: Path | None,
) -> None:
    """Bars of M1, M5 and M15 of FILES, as the worker makes them, in the order in which they close.

    FILES hold candles or quotes of one instrument and follow each other in time. Bars still open at the end are left
    out. Rows that can't be used are told on stderr.
    """
    conversion = _Conversion.of(Settings.load(config), files, instrument, format, assume_utc)
    chosen = _chosen(timeframes)
    with sink(out, _bar_schema) as write:
        for output in conversion.outputs():
            closed = output.bars[np.isin(output.bars["timeframe"], chosen)]
            write(_bar_columns(closed, conversion.instrument))
    conversion.report()


@click.command(
    epilog="""\b
Examples:
  sep-stream metrics candles.csv --instrument EUR/USD
  sep-stream metrics candles.csv --instrument EUR/USD --timeframe M1 --out metrics.parquet"""
)
@_input_options
@click.option("--engine", default="auto", show_default=True, type=click.Choice(["auto", "reference", "cpu"]))
def metrics(
    files: tuple[Path, ...],
    instrument: str,
    timeframes: tuple[str, ...],
    format: str | None,
    assume_utc: bool,
    config: Path | None,
    out: Path | None,
    engine: str,
) -> None:
    """Bitspace metrics of every window of FILES, one timeframe after the other, with the outcome where it is known.

    FILES as in `sep-stream bars`. The window's lengths are settings (SEP_HISTORY, SEP_FORWARD, …).
    """
    settings = Settings.load(config)
    conversion = _Conversion.of(settings, files, instrument, format, assume_utc)
    lanes: dict[int, list[npt.NDArray[np.void]]] = defaultdict(list)
    for output in conversion.outputs():
        for timeframe in _chosen(timeframes):
            lanes[timeframe].append(output.bars[output.bars["timeframe"] == timeframe])
    params = settings.window_params()
    with sink(out, lambda: _metric_schema(params)) as write:
        for timeframe, parts in lanes.items():
            for columns in _metric_columns(np.concatenate(parts), timeframe, conversion.instrument, params, engine):
                write(columns)
    conversion.report()


def _chosen(timeframes: Sequence[str]) -> list[int]:
    return [k for k, name in enumerate(TIMEFRAMES) if not timeframes or name in timeframes]


class _Conversion:
    """The files' events through the converter, and an account of those that were not used."""

    def __init__(
        self, converter: MarketDataConverter, position: int, batches: Iterator[tuple[Path, EventBatch]]
    ) -> None:
        self._converter, self._position, self._batches = converter, position, batches
        self._unused: Counter[Reason] = Counter()
        self._events = 0
        self._bars = 0
        self._held_in: Path | None = None

    @classmethod
    def of(
        cls, settings: Settings, files: Sequence[Path], instrument: str, format_: str | None, assume_utc: bool
    ) -> _Conversion:
        from sep_stream.convert import MarketDataConverter
        from sep_stream.runtime.topology import Topology
        from sep_stream.sources.files import read_files

        instruments = Topology.load().instruments
        converter = MarketDataConverter(instruments, settings.convert_parameters())
        batches = read_files(files, instruments, instrument, format=format_, assume_utc=assume_utc, note=progress)
        return cls(converter, instruments.position(instrument), batches)

    @property
    def instrument(self) -> Instrument:
        return self._converter.instruments[self._position]

    def outputs(self) -> Iterator[ConvertOutput]:
        """What each batch gave."""
        from sep_stream.convert.machine import HELD
        from sep_stream.market.events import Reason

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
        from sep_stream.market.events import REASON_TEXT
        from sep_stream.sources.files import place_in

        self._unused[reason] += 1
        if self._unused[reason] <= REPORTED_EACH_MAX:
            progress(f"{path}: {place_in(path)} {place}: not used ({reason.name.lower()}): {REASON_TEXT[reason]}")

    def report(self) -> None:
        """The account on stderr."""
        progress(f"{self._events:,} events, {self._bars:,} bars closed")
        for reason, count in self._unused.items():
            progress(f"{count:,} rows were not used: {reason.name.lower()}")
        if self._converter.rows["held"][self._position]:
            progress(
                f"{self._held_in}: its last row was not used: it is far ahead of the one before it and none follows, "
                "so its time may be wrong"
            )


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


def _bar_schema() -> Any:
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
    lane: npt.NDArray[np.void], timeframe: int, instrument: Instrument, params: WindowParams, engine: str
) -> Iterator[Columns]:
    """Columns of every window of a timeframe's bars, ANCHORS_AT_ONCE at a time."""
    from sep_stream.metrics import compute_metrics

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
    from sep_stream.metrics.params import HORIZON_BARS

    end = last + HORIZON_BARS[timeframe]
    known = end < len(lane)
    at = lane["open_time_s"][np.where(known, end, 0)] + DURATION_S[timeframe]
    moves = lane["close"][np.where(known, end, 0)] - lane["close"][last]
    return {
        "outcome": [move if there else None for move, there in zip(moves.tolist(), known.tolist(), strict=True)],
        "outcome_at": np.where(known, at.astype("datetime64[s]"), np.datetime64("NaT", "s")),
    }


def _metric_schema(params: WindowParams) -> Any:
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
