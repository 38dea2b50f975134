"""`sep-stream connect`: the sinks of Kafka Connect, from topics into the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import progress, settings_options
from sep_stream.errors import DependencyError, InputError
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.stores.connect import Connect, ConnectorState


@click.group()
def connect() -> None:
    """The sinks of Kafka Connect: what the topics hold into PostgreSQL. The embedded one, or that of SEP_CONNECT_URL.

    Delivery is at least once, into upserts: each row is there once, whatever is repeated.
    """


@connect.command()
@click.option("--restart", is_flag=True, help="Start what has failed anew.")
@settings_options
def apply(settings: Settings, restart: bool) -> None:
    """Set up the sinks of connectors/ and wait until they run; what is as declared stays. Exits 1 if one has failed.

    A Connect of your own needs SEP_CONNECT_PASSWORD: how it looks up the database user's password.

    \b
    Example:
      sep-stream connect apply --restart
    """
    states = apply_sinks(settings, restart)
    _show(states)
    _fail_if_any(states)


def apply_sinks(settings: Settings, restart: bool = False) -> list[ConnectorState]:
    """The states of the sinks once they run or have failed."""
    from sep_stream.stores.connect import Connect, connect_url, settle
    from sep_stream.stores.sinks import check_plugins, declared_sinks

    with Connect(connect_url(settings)) as client:
        sinks = declared_sinks(settings)
        check_plugins(client.plugins(), client.url, sinks)
        for sink in sinks:
            if client.put(sink.name, sink.config):
                progress(f"{sink.name}: {sink.topic} into {sink.table}")
            elif restart:
                client.restart(sink.name)
        return settle(client, [sink.name for sink in sinks])


@connect.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def status(settings: Settings, as_json: bool) -> None:
    """Show each sink with its tasks, how many records it has yet to read, and why it failed. Exits 1 if one does not
    run.

    Records are counted by offsets: the marks of transactions count too.

    \b
    Example:
      sep-stream connect status --json
    """
    from sep_stream.stores.connect import Connect, connect_url
    from sep_stream.stores.sinks import lags

    with Connect(connect_url(settings)) as client:
        states = {name: client.state(name) for name in _chosen(settings, client, (), False)}
    behind = lags(settings)
    if as_json:
        rows = {name: {**(asdict(state) if state else {"state": None}), "lag": behind.get(name)}
                for name, state in states.items()}  # fmt: skip
        click.echo(json.dumps({"url": client.url, "connectors": rows}))
    else:
        for name, state in states.items():
            lag = behind.get(name)
            click.echo(f"{state or f'{name} is not set up; `sep-stream connect apply` does'}"
                       + ("" if lag is None else f", {lag} to read"))  # fmt: skip
    if not all(state is not None and state.is_running for state in states.values()):
        raise click.exceptions.Exit(1)


def _changing(verb: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command over connectors that are named, or all of the deployment's."""

    def decorate(command: Callable[..., None]) -> click.Command:
        wrapped = settings_options(command)
        wrapped = click.option("--all", "all_", is_flag=True, help="All sinks of this deployment.")(wrapped)
        wrapped = click.argument("names", metavar="NAME…", nargs=-1)(wrapped)
        return connect.command(verb)(wrapped)

    return decorate


@_changing("pause")
def pause(settings: Settings, names: Sequence[str], all_: bool) -> None:
    """Let sinks rest; what is written meanwhile waits in the topics.

    \b
    Example:
      sep-stream connect pause --all
    """
    _each(settings, names, all_, lambda client, name: client.pause(name), "paused")


@_changing("resume")
def resume(settings: Settings, names: Sequence[str], all_: bool) -> None:
    """Let paused sinks go on where they were.

    \b
    Example:
      sep-stream connect resume sep.market_data
    """
    _each(settings, names, all_, lambda client, name: client.resume(name), "resumed")


@_changing("rewind")
def rewind(settings: Settings, names: Sequence[str], all_: bool) -> None:
    """Let sinks read their topics again from the beginning: rows that are there are written again, as they are.

    For a database that was restored from an older copy, or records that went to connect.dead.letters because the
    registry did not answer.

    \b
    Example:
      sep-stream connect rewind sep.signals
    """
    _each(settings, names, all_, lambda client, name: client.rewind(name), "reads from the beginning")


@_changing("delete")
def delete(settings: Settings, names: Sequence[str], all_: bool) -> None:
    """Take sinks away. Rows stay, and so does how far each has read: applied again, it goes on there.

    \b
    Example:
      sep-stream connect delete --all
    """
    _each(settings, names, all_, lambda client, name: client.delete(name), "deleted")


@connect.command()
@click.option("--all", "all_", is_flag=True, help="All connectors of this Connect, not only this deployment's.")
@settings_options
def watch(settings: Settings, all_: bool) -> None:
    """Start failed sinks anew, each after a longer pause while it goes on failing, until interrupted.

    Connect itself never does. The embedded one has such a watch beside it. While the registry does not answer, nothing
    is started.

    \b
    Example:
      sep-stream connect watch
    """
    from sep_stream.stores.connect import Connect, connect_url
    from sep_stream.stores.connect_watch import ConnectWatch
    from sep_stream.stores.sinks import registry_answers, sink_names

    with Connect(connect_url(settings)) as client:
        names = client.names if all_ else lambda: sink_names(settings)
        ConnectWatch(client, names, lambda: registry_answers(settings)).run()


def _each(settings: Settings, names: Sequence[str], all_: bool, act: Callable[[Connect, str], Any], done: str) -> None:
    from sep_stream.stores.connect import Connect, connect_url

    if bool(names) == all_:
        raise click.UsageError("expected names of connectors, or --all")
    with Connect(connect_url(settings)) as client:
        for name in _chosen(settings, client, names, all_):
            act(client, name)
            click.echo(f"{name} {done}")


def _chosen(settings: Settings, client: Connect, names: Sequence[str], all_: bool) -> list[str]:
    """The named connectors; all that are there of this deployment; or, with neither, all that should be."""
    from sep_stream.stores.sinks import sink_names

    declared = sink_names(settings)
    if not names and not all_:
        return declared
    there = client.names()
    unknown = [name for name in names if name not in there]
    if unknown:
        raise InputError(f"{unknown[0]}: no such connector at {client.url}; there are {', '.join(there) or 'none'}")
    return list(names) or [name for name in declared if name in there]


def _show(states: Sequence[ConnectorState]) -> None:
    for state in states:
        click.echo(str(state))


def _fail_if_any(states: Sequence[ConnectorState]) -> None:
    failed = [state.name for state in states if state.failure is not None]
    if failed:
        raise DependencyError(
            f"{', '.join(failed)}: failed, for the reason above; when it is mended, "
            "`sep-stream connect apply --restart`"
        )
