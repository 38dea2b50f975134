"""`sep-stream up`, `down` and `status`: the embedded stack."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.cli._refused import count_lines, count_rows
from sep_stream.errors import InputError
from sep_stream.runtime.embedded import OPTIONAL_PARTS, EmbeddedStack
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.security_folder import ADMIN, SecurityFolder
from sep_stream.runtime.settings import NO_SECURITY, Settings
from sep_stream.runtime.topology import Topology

if TYPE_CHECKING:
    from sep_stream.history.refused import Counts, Tally

COUNTED_RECORDS_MAX: Final = 200_000
"""Of a topic of refused records; a second's reading."""


def _parts(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Names of parts; a usage error for an unknown one."""
    names = tuple(filter(None, map(str.strip, value.split(","))))
    unknown = [name for name in names if name not in OPTIONAL_PARTS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(OPTIONAL_PARTS)}")
    return names


@click.command(
    epilog="""\b
Examples:
  sep-stream up
  sep-stream up --port 9092
  sep-stream up --secure --with registry,connect,postgres,redis"""
)
@click.option(
    "--with", "parts", metavar="PART,…", callback=_parts, default="",
    help=f"Beside Kafka: some of {', '.join(OPTIONAL_PARTS)}.",
)  # fmt: skip
@click.option(
    "--secure", is_flag=True, help="With TLS, a user for each role, and ACLs. A data folder stays as it began."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help="Kafka's port from now on.  [default: that of the last start; at first a free one]",
)
@settings_options
def up(settings: Settings, parts: tuple[str, ...], secure: bool, port: int | None) -> None:
    """Start the embedded Kafka broker, make the topics, and start other servers beside it; what is there stays.

    Servers come back at the port of their last start. Where another process has it, `up` fails and names it.

    With --secure the certificates and passwords lie in `security` in --data-dir, for its owner alone. Commands that
    use this broker log in by themselves, each as the role that its work needs; others take ROLE.toml as --config.

    As Kafka's own scripts do, it takes the JVM's flags from KAFKA_HEAP_OPTS and KAFKA_JVM_PERFORMANCE_OPTS. Its own
    are for a quick start and little memory; for steady latency: "-Xms512m -Xmx512m" and "-XX:+UseZGC".
    """
    from sep_stream.runtime.topics import create
    from sep_stream.runtime.users import admit_roles
    from sep_stream.stores.preparing import prepare

    stack, topology = EmbeddedStack(settings.data_dir, port), Topology.load()
    starting = stack.start(("kafka", *parts), progress, secure)
    kafka, address = next(starting)
    security = SecurityFolder(settings.data_dir)
    settings = settings.model_copy(update={"brokers": address, **NO_SECURITY})
    made = create(settings.model_copy(update=security.credentials(ADMIN)), topology)
    click.echo(f"{kafka.title} runs at {address}, data in {settings.data_dir}; {len(made)} topics made")
    if secure:
        before = admit_roles(settings, security, topology)
        click.echo(f"it takes TLS and users alone; {len(before.missing)} ACLs made, {len(before.extra)} not declared")
        click.echo(f"commands with this --data-dir log in by themselves; others: --config {security.path}/ROLE.toml")
        click.echo(f"  ROLE: {', '.join(role.name for role in topology.roles)}")
    for part, address in starting:
        click.echo(f"{part.title} runs at {address}")
        for line in prepare(part.name, settings):
            click.echo(f"  {line}")


@click.command()
@click.option("--wipe", is_flag=True, help="Delete its data, certificates and passwords as well; asks first.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@settings_options
def down(settings: Settings, wipe: bool, yes: bool) -> None:
    """Stop the embedded stack. Its data stays unless --wipe is given.

    \b
    Example:
      sep-stream down
    """
    stack = EmbeddedStack(settings.data_dir)
    if wipe and not yes and not click.confirm(f"Delete all data of the embedded stack in {settings.data_dir}?"):
        click.echo("nothing is stopped or deleted")
        return
    stopped = [part.title for part in stack.stop()]
    click.echo(f"{', '.join(stopped)} stopped" if stopped else "nothing was running")
    if wipe:
        stack.wipe()
        click.echo("its data is deleted")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def status(settings: Settings, as_json: bool) -> None:
    """Show what runs, how many records each topic holds, and what was refused, by reason and instrument.

    Of each of dead.letters and late the newest 200,000 records are counted; `sep-stream dlq list` counts all.

    \b
    Example:
      sep-stream status --json
    """
    parts = EmbeddedStack(settings.data_dir).statuses()
    broker = parts[0]
    records: dict[str, int] = {}
    refused: Counts = Counter()
    uncounted = unreadable = 0
    if settings.brokers or broker.running:
        records = _records(settings)
        for tally in _refused(settings, records):
            refused += tally.counts
            uncounted += tally.uncounted
            unreadable += tally.unreadable
    if as_json:
        told = {"counts": count_rows(refused), "uncounted": uncounted, "unreadable": unreadable}
        servers = {part.name: asdict(part) for part in parts}
        click.echo(json.dumps({**servers, "records": records, "refused": told}))
        return
    for part in parts:
        if part.running:
            health = "runs" if part.healthy else "does not answer"
            click.echo(f"{part.name} {part.version} {health} at {part.address}, pid {part.pid}, log {part.log}")
        if part.fault is not None:
            click.echo(f"{part.name}: {part.fault}")
    if not broker.running:
        click.echo(f"no embedded Kafka runs in {settings.data_dir}; `sep-stream up` starts one")
    for name, count in records.items():
        click.echo(f"  {name:24} {count:>12}")
    if refused:
        click.echo("refused, by reason and instrument (`sep-stream dlq list` shows them):")
    for line in count_lines(refused):
        click.echo(line)
    if uncounted:
        click.echo(f"  {uncounted:>12,}  older ones are not counted here")
    if unreadable:
        click.echo(f"  {unreadable:>12,}  records there are no letters; `sep-stream tail` shows them")


def _refused(settings: Settings, records: Mapping[str, int]) -> Iterator[Tally]:
    """What the topics of refused records hold, of those that are there and not empty."""
    from sep_stream.history.refused import REFUSED_TOPICS, RefusedLog

    held = [topic for topic in REFUSED_TOPICS if records.get(settings.topic(topic))]
    if held:
        log = RefusedLog(settings)
        yield from (log.tally(topic, COUNTED_RECORDS_MAX) for topic in held)


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
