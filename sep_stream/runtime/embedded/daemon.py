"""A server process of a data folder: found again, waited for, stopped, with its log and its ports."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil
from filelock import FileLock, Timeout

from sep_stream.errors import DependencyError
from sep_stream.runtime.jars import Progress

HOST: Final = "127.0.0.1"
START_S_MAX: Final = 60.0
STOP_S_MAX: Final = 20.0
LOCK_S_MAX: Final = 120.0
LOG_TAIL_LINES: Final = 15
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part of the embedded stack. secured: clients log in, over TLS · version: of what runs, else of what would"""

    name: str
    running: bool
    address: str | None = None
    pid: int | None = None
    version: str | None = None
    log: str | None = None
    secured: bool = False
    healthy: bool = False


class Part(Protocol):
    """A server of the embedded stack."""

    @property
    def name(self) -> str:
        """As in `up --with`."""

    @property
    def title(self) -> str:
        """Its name in sentences."""

    def start(self, progress: Progress, secure: bool = False) -> str:
        """Start it unless it runs, wait until it answers, and return its address (host:port)."""

    def stop(self) -> bool:
        """Stop it; False if it did not run."""

    def wipe(self) -> None:
        """Delete its data; it must not run."""

    def status(self) -> PartStatus:
        """What is known of it, asked of itself where it runs."""


@dataclass(frozen=True, slots=True)
class Running:
    """What is kept of a server that was started. created_s: the process's start, so that a reused pid is told."""

    pid: int
    created_s: float
    port: int
    version: str

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


class Daemon:
    """The process of a folder. It outlives the process that starts it."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title
        self.log = folder / f"{folder.name}.log"
        self._state_file = folder / "process.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time starts it. DependencyError where the folder can't be used, or is in use for long."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=LOCK_S_MAX):
                yield
        except Timeout as error:
            raise DependencyError(f"{self.folder}: another process has been starting {self.title} for long") from error
        except OSError as error:
            raise DependencyError(
                f"{self.folder}: cannot keep {self.title} there: {error.strerror or error}"
            ) from error

    def running(self) -> Running | None:
        """The server that was started here, if it is still that process."""
        try:
            record = Running(**json.loads(self._state_file.read_text()))
            process = psutil.Process(record.pid)
            alive = process.create_time() == record.created_s and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, TypeError, psutil.Error):
            return None
        return record if alive else None

    def status(self, name: str, secured: bool, answers: Callable[[str], bool], version: str | None) -> PartStatus:
        """Of the part with this name. answers: whether the server does, at an address · version: of what would run"""
        record = self.running()
        if record is None:
            return PartStatus(name, False, version=version, secured=secured)
        return PartStatus(
            name, True, record.address, record.pid, record.version, str(self.log), secured, answers(record.address)
        )

    def launch(
        self,
        command: Sequence[object],
        port: int,
        version: str,
        *,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Running:
        """Start it in a session of its own, with what it prints appended to its log. options: of Popen, as `user`."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True, **{"cwd": self.folder, **options},
            )  # fmt: skip
        return self.remember(process.pid, port, version)

    def remember(self, pid: int, port: int, version: str) -> Running:
        """Keep the server's process, to find it again."""
        record = Running(pid, psutil.Process(pid).create_time(), port, version)
        self._state_file.write_text(json.dumps(asdict(record)))
        return record

    def wait_ready(self, record: Running, answers: Callable[[str], bool]) -> None:
        """Wait until it answers at its address. DependencyError with the end of its log if it ends or takes long."""
        deadline_s = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline_s and self.running() is not None:
            if not is_free(record.port) and answers(record.address):
                return
            time.sleep(_POLL_S)
        end = tail(self.log.read_text(errors="replace"))
        raise DependencyError(f"{self.title} did not come up at {record.address}; the end of {self.log}:\n{end}")

    def stop(self, by: signal.Signals = signal.SIGTERM) -> bool:
        """Stop it, by force if it does not go; False if it did not run."""
        record = self.running()
        if record is None:
            return False
        process = psutil.Process(record.pid)
        process.send_signal(by)
        try:
            process.wait(STOP_S_MAX)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_S_MAX)
        self._state_file.unlink(missing_ok=True)
        return True

    def ports(self, count: int) -> tuple[int, ...]:
        """The ports of the last start where they are free, so that clients find the server again."""
        file = self.folder / "ports.json"
        try:
            ports = tuple(json.loads(file.read_text()))
        except (OSError, ValueError):
            ports = ()
        if len(ports) != count or not all(map(is_free, ports)):
            ports = _free_ports(count)
            file.write_text(json.dumps(ports))
        return ports


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def tail(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:])


def _free_ports(count: int) -> tuple[int, ...]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind((HOST, 0))
        return tuple(s.getsockname()[1] for s in sockets)
    finally:
        for s in sockets:
            s.close()
