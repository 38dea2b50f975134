"""What the commands share: the settings' flags, times, progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from sep_stream.errors import DependencyError, SepError
from sep_stream.runtime import garbage_collector
from sep_stream.runtime.logs import configure_logs
from sep_stream.runtime.security_folder import ADMIN, as_role
from sep_stream.runtime.settings import Settings

_FLAGS = (
    click.option("--brokers", metavar="HOST:PORT,…", help="Kafka; left out: the embedded broker."),
    click.option("--prefix", help="Of topics and consumer groups.  [default: sep.]"),
    click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="The embedded stack's folder."),
    click.option("--models-url", help="Where models lie.  [default: models in --data-dir]"),
    click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Instead of sep-stream.toml."),
    click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"])),
    click.option("--log-format", type=click.Choice(["console", "json"])),
)

ENGINES: Final = ("auto", "reference", "cpu", "cuda")


def engine_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--engine, of metrics and scores."""
    told = "Of metrics and scores; all give the same bits. auto: the GPU for large batches, where there is one."
    option = click.option("--engine", default="auto", show_default=True, type=click.Choice(ENGINES), help=told)
    return option(command)


_ROLE: Final = {
    "up": ADMIN,
    "topics": ADMIN,
    "doctor": ADMIN,
    "schemas register": ADMIN,
    "ingest": "ingest",
    "model": "model",
    "dlq requeue": "requeue",
    "replay": "replay",
    "cache rebuild": "cache",
    "worker": None,  # by its stages
}
"""As which role a command uses a secured embedded broker; all others only read."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the flags of the settings, and the settings in force as its first argument."""

    @functools.wraps(command)
    def with_settings(
        *args: Any,
        brokers: str | None,
        prefix: str | None,
        data_dir: Path | None,
        models_url: str | None,
        config: Path | None,
        log_level: str | None,
        log_format: str | None,
        **kwargs: Any,
    ) -> Any:
        settings = Settings.load(
            config,
            brokers=brokers,
            prefix=prefix,
            data_dir=data_dir,
            models_url=models_url,
            log_level=log_level,
            log_format=log_format,
        )
        configure_logs(settings.log_level, settings.log_format)
        command_path = click.get_current_context().command_path.partition(" ")[2]
        garbage_collector.settle()
        role = _ROLE.get(command_path, _ROLE.get(command_path.partition(" ")[0], "read"))
        if role is not None:
            settings = as_role(settings, role)
        try:
            return command(settings, *args, **kwargs)
        except SepError as error:
            raise explained(error, settings) from error

    for option in reversed(_FLAGS):
        with_settings = option(with_settings)
    return with_settings


def explained(error: SepError, settings: Settings) -> SepError:
    """The error, with the reason where the embedded broker is gone because its disk is full: clients only hear that
    nothing answers."""
    if not isinstance(error, DependencyError) and not isinstance(error.__cause__, DependencyError):
        return error
    from sep_stream.runtime.embedded import EmbeddedKafka

    fault = EmbeddedKafka(settings.data_dir).fault(settings.brokers)
    return error if fault is None or fault in str(error) else DependencyError(f"{fault}\n{error}")


def parse_time(text: str) -> int:
    """Epoch seconds of an ISO 8601 time with its zone; a usage error otherwise."""
    return parse_time_ms(text) // 1_000


def parse_time_ms(text: str) -> int:
    """The same in milliseconds."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"expected a time such as 2024-02-05T00:00:00Z, got {text!r}") from None
    if time.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no zone; write it as {text}Z for UTC")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def iso(seconds: float) -> str:
    """A UTC time as 2024-02-05T00:00:00Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def progress(message: str) -> None:
    """A line of progress on stderr."""
    click.echo(message, err=True)
