"""Files of candles or quotes as input: the flags that commands share, and the way into the database."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import parse_time, progress
from sep_stream.market.timeframes import US_PER_S
from sep_stream.runtime.settings import Settings
from sep_stream.sources.formats import FORMATS

if TYPE_CHECKING:
    from sep_stream.history.offline import Conversion
    from sep_stream.market.events import EventBatch

_INPUT = (
    click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    click.option("--instrument", required=True, help="Whose prices the files hold, e.g. EUR/USD."),
    click.option("--format", type=click.Choice(FORMATS), help="Left out: told from the content."),
    click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC."),
)
_SPAN = (
    click.option("--from", "start", metavar="TIME", help="Only events from this time on."),
    click.option("--until", metavar="TIME", help="Only events before this time."),
)


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILES and what they hold."""
    return _with(_INPUT, command)


def span_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--from and --until."""
    return _with(_SPAN, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Input:
    """Files of an instrument as a command was given them. start_s, stop_s: epoch seconds, None is no bound"""

    files: tuple[Path, ...]
    instrument: str
    format: str | None
    assume_utc: bool
    start_s: int | None = None
    stop_s: int | None = None

    @classmethod
    def of(
        cls,
        files: tuple[Path, ...],
        instrument: str,
        format: str | None,
        assume_utc: bool,
        start: str | None,
        until: str | None,
    ) -> Input:
        """From the flags; a usage error for a span that holds nothing."""
        start_s, stop_s = (parse_time(text) if text else None for text in (start, until))
        if start_s is not None and stop_s is not None and start_s >= stop_s:
            raise click.UsageError(f"--from {start} does not lie before --until {until}")
        return cls(files, instrument, format, assume_utc, start_s, stop_s)

    @property
    def title(self) -> str:
        from sep_stream.runtime.topology import Topology

        instruments = Topology.load().instruments
        symbol = instruments[instruments.position(self.instrument)].symbol
        return f"{', '.join(map(str, self.files))} as {symbol}"

    def batches(self) -> Iterable[tuple[Path, EventBatch]]:
        """The events, each batch with its file."""
        from sep_stream.runtime.topology import Topology
        from sep_stream.sources.files import read_files

        batches = read_files(
            self.files, Topology.load().instruments, self.instrument,
            format=self.format, assume_utc=self.assume_utc, note=progress,
        )  # fmt: skip
        return _between(batches, self.start_s, self.stop_s)

    def conversion(self, settings: Settings) -> Conversion:
        """The events through the converter."""
        from sep_stream.convert import MarketDataConverter
        from sep_stream.history.offline import Conversion
        from sep_stream.runtime.topology import Topology

        instruments = Topology.load().instruments
        converter = MarketDataConverter(instruments, settings.convert_parameters())
        return Conversion(converter, instruments.position(self.instrument), self.batches(), progress)

    def identity(self, settings: Settings) -> str:
        """Of the bars that it gives."""
        from sep_stream.convert.converter import STATE_VERSION
        from sep_stream.runtime.topology import Topology
        from sep_stream.stores.market_data import load_identity

        instruments = Topology.load().instruments
        options = {name: value for name, value in asdict(self).items() if name not in ("files", "instrument")}
        return load_identity(
            self.files,
            options
            | {
                "instrument": instruments.identity(instruments.position(self.instrument)),
                "converter": [STATE_VERSION, settings.convert_parameters().canonical()],
            },
        )


def _between(
    batches: Iterable[tuple[Path, EventBatch]], start_s: int | None, stop_s: int | None
) -> Iterator[tuple[Path, EventBatch]]:
    start_us, stop_us = (None if bound_s is None else bound_s * US_PER_S for bound_s in (start_s, stop_s))
    for path, batch in batches:
        wanted = batch.between(start_us, stop_us)
        if len(wanted):
            yield path, wanted


def load_into_database(settings: Settings, given: Input, again: bool, as_json: bool) -> None:
    """Store the bars of files, and tell what came of it."""
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.database import INGEST, connect
    from sep_stream.stores.market_data import load_bars

    load_id = given.identity(settings) + (f":{uuid.uuid4().hex}" if again else "")
    conversion, begun_s = given.conversion(settings), time.monotonic()
    loaded = load_bars(
        partial(connect, settings, INGEST), load_id, given.title, Topology.load().instruments, conversion.closed_bars()
    )
    rate = round(loaded.stored / (time.monotonic() - begun_s))
    if not loaded.repeated:
        conversion.report()
    if as_json:
        summary = {"source": given.title, **asdict(loaded), "bars_per_s": rate, "unused": conversion.unused}
        click.echo(json.dumps(summary))
    elif loaded.repeated:
        click.echo(f"{given.title}: loaded before, {loaded.bars:,} bars; nothing is changed (--again loads them anew)")
    else:
        before = loaded.bars - loaded.stored
        click.echo(
            f"{given.title}: {loaded.stored:,} bars stored, {rate:,} a second, {loaded.changed:,} of them new or other "
            "than in the database" + (f"; {before:,} were stored by an earlier run" if before else "")
        )
