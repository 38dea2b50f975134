"""`sep-stream cache`: the latest prices and signals in Redis, made anew and checked."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.runtime.settings import Settings

SHOWN_DIFFERENCES_MAX: Final = 20


@click.group()
def cache() -> None:
    """Make the cache in Redis anew from the log, and compare the two.

    Redis is that of SEP_REDIS_URL, else the one that `sep-stream up --with redis` started. `sep-stream worker --stages
    cache` keeps it up to date.
    """


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def rebuild(settings: Settings, as_json: bool) -> None:
    """Make the cache anew from prices.latest and signals.latest, and put it in place all at once.

    Workers may go on meanwhile: nothing that they write is lost. Readers see the old values until then.

    \b
    Example:
      sep-stream cache rebuild
    """
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.cache.log import LatestLog
    from sep_stream.stores.cache.rebuild import rebuild as make_anew
    from sep_stream.stores.cache.writer import CacheWriter

    log = LatestLog(settings, Topology.load())
    writer = CacheWriter(settings, log.identity())
    made = make_anew(log, writer)
    if as_json:
        click.echo(json.dumps(asdict(made)))
        return
    click.echo(f"{made.names} values of {made.records:,} records in Redis at {writer.address}, in {made.seconds:.1f} s")
    _tell_unusable(made.unusable)


@cache.command()
@click.option(
    "--wait", "wait_s", default=5.0, show_default=True, metavar="SECONDS", type=click.FloatRange(0, 600),
    help="How long the worker may be behind the log before that is a difference.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def verify(settings: Settings, wait_s: float, as_json: bool) -> None:
    """Compare the cache with what prices.latest and signals.latest say. Exits 1 on a difference.

    \b
    Example:
      sep-stream cache verify --json
    """
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.cache.log import LatestLog
    from sep_stream.stores.cache.verify import verify as compare

    found = compare(settings, LatestLog(settings, Topology.load()), wait_s)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        for difference in found.differences[:SHOWN_DIFFERENCES_MAX]:
            click.echo(f"{difference.name}: {difference.problem}")
        if len(found.differences) > SHOWN_DIFFERENCES_MAX:
            click.echo(f"… and {len(found.differences) - SHOWN_DIFFERENCES_MAX} more")
        click.echo(f"{found.names} values of {found.records:,} records, {len(found.differences)} differences")
        _tell_unusable(found.unusable)
    if found.differences:
        progress("run `sep-stream worker --stages cache`, or `sep-stream cache rebuild` to make it anew")
        raise click.exceptions.Exit(1)


def _tell_unusable(records: int) -> None:
    if records:
        progress(f"{records:,} records are no values; the worker's stage puts them into dead.letters")
