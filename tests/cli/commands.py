"""Runs of the command line as its users start it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click

from sep_stream.cli import cli
from tests.forked import Forked

NOWHERE = "127.0.0.1:1"
"""An address where nothing listens."""
KEPT: Final = ("SEP_CACHE_DIR", "SEP_PARTITIONS")
RUN_S_MAX: Final = 600
"""No command takes so long, on a machine with much else to do."""


def variables(cwd: Path, **environment: str) -> dict[str, str]:
    """The environment of a command in that folder, with no settings but these and those of the whole run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEP_") or name in KEPT}
    return kept | {"SEP_DATA_DIR": str(cwd / "data")} | environment


def start(*args: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the command as its users do, from nothing."""
    return subprocess.Popen(
        [sys.executable, "-m", "sep_stream", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=variables(cwd, **environment),
    )


def finish(process: subprocess.Popen[str], timeout_s: float = RUN_S_MAX) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


def begin(
    *args: object, cwd: Path, before: Callable[[], None] | None = None, **environment: str
) -> Callable[[], tuple[int, str, str]]:
    """Start the command, forked (see `tests.forked`); returns what waits for its exit code, stdout and stderr."""
    folder = TemporaryDirectory()
    out, err = Path(folder.name) / "out", Path(folder.name) / "err"
    out.touch()
    err.touch()
    process = Forked([*map(str, args)], variables(cwd, **environment), cwd, out, err, before=before)

    def end() -> tuple[int, str, str]:
        with folder:
            try:
                code = process.wait(RUN_S_MAX)
            finally:
                process.kill()
            return code, out.read_text(), err.read_text()

    return end


def run(*args: object, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """Run the command to its end, forked; returns exit code, stdout and stderr."""
    return begin(*args, cwd=cwd, **environment)()


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command by its words, the groups included."""
    found: dict[tuple[str, ...], click.Command] = {words: group}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found |= commands(command, (*words, name)) if isinstance(command, click.Group) else {(*words, name): command}
    return found


def children_cpu_s() -> float:
    """What ended processes have used: a bound on their time allows for it, as tests share the cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
