"""The ACLs that the declared roles need, on the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from sep_stream.errors import DependencyError
from sep_stream.runtime.asker import denial, is_denial, settled
from sep_stream.runtime.kafka_config import resolve_brokers
from sep_stream.runtime.roles import WHOLE, Grant
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topics import REQUEST_TIMEOUT_S, connected_admin
from sep_stream.runtime.topology import Topology

IN_FORCE_S_MAX: Final = 20.0
_POLL_S: Final = 0.05
_CLUSTER_NAME: Final = "kafka-cluster"
"""The only name that Kafka knows for the cluster."""
_RESOURCE: Final = {"cluster": ResourceType.BROKER}
_RESOURCE_NAME: Final = {kind: name for name, kind in _RESOURCE.items()}
"""librdkafka calls the cluster a broker."""


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """Who may (or with `deny` may not) do what. Resource and operation as Kafka names them, in small letters."""

    principal: str
    resource: str
    pattern: str
    name: str
    operation: str
    permission: str = "allow"
    host: str = "*"

    def __str__(self) -> str:
        scope = "" if self.pattern == "literal" else f" ({self.pattern})"
        host = "" if self.host == "*" else f" from {self.host}"
        return f"{self.principal} {self.permission} {self.operation} {self.resource} {self.name}{scope}{host}"


@dataclass(frozen=True, slots=True)
class AclState:
    """in_force: declared and there · missing: declared only · extra: there, of a declared principal, not declared"""

    in_force: tuple[Acl, ...]
    missing: tuple[Acl, ...]
    extra: tuple[Acl, ...]


def declared(settings: Settings, topology: Topology) -> list[Acl]:
    """The ACLs of all roles with the settings' prefix. A role's principal is the user of its name."""
    return sorted(
        Acl(f"User:{role.name}", grant.resource, "literal", _full_name(settings, grant), grant.operation)
        for role in topology.roles
        for grant in role.grants
    )


def show(settings: Settings, topology: Topology) -> AclState:
    """What differs between the declared ACLs and the broker's. DependencyError where it has none to tell."""
    return _state(connected_admin(settings), settings, topology)


def apply(settings: Settings, topology: Topology) -> AclState:
    """Make what is missing, wait until it is in force, and return what was missing and what is left over."""
    admin = connected_admin(settings)
    before = _state(admin, settings, topology)
    if before.missing:
        _settle(settings, "create", admin.create_acls([_binding(acl) for acl in before.missing]).values())
        _await(admin, settings, lambda found: found.issuperset(before.missing))
    return before


def prune(settings: Settings, extra: Collection[Acl]) -> None:
    """Delete these ACLs and wait until they are gone."""
    admin = connected_admin(settings)
    _settle(settings, "delete", admin.delete_acls([_filter(acl) for acl in extra]).values())
    _await(admin, settings, lambda found: found.isdisjoint(extra))


def _state(admin: AdminClient, settings: Settings, topology: Topology) -> AclState:
    cluster = settled(admin.describe_cluster(include_authorized_operations=True), REQUEST_TIMEOUT_S)
    if AclOperation.DESCRIBE not in (cluster.authorized_operations or ()):
        raise DependencyError(
            denial(settings, "ACLs", "describe")
        )  # asked for them, librdkafka says that there are none
    wanted = declared(settings, topology)
    found = _found(admin, settings)
    principals = {acl.principal for acl in wanted}
    extra = {acl for acl in found - set(wanted) if acl.principal in principals}
    return AclState(
        tuple(acl for acl in wanted if acl in found),
        tuple(acl for acl in wanted if acl not in found),
        tuple(sorted(extra)),
    )


def _found(admin: AdminClient, settings: Settings) -> set[Acl]:
    """All ACLs of the broker: its authorizer's own, so what is found is in force there."""
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    try:
        bindings: list[AclBinding] = settled(admin.describe_acls(everything), REQUEST_TIMEOUT_S)
    except KafkaException as error:
        raise _refused(settings, "describe", error.args[0]) from error
    return {
        Acl(
            binding.principal,
            _RESOURCE_NAME.get(binding.restype, binding.restype.name.lower()),
            binding.resource_pattern_type.name.lower(),
            binding.name,
            binding.operation.name.lower(),
            binding.permission_type.name.lower(),
            binding.host,
        )
        for binding in bindings
    }


def _settle(settings: Settings, operation: str, futures: Iterable[Any]) -> None:
    for future in futures:
        try:
            settled(future, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise _refused(settings, operation, error.args[0]) from error


def _await(admin: AdminClient, settings: Settings, reached: Callable[[set[Acl]], bool]) -> None:
    """ACLs spread from the controller with a delay."""
    deadline_s = time.monotonic() + IN_FORCE_S_MAX
    while not reached(_found(admin, settings)):
        if time.monotonic() > deadline_s:
            raise DependencyError(
                f"the broker at {resolve_brokers(settings)} took the ACLs, but they are not in force after "
                f"{IN_FORCE_S_MAX:.0f} s; look again with `sep-stream topics acl show`"
            )
        time.sleep(_POLL_S)


def _refused(settings: Settings, operation: str, error: KafkaError) -> DependencyError:
    if is_denial(error):
        return DependencyError(denial(settings, "ACLs", operation))
    if error.code() == KafkaError.SECURITY_DISABLED:
        return DependencyError(
            f"the broker at {resolve_brokers(settings)} has no authorizer, so that everybody may do everything; "
            "`sep-stream up --secure` starts one that has"
        )
    return DependencyError(f"the broker at {resolve_brokers(settings)} did not {operation} ACLs: {error.str()}")


def _full_name(settings: Settings, grant: Grant) -> str:
    if grant.resource == "cluster":
        return _CLUSTER_NAME
    return grant.name[1:] if grant.name.startswith(WHOLE) else settings.prefix + grant.name


def _binding(acl: Acl) -> AclBinding:
    return AclBinding(*_fields(acl))


def _filter(acl: Acl) -> AclBindingFilter:
    return AclBindingFilter(*_fields(acl))


def _fields(acl: Acl) -> tuple[Any, ...]:
    """In the order of librdkafka's bindings."""
    return (
        _RESOURCE.get(acl.resource) or ResourceType[acl.resource.upper()],
        acl.name,
        ResourcePatternType[acl.pattern.upper()],
        acl.principal,
        acl.host,
        AclOperation[acl.operation.upper()],
        AclPermissionType[acl.permission.upper()],
    )
