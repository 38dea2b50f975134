"""Settings: flags, then the environment, then `sep-stream.toml`, then defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

import platformdirs
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sep_stream.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from sep_stream.convert import ConvertParameters
    from sep_stream.metrics import WindowParams

CONFIG_FILE: Final = "sep-stream.toml"
ENVIRONMENT_PREFIX: Final = "SEP_"


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
    schema_registry: str | None = None
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    partitions: int = Field(8, ge=1, le=1000, description="of every topic keyed by instrument; fixed for life")
    replication: int = Field(1, ge=1, le=10)
    security_protocol: str = Field("PLAINTEXT", pattern="^(PLAINTEXT|SASL_SSL|SSL|SASL_PLAINTEXT)$")
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: Path | None = None
    group_instance: str | None = Field(None, description="static member id of a worker's consumer groups")
    fetch_records: int = Field(5_000, ge=1, le=100_000, description="most that a worker takes at once")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field("console", pattern="^(console|json)$")
    history: int = Field(64, ge=12, description="bars of a window up to its anchor")
    forward: int = Field(64, ge=1, description="bars of a window after its anchor")
    samples: int = Field(16, ge=1, description="points of the damping path")
    eps: float = Field(0.002, gt=0)
    hold: int = Field(4, ge=1)
    deadband: int = Field(0, ge=0, description="points that a close must move by to turn a bit")
    max_jump_s: int = Field(7 * 86_400, ge=1)

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
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            faults = "; ".join(cls._told(fault) for fault in error.errors())
            raise ConfigurationError(
                f"settings: {faults} (flags, {ENVIRONMENT_PREFIX}* in the environment, {cls._file})"
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"{cls._file}: {error}") from error

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

    def environment(self) -> dict[str, str]:
        """These settings as SEP_* variables, secrets included, for a child process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            ENVIRONMENT_PREFIX + name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }
