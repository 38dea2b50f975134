"""Commands as processes of their own, forked from one that has imported and compiled what they need.

A command that is started from nothing imports and loads for longer than most tests let it work. A forked one is at
once where the other would be: it has its own environment, folder, output and signals, and can be killed. What a start
from nothing is needed for, `tests.cli.commands.start` gives.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import bear_with_servers

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """A running `sep-stream` command, used as a `subprocess.Popen`.

    arguments: of the command line, without the program · environment: all of its variables
    stdout, stderr: files that it appends to · patient: it waits for servers as long as a slow machine needs
    before: called in the process before the command runs; a function of a module, perhaps with arguments (`partial`)
    """

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        cwd: Path,
        stdout: Path,
        stderr: Path,
        patient: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        given = (arguments, dict(environment), str(cwd), str(stdout), str(stderr), patient, before)
        self._process = _CONTEXT.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: Final = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; a signal's number, negative, of what it killed."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code; TimeoutExpired where it doesn't end within so many seconds."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("sep-stream", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: list[str],
    environment: dict[str, str],
    cwd: str,
    stdout: str,
    stderr: str,
    patient: bool,
    before: Callable[[], None] | None,
) -> None:
    """Become the command. What a new process has from its start is set here."""
    assert "tests.preloaded" in sys.modules, "the process that this one is a copy of could not import tests.preloaded"
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["sep-stream", *arguments]
    if patient:
        bear_with_servers(pytest.MonkeyPatch())
    if before is not None:
        before()
    from sep_stream.cli import main

    main()
