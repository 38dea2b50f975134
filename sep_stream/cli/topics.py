"""`sep-stream topics`: the declared topics on the broker."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from sep_stream.cli._common import settings_options
from sep_stream.runtime import acls
from sep_stream.runtime import topics as admin
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology


@click.group()
def topics() -> None:
    """The topics of topology/topics.toml on the broker, and who may use them. Nothing here ever deletes a topic."""


@topics.command()
@settings_options
def create(settings: Settings) -> None:
    """Make the topics that are missing, and bring the others up to date.

    A topic that has a setting as an earlier version declared it gets what is declared now. All else that differs from
    the declaration is left as it is: `sep-stream topics list` shows it.

    \b
    Example:
      sep-stream topics create --prefix research.
    """
    topology = Topology.load()
    made = admin.create(settings, topology)
    for name in made:
        click.echo(f"made {name}")
    for a in admin.bring_up_to_date(settings, topology):
        click.echo(f"altered {a.topic}: {a.setting} from {a.former}, as earlier versions had it, to {a.value}")
    click.echo(f"{len(made)} topics made, the others were there")


@topics.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def list_(settings: Settings, as_json: bool) -> None:
    """List the topics, with what differs from their declaration.

    \b
    Example:
      sep-stream topics list
    """
    rows = [_row(state) for state in admin.describe(settings, Topology.load())]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['topic']:24} {row['partitions']:>4}  {'; '.join(row['drift']) or 'as declared'}")


@topics.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def describe(settings: Settings, name: str, as_json: bool) -> None:
    """Describe a topic: what it holds, its key, schema, settings, and what differs on the broker.

    NAME is given without the prefix.

    \b
    Example:
      sep-stream topics describe market.events
    """
    topology = Topology.load()
    declaration = topology.topic(name)
    [row] = [_row(state) for state in admin.describe(settings, topology) if state.declaration is declaration]
    row |= {"value": declaration.value, "key": declaration.key, "config": dict(declaration.config)}
    if as_json:
        click.echo(json.dumps(row))
        return
    click.echo(f"{row['topic']}: {declaration.doc}")
    click.echo(f"  key         {declaration.key}\n  value       {declaration.value}")
    click.echo(f"  partitions  {row['partitions']}")
    for key, value in declaration.config.items():
        click.echo(f"  {key} = {value}")
    click.echo(f"  {'; '.join(row['drift']) or 'as declared'}")


def _row(state: admin.TopicState) -> dict[str, Any]:
    return {"topic": state.full_name, "partitions": state.partitions, "drift": list(state.drift)}


@topics.group()
def acl() -> None:
    """Who may do what: the roles of topology/roles.toml as ACLs of the broker. A role is the user of its name."""


@acl.command()
@click.option("--prune", is_flag=True, help="Delete what the declared roles have beyond their declaration; asks first.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@settings_options
def apply(settings: Settings, prune: bool, yes: bool) -> None:
    """Make the ACLs that are missing, and wait until they are in force.

    ACLs of other users are left alone. Those of a declared role under another --prefix count as undeclared too.

    \b
    Example:
      sep-stream topics acl apply --prune
    """
    before = acls.apply(settings, Topology.load())
    for made in before.missing:
        click.echo(f"made {made}")
    click.echo(f"{len(before.missing)} ACLs made, {len(before.in_force)} were there")
    for extra in before.extra:
        click.echo(f"not declared: {extra}")
    if not before.extra:
        return
    if not prune:
        click.echo(f"{len(before.extra)} are not declared; --prune deletes them")
    elif yes or click.confirm(f"Delete these {len(before.extra)} ACLs?"):
        acls.prune(settings, before.extra)
        click.echo(f"{len(before.extra)} ACLs deleted")
    else:
        click.echo("nothing is deleted")


@acl.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def show(settings: Settings, as_json: bool) -> None:
    """Show the ACLs of the declared roles: in force, missing, or there without being declared.

    \b
    Example:
      sep-stream topics acl show
    """
    state = acls.show(settings, Topology.load())
    if as_json:
        click.echo(json.dumps(asdict(state)))
        return
    for name, found in (("in force", state.in_force), ("missing", state.missing), ("not declared", state.extra)):
        for acl in found:
            click.echo(f"{name:12}  {acl}")
    drift = f"{len(state.missing)} missing, {len(state.extra)} not declared"
    click.echo(drift if state.missing or state.extra else f"{len(state.in_force)} ACLs as declared")
