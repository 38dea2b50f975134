"""A supervisor restarts what ended without being asked, gives up on what can't work, and leaves no child behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sep_stream.errors import DependencyError
from sep_stream.worker import supervisor
from sep_stream.worker.supervisor import BACKOFF_S, Supervisor
from tests.waiting import PATIENCE_S, until

CHILD = """
import os, pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
starts = len(list(folder.glob("start-*")))
(folder / f"start-{{starts}}-{{os.getpid()}}").touch()
{then}
"""
"""In place of a worker: notes its start, then does what a test says. `starts`: how often it was started before"""
WAITS_FOR_SIGTERM = """
def end(*_):
    (folder / "ended-in-order").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
(folder / "ready").touch()
time.sleep(600)
"""


def starts(folder: Path) -> int:
    return len(list(folder.glob("start-*")))


@pytest.fixture
def supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which children note what they do; waits between their starts are short."""
    monkeypatch.setattr(supervisor, "BACKOFF_S", tuple(0.01 for _ in BACKOFF_S))
    monkeypatch.setattr(supervisor, "_POLL_S", 0.01)
    program = tmp_path / "program"
    monkeypatch.setattr(supervisor.sys, "executable", str(program))
    return tmp_path


def make_child(folder: Path, then: str) -> None:
    """Let children run this code in place of a worker."""
    program, code = folder / "program", folder / "child.py"
    code.write_text(CHILD.format(folder=str(folder), then=then))
    program.write_text(f"#!/bin/sh\nexec {sys.orig_argv[0]} {code}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("code", [0, 1, 3, "signal.SIGKILL"])
def test_a_child_that_ended_without_being_asked_is_started_again(supervised: Path, code: int | str) -> None:
    end = f"sys.exit({code})" if isinstance(code, int) else f"os.kill(os.getpid(), {code})"
    make_child(supervised, end)
    with pytest.raises(DependencyError, match="worker process 0 ended"):
        Supervisor(["worker"], 1, {}).run()
    assert starts(supervised) == len(BACKOFF_S) + 1


def test_a_child_that_ends_itself_is_done_with_exit_code_0_and_not_before(supervised: Path) -> None:
    make_child(supervised, "sys.exit(1 if starts == 0 else 0)")
    Supervisor(["worker"], 1, {}, ends_itself=True).run()
    assert starts(supervised) == 2


@pytest.mark.parametrize("ends_itself", [False, True])
def test_a_usage_error_is_not_tried_again(supervised: Path, ends_itself: bool) -> None:
    make_child(supervised, "sys.exit(2)")
    with pytest.raises(DependencyError, match="exit code 2"):
        Supervisor(["worker"], 1, {}, ends_itself=ends_itself).run()
    assert starts(supervised) == 1


SUPERVISOR = """
from sep_stream.worker import supervisor
supervisor.sys.executable = {program!r}
supervisor.Supervisor(["worker"], 2, {{}}).run()
"""


@pytest.fixture
def running(supervised: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, with two children that wait."""
    make_child(supervised, WAITS_FOR_SIGTERM.replace('"ready"', 'f"ready-{os.getpid()}"'))
    interpreter, code = sys.orig_argv[0], SUPERVISOR.format(program=str(supervised / "program"))
    with subprocess.Popen([interpreter, "-c", code]) as process:
        until(lambda: len(list(supervised.glob("ready-*"))) == 2)
        yield process
        process.kill()


def children_of(folder: Path) -> list[int]:
    return [int(file.name.rpartition("-")[2]) for file in folder.glob("ready-*")]


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_end_in_order_with_their_supervisor(
    supervised: Path, running: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    running.send_signal(number)
    running.wait(PATIENCE_S)
    for pid in children_of(supervised):
        until(lambda pid=pid: has_ended(pid))
    assert (supervised / "ended-in-order").exists()
    assert starts(supervised) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_child_whose_parent_has_gone_before_it_asks_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.os, "getpid", lambda: 1)  # not the parent of what is started here
    request = supervisor.end_with_parent()
    monkeypatch.undo()
    assert request is not None
    with subprocess.Popen(["sleep", "600"], preexec_fn=request) as process:
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM


def test_a_stopped_supervisor_restarts_nothing(supervised: Path) -> None:
    make_child(supervised, f"os.kill({os.getpid()}, signal.SIGTERM)\n{WAITS_FOR_SIGTERM}")
    Supervisor(["worker"], 1, {}).run()
    assert starts(supervised) == 1
