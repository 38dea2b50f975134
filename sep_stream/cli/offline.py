"""`sep-stream bars` and `metrics`: the same core over files, without a broker."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.convert import ConvertOutput
    from sep_stream.market.instruments import Instruments

_TIMEFRAMES = click.Choice(["M1", "M5", "M15"])

Rows = list[dict[str, Any]]


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.argument(
                "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
            ),
            click.option("--instrument", required=True, help="Whose prices the files hold, e.g. EUR/USD."),
            click.option("--timeframe", type=_TIMEFRAMES, help="Only this one."),
            click.option("--format", "file_format", help="Of the files; left out: told by their content."),
            click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC."),
            click.option(
                "--out", type=click.Path(dir_okay=False, path_type=Path), help="X.ndjson or X.parquet.  [default: stdout]"
            ),
        )
    ):
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  sep-stream bars quotes.csv --instrument EUR/USD --timeframe M5
  sep-stream bars candles.json --instrument EUR/USD --out bars.parquet"""
)
@_file_options
@settings_options
def bars(settings: Settings, **options: Any) -> None:
    """The closed bars of FILES, as NDJSON or Parquet. Bars still open at the end are left out."""
    from sep_stream.history.offline import bar_rows

    _run(settings, lambda output, instruments: bar_rows(output, instruments), **options)


@click.command(
    epilog="""\b
Examples:
  sep-stream metrics candles.csv --instrument EUR/USD --timeframe M1
  sep-stream metrics candles.csv --instrument EUR/USD --engine reference --out metrics.parquet"""
)
@click.option("--engine", type=click.Choice(["auto", "reference", "cpu"]), default="auto", show_default=True)
@_file_options
@settings_options
def metrics(settings: Settings, engine: str, **options: Any) -> None:
    """The bitspace metrics of every window of FILES, with the outcome where the files tell it."""
    from sep_stream.history.offline import MetricRows

    rows = MetricRows(settings.window_params(), engine)
    _run(settings, rows.feed, rows.finish, **options)


def _run(
    settings: Settings,
    feed: Callable[[ConvertOutput, Instruments], Rows],
    finish: Callable[[], Rows] = list,
    *,
    files: tuple[Path, ...],
    instrument: str,
    timeframe: str | None,
    file_format: str | None,
    assume_utc: bool,
    out: Path | None,
) -> None:
    from sep_stream.convert import MarketDataConverter
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.files import read_events

    instruments = Topology.load().instruments
    converter = MarketDataConverter(instruments, settings.convert_parameters())
    rejected: Counter[str] = Counter()
    with _sink(out) as write:
        for path in files:
            for batch in read_events(
            path, instruments, instrument, format=file_format, assume_utc=assume_utc, note=progress
        ):
                output = converter.feed(batch)
                write(_of(feed(output, instruments), timeframe))
                for rejection in output.rejections:
                    rejected[rejection.reason.name] += 1
                    if rejected[rejection.reason.name] == 1:
                        click.echo(f"{path}: event {rejection.offset}: {_why(rejection.reason)}", err=True)
        write(_of(finish(), timeframe))
    for name, count in rejected.items():
        click.echo(f"{count:,} events not used: {name.lower()}", err=True)


def _why(reason: Any) -> str:
    from sep_stream.market.events import REASON_TEXT

    return REASON_TEXT[reason]


def _of(rows: Rows, timeframe: str | None) -> Rows:
    return rows if timeframe is None else [row for row in rows if row["timeframe"] == timeframe]


@contextmanager
def _sink(out: Path | None) -> Iterator[Callable[[Rows], None]]:
    """Writes rows to stdout, or to a file that appears under its name once it is whole."""
    if out is None:
        yield lambda rows: _write_ndjson(sys.stdout, rows)
        sys.stdout.flush()
        return
    if out.suffix not in (".ndjson", ".parquet"):
        raise click.BadParameter(f"{out}: expected a name that ends in .ndjson or .parquet", param_hint="--out")
    descriptor, draft = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    os.close(descriptor)
    try:
        if out.suffix == ".parquet":
            with _parquet(Path(draft)) as write:
                yield write
        else:
            with open(draft, "w") as file:
                yield lambda rows: _write_ndjson(file, rows)
        Path(draft).chmod(0o644)
        Path(draft).replace(out)
    finally:
        Path(draft).unlink(missing_ok=True)


def _write_ndjson(file: Any, rows: Rows) -> None:
    import json

    file.writelines(json.dumps(row) + "\n" for row in rows)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Rows], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    collected: Rows = []
    yield collected.extend
    pq.write_table(pa.Table.from_pylist(collected), path, compression="zstd")
