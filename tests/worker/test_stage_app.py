"""A stage as a Faust app: its agent gets each fetch, in order, and what ends the app is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sep_stream.errors import DependencyError, StateError
from sep_stream.worker.batches import Fetched
from sep_stream.worker.stage_app import StageApp
from tests.worker.memory_log import batch, played

FETCHES = 200


class Member:
    """In place of the group's member: fetches when told to."""

    stage = "convert"

    def __init__(self) -> None:
        self.ended = False

    async def start(self, hand_over: Callable[[Fetched], None]) -> None:
        self.hand_over = hand_over

    async def end(self) -> None:
        self.ended = True


class Agent:
    """In place of the stage's agent. failing: with what, at its first fetch"""

    def __init__(self, failing: BaseException | None = None) -> None:
        self.got: list[Fetched] = []
        self.all_there = asyncio.Event()
        self._failing = failing

    async def run(self, stream: Any) -> None:
        async for fetched in stream.noack():
            if self._failing is not None:
                raise self._failing
            self.got.append(fetched)
            if len(self.got) == FETCHES:
                self.all_there.set()


def app_of(member: Any, agent: Any) -> StageApp:
    return StageApp(member, agent)


def test_the_agent_gets_each_fetch_in_order_and_no_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fetches = [Fetched((batch([k], number=k),)) for k in range(FETCHES)]

    async def play() -> None:
        member, agent = Member(), Agent()
        app = app_of(member, agent)
        await app.start()
        for fetched in fetches:
            member.hand_over(fetched)
        await agent.all_there.wait()
        assert agent.got == fetches
        await app.end()
        assert member.ended
        await app.crashed()  # it has ended, and did not crash

    played(play())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cause", "kind", "told"),
    [(StateError("a hole"), StateError, "^a hole$"), (ValueError("no"), DependencyError, "^convert: ValueError")],
)
def test_an_agent_that_fails_ends_the_app(cause: BaseException, kind: type[BaseException], told: str) -> None:
    async def play() -> None:
        member = Member()
        app = app_of(member, Agent(cause))
        await app.start()
        member.hand_over(Fetched((batch([0]),)))
        with pytest.raises(kind, match=told):
            await app.crashed()

    played(play())
