"""The users of a secured embedded broker: one for each role."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from sep_stream.errors import DependencyError
from sep_stream.runtime import acls
from sep_stream.runtime.acls import AclState
from sep_stream.runtime.asker import settled
from sep_stream.runtime.kafka_config import resolve_brokers
from sep_stream.runtime.security_folder import ADMIN, SecurityFolder
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topics import REQUEST_TIMEOUT_S, connected_admin
from sep_stream.runtime.topology import Topology

IN_FORCE_S_MAX: Final = 20.0
SCRAM_ITERATIONS: Final = 4096
"""The broker's least: the passwords are random, and can't be guessed."""
_POLL_S: Final = 0.05


def admit_roles(settings: Settings, folder: SecurityFolder, topology: Topology) -> AclState:
    """Let the roles work on a secured broker: users, ACLs, and a settings file for each. Returns the ACLs as they were.

    settings: they name the broker. DependencyError if it does not take them.
    """
    admin = settings.model_copy(update=folder.credentials(ADMIN))
    _make_users(admin, folder, [role.name for role in topology.roles if role.name != ADMIN])
    before = acls.apply(admin, topology)
    for role in topology.roles:
        folder.write_settings(role.name, resolve_brokers(settings))
    return before


def _make_users(admin: Settings, folder: SecurityFolder, names: Sequence[str]) -> None:
    """Users with the folder's passwords, once they can log in. The admin is there from the start."""
    folder.make_passwords(names)
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
    users = [UserScramCredentialUpsertion(name, info, folder.password_file(name).read_bytes()) for name in names]
    client = connected_admin(admin)
    for name, future in client.alter_user_scram_credentials(users).items():
        try:
            settled(future, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise DependencyError(f"user {name!r}: cannot be made: {error.args[0].str()}") from error
    _await_login(admin.model_copy(update=folder.credentials(names[-1])))  # all come into force together


def _await_login(settings: Settings) -> None:
    deadline_s = time.monotonic() + IN_FORCE_S_MAX
    while True:
        try:
            connected_admin(settings)
        except DependencyError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_POLL_S)
        else:
            return
