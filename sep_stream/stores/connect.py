"""Kafka Connect's REST API: connectors set up, looked at, paused, restarted and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from sep_stream.errors import DependencyError
from sep_stream.runtime.settings import Settings

ANSWER_S_MAX: Final = 90.0
"""A worker that has just started, or whose cluster is sorting itself out, keeps requests waiting for that long."""
SETTLE_S_MAX: Final = 60.0
"""For a connector to run, or to have gone."""
FAILURE_S_MIN: Final = 5.0
"""A connector that was just set up or started anew may still show the failure of before."""
_POLL_S: Final = 0.2
RUNNING, FAILED, PAUSED = "RUNNING", "FAILED", "PAUSED"


@dataclass(frozen=True, slots=True)
class TaskState:
    """reason: of a failure: the first line of each cause"""

    task: int
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """state: UNASSIGNED, RUNNING, PAUSED, FAILED, … as Connect says it; of the connector itself"""

    name: str
    state: str
    tasks: tuple[TaskState, ...]
    reason: str = ""

    @property
    def is_running(self) -> bool:
        return bool(self.tasks) and {self.state, *(task.state for task in self.tasks)} == {RUNNING}

    @property
    def failure(self) -> str | None:
        """Why it, or the first of its tasks that failed, does not run."""
        if self.state == FAILED:
            return self.reason
        return next((task.reason for task in self.tasks if task.state == FAILED), None)

    def __str__(self) -> str:
        tasks = ", ".join(task.state.lower() for task in self.tasks) or "no task"
        failure = "" if self.failure is None else f": {self.failure}"
        return f"{self.name} {self.state.lower()} ({tasks}){failure}"


def connect_url(settings: Settings) -> str:
    """Of the REST API: `connect_url`, else the embedded worker's. DependencyError where neither is there."""
    if settings.connect_url is not None:
        return settings.connect_url.rstrip("/")
    from sep_stream.runtime.embedded import EmbeddedConnect

    url = EmbeddedConnect(settings.data_dir).url()
    if url is None:
        raise DependencyError(
            f"no Kafka Connect: the embedded one of {settings.data_dir} does not run; start it with "
            "`sep-stream up --with registry,postgres,connect`, or name yours with SEP_CONNECT_URL"
        )
    return url


class Connect:
    """A client of the REST API. DependencyError with the remedy for whatever goes wrong."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=ANSWER_S_MAX, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def plugins(self) -> set[str]:
        """Classes of connectors and converters that it has."""
        return {entry["class"] for entry in self._ask("GET", "/connector-plugins?connectorsOnly=false")}

    def names(self) -> list[str]:
        return sorted(self._ask("GET", "/connectors"))

    def config(self, name: str) -> dict[str, str] | None:
        """Of a connector; None where there is none of that name."""
        found: dict[str, str] | None = self._ask("GET", f"{_path(name)}/config", missing=None)
        return found

    def put(self, name: str, config: Mapping[str, str]) -> bool:
        """Make it so; False if it was. A changed connector's tasks start anew."""
        wanted = {**config, "name": name}
        if self.config(name) == wanted:
            return False
        self._ask("PUT", f"{_path(name)}/config", json=wanted)
        return True

    def state(self, name: str) -> ConnectorState | None:
        """None where there is no connector of that name, or it is so new that Connect has no state of it."""
        found = self._ask("GET", f"{_path(name)}/status", missing=None)
        return None if found is None else _state(found)

    def restart(self, name: str) -> None:
        """Start what failed of it anew."""
        self._ask("POST", f"{_path(name)}/restart?includeTasks=true&onlyFailed=true")

    def pause(self, name: str) -> None:
        self._ask("PUT", f"{_path(name)}/pause")

    def resume(self, name: str) -> None:
        self._ask("PUT", f"{_path(name)}/resume")

    def delete(self, name: str) -> bool:
        """False where there is none of that name. What its consumer group has committed stays."""
        if self._ask("DELETE", _path(name), missing=False) is False:
            return False
        self.wait(name, lambda state: state is None)
        return True

    def rewind(self, name: str) -> None:
        """Let it read its topics again from their beginning. It is stopped for that, and resumed."""
        self._ask("PUT", f"{_path(name)}/stop")
        self.wait(name, lambda state: state is not None and state.state == "STOPPED" and not state.tasks)
        try:
            self._ask("DELETE", f"{_path(name)}/offsets")
        finally:
            self.resume(name)

    def wait(self, name: str, reached: Callable[[ConnectorState | None], bool]) -> ConnectorState | None:
        """Its state once it is as wanted, or when SETTLE_S_MAX have passed."""
        deadline_s = time.monotonic() + SETTLE_S_MAX
        while True:
            state = self.state(name)
            if reached(state) or time.monotonic() > deadline_s:
                return state
            time.sleep(_POLL_S)

    def _ask(self, method: str, path: str, *, missing: Any = ..., **content: Any) -> Any:
        """The answer; `missing` where it is that there is no such connector."""
        deadline_s = time.monotonic() + SETTLE_S_MAX
        while True:
            try:
                answer = self._client.request(method, path, **content)
            except httpx.HTTPError as error:
                raise DependencyError(
                    f"Kafka Connect at {self.url} does not answer ({type(error).__name__}); see its log, start the "
                    "embedded one with `sep-stream up --with registry,postgres,connect`, or correct SEP_CONNECT_URL"
                ) from error
            if not _is_busy(answer) or time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
        if answer.status_code == httpx.codes.NOT_FOUND and missing is not ...:
            return missing
        if not answer.is_success:
            raise DependencyError(f"Kafka Connect at {self.url} refuses {method} {path}: {_told(answer)}")
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise DependencyError(
                f"{self.url} does not answer as Kafka Connect does; correct SEP_CONNECT_URL"
            ) from error


def settle(connect: Connect, names: Iterable[str]) -> list[ConnectorState]:
    """The states of these once they run or have failed.

    Raises DependencyError for one that is neither in time.
    """
    begun_s = time.monotonic()

    def is_settled(state: ConnectorState | None) -> bool:
        stands = time.monotonic() - begun_s > FAILURE_S_MIN
        return state is not None and (state.is_running or (state.failure is not None and stands))

    states = []
    for name in names:
        state = connect.wait(name, is_settled)
        if state is None or not (state.is_running or state.failure is not None):
            raise DependencyError(
                f"{name}: does not run after {SETTLE_S_MAX:.0f} s ({state or 'no state'}); "
                "see `sep-stream connect status` and Connect's log"
            )
        states.append(state)
    return states


def _is_busy(answer: httpx.Response) -> bool:
    """Whether the cluster is sharing out its work just now; it has two ways to say so."""
    return answer.status_code == httpx.codes.CONFLICT or (
        answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR and "rebalance" in answer.text
    )


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _state(found: Mapping[str, Any]) -> ConnectorState:
    tasks = tuple(
        TaskState(int(task["id"]), task["state"], _reason(task.get("trace", "")))
        for task in sorted(found["tasks"], key=lambda task: int(task["id"]))
    )
    connector = found["connector"]
    return ConnectorState(found["name"], connector["state"], tasks, _reason(connector.get("trace", "")))


def _reason(trace: str) -> str:
    """What the innermost cause of a stack trace says, without its class."""
    heads = [line for line in trace.splitlines() if line.startswith("Caused by: ")] or trace.splitlines()[:1]
    if not heads:
        return ""
    head = heads[-1].removeprefix("Caused by: ")
    kind, separator, message = head.partition(": ")
    return message.strip() if separator and message.strip() else kind


def _told(answer: httpx.Response) -> str:
    """The first lines of what it says is wrong; no more than a screen's."""
    try:
        message = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{answer.status_code}: {'; '.join(lines[:5])[:500]}"
