"""A server process of a data folder: found again, waited for, stopped, with its log and its ports."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil
from filelock import FileLock, Timeout

from sep_stream.errors import DependencyError
from sep_stream.runtime.embedded.disk import disk_fault, logged_disk_fault
from sep_stream.runtime.embedded.ports import HOST, free_ports, is_free, port_fault
from sep_stream.runtime.jars import Progress

START_S_MAX: Final = 60.0
STOP_S_MAX: Final = 20.0
LOCK_S_MAX: Final = 120.0
LOG_TAIL_LINES: Final = 15
LOG_TAIL_BYTES: Final = 64 * 1024
PORT_WAIT_S_MAX: Final = 3.0
"""A server that has just ended may hold its port for a moment, as may a connection that the system gave it to."""
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part of the embedded stack. secured: clients log in, over TLS · version: of what runs, else of what would ·
    fault: why it can't work, with the remedy, where that is known"""

    name: str
    running: bool
    address: str | None = None
    pid: int | None = None
    version: str | None = None
    log: str | None = None
    secured: bool = False
    healthy: bool = False
    fault: str | None = None


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
    """What is kept of a server that was started. created_s: the process's start, so that a reused pid is noticed ·
    log_start: bytes of its log that are of earlier processes"""

    pid: int
    created_s: float
    port: int
    version: str
    log_start: int = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


class Daemon:
    """The process of a folder. It outlives the process that starts it.

    port_remedy: how a user chooses another port; by default none can be chosen
    """

    def __init__(self, folder: Path, title: str, port_remedy: str | None = None) -> None:
        self.folder, self.title, self._port_remedy = folder, title, port_remedy
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
            fault = disk_fault(self.folder) or error.strerror or error
            raise DependencyError(f"{self.folder}: cannot keep {self.title} there: {fault}") from error

    def running(self) -> Running | None:
        """The server that was started here, if it is still that process."""
        record = self.last()
        if record is None:
            return None
        try:
            process = psutil.Process(record.pid)
            alive = process.create_time() == record.created_s and process.status() != psutil.STATUS_ZOMBIE
        except (ValueError, TypeError, psutil.Error):
            return None
        return record if alive else None

    def status(self, name: str, secured: bool, answers: Callable[[str], bool], version: str | None) -> PartStatus:
        """Of the part with this name. answers: whether the server does, at an address · version: of what would run"""
        record = self.running()
        if record is None:
            return PartStatus(name, False, version=version, secured=secured, fault=self.fault())
        return PartStatus(
            name, True, record.address, record.pid, record.version, str(self.log), secured, answers(record.address),
            self.fault(),
        )  # fmt: skip

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
            log_start = log.tell()
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True, **{"cwd": self.folder, **options},
            )  # fmt: skip
        return self.remember(process.pid, port, version, log_start)

    def remember(self, pid: int, port: int, version: str, log_start: int = 0) -> Running:
        """Keep the server's process, to find it again."""
        record = Running(pid, psutil.Process(pid).create_time(), port, version, log_start)
        self._state_file.write_text(json.dumps(asdict(record)))
        return record

    def wait_ready(self, record: Running, answers: Callable[[str], bool]) -> None:
        """Wait until it answers at its address. DependencyError if it ends or takes long: that its disk is full, else
        the end of its log."""
        deadline_s = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline_s and self.running() is not None:
            if not is_free(record.port) and answers(record.address):
                return
            time.sleep(_POLL_S)
        fault = self.fault()
        if fault is not None:
            raise DependencyError(f"{self.title} did not come up at {record.address}: {fault}")
        end = tail(self._logged(0))
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

    def ports(self, count: int, main: int | None = None) -> tuple[int, ...]:
        """The ports of the last start. The first is for clients, who find the server there again; the others are for
        the server itself, and change where one is taken.

        main: the first one from now on. DependencyError, which says who has it, where the first one is taken: clients
        elsewhere would not find the server on another.
        """
        file = self.folder / "ports.json"
        try:
            remembered = tuple(map(int, json.loads(file.read_text())))
        except (OSError, ValueError, TypeError):
            remembered = ()
        if len(remembered) != count:
            remembered = ()
        if main is None and not remembered:
            ports = free_ports(count)
        else:
            first, others = main or remembered[0], remembered[1:]
            self._await_free(first)
            if len(others) != count - 1 or first in others or not all(map(is_free, others)):
                others = tuple(port for port in free_ports(count) if port != first)[: count - 1]
            ports = (first, *others)
        file.write_text(json.dumps(ports))
        return ports

    def _await_free(self, port: int) -> None:
        deadline_s = time.monotonic() + PORT_WAIT_S_MAX
        while (fault := port_fault(port)) is not None:
            if time.monotonic() > deadline_s:
                remedy = self._port_remedy or f"delete {self.folder / 'ports.json'}, and the next start takes another"
                raise DependencyError(f"{self.title} can't have its port: port {port} {fault}; end that, or {remedy}")
            time.sleep(_POLL_S)

    def last(self) -> Running | None:
        """What was started here last and not stopped since; it may have ended."""
        try:
            return Running(**json.loads(self._state_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def fault(self) -> str | None:
        """Why it can't work, with the remedy, where its disk is the reason; None otherwise."""
        fault = disk_fault(self.folder)
        if fault is None and (record := self.last()) is not None and self.running() is None:
            fault = logged_disk_fault(self.folder, self._logged(record.log_start))
        return fault

    def _logged(self, start: int) -> str:
        """The end of its log, none of what lies before `start`."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(start, self.log.stat().st_size - LOG_TAIL_BYTES))
                return log.read(LOG_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""


def tail(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:])
