"""Runs the chosen stages in this process until told to stop, caught up, or broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import structlog

from sep_stream.errors import ConfigurationError, DependencyError, SepError
from sep_stream.gpu import engine_named
from sep_stream.runtime import garbage_collector
from sep_stream.runtime.kafka_config import librdkafka, resolve_brokers
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.stores.schemas import schemas_in_force
from sep_stream.worker.caught_up import STAGE_INPUTS, CaughtUp
from sep_stream.worker.convert_stage import ConvertStage, ConvertTopics
from sep_stream.worker.group_member import GroupMember
from sep_stream.worker.input_log import KafkaInputLog
from sep_stream.worker.input_topics import InputTopics
from sep_stream.worker.metrics_stage import MetricsStage
from sep_stream.worker.models import LogModels
from sep_stream.worker.outbox import Outbox
from sep_stream.worker.progress import Fault, ProgressWatch
from sep_stream.worker.score_stage import ScoreStage, ScoreTopics
from sep_stream.worker.settle_stage import SettleStage, SettleTopics
from sep_stream.worker.stage import BatchAgent, Counters, Stage
from sep_stream.worker.stage_app import StageApp
from sep_stream.worker.stop_signals import NOT_IN_TIME, stop_on_signals

STAGES: Final = ("convert", "metrics", "score", "settle")
"""In the order of the data: those that run unless others are named."""
ALL_STAGES: Final = (*STAGES, "cache")

BROKER_CHECK_INTERVAL_S: Final = 2.0
BROKER_SILENCE_S_MAX: Final = 15.0
"""A broker that answers nothing for this long ends the process. A restart, after a kill too, takes a third of it."""
COUNTERS_LOG_INTERVAL_S: Final = 10.0
STOP_TIMEOUT_S: Final = 20.0
"""From SIGTERM or Ctrl-C to the end of the process, whatever it is at."""
LOOP_ANSWER_S_MAX: Final = 5.0

log = structlog.get_logger(__name__)


def check_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """The stages in the order of the data; ConfigurationError for an unknown one."""
    unknown = [s for s in stages if s not in ALL_STAGES]
    if unknown or not stages:
        raise ConfigurationError(f"stages: expected some of {', '.join(ALL_STAGES)}, got {', '.join(stages) or 'none'}")
    return tuple(s for s in ALL_STAGES if s in stages)


class Worker:
    """One process of the pipeline, on topics that were checked.

    stages: names in the order of the data · engine: of metrics and scores; a GPU is opened here
    until_caught_up: stop once every stage has handled what its input held, `market.events` as of the start
    rebuild_state: don't trust snapshots
    """

    def __init__(
        self,
        settings: Settings,
        stages: Sequence[str],
        engine: str = "auto",
        until_caught_up: bool = False,
        rebuild_state: bool = False,
    ) -> None:
        self.settings, self.stage_names, self.engine = settings, check_stages(stages), engine
        self.until_caught_up, self.rebuild_state = until_caught_up, rebuild_state
        self.counters = Counters()
        computes = {"metrics", "score"} & set(self.stage_names)
        self._engine = engine_named(
            engine if computes else "cpu", settings.gpu_memory_mib, lambda: self.counters.add("gpu_failures")
        )
        self.topology = Topology.load()
        self.names = {t.name: settings.topic(t.name) for t in self.topology.topics}
        self.schemas = schemas_in_force(settings, register=True)
        self._members: list[GroupMember] = []
        self._progress: ProgressWatch | None = None
        remedies = {
            self.names[topic]: self._lost_input_remedy(stage)
            for stage in self.stage_names
            for topic in STAGE_INPUTS[stage]
        }
        self._watches: list[Callable[[], Coroutine[Any, Any, None]]] = [InputTopics(settings, remedies).watch]
        self._failure: asyncio.Future[None]

    def run(self) -> None:
        """Blocks until done. Raises the error that ended the work; threads then still run, with nothing of what they
        fetched acknowledged, and the process has to end."""
        asyncio.new_event_loop().run_until_complete(self._run())

    async def _run(self) -> None:
        with stop_on_signals(STOP_TIMEOUT_S) as stopped:
            await self._run_until(stopped)

    async def _run_until(self, stopped: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        brokers = resolve_brokers(self.settings)
        caught_up = CaughtUp(self.settings, self.stage_names, self.names)
        if self.until_caught_up:
            await asyncio.to_thread(caught_up.mark_start)
        outbox = Outbox(librdkafka(self.settings))
        apps = [self._app(name, outbox) for name in self.stage_names]
        self._progress = ProgressWatch(self.settings, self._members, partial(self._fail_from_a_thread, loop))
        garbage_collector.settle()
        log.info("worker starts", stages=",".join(self.stage_names), brokers=brokers, engine=self.engine)
        await asyncio.gather(*(app.start() for app in apps))
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(stopped.wait()),
            asyncio.create_task(self._watch_broker(outbox, brokers)),
            *(asyncio.create_task(watch()) for watch in self._watches),
            *(asyncio.create_task(app.crashed()) for app in apps),
        ]
        if self.until_caught_up:
            ends.append(asyncio.create_task(caught_up.wait()))
        counting = asyncio.create_task(self._log_counters())
        self._progress.start()
        try:
            done, _ = await asyncio.wait([self._failure, *ends], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._progress.stop()
            for task in (counting, *ends):
                task.cancel()
            log.info("worker ends", **self.counters.fields())
        await self._end(apps)

    async def _end(self, apps: Sequence[StageApp]) -> None:
        """Commit what is done and leave the groups; only after an orderly end."""
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.gather(*(app.end() for app in apps))
        except TimeoutError:
            log.warning(NOT_IN_TIME)

    def faults(self) -> list[Fault]:
        """Which groups and partitions of this process don't go on, as of the last look, 2 s ago or less; none if all do
        or the worker does not run yet. Any thread may ask."""
        return self._progress.faults if self._progress is not None else []

    def fail(self, error: BaseException) -> None:
        """The first error ends the worker."""
        if not self._failure.done() and not isinstance(error, asyncio.CancelledError):
            self._failure.set_exception(error)

    def _fail_from_a_thread(self, loop: asyncio.AbstractEventLoop, error: SepError) -> None:
        """Ends the process, where the loop itself stands still, too."""
        loop.call_soon_threadsafe(self.fail, error)
        time.sleep(LOOP_ANSWER_S_MAX)  # by then the process has ended, if the loop runs
        with contextlib.suppress(OSError):
            sys.stderr.write(f"sep-stream: {error}\n")
            sys.stderr.flush()
        os._exit(1)

    def _app(self, name: str, outbox: Outbox) -> StageApp:
        topics = [self.names[topic] for topic in STAGE_INPUTS[name]]
        member = GroupMember(
            self.settings, name, topics, self.fail, self._lost_input_remedy(name), self.counters.add
        )  # fmt: skip
        self._members.append(member)
        stage = self._stage(name, member)
        agent = BatchAgent(member, stage, outbox, self.fail, self.settings.fetch_records)
        if isinstance(stage, ConvertStage | SettleStage):
            last_snapshots = stage.last_snapshots
            member.save = lambda handled: agent.save(last_snapshots(handled))
        return StageApp(member, agent)

    def _lost_input_remedy(self, stage: str) -> str:
        if stage == STAGES[0]:
            return "publish the events to a new prefix"
        if stage == "cache":
            group = self.settings.prefix + stage
            return (
                f"delete the group {group} (`kafka-consumer-groups --delete`) and start again: the cache is made anew"
            )
        groups = ", ".join(self.settings.prefix + name for name in STAGES)
        return (
            f"to make all anew from {self.names['market.events']}, stop the workers, delete the groups {groups} "
            "(`kafka-consumer-groups --delete`) and start one with --rebuild-state"
        )

    def _stage(self, name: str, member: GroupMember) -> Stage:
        s, names, instruments = self.settings, self.names, self.topology.instruments
        params = s.window_params()
        if name == "convert":
            return ConvertStage(
                ConvertTopics(
                    events=names["market.events"],
                    bars=names["bars"],
                    windows=names["windows"],
                    prices=names["prices.latest"],
                    late=names["late"],
                    dead_letters=names["dead.letters"],
                    state=names["convert.state"],
                ),
                self.schemas,
                instruments,
                s.convert_parameters(),
                s.partitions,
                self._input_log(member, names["market.events"], names["convert.state"]),
                member.is_current,
                self.counters,
                self.rebuild_state,
            )
        if name == "metrics":
            return MetricsStage(
                names["windows"], names["metrics"], names["dead.letters"], self.schemas, instruments, params,
                self._engine, self.counters,
            )  # fmt: skip
        if name == "score":
            topics = ScoreTopics(
                metrics=names["metrics"],
                models=names["models"],
                signals=names["signals"],
                latest=names["signals.latest"],
                patterns=names["patterns"],
                dead_letters=names["dead.letters"],
            )
            models = LogModels(s, self.schemas, topics.models)
            return ScoreStage(topics, self.schemas, instruments, params, models, self._engine, self.counters)
        if name == "cache":
            from sep_stream.worker.cache_stage import CacheStage  # Redis's client takes a while to import

            cache = CacheStage(s, self.topology, self.schemas, names["dead.letters"], self.counters)
            self._watches.append(cache.watch)
            return cache
        return SettleStage(
            SettleTopics(names["signals"], names["trading.results"], names["dead.letters"], names["settle.state"]),
            self.schemas,
            instruments,
            s.settle_parameters(),
            s.stake(),
            self._input_log(member, names["signals"], names["settle.state"]),
            member.is_current,
            self.counters,
            self.rebuild_state,
        )

    def _input_log(self, member: GroupMember, topic: str, state_topic: str) -> KafkaInputLog:
        """As patient as the worker itself: a state may have to be recovered while the broker is away."""
        group = self.settings.prefix + member.stage
        return KafkaInputLog(self.settings, topic, state_topic, group, BROKER_SILENCE_S_MAX, member.alive)

    async def _watch_broker(self, outbox: Outbox, brokers: str) -> None:
        """Raises DependencyError once the broker has been silent for too long.

        Time in which this process itself stood still, stopped or starved, does not count as the broker's silence.
        """
        loop = asyncio.get_running_loop()
        silence_s = 0.0
        while silence_s <= BROKER_SILENCE_S_MAX:
            begun_s = loop.time()
            await asyncio.sleep(BROKER_CHECK_INTERVAL_S)
            if await asyncio.to_thread(outbox.broker_answers, self.names["dead.letters"], BROKER_CHECK_INTERVAL_S):
                silence_s = 0.0
            else:
                silence_s += min(loop.time() - begun_s, 2 * BROKER_CHECK_INTERVAL_S)
        raise DependencyError(
            f"the broker at {brokers} has not answered for {silence_s:.0f} s; check that it runs "
            "(`sep-stream status`, `sep-stream up`; its own log tells why it ended) and that --brokers names it"
        )

    async def _log_counters(self) -> None:
        seen: dict[str, Any] = {}
        while True:
            await asyncio.sleep(COUNTERS_LOG_INTERVAL_S)
            if (counted := self.counters.fields()) != seen:
                seen = counted
                log.info("worker counts", **seen)
