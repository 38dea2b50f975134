"""The `sep-stream` command."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Final

import click

from sep_stream.errors import SepError
from sep_stream.runtime.numba_cache import configure_numba_cache

COMMANDS: Final = {
    "demo": ("demo", "demo", "The whole story from nothing, on an embedded Kafka."),
    "up": ("stack", "up", "Start the embedded stack."),
    "down": ("stack", "down", "Stop the embedded stack."),
    "status": ("stack", "status", "Show what runs and what the topics hold."),
    "topics": ("topics", "topics", "Create, list and describe the topics."),
    "connect": ("connect", "connect", "The sinks of Kafka Connect: topics into the database."),
    "schemas": ("schemas", "schemas", "Register, list and check schemas in a registry."),
    "ingest": ("ingest", "ingest", "Publish files or a synthetic market."),
    "worker": ("worker", "worker", "Turn events into bars, windows, metrics and signals."),
    "bars": ("offline", "bars", "Bars of files, without a broker."),
    "metrics": ("offline", "metrics", "Bitspace metrics of files, without a broker."),
    "model": ("model", "model", "Train, list, show and activate models."),
    "backtest": ("backtest", "backtest", "Test signals on history, and live against backtest."),
    "tail": ("tail", "tail", "Show decoded records of a topic."),
    "dlq": ("dlq", "dlq", "List, show and requeue refused events."),
    "cache": ("cache", "cache", "Make the cache in Redis anew, and check it."),
    "replay": ("replay", "replay", "Publish part of a topic again, elsewhere."),
    "db": ("db", "db", "Make, show and refresh the database's tables."),
    "bench": ("bench", "bench", "Measure speed beside what else could be used."),
    "doctor": ("doctor", "doctor", "Check everything that can be wrong."),
}
"""Module, attribute and one line of help by name. A module is imported when its command runs: `--help` stays quick."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"sep_stream.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `sep-stream demo`. Settings come from flags, SEP_* in the environment, sep-stream.toml.",
)
@click.version_option(package_name="sep-stream")
def cli() -> None:
    """Market data on Kafka turned into tested, repeatable signals."""


def main() -> None:
    """Run the command line: exit 0 done, 1 failed, 2 wrong usage, 130 interrupted. No traceback, unless SEP_DEBUG."""
    try:
        configure_numba_cache()
        code = cli.main(prog_name="sep-stream", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SepError as error:
        _fail(str(error), error)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", error)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, error: Exception) -> None:
    if os.environ.get("SEP_DEBUG"):
        raise error
    click.echo(f"sep-stream: {message}", err=True)
    sys.exit(1)
