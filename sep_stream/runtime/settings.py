"""Settings: flags, then the environment, then `sep-stream.toml`, then defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

import platformdirs
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.private_files import read_secret, refuse_if_public

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from sep_stream.convert import ConvertParameters
    from sep_stream.metrics import WindowParams
    from sep_stream.settling import SettleParameters, Stake

CONFIG_FILE: Final = "sep-stream.toml"
ENVIRONMENT_PREFIX: Final = "SEP_"
_SECURED: Final = (
    "sasl_username", "sasl_password", "sasl_password_file", "ssl_ca_location", "ssl_certificate_location",
    "ssl_key_location", "ssl_key_password",
)  # fmt: skip
"""The settings that need a security_protocol other than PLAINTEXT."""
_REGISTRY_LOGIN: Final = (
    "schema_registry_username", "schema_registry_password", "schema_registry_password_file",
    "schema_registry_ca_location",
)  # fmt: skip
NO_REGISTRY: Final = {"schema_registry": None, **dict.fromkeys(_REGISTRY_LOGIN)}
"""To update settings with that are meant for the embedded registry."""
_STORES: Final = (
    "database_url", "redis_url", "connect_url", "connect_registry", "connect_database", "connect_password",
)  # fmt: skip
NO_STORES: Final = {**NO_REGISTRY, **dict.fromkeys(_STORES)}
"""To update settings with that are meant for the embedded stores."""
NO_SECURITY: Final = {"security_protocol": "PLAINTEXT", **dict.fromkeys(_SECURED)}
"""To update settings with that are meant for another broker."""
_PRIVATE: Final = frozenset({"sasl_password", "ssl_key_password", "schema_registry_password"})
"""A file that holds one of these must not be open to everybody."""


class Settings(BaseSettings):
    """What a process needs to know about its deployment. Names are the flags', and SEP_NAME in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )
    _file: ClassVar[Path] = Path(CONFIG_FILE)

    brokers: str | None = Field(None, description="host:port,…; left out: the embedded broker of data_dir")
    prefix: str = Field("sep.", pattern=r"^[A-Za-z0-9._-]*$", description="of all topics and consumer groups")
    data_dir: Path = Field(Path(platformdirs.user_data_dir("sep-stream")), description="the embedded stack's folder")
    models_url: str | None = Field(None, description="where models lie; left out: data_dir/models")
    schema_registry: str | None = Field(None, description="its URL; left out: that of data_dir, where one was started")
    schema_registry_username: str | None = None
    schema_registry_password: SecretStr | None = None
    schema_registry_password_file: Path | None = Field(None, description="a file with one line, instead")
    schema_registry_ca_location: Path | None = Field(None, description="whom to trust; left out: the system's")
    connect_url: str | None = Field(None, description="Kafka Connect's REST API; left out: that of data_dir")
    connect_password: str | None = Field(
        None, description="how a Connect of your own looks up the password of {user}, as ${dir:/run/secrets:{user}}"
    )
    connect_database: str | None = Field(
        None, description="jdbc:postgresql://HOST:PORT/NAME as Connect reaches it; left out: as database_url does"
    )
    connect_registry: str | None = Field(
        None, description="the registry's own API as Connect reaches it; left out: as schema_registry does"
    )
    database_url: SecretStr | None = Field(None, description="PostgreSQL; left out: that of data_dir")
    redis_url: SecretStr | None = Field(None, description="left out: that of data_dir")
    cache_ttl_s: int = Field(
        3_600, ge=1, le=10 * 366 * 86_400, description="so long after its record a cached value is no longer the latest"
    )
    partitions: int = Field(8, ge=1, le=1000, description="of every topic keyed by instrument; fixed for life")
    replication: int = Field(1, ge=1, le=10)
    security_protocol: str = Field("PLAINTEXT", pattern="^(PLAINTEXT|SASL_SSL|SSL|SASL_PLAINTEXT)$")
    sasl_mechanism: str = Field("SCRAM-SHA-512", pattern="^(SCRAM-SHA-512|SCRAM-SHA-256|PLAIN)$")
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = Field(None, description="instead of sasl_password: a file with one line")
    ssl_ca_location: Path | None = Field(None, description="whom to trust; left out: the system's authorities")
    ssl_certificate_location: Path | None = Field(None, description="this client's own, for brokers that ask for one")
    ssl_key_location: Path | None = None
    ssl_key_password: SecretStr | None = None
    group_instance: str | None = Field(None, description="static member id of a worker's consumer groups")
    fetch_records: int = Field(5_000, ge=1, le=100_000, description="most that a worker takes at once")
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic", description="how a worker's groups share out partitions; consumer: by the broker (KIP-848)"
    )
    max_poll_interval_s: int = Field(
        60, ge=10, le=86_400, description="seconds after which a worker that stands still is out of its consumer groups"
    )
    gpu_memory_mib: int | None = Field(
        None,
        ge=1,
        description="most of a GPU's memory that a process takes; left out: 60 % of what is free at its start",
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field("console", pattern="^(console|json)$")
    history: int = Field(64, ge=12, description="bars of a window up to its anchor")
    forward: int = Field(64, ge=1, description="bars of a window after its anchor")
    samples: int = Field(16, ge=1, description="points of the damping path")
    eps: float = Field(0.002, gt=0)
    hold: int = Field(4, ge=1)
    deadband: int = Field(0, ge=0, description="points that a close must move by to turn a bit")
    max_jump_s: int = Field(7 * 86_400, ge=1)
    trade: str = Field("confirmed", pattern="^(confirmed|gated|all)$", description="which signals are traded on paper")
    max_open: int = Field(1, ge=1, le=1_000, description="paper trades open at once, by instrument and timeframe")
    slippage: int = Field(0, ge=0, description="points lost at the entry of a paper trade, and again at its exit")
    units: Decimal = Field(Decimal(100_000), gt=0, max_digits=18, decimal_places=9, description="of a paper trade")
    commission: Decimal = Field(
        Decimal(0), ge=0, max_digits=18, decimal_places=9, description="quote currency, at the entry and at the exit"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, cls._file)

    @classmethod
    def load(cls, config: Path | None = None, **flags: Any) -> Settings:
        """The settings in force; flags that are None were not given.

        Raises ConfigurationError that names each setting that is wrong and what was expected.
        """
        if config is not None and not config.is_file():
            raise ConfigurationError(f"{config}: no such configuration file")
        cls._file = config or Path(CONFIG_FILE)
        try:
            settings = cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            faults = "; ".join(cls._told(fault) for fault in error.errors())
            raise ConfigurationError(
                f"settings: {faults} (flags, {ENVIRONMENT_PREFIX}* in the environment, {cls._file})"
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"{cls._file}: {error}") from error
        settings._check_security()
        return settings

    def _check_security(self) -> None:
        """Refuse security settings that contradict each other: none is quietly without effect."""
        fault = next(chain(self._security_faults(), self._registry_faults()), None)
        if fault is not None:
            raise ConfigurationError(
                f"settings: {fault} (flags, {ENVIRONMENT_PREFIX}* in the environment, {self._file})"
            )
        if self._file.is_file() and not _PRIVATE.isdisjoint(tomllib.loads(self._file.read_text())):
            refuse_if_public(self._file)

    def _security_faults(self) -> Iterator[str]:
        protocol = self.security_protocol
        given = [name for name in _SECURED if getattr(self, name) is not None]
        passwords = [name for name in given if name.startswith("sasl_password")]
        for layer, remedy in (("sasl", "SASL_SSL"), ("ssl", "SASL_SSL or SSL")):
            idle = [name for name in given if name.startswith(layer)]
            if idle and layer.upper() not in protocol.split("_"):
                yield f"{', '.join(idle)}: without effect on security_protocol {protocol}; set that to {remedy}"
        if protocol.startswith("SASL"):
            if "sasl_username" not in given:
                yield f"sasl_username: {protocol} needs one"
            if not passwords:
                yield f"sasl_password: {protocol} needs one, or sasl_password_file"
        if len(passwords) > 1:
            yield "sasl_password, sasl_password_file: one of them, not both"
        if (protocol, self.sasl_mechanism) == ("SASL_PLAINTEXT", "PLAIN"):
            yield "sasl_mechanism: PLAIN shows the password to the network; use SASL_SSL, or SCRAM"
        if ("ssl_certificate_location" in given) != ("ssl_key_location" in given):
            yield "ssl_certificate_location, ssl_key_location: one needs the other"
        if "ssl_key_password" in given and "ssl_key_location" not in given:
            yield "ssl_key_password: of no key; name it with ssl_key_location"

    def _registry_faults(self) -> Iterator[str]:
        url = self.schema_registry
        given = [name for name in _REGISTRY_LOGIN if getattr(self, name) is not None]
        passwords = [name for name in given if "password" in name]
        if url is None:
            if given:
                yield f"{', '.join(given)}: of no registry; name it with schema_registry"
            return
        scheme, _, rest = url.partition("://")
        if "@" in url:
            yield "schema_registry: a URL is no place for a password; use schema_registry_username and its password"
        elif scheme not in ("http", "https") or not rest.strip("/"):
            yield f"schema_registry: expected http://HOST:PORT or https://HOST:PORT, with its path, got {url!r}"
        elif scheme == "http" and given:
            yield f"{', '.join(given)}: {url} would show them to the network, or has no use for them; use https://"
        if ("schema_registry_username" in given) != bool(passwords):
            yield "schema_registry_username, schema_registry_password: one needs the other"
        if len(passwords) > 1:
            yield f"{', '.join(passwords)}: one of them, not both"

    def registry_password(self) -> str | None:
        """What `schema_registry_username` logs in with. ConfigurationError as for `password`."""
        if self.schema_registry_password_file is not None:
            return read_secret(self.schema_registry_password_file)
        secret = self.schema_registry_password
        return None if secret is None else secret.get_secret_value()

    def password(self) -> str | None:
        """What `sasl_username` logs in with. ConfigurationError for a file that can't be read, or by everybody."""
        if self.sasl_password_file is not None:
            return read_secret(self.sasl_password_file)
        return None if self.sasl_password is None else self.sasl_password.get_secret_value()

    @classmethod
    def _told(cls, fault: ErrorDetails) -> str:
        """A fault in words. What was given is left out where it may be a secret, misspelt ones included."""
        names = [str(part) for part in fault["loc"]]
        field = cls.model_fields.get(names[0]) if names else None
        shown = field is not None and SecretStr not in (field.annotation, *get_args(field.annotation))
        return f"{'.'.join(names)}: {fault['msg']}" + (f", got {fault['input']!r}" if shown else "")

    def topic(self, name: str) -> str:
        """The full name of a declared topic."""
        return self.prefix + name

    def models_root(self) -> str:
        return self.models_url or str(self.data_dir / "models")

    def window_params(self) -> WindowParams:
        """Raises ConfigurationError where they contradict each other."""
        from sep_stream.metrics import WindowParams

        return WindowParams(self.history, self.forward, self.samples, self.eps, self.hold)

    def convert_parameters(self) -> ConvertParameters:
        from sep_stream.convert import ConvertParameters

        return ConvertParameters(self.history, self.forward, self.deadband, self.max_jump_s)

    def settle_parameters(self) -> SettleParameters:
        from sep_stream.settling import SettleParameters

        return SettleParameters(self.trade, self.max_open, self.slippage)

    def stake(self) -> Stake:
        from sep_stream.settling import Stake

        return Stake(self.units, self.commission)

    def environment(self) -> dict[str, str]:
        """These settings as SEP_* variables, secrets included, for a child process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            ENVIRONMENT_PREFIX + name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }
