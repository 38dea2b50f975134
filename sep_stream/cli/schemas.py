"""`sep-stream schemas`: the declared schemas in a schema registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sep_stream.cli._common import settings_options

if TYPE_CHECKING:
    from sep_stream.runtime.settings import Settings
    from sep_stream.stores.registration import Subject
    from sep_stream.stores.schema_registry import SchemaRegistry


@click.group()
def schemas() -> None:
    """The schemas of schemas/avro in a schema registry: the embedded one, or that of SEP_SCHEMA_REGISTRY."""


@schemas.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def register(settings: Settings, as_json: bool) -> None:
    """Register what is missing, for every topic, and ask for FULL_TRANSITIVE compatibility from now on.

    A schema comes under its pinned id where the registry lets us, else under one that the registry gives. Nothing is
    registered if one of them is not compatible with what is there.

    \b
    Example:
      sep-stream schemas register
    """
    from sep_stream.stores.registration import register_all
    from sep_stream.stores.schemas import declared_schemas

    with _registry(settings) as registry:
        subjects = register_all(registry, settings, declared_schemas())
    _show(subjects, as_json, lambda subject: "registered" if subject.is_new else "was there")


@schemas.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def list_(settings: Settings, as_json: bool) -> None:
    """List the subjects: schema, id, version, and the compatibility that the registry asks for; below, every version
    that the registry holds, and whether this program reads its records.

    \b
    Example:
      sep-stream schemas list --json
    """
    _show(_seen(settings), as_json, lambda subject: subject.compatibility)


@schemas.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def check(settings: Settings, as_json: bool) -> None:
    """Say what would be refused and which versions can't be read, with the field in the way; register nothing. Exits 1
    if there is any.

    \b
    Example:
      sep-stream schemas check
    """
    subjects = _seen(settings)
    _show(subjects, as_json, lambda subject: "; ".join(subject.faults) or "compatible")
    if any(subject.faults or subject.unreadable for subject in subjects):
        raise click.exceptions.Exit(1)


@contextmanager
def _registry(settings: Settings) -> Iterator[SchemaRegistry]:
    """The registry, for a command that can't do without."""
    from sep_stream.stores.registration import needed_registry
    from sep_stream.stores.schema_registry import SchemaRegistry

    with SchemaRegistry(needed_registry(settings)) as registry:
        yield registry


def _seen(settings: Settings) -> list[Subject]:
    from sep_stream.stores.registration import look
    from sep_stream.stores.schemas import declared_schemas

    with _registry(settings) as registry:
        return list(look(registry, settings, declared_schemas()))


def _show(subjects: Iterable[Subject], as_json: bool, told: Callable[[Subject], str]) -> None:
    if as_json:
        click.echo(json.dumps([asdict(subject) for subject in subjects]))
        return
    for subject in subjects:
        version = "-" if subject.version is None else subject.version
        schema_id = "-" if subject.schema_id is None else subject.schema_id
        pinned = "" if subject.schema_id in (None, subject.pinned_id) else f" (pinned: {subject.pinned_id})"
        click.echo(
            f"{subject.name:32} {subject.schema:15} version {version:<3} id {schema_id:<10}{pinned}  {told(subject)}"
        )
        for held in subject.versions:
            readable = f"can't be read: {'; '.join(held.unreadable)}" if held.unreadable else "can be read"
            ours = ", this program's" if held.version == subject.version else ""
            click.echo(f"{'':32} {'':15} version {held.version:<3} id {held.schema_id:<10}  {readable}{ours}")
