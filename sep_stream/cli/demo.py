"""`sep-stream demo`: the whole story from nothing."""

from __future__ import annotations

from pathlib import Path

import click

from sep_stream.cli._common import settings_options
from sep_stream.runtime.settings import Settings


@click.command(
    epilog="""\b
Examples:
  sep-stream demo
  sep-stream demo candles.csv --instrument GBP/USD
  sep-stream demo --with-stores
  sep-stream demo --secure --keep"""
)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--instrument", help="Whose prices the files hold, e.g. EUR/USD.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Of the synthetic market.")
@click.option("--days", default=30, show_default=True, type=click.IntRange(min=8), help="Synthetic trading days.")
@click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC.")
@click.option("--secure", is_flag=True, help="On a broker with TLS, a user for each role, and ACLs.")
@click.option("--with-stores", is_flag=True, help="With PostgreSQL, Redis, Kafka Connect and a schema registry too.")
@click.option("--keep", is_flag=True, help="Leave the stack running at the end.")
@settings_options
def demo(
    settings: Settings,
    files: tuple[Path, ...],
    instrument: str | None,
    seed: int,
    days: int,
    assume_utc: bool,
    secure: bool,
    with_stores: bool,
    keep: bool,
) -> None:
    """Start Kafka, publish history, train a model on its first part, run a worker on the rest and show its signals.

    FILES hold real candles or quotes of one instrument; without any, a seeded synthetic market is made up, which has no
    edge to find. Nothing else needs to be installed: the Java runtime and Kafka come with the `embedded` extra.
    """
    if files and not instrument:
        raise click.UsageError("--instrument names whose prices the files hold, e.g. --instrument EUR/USD")
    from sep_stream.demo import market, story
    from sep_stream.runtime.topology import Topology

    instruments = Topology.load().instruments
    if files:
        played = market.from_files(instruments, files, str(instrument), assume_utc)
        story.tell(settings, lambda: played, secure, keep, with_stores)
    else:
        story.tell(settings, lambda: market.synthetic(instruments, seed, days), secure, keep, with_stores)
