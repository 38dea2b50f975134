"""`sep-stream up`, `down` and `status`: the embedded stack."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.errors import InputError
from sep_stream.runtime.embedded import EmbeddedKafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology


@click.command()
@settings_options
def up(settings: Settings) -> None:
    """Start the embedded Kafka broker and make the topics. Does nothing where both are there.

    \b
    Example:
      sep-stream up
    """
    from sep_stream.runtime.topics import create

    address = EmbeddedKafka(settings.data_dir).start(progress)
    made = create(settings.model_copy(update={"brokers": address}), Topology.load())
    click.echo(f"Kafka runs at {address}, data in {settings.data_dir}; {len(made)} topics made")


@click.command()
@click.option("--wipe", is_flag=True, help="Delete the broker's data as well; asks first.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@settings_options
def down(settings: Settings, wipe: bool, yes: bool) -> None:
    """Stop the embedded stack. Its data stays unless --wipe is given.

    \b
    Example:
      sep-stream down
    """
    kafka = EmbeddedKafka(settings.data_dir)
    if wipe and not yes and not click.confirm(f"Delete all data of the broker in {settings.data_dir}?"):
        click.echo("nothing is stopped or deleted")
        return
    click.echo("Kafka stopped" if kafka.stop() else "nothing was running")
    if wipe:
        kafka.wipe()
        click.echo("its data is deleted")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def status(settings: Settings, as_json: bool) -> None:
    """Show what runs and how many records each topic holds.

    \b
    Example:
      sep-stream status --json
    """
    broker = EmbeddedKafka(settings.data_dir).status()
    records: dict[str, int] = {}
    if settings.brokers or broker.running:
        records = _records(settings)
    if as_json:
        click.echo(json.dumps({"kafka": asdict(broker), "records": records}))
        return
    if broker.running:
        click.echo(f"Kafka {broker.version} runs at {broker.address}, pid {broker.pid}, log {broker.log}")
    else:
        click.echo(f"no embedded Kafka runs in {settings.data_dir}; `sep-stream up` starts one")
    for name, count in records.items():
        click.echo(f"  {name:24} {count:>12}")


def _records(settings: Settings) -> dict[str, int]:
    """Records by topic, from first to next offset; topics that are missing are left out. DependencyError if the broker
    does not answer."""
    reader = LogReader(settings)
    counts = {}
    for declaration in Topology.load().topics:
        name = settings.topic(declaration.name)
        try:
            bounds = [reader.watermarks(name, partition) for partition in reader.partitions(name)]
        except InputError:
            continue
        counts[name] = sum(high - low for low, high in bounds)
    return counts
