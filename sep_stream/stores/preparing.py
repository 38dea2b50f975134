"""What an embedded part needs once it runs, as the broker its topics: schemas, tables, sinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sep_stream.runtime.security_folder import ADMIN, SecurityFolder
from sep_stream.runtime.settings import NO_STORES, Settings


def prepare(part: str, settings: Settings) -> list[str]:
    """Make what a part of the data folder's stack lacks, and say in sentences what it has; nothing for one that needs
    nothing. settings: they name the broker

    Raises what the part's own commands raise.
    """
    do = _PREPARATIONS.get(part)
    if do is None:
        return []
    return do(settings.model_copy(update=SecurityFolder(settings.data_dir).credentials(ADMIN) | NO_STORES))


def _register(settings: Settings) -> list[str]:
    from sep_stream.stores.registration import needed_registry, register_all
    from sep_stream.stores.schema_registry import SchemaRegistry
    from sep_stream.stores.schemas import declared_schemas

    with SchemaRegistry(needed_registry(settings)) as registry:
        subjects = register_all(registry, settings, declared_schemas())
    return [f"the schemas of {len(subjects)} topics, {sum(subject.is_new for subject in subjects)} registered now"]


def _migrate(settings: Settings) -> list[str]:
    from sep_stream.stores.database import MIGRATE, connect
    from sep_stream.stores.migrations import migrate

    with connect(settings, MIGRATE) as connection:
        before = migrate(connection, lambda _: None)
    return [f"{len(before.pending)} migrations applied, {len(before.applied)} were"]


def _apply(settings: Settings) -> list[str]:
    from sep_stream.runtime.embedded import EmbeddedPostgres
    from sep_stream.stores.sinks import apply_sinks

    if not EmbeddedPostgres(settings.data_dir).status().running:
        return ["no sinks yet: no database runs here; `sep-stream up --with postgres`, then `sep-stream connect apply`"]
    return [str(state) for state in apply_sinks(settings)]


_PREPARATIONS: Final[Mapping[str, Callable[[Settings], list[str]]]] = {
    "registry": _register,
    "postgres": _migrate,
    "connect": _apply,
}
