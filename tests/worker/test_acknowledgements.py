"""When an agent acknowledges its input: once all of it is handled and the broker has all that came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException

from sep_stream.errors import DependencyError
from sep_stream.worker.batches import Batch
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.stage import Processed
from tests.worker.memory_log import AgentRun, HeldProducer, all_goes_on, batch, outbox_of, played

REFUSED = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)


class Echo:
    """Gives each record as an output; handling one of `failing` raises."""

    name = "echo"
    topics = ("events",)

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self._failing = failing
        self.handled: list[int] = []
        self.calls: list[int] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def process(self, batches: Sequence[Batch]) -> Processed:
        await self.go_on.wait()
        offsets = [offset for b in batches for offset in b.records.offsets.tolist()]
        if set(offsets) & set(self._failing):
            raise DependencyError("the disk is gone")
        self.handled += offsets
        self.calls.append(len(offsets))
        return Processed([Outgoing("out", b.partition, b"k", value) for b in batches for value in b.records.values])


def test_input_is_acknowledged_when_the_broker_has_all_its_outputs() -> None:
    async def play() -> None:
        run = AgentRun(Echo())
        message = await run.fetch(batch([0, 1, 2]))
        await run.report(b"0")
        await run.report(b"2")
        assert run.group.acknowledged == []
        await run.report(b"1")
        assert run.group.acknowledged == [message]

    played(play())


def test_input_without_outputs_is_acknowledged_in_its_turn() -> None:
    class Silent(Echo):
        async def process(self, batches: Sequence[Batch]) -> Processed:
            processed = await super().process(batches)
            return processed if batches[0].number == 0 else Processed()

    async def play() -> None:
        run = AgentRun(Silent())
        first = await run.fetch(batch([0]))
        second = await run.fetch(batch([1], number=1))
        assert run.group.acknowledged == []
        await run.report(b"0")
        assert run.group.acknowledged == [first, second]

    played(play())


def test_an_output_that_the_broker_refuses_ends_the_work_and_acknowledges_nothing() -> None:
    async def play() -> None:
        run = AgentRun(Echo())
        await run.fetch(batch([0, 1]))
        await run.report(b"0", error=REFUSED)
        await run.report(b"1")
        [failure] = run.failures
        assert isinstance(failure, DependencyError)
        assert str(failure).startswith("out/0: the broker did not take a record: ")
        assert run.group.acknowledged == []

    played(play())


def test_a_stage_that_raises_ends_the_work_and_acknowledges_nothing() -> None:
    async def play() -> None:
        run = AgentRun(Echo(failing=[1]))
        await run.fetch(batch([1]))
        assert list(map(str, run.failures)) == ["the disk is gone"]
        assert run.producer.history == []
        assert run.group.acknowledged == []

    played(play())


def test_nothing_is_handled_after_a_failure() -> None:
    async def play() -> None:
        stage = Echo()
        run = AgentRun(stage, records_max=1)
        await run.fetch(batch([0]))
        stage.go_on.clear()
        await run.fetch(batch([1], number=1))
        await run.fetch(batch([2], number=2))
        await run.report(b"0", error=REFUSED)
        stage.go_on.set()
        await all_goes_on()
        await run.fetch(batch([3], number=3))
        assert stage.handled == [0, 1]  # 1 was being handled when 0 was refused
        await run.report(b"1")
        assert run.group.acknowledged == []

    played(play())


def test_what_was_fetched_meanwhile_is_handled_together_and_in_order() -> None:
    async def play() -> None:
        stage = Echo()
        run = AgentRun(stage, records_max=4)
        stage.go_on.clear()
        await run.fetch(batch([0]))
        sizes = (2, 2, 1, 5, 1)
        start, messages = 1, []
        for number, size in enumerate(sizes, 1):
            messages.append(await run.fetch(batch(range(start, start + size), number=number)))
            start += size
        stage.go_on.set()
        await all_goes_on()
        assert stage.handled == list(range(start))
        assert stage.calls == [1, 4, 1, 5, 1]
        run.producer.report()
        await all_goes_on()
        assert run.group.acknowledged[1:] == messages

    played(play())


def test_batches_of_a_passed_epoch_are_not_handed_to_the_stage() -> None:
    """The partition may be another worker's by then."""

    async def play() -> None:
        stage = Echo()
        run = AgentRun(stage)
        run.group.epochs[0] = 2
        await run.fetch(batch([0], epoch=1), batch([5], partition=1))
        assert stage.handled == [5]
        await run.fetch(batch([1], epoch=1, number=1))
        assert stage.handled == [5]
        await run.fetch(batch([0], epoch=2))
        assert stage.handled == [5, 0]

    played(play())


def out(*values: bytes) -> list[Outgoing]:
    return [Outgoing("out", 0, b"k", value) for value in values]


def test_a_delivery_is_done_with_its_last_report_in_any_order() -> None:
    async def play() -> None:
        producer = HeldProducer()
        delivery = await outbox_of(producer).send(out(b"a", b"b", b"c"))
        for value in (b"c", b"a"):
            producer.report_values(value)
            assert not delivery.future.done()
        producer.report_values(b"b")
        assert delivery.future.done()
        await delivery.future

    played(play())


def test_a_delivery_of_nothing_is_done_at_once() -> None:
    async def play() -> None:
        assert (await outbox_of(HeldProducer()).send([])).future.done()

    played(play())


def test_reports_are_asked_for_after_each_send() -> None:
    async def play() -> None:
        producer = HeldProducer(on_poll=lambda: producer.report())
        outbox = outbox_of(producer)
        for _ in range(2):
            await (await outbox.send(out(b"a"))).future

    played(play())


def test_one_refused_record_fails_its_delivery_for_good() -> None:
    async def play() -> None:
        producer = HeldProducer()
        delivery = await outbox_of(producer).send(out(b"a", b"b"))
        producer.report_values(b"a", error=REFUSED)
        producer.report_values(b"b")
        with pytest.raises(DependencyError, match="its input is not committed and will be handled again"):
            await delivery.future

    played(play())


def test_a_full_queue_makes_a_send_wait_and_loses_nothing() -> None:
    """Reports that come during the send don't make it done before its last record is sent."""

    async def play() -> None:
        producer = HeldProducer(room=1, on_poll=lambda: producer.report_values(b"a", b"b"))
        delivery = await outbox_of(producer).send(out(b"a", b"b", b"c"))
        assert producer.sent("out") == [b"a", b"b", b"c"]
        assert not delivery.future.done()
        producer.report()
        assert delivery.future.done()

    played(play())


def test_a_record_that_the_producer_does_not_take_is_an_error() -> None:
    def refuse(record: Outgoing) -> None:
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))

    async def play() -> None:
        producer = HeldProducer()
        producer.on_send = refuse
        with pytest.raises(DependencyError, match="out: cannot send"):
            await outbox_of(producer).send(out(b"a"))

    played(play())
