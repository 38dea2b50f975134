"""A Faust transport that hands an agent one message per fetch.

Faust spends most of its time per message. Here a message is a `Fetched`: the records of all partitions that one fetch
returned, a `Batch` for each. Agents, consumer groups, rebalances and supervision stay Faust's own; the records come
through librdkafka. Offsets become committable in the order of the fetches, once `acknowledge` was called for every
fetch up to them; `docs/decisions/batch-transport.md` tells what of Faust and aiokafka this reaches into, and why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import faust
import faust.app.base
import faust.tables
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, NoOffsetForPartitionError
from faust.events import Event
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from sep_stream.errors import SepError, StateError
from sep_stream.runtime.settings import Settings
from sep_stream.worker.failpoints import reach
from sep_stream.worker.fetcher import Batch, Fetcher, OffsetGone, Start
from sep_stream.worker.ledger import Ledgers

POSITION_WAIT_S: Final = 0.05
"""Until it is asked again where to read partitions whose positions are not known yet."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch returned, or two: a batch of each partition that had records, in the order of the fetches."""

    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return sum(map(len, self.batches))


def _one_message(batches: Sequence[Batch]) -> dict[TP, list[Fetched]]:
    """As Faust takes what was fetched: under one of its partitions."""
    return {TP(batches[0].topic, batches[0].partition): [Fetched(tuple(batches))]} if batches else {}


class BatchSchema(Schema):
    """Passes what was fetched to the agent as it is: decoding is the stage's work."""

    def compile(self, app: Any, **_: Any) -> Any:
        async def event_of(message: Any, *, propagate: bool = False) -> Event:
            return Event(app, None, message.value, None, message)

        return event_of


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Keeps the group's membership, positions and commits with aiokafka, and leaves what is read to a `Fetcher`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.epochs: dict[TP, int] = defaultdict(int)
        self._fetcher = Fetcher(self.app.settings, self.app.conf.id, self.app.conf.broker_max_poll_records)

    async def on_thread_stop(self) -> None:
        await super().on_thread_stop()
        self._fetcher.close()

    def _new_epoch(self, partitions: Iterable[Any]) -> None:
        for partition in partitions:
            self.epochs[TP(*partition)] += 1

    async def seek_to_committed(self) -> Mapping[TP, int]:
        async def seek() -> Mapping[TP, int]:
            consumer = self._ensure_consumer()
            self._new_epoch(consumer.assignment())
            offsets = await consumer.seek_to_committed()
            self._new_epoch(consumer.assignment())
            return offsets

        return await self.call_thread(seek)

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        self._new_epoch(partitions)
        await super()._seek_wait(consumer, partitions)

    def seek(self, partition: TP, offset: int) -> None:
        self._new_epoch([partition])
        super().seek(partition, offset)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # aiokafka finds the positions, and fetches nothing.
        self._ensure_consumer().pause(*(TopicPartition(*tp) for tp in assigned))
        self._new_epoch(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def getmany(self, active_partitions: Any, timeout: float) -> Any:
        """On the app's loop, as all of Faust's calls."""
        fetcher = self._fetcher
        try:
            if fetcher.epochs != {tp: self.epochs[tp] for tp in active_partitions}:
                starts = await self.call_thread(self._starts, active_partitions)
                if fetcher.epochs != {tp: start.epoch for tp, start in starts.items()}:
                    await fetcher.place(starts)
                if len(starts) < len(active_partitions):
                    timeout = POSITION_WAIT_S
            batches = await fetcher.fetch(timeout)
        except OffsetGone as gone:
            await self.call_thread(self._fail_for_lost_input, gone)
            return {}
        except SepError as error:
            self.app.fail(error)
            return {}
        return _one_message(batches)

    async def _starts(self, partitions: set[TP]) -> dict[TP, Start]:
        """Where to read those partitions whose positions are known."""
        consumer = self._ensure_consumer()
        if consumer._closed:
            raise ConsumerStoppedError
        lost = partitions - self._positions(partitions).keys()
        if lost:
            try:
                # It returns no records of partitions without a position: it raises what stands in its way.
                await self._fetch_records(consumer, lost, timeout=0)
            except NoOffsetForPartitionError as error:  # the group is new here: it begins where the log does
                partition = error.args[0]
                if partition in consumer.assignment():
                    self._new_epoch([partition])
                    await consumer.seek_to_beginning(partition)
        return self._positions(partitions) if self.consumer.flow_active else {}

    def _positions(self, partitions: set[TP]) -> dict[TP, Start]:
        """In one step of this thread's loop, which makes all seeks: epochs and positions fit."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription and subscription.assignment
        if assignment is None:
            return {}
        states = {tp: assignment.state_value(TopicPartition(*tp)) for tp in partitions if tp in assignment.tps}
        return {tp: Start(self.epochs[tp], state.position) for tp, state in states.items() if state.has_valid_position}

    async def _fail_for_lost_input(self, gone: OffsetGone) -> None:
        """Ends the process where aiokafka would go on at the log's start, past records that nobody handled."""
        consumer, partition = self._ensure_consumer(), TopicPartition(*gone.partition)
        low = (await consumer.beginning_offsets([partition]))[partition]
        high = (await consumer.end_offsets([partition]))[partition]
        what = "records that it has not handled were deleted" if gone.offset < low else "the topic was cut or made anew"
        self.app.loop.call_soon_threadsafe(
            self.app.fail,
            StateError(
                f"{partition.topic}/{partition.partition}: group {self.app.conf.id} goes on at offset {gone.offset}, "
                f"but the log holds {low} to {high}: {what}; {self.app.lost_input_remedy}"
            ),
        )

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust would complain that aiokafka sends no fetches."""


class _Consumer(driver.Consumer):
    """Keeps a ledger per partition, so that only what was acknowledged in order is committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ledgers = Ledgers()

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def epoch(self, tp: TP) -> int:
        return self._thread.epochs[tp]

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Without the batches that a seek or a new assignment has overtaken since their fetch."""
        came = await super()._getmany(active_partitions, timeout)
        batches = [batch for [fetched] in came.values() for batch in fetched.batches]
        return _one_message([b for b in batches if b.epoch == self.epoch(TP(b.topic, b.partition))])

    def _to_message(self, tp: TP, record: Fetched) -> ConsumerMessage:
        message = ConsumerMessage(
            tp.topic, tp.partition, record.batches[0].next_offset - 1, 0.0, 0, None, None, record, None, 0, len(record),
            tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip
        self._ledgers.add(message, record.batches)
        return message

    def acknowledge(self, message: Any) -> None:
        """All that a fetch gave has been acknowledged by the broker: its offsets may be committed."""
        message.acked = True
        self._unacked_messages.discard(message)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        yield from (TP(*at) for at in self._ledgers if topics is None or at in topics or at[0] in topics)

    def _new_offset(self, tp: TP) -> int | None:
        # Never Faust's own count: an ack after a revoke would commit what nobody handled.
        return self._ledgers.to_commit(tp, self.epoch(tp))

    def _should_commit(self, tp: TP, offset: int) -> bool:
        # Never by Faust's own note of what is committed: it takes it after a commit that failed, too.
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        ledgers = self._ledgers.of(offsets)
        reach(f"{self.app.stage}.before_commit")
        committed = await super()._commit(offsets)
        reach(f"{self.app.stage}.after_commit")
        if committed:
            for at, ledger in ledgers.items():
                ledger.committed = offsets[TP(*at)]
        return committed

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: the ledger knows each batch's next offset."""

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: Faust would sleep a second once every partition is "full"."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self._ledgers.drop(revoked)


class _Transport(driver.Transport):
    Consumer = _Consumer


class _BootStrategy(faust.app.base.BootStrategy):
    enable_web = False  # its table page would serve data on all interfaces


class _TableManager(faust.tables.TableManager):
    async def on_start(self) -> None:
        """At once: the stock manager first waits a second for tables to be declared, and there are none."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class BatchApp(faust.App):
    """A Faust app whose topics, each a `batch_topic`, arrive fetch by fetch.

    A group without an offset begins where the log does; an offset that the log no longer has ends the process.
    stage: names it in failpoints and logs · fail: called with an error on the app's loop; the process is expected to
    end · lost_input_remedy: what to do where the input's log no longer holds what the group has to handle
    """

    BootStrategy = _BootStrategy

    def __init__(
        self,
        settings: Settings,
        *args: Any,
        stage: str,
        fail: Callable[[BaseException], None],
        lost_input_remedy: str,
        **kwargs: Any,
    ) -> None:
        self.settings = settings
        self.stage, self.fail, self.lost_input_remedy = stage, fail, lost_input_remedy
        super().__init__(*args, TableManager=_TableManager, consumer_auto_offset_reset="none", **kwargs)

    def _create_directories(self) -> None:
        """None: there are no tables to keep in them."""

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def batch_topic(self, *names: str) -> Any:
        """One stream of what these topics bring."""
        return self.topic(*names, schema=BatchSchema(), internal=False)

    def is_current(self, batch: Batch) -> bool:
        """Is the batch of the partition's present assignment and position?"""
        return self.consumer.epoch(TP(batch.topic, batch.partition)) == batch.epoch
