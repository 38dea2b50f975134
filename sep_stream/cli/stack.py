"""`sep-stream up`, `down` and `status`: the embedded stack."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.errors import InputError
from sep_stream.runtime.embedded import EmbeddedKafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.security_folder import ADMIN
from sep_stream.runtime.settings import NO_SECURITY, Settings
from sep_stream.runtime.topology import Topology


@click.command(
    epilog="""\b
Examples:
  sep-stream up
  sep-stream up --secure"""
)
@click.option(
    "--secure", is_flag=True, help="With TLS, a user for each role, and ACLs. A data folder stays as it began."
)
@settings_options
def up(settings: Settings, secure: bool) -> None:
    """Start the embedded Kafka broker and make the topics. Does nothing where both are there.

    With --secure the certificates and passwords lie in `security` in --data-dir, for its owner alone. Commands that
    use this broker log in by themselves, each as the role that its work needs; others take ROLE.toml as --config.
    """
    from sep_stream.runtime.topics import create
    from sep_stream.runtime.users import admit_roles

    kafka, topology = EmbeddedKafka(settings.data_dir), Topology.load()
    address = kafka.start(progress, secure)
    settings = settings.model_copy(update={"brokers": address, **NO_SECURITY})
    made = create(settings.model_copy(update=kafka.security.credentials(ADMIN)), topology)
    click.echo(f"Kafka runs at {address}, data in {settings.data_dir}; {len(made)} topics made")
    if secure:
        before = admit_roles(settings, kafka.security, topology)
        click.echo(f"it takes TLS and users alone; {len(before.missing)} ACLs made, {len(before.extra)} not declared")
        click.echo(
            f"commands with this --data-dir log in by themselves; others: --config {kafka.security.path}/ROLE.toml"
        )
        click.echo(f"  ROLE: {', '.join(role.name for role in topology.roles)}")


@click.command()
@click.option("--wipe", is_flag=True, help="Delete the broker's data, certificates and passwords as well; asks first.")
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
