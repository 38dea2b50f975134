"""The schemas with the ids that are in force: a registry's where there is one, else those pinned beside them."""

from __future__ import annotations

from sep_stream.market.avro import Schemas, load_schemas
from sep_stream.runtime.registry_address import resolve_registry
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings


def declared_schemas() -> Schemas:
    """The schemas of this package, with their pinned ids."""
    return load_schemas(resource("schemas") / "avro")


def schemas_in_force(settings: Settings, *, register: bool = False) -> Schemas:
    """The schemas with the ids of the registry that the settings name, or that runs in the data folder.

    register: what the registry lacks is registered first, for one who writes; who only reads does without. Raises
    DependencyError if the registry does not answer in time, and InputError if a schema is not compatible with what it
    holds.
    """
    address = resolve_registry(settings)
    if address is None:
        return declared_schemas()
    from sep_stream.stores.registered_writers import RegisteredWriters
    from sep_stream.stores.registration import agreed_ids, other_versions, subjects_of
    from sep_stream.stores.schema_registry import SchemaRegistry

    schemas = declared_schemas()
    with SchemaRegistry(address) as registry:
        ids = agreed_ids(registry, settings, schemas, register)
        others = other_versions(registry, settings, schemas, ids)
    subjects = [subject for subject, _ in subjects_of(settings, schemas)]
    return schemas.with_ids(ids).with_writers(others, RegisteredWriters(address, subjects))
