"""`sep-stream bars` and `sep-stream metrics`: the core over files, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from sep_stream.cli._common import engine_option
from sep_stream.cli._files import Input, input_options
from sep_stream.cli._sink import out_option, sink
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.runtime.settings import Settings

_FLAGS = (
    input_options,
    click.option("--timeframe", "timeframes", multiple=True, type=click.Choice(TIMEFRAMES), help="Only these."),
    click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Instead of sep-stream.toml."),
    out_option,
)


def _input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FLAGS):
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
    from sep_stream.history.offline import bar_schema

    conversion = Input(files, instrument, format, assume_utc).conversion(Settings.load(config))
    with sink(out, bar_schema) as write:
        for columns in conversion.bar_columns(_chosen(timeframes)):
            write(columns)
    conversion.report()


@click.command(
    epilog="""\b
Examples:
  sep-stream metrics candles.csv --instrument EUR/USD
  sep-stream metrics candles.csv --instrument EUR/USD --timeframe M1 --out metrics.parquet"""
)
@_input_options
@engine_option
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
    from sep_stream.gpu import engine_named
    from sep_stream.history.offline import metric_schema

    settings = Settings.load(config)
    params = settings.window_params()
    chosen = engine_named(engine, settings.gpu_memory_mib)
    conversion = Input(files, instrument, format, assume_utc).conversion(settings)
    with sink(out, lambda: metric_schema(params)) as write:
        for columns in conversion.metric_columns(_chosen(timeframes), params, chosen):
            write(columns)
    conversion.report()


def _chosen(timeframes: Sequence[str]) -> list[int]:
    return [k for k, name in enumerate(TIMEFRAMES) if not timeframes or name in timeframes]
