"""How a worker ends: after an error it commits nothing more, after an orderly stop it commits what is done."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime import garbage_collector
from sep_stream.runtime.settings import Settings
from sep_stream.worker import runner
from sep_stream.worker.runner import Worker

ENDS_WITHIN_S = 5.0
"""A worker that goes on after what should end it is ended then, and its test fails."""


class App:
    """In place of a stage's app. begin: what happens once it has started"""

    stage = "convert"

    def __init__(self, begin: Callable[[App], None] = lambda app: None) -> None:
        self._begin, self._ended = begin, asyncio.Event()
        self.crash_reason: BaseException | None = None
        self.stopped = False

    def crash(self, reason: BaseException) -> None:
        self.crash_reason = reason
        self._ended.set()

    async def crashed(self) -> None:
        await self._ended.wait()
        assert self.crash_reason is not None
        raise self.crash_reason

    async def start(self) -> None:
        asyncio.get_running_loop().call_later(ENDS_WITHIN_S, signal.raise_signal, signal.SIGTERM)
        self._begin(self)

    async def end(self) -> None:
        """What is acknowledged is committed here."""
        self.stopped = True


class Outbox:
    def __init__(self, config: Any) -> None:
        pass

    def broker_answers(self, topic: str, timeout_s: float) -> bool:
        return True


class Watch:
    def __init__(self, *_: Any) -> None:
        self.faults: list[Any] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(runner, "Outbox", Outbox)
    monkeypatch.setattr(runner, "ProgressWatch", Watch)
    monkeypatch.setattr(garbage_collector, "settle", lambda: None)
    return Worker(Settings.load(brokers="127.0.0.1:1", data_dir=tmp_path), ("convert",), engine="cpu")


def run(worker: Worker, monkeypatch: pytest.MonkeyPatch, *apps: App) -> None:
    left = iter(apps)
    monkeypatch.setattr(worker, "stage_names", ["convert"] * len(apps))
    monkeypatch.setattr(worker, "_app", lambda *_: next(left))
    asyncio.run(worker._run())  # unlike `run`, it leaves nothing to a process that ends


def test_after_a_failure_no_stage_is_stopped_in_order_so_that_nothing_more_is_committed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = App()
    failing = App(lambda app: worker.fail(StateError("an offset is gone")))
    with pytest.raises(StateError, match="an offset is gone"):
        run(worker, monkeypatch, calm, failing)
    assert not calm.stopped
    assert not failing.stopped


def test_the_first_failure_is_the_one_that_is_raised(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_twice(app: App) -> None:
        worker.fail(asyncio.CancelledError())
        worker.fail(DependencyError("first"))
        worker.fail(DependencyError("second"))

    with pytest.raises(DependencyError, match="first"):
        run(worker, monkeypatch, App(fail_twice))


@pytest.mark.parametrize(
    ("reason", "error", "text"),
    [(StateError("a hole"), StateError, "^a hole$"), (OSError("no file"), OSError, "no file")],
)
def test_an_agent_that_crashes_ends_the_worker(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, reason: BaseException, error: type[BaseException], text: str
) -> None:
    crashing = App(lambda app: app.crash(reason))
    with pytest.raises(error, match=text):
        run(worker, monkeypatch, crashing)
    assert not crashing.stopped


def test_a_signal_to_end_stops_all_stages_in_order(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = App(), App(lambda app: signal.raise_signal(signal.SIGTERM))
    run(worker, monkeypatch, *apps)
    assert [app.stopped for app in apps] == [True, True]
