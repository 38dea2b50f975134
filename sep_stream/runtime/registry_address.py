"""Where a schema registry answers, and how to log in there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sep_stream.runtime.settings import Settings

CONFLUENT_PATH: Final = "/apis/ccompat/v7"
"""Under it an Apicurio registry speaks Confluent's protocol."""
NATIVE_PATH: Final = "/apis/registry/v3"
"""Under it, its own."""


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """url: of Confluent's protocol, without a slash at its end · authority: whom to trust; None: the system's
    authorities · is_ours: the embedded one"""

    url: str
    username: str | None = None
    password: str | None = None
    authority: Path | None = None
    is_ours: bool = False

    def __repr__(self) -> str:
        return f"RegistryAddress({self.url})"

    @property
    def native_url(self) -> str | None:
        """Of Apicurio's own protocol; None where the URL is not one of Apicurio's."""
        root = self.url.removesuffix(CONFLUENT_PATH)
        return None if root == self.url else root + NATIVE_PATH


def resolve_registry(settings: Settings) -> RegistryAddress | None:
    """The registry of the settings, else the embedded one of data_dir where it runs; None: there is none.

    Raises ConfigurationError for a password file that can't be used.
    """
    if settings.schema_registry is None:
        from sep_stream.runtime.embedded import EmbeddedRegistry

        return EmbeddedRegistry(settings.data_dir).address(settings.sasl_username)
    return RegistryAddress(
        settings.schema_registry.rstrip("/"), settings.schema_registry_username, settings.registry_password(),
        settings.schema_registry_ca_location,
    )  # fmt: skip
