"""`sep-stream doctor`: one line for each thing that can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from sep_stream.cli._common import settings_options
from sep_stream.errors import ConfigurationError, SepError
from sep_stream.runtime.embedded import EmbeddedConnect, EmbeddedPostgres
from sep_stream.runtime.registry_address import resolve_registry
from sep_stream.runtime.security_folder import SecurityFolder
from sep_stream.runtime.settings import Settings

FREE_BYTES_MIN: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """remedy: what to do, where it is not all right"""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one finding a line.")
@click.option("--topology", is_flag=True, help="Show the machine instead, and what `worker --bind auto` makes of it.")
@click.option("--processes", type=click.IntRange(min=1), help="Of the worker, for --topology.  [default: 1]")
@settings_options
def doctor(settings: Settings, as_json: bool, topology: bool, processes: int | None) -> None:
    """Check everything that can be wrong: a line each, with the remedy. Exits 1 if something is.

    \b
    Examples:
      sep-stream doctor
      sep-stream doctor --topology --processes 4
    """
    if topology:
        _show_machine(processes or 1, as_json)
        return
    if processes is not None:
        raise click.BadParameter("is for --topology", param_hint="--processes")
    failed = 0
    for finding in _findings(settings):
        failed += not finding.ok
        if as_json:
            click.echo(json.dumps(asdict(finding)))
        else:
            remedy = f"  → {finding.remedy}" if finding.remedy else ""
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:14} {finding.detail}{remedy}")
    if failed:
        raise click.exceptions.Exit(1)


def _show_machine(processes: int, as_json: bool) -> None:
    from sep_stream.cli._machine import machine_json, machine_lines
    from sep_stream.runtime.binding.hwloc import read_machine
    from sep_stream.runtime.binding.plan import plan

    machine = read_machine()
    shares = plan(machine, processes, near_gpu=True)
    if as_json:
        click.echo(json.dumps(machine_json(machine, shares)))
    else:
        click.echo("\n".join(machine_lines(machine, shares)))


def _findings(settings: Settings) -> Iterator[Finding]:
    yield Finding("python", sys.version_info[:2] == (3, 12), sys.version.split()[0])
    yield _guarded("resources", lambda: _resources())
    yield _guarded("embedded", _embedded)
    yield _guarded("gpu", _gpu)
    yield _guarded("data folder", lambda: _data_folder(settings.data_dir))
    if SecurityFolder(settings.data_dir).exists():
        yield _guarded("security", lambda: _security(SecurityFolder(settings.data_dir)))
    yield _guarded("models", lambda: _models(settings))
    if settings.schema_registry or resolve_registry(settings) is not None:
        yield _guarded("registry", lambda: _registry(settings))
    if settings.database_url is not None or EmbeddedPostgres(settings.data_dir).exists():
        yield _guarded("database", lambda: _database(settings))
    if settings.connect_url is not None or EmbeddedConnect(settings.data_dir).status().running:
        yield _guarded("connect", lambda: _connect(settings))
    broker = _guarded("broker", lambda: _broker(settings))
    yield broker
    if broker.ok:
        yield _guarded("topics", lambda: _topics(settings))
        if settings.security_protocol != "PLAINTEXT":
            yield _guarded("acls", lambda: _acls(settings))
    if settings.redis_url is not None or _redis_runs(settings.data_dir):
        yield _guarded("cache", lambda: _cache(settings))


def _redis_runs(data_dir: Path) -> bool:
    from sep_stream.runtime.embedded import EmbeddedRedis

    return EmbeddedRedis(data_dir).status().running


def _guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """What a check found; an error of ours is a finding, its message the remedy."""
    try:
        return look()
    except SepError as error:
        return Finding(check, False, str(error))


def _resources() -> Finding:
    from sep_stream.runtime.resources import resource
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.schemas import declared_schemas

    topology = Topology.load()
    schemas = len(list(declared_schemas()))
    migrations, kernels = len(list(resource("migrations").glob("*.sql"))), len(list(resource("kernels").glob("*.cu")))
    declared = f"{len(topology.topics)} topics, {len(topology.instruments)} instruments"
    return Finding("resources", True, f"{schemas} schemas, {declared}, {migrations} migrations, {kernels} kernels")


def _embedded() -> Finding:
    from sep_stream.runtime.jars import KAFKA_VERSION, embedded_extra, jars_are_cached

    java, _ = embedded_extra()
    cached = "jars are cached" if jars_are_cached() else "jars will be fetched on first use"
    return Finding("embedded", True, f"Kafka {KAFKA_VERSION}, Java from {java.parent.parent.name}, {cached}")


def _gpu() -> Finding:
    """No GPU is no fault; one that does not work is."""
    from sep_stream.gpu.calibration import kept_calibration
    from sep_stream.gpu.cupy_device import EXTRA_REMEDY, extra_is_installed, gpu_facts
    from sep_stream.gpu.opened import gpu_engine
    from sep_stream.runtime.jars import cache_folder

    if not extra_is_installed():
        return Finding("gpu", True, f"not used: everything runs on the CPU; for one, {EXTRA_REMEDY}")
    try:
        facts = gpu_facts()
    except ConfigurationError as error:
        return Finding("gpu", True, f"not used: {error}")
    gpu_engine().check()
    kept = kept_calibration(cache_folder(), str(facts))
    return Finding("gpu", True, f"{facts}; --engine auto: {kept or 'measures at its first use'}")


def _data_folder(folder: Path) -> Finding:
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(nearest, os.W_OK):
        return Finding("data folder", False, f"{folder}: not writable", "choose another with --data-dir")
    free = shutil.disk_usage(nearest).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    return Finding("data folder", free >= FREE_BYTES_MIN, detail, "" if free >= FREE_BYTES_MIN else "make room")


def _security(folder: SecurityFolder) -> Finding:
    from sep_stream.runtime.certificates import end_of

    faults = list(folder.faults())
    remedy = "`sep-stream up --secure` renews certificates; `chmod go-rwx` closes files" if faults else ""
    detail = f"{folder.path}, the broker's certificate ends {end_of(folder.server):%Y-%m-%d}"
    return Finding("security", not faults, "; ".join(faults) or detail, remedy)


def _models(settings: Settings) -> Finding:
    from sep_stream.stores.model_store import list_models

    models = list_models(settings.models_root())
    return Finding("models", True, f"{len(models)} at {settings.models_root()}")


def _registry(settings: Settings) -> Finding:
    from sep_stream.stores.registration import COMPATIBILITY, look, needed_registry
    from sep_stream.stores.schema_registry import SchemaRegistry
    from sep_stream.stores.schemas import declared_schemas

    with SchemaRegistry(needed_registry(settings)) as registry:
        subjects = list(look(registry, settings, declared_schemas()))
    faults = [f"{subject.name}: {fault}" for subject in subjects for fault in (*subject.faults, *subject.unreadable)]
    missing = [
        f"{subject.name}: not registered" for subject in subjects if subject.schema_id is None and not subject.faults
    ]
    others = [
        f"{subject.name}: also version{'s' * (len(other) > 1)} {', '.join(map(str, other))}, which can be read"
        for subject in subjects
        if (other := [version.version for version in subject.versions if version.version != subject.version])
    ]
    lax = [f"{subject.name}: {subject.compatibility}" for subject in subjects if subject.compatibility != COMPATIBILITY]
    remedy = "see `sep-stream schemas check`" if faults else "`sep-stream schemas register`" if missing or lax else ""
    theirs = len({subject.schema for subject in subjects if subject.schema_id != subject.pinned_id})
    detail = f"{len(subjects)} subjects at {registry.address.url}" + (
        f", {theirs} schemas under ids of its own" if theirs else ""
    )
    return Finding("registry", not remedy, "; ".join(faults + missing + lax or [detail, *others]), remedy)


def _database(settings: Settings) -> Finding:
    from sep_stream.stores.database import READ, connect, told
    from sep_stream.stores.migrations import read_state

    with connect(settings, READ) as connection, told(connection):
        state = read_state(connection)
        server = f"PostgreSQL {connection.info.parameter_status('server_version')}, {state.variant}"
    if state.pending:
        return Finding("database", False, f"{len(state.pending)} migrations are pending", "run `sep-stream db migrate`")
    return Finding("database", True, f"{server}, version {state.version}")


def _connect(settings: Settings) -> Finding:
    from sep_stream.stores.connect import Connect, connect_url
    from sep_stream.stores.sinks import dead_letters, sink_names

    with Connect(connect_url(settings)) as client:
        states = {name: client.state(name) for name in sink_names(settings)}
    ill = [f"{state or f'{name} is not set up'}" for name, state in states.items() if not (state and state.is_running)]
    dead = dead_letters(settings)
    detail = f"{len(states)} sinks run at {client.url}" + (f", {dead} records that could not be read" if dead else "")
    return Finding("connect", not ill, "; ".join(ill) or detail, "`sep-stream connect apply --restart`" if ill else "")


def _broker(settings: Settings) -> Finding:
    from sep_stream.runtime.kafka_config import resolve_brokers
    from sep_stream.runtime.topics import broker_ids

    address = resolve_brokers(settings)
    return Finding("broker", True, f"{len(broker_ids(settings))} at {address}")


def _cache(settings: Settings) -> Finding:
    from sep_stream.stores.cache import Cache

    cache = Cache(settings)
    return Finding("cache", True, f"{len(cache.names())} values in Redis at {cache.address}")


def _acls(settings: Settings) -> Finding:
    from sep_stream.runtime.acls import show
    from sep_stream.runtime.topology import Topology

    state = show(settings, Topology.load())
    drift = [f"missing: {acl}" for acl in state.missing] + [f"not declared: {acl}" for acl in state.extra]
    remedy = "see `sep-stream topics acl apply`, with --prune for what is not declared" if drift else ""
    return Finding("acls", not drift, "; ".join(drift) or f"{len(state.in_force)} as declared", remedy)


def _topics(settings: Settings) -> Finding:
    from sep_stream.runtime.topics import check, describe
    from sep_stream.runtime.topology import Topology

    topology = Topology.load()
    check(settings, topology)
    drift = [f"{s.full_name}: {'; '.join(s.drift)}" for s in describe(settings, topology) if s.drift]
    remedy = (
        "`sep-stream topics create` sets what an earlier version declared; change the rest to the declared settings"
        if drift
        else ""
    )
    return Finding("topics", not drift, "; ".join(drift) or f"{len(topology.topics)} as declared", remedy)
