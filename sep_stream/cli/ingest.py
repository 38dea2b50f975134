"""`sep-stream ingest`: publishes files or a synthetic market to market.events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sep_stream.cli._common import iso, progress, settings_options
from sep_stream.errors import SepError
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.market.events import EventBatch


class _FilesByDefault(click.Group):
    """`ingest FILE…` without the word `files`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["files", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_FilesByDefault,
    epilog="""\b
Examples:
  sep-stream ingest candles.csv --instrument EUR/USD
  sep-stream ingest synthetic --days 30 --seed 7""",
)
def ingest() -> None:
    """Publish market events: FILE… (see `ingest files --help`), or a synthetic market."""


@ingest.command(
    epilog="""\b
Example:
  sep-stream ingest january.csv february.csv --instrument GBP/USD"""
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--instrument", required=True, help="Whose prices the files hold, e.g. EUR/USD.")
@click.option("--format", "file_format", help="Of the files; left out: told by their content.")
@click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def files(
    settings: Settings,
    files: tuple[Path, ...],
    instrument: str,
    file_format: str | None,
    assume_utc: bool,
    as_json: bool,
) -> None:
    """Publish candles or quotes of FILES: CSV, JSON or Parquet.

    Publishing a file twice does no harm: its events carry their row as a sequence, and repeats are recognised.
    """
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.files import read_events

    instruments = Topology.load().instruments
    for path in files:
        batches = read_events(
            path, instruments, instrument, format=file_format, assume_utc=assume_utc, note=progress
        )
        _publish(settings, batches, str(path), as_json)


@ingest.command(
    epilog="""\b
Example:
  sep-stream ingest synthetic --days 30 --seed 7 --instrument EUR/USD --instrument USD/JPY"""
)
@click.option("--days", default=30, show_default=True, type=click.IntRange(min=1), help="Trading days.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--instrument",
    "instruments",
    multiple=True,
    default=("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD"),
    show_default=True,
)
@click.option("--kind", type=click.Choice(["candles", "quotes"]), default="candles", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def synthetic(
    settings: Settings, days: int, seed: int, instruments: tuple[str, ...], kind: str, as_json: bool
) -> None:
    """Publish a seeded synthetic market, which has no edge to find."""
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.synthetic import synthetic_candles, synthetic_quotes

    make = synthetic_candles if kind == "candles" else synthetic_quotes
    batches = make(Topology.load().instruments, instruments, days, seed)
    _publish(settings, batches, f"SYNTHETIC market, seed {seed}", as_json)


def _publish(settings: Settings, batches: Iterable[EventBatch], title: str, as_json: bool) -> None:
    from sep_stream.market.avro import load_schemas
    from sep_stream.runtime import topics
    from sep_stream.runtime.kafka_config import librdkafka
    from sep_stream.runtime.resources import resource
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.publisher import Publisher

    topology = Topology.load()
    topics.check(settings, topology)
    publisher = Publisher(
        librdkafka(settings), load_schemas(resource("schemas") / "avro"), topology.instruments,
        settings.topic("market.events"), settings.partitions,
    )  # fmt: skip
    begun_s = time.monotonic()
    first_us: int | None = None
    last_us = 0
    try:
        with publisher:
            for batch in batches:
                first_us = int(batch.event_time[0]) if first_us is None else first_us
                publisher.publish(batch)
                last_us = int(batch.event_time[-1])
    except SepError as error:
        publisher.settle()
        raise type(error)(f"{error}\n{title}: its first {publisher.acknowledged:,} events are published") from error
    seconds = time.monotonic() - begun_s
    summary = {
        "source": title,
        "events": publisher.acknowledged,
        "events_per_s": round(publisher.acknowledged / seconds),
        "first": None if first_us is None else iso(first_us / 1e6),
        "last": None if first_us is None else iso(last_us / 1e6),
    }
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(
            f"{title}: {summary['events']:,} events published, {summary['events_per_s']:,} a second, "
            f"{summary['first']} to {summary['last']}"
        )
