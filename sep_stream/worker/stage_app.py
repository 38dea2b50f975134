"""A stage as a Faust app: one agent on a channel, which the member of the stage's consumer group fills."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
from faust.app.base import BootStrategy
from mode import CrashingSupervisor

from sep_stream.errors import DependencyError, SepError
from sep_stream.worker.batches import Fetched
from sep_stream.worker.group_member import GroupMember
from sep_stream.worker.stage import BatchAgent


class _WithoutKafka(BootStrategy):
    """Faust's own Kafka clients stay away: the group's member reads and commits, and the outbox sends."""

    enable_kafka = False
    enable_web = False  # its table page would serve data on all interfaces


class _App(faust.App):
    BootStrategy = _WithoutKafka

    async def on_first_start(self) -> None:
        """Faust would make folders for tables, and there are none."""


class StageApp:
    """Supervises an agent, and reads and commits for it."""

    def __init__(self, member: GroupMember, agent: BatchAgent) -> None:
        self.stage, self._member = member.stage, member
        self._app = _App(member.stage, broker="kafka://unused", store="memory://", autodiscover=False)
        self._channel = self._app.channel()
        self._sending: set[asyncio.Task[Any]] = set()
        # An agent that is started again, as Faust does otherwise, would go on behind what it did not finish.
        self._app.agent(self._channel, name=member.stage, supervisor_strategy=CrashingSupervisor)(agent.run)

    async def start(self) -> None:
        self._app.loop = asyncio.get_running_loop()
        await self._app.start()
        self._app.flow_control.resume()  # a consumer of Faust's own would do so, and nothing passes before
        await self._member.start(self._hand_over)

    async def end(self) -> None:
        """Finish what was fetched, commit it and leave the group, then stop the agent."""
        await self._member.end()
        await self._app.stop()

    async def crashed(self) -> None:
        """Returns when the app was stopped. Raises what ended it otherwise."""
        await self._app.wait_until_stopped()
        cause = self._app.crash_reason
        if cause is not None:
            raise cause if isinstance(cause, SepError) else DependencyError(f"{self.stage}: {cause!r}")

    def _hand_over(self, fetched: Fetched) -> None:
        sending = asyncio.create_task(self._channel.send(value=fetched))  # in turn: the channel has room for all
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
