"""`sep-stream ingest`: publishes files or a synthetic market to market.events."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sep_stream.cli._common import iso, parse_time, progress, settings_options
from sep_stream.errors import SepError
from sep_stream.market.timeframes import US_PER_S
from sep_stream.runtime.settings import Settings
from sep_stream.sources.formats import FORMATS

if TYPE_CHECKING:
    from sep_stream.market.events import EventBatch
    from sep_stream.sources.publisher import Publisher


class _FilesByDefault(click.Group):
    """`ingest FILE…` without the word `files`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["files", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_FilesByDefault,
    subcommand_metavar="FILE… | synthetic",
    epilog="""\b
Examples:
  sep-stream ingest candles.csv --instrument EUR/USD
  sep-stream ingest synthetic --days 30 --seed 7""",
)
def ingest() -> None:
    """Publish market events: FILE… (see `ingest files --help`), or a synthetic market."""


@ingest.command(
    epilog="""\b
Examples:
  sep-stream ingest january.csv february.csv --instrument GBP/USD
  sep-stream ingest january.csv --instrument GBP/USD --until 2024-01-20T00:00:00Z"""
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--instrument", required=True, help="Whose prices the files hold, e.g. EUR/USD.")
@click.option("--format", type=click.Choice(FORMATS), help="Left out: told from the content.")
@click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC.")
@click.option("--from", "start", metavar="TIME", help="Only events from this time on.")
@click.option("--until", metavar="TIME", help="Only events before this time.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def files(
    settings: Settings,
    files: tuple[Path, ...],
    instrument: str,
    format: str | None,
    assume_utc: bool,
    start: str | None,
    until: str | None,
    as_json: bool,
) -> None:
    """Publish candles or quotes of FILES: CSV, JSON or Parquet.

    FILES follow each other in time; of several that cover the same time, such as bid and ask candles, choose one: they
    are not merged. Publishing a file twice does no harm: its events carry their row as sequence, and repeats are
    recognised.
    """
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.files import read_files

    instruments = Topology.load().instruments
    batches = read_files(files, instruments, instrument, format=format, assume_utc=assume_utc, note=progress)
    symbol = instruments[instruments.position(instrument)].symbol
    start_s, stop_s = (parse_time(text) if text else None for text in (start, until))
    if start_s is not None and stop_s is not None and start_s >= stop_s:
        raise click.UsageError(f"--from {start} does not lie before --until {until}")
    _publish(settings, _between(batches, start_s, stop_s), f"{', '.join(map(str, files))} as {symbol}", as_json)


def _between(
    batches: Iterable[tuple[Path, EventBatch]], start_s: int | None, stop_s: int | None
) -> Iterator[tuple[Path, EventBatch]]:
    """The events with start <= event time < stop, epoch seconds; None is no bound."""
    start_us, stop_us = (None if bound_s is None else bound_s * US_PER_S for bound_s in (start_s, stop_s))
    for path, batch in batches:
        wanted = batch.between(start_us, stop_us)
        if len(wanted):
            yield path, wanted


@ingest.command(
    epilog="""\b
Example:
  sep-stream ingest synthetic --days 30 --seed 7 --instruments EUR/USD --instruments USD/JPY"""
)
@click.option("--days", default=30, show_default=True, type=click.IntRange(min=1), help="Trading days.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--instruments",
    multiple=True,
    default=("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD"),
    show_default=True,
    help="May be repeated, or separated by commas.",
)
@click.option("--kind", type=click.Choice(["candles", "quotes"]), default="candles", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def synthetic(settings: Settings, days: int, seed: int, instruments: tuple[str, ...], kind: str, as_json: bool) -> None:
    """Publish a seeded synthetic market, which has no edge to find. The same flags give the same events."""
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.synthetic import synthetic_candles, synthetic_quotes

    make = synthetic_candles if kind == "candles" else synthetic_quotes
    symbols = [name for names in instruments for name in names.split(",")]
    batches = make(Topology.load().instruments, symbols, days, seed)
    _publish(settings, ((None, batch) for batch in batches), f"SYNTHETIC market, seed {seed}", as_json)


class _Places:
    """Where in the files the events came from, as far back as the broker has not taken them."""

    def __init__(self) -> None:
        self.events = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self._batches: deque[tuple[int, Path | None, EventBatch]] = deque()

    def add(self, path: Path | None, batch: EventBatch, acknowledged: int) -> None:
        self.first_us = int(batch.event_time[0]) if self.first_us is None else self.first_us
        self.last_us = int(batch.event_time[-1])
        self._batches.append((self.events, path, batch))
        self.events += len(batch)
        while len(self._batches) > 1 and self._batches[1][0] < acknowledged:
            self._batches.popleft()

    def told(self, acknowledged: int) -> str:
        """Up to where all is published."""
        if not acknowledged:
            return "nothing is published"
        first, path, batch = next(entry for entry in reversed(self._batches) if entry[0] < acknowledged)
        if path is None:
            return f"{acknowledged:,} events are published"
        from sep_stream.sources.files import place_in

        row = acknowledged - first - 1
        time = iso(int(batch.event_time[row]) / US_PER_S)
        return (
            f"{path} is published up to {place_in(path)} {batch.offset[row]} ({time}): {acknowledged:,} events in all"
        )


def _publish(settings: Settings, batches: Iterable[tuple[Path | None, EventBatch]], title: str, as_json: bool) -> None:
    publisher = _publisher(settings)
    places = _Places()
    begun_s = time.monotonic()
    try:
        with publisher:
            for path, batch in batches:
                places.add(path, batch, publisher.acknowledged)
                publisher.publish(batch)
    except SepError as error:
        raise SepError(f"{error}\n{places.told(publisher.acknowledged)}") from error
    except KeyboardInterrupt:
        progress(places.told(publisher.acknowledged))
        raise
    seconds = time.monotonic() - begun_s
    summary = {
        "source": title,
        "events": publisher.acknowledged,
        "events_per_s": round(publisher.acknowledged / seconds),
        "first": None if places.first_us is None else iso(places.first_us / US_PER_S),
        "last": None if places.last_us is None else iso(places.last_us / US_PER_S),
    }
    if as_json:
        click.echo(json.dumps(summary))
    elif not places.events:
        click.echo(f"{title}: no events to publish")
    else:
        click.echo(
            f"{title}: {summary['events']:,} events published, {summary['events_per_s']:,} a second, "
            f"{summary['first']} to {summary['last']}"
        )


def _publisher(settings: Settings) -> Publisher:
    """A publisher to market.events; refuses a broker without the declared topics."""
    from sep_stream.runtime import topics
    from sep_stream.runtime.kafka_config import librdkafka
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.publisher import Publisher
    from sep_stream.stores.schemas import schemas_in_force

    topology = Topology.load()
    topics.check(settings, topology, ["ingest"])
    schemas = schemas_in_force(settings, register=True)
    name = settings.topic("market.events")
    return Publisher(librdkafka(settings), schemas, topology.instruments, name, settings.partitions)
