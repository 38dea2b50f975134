"""When a snapshot is sent: after every output below its offset is acknowledged, and before its input is."""

from __future__ import annotations

import random
from collections.abc import Sequence

from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.worker.batches import Batch
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.stage import Processed
from tests.worker.memory_log import STATE, AgentRun, batch, played

REFUSED = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)


class Echo:
    """Gives each record as an output, and after each call a snapshot that is named by the next offset."""

    name = "echo"
    topics = ("events",)

    async def process(self, batches: Sequence[Batch]) -> Processed:
        outputs = [
            Outgoing(f"out{offset % 2}", b.partition, b"k", b"%d" % offset)
            for b in batches
            for offset in b.records.offsets.tolist()
        ]
        snapshots = [Outgoing(STATE, b.partition, b"k", b"next %d" % b.next_offset) for b in batches]
        return Processed(outputs, snapshots)


def test_a_snapshot_waits_for_the_outputs_of_its_own_batch() -> None:
    async def play() -> None:
        run = AgentRun(Echo())
        await run.fetch(batch([0, 1]))
        await run.report(b"1")
        assert run.producer.sent(STATE) == []
        await run.report(b"0")
        assert run.producer.sent(STATE) == [b"next 2"]

    played(play())


def test_a_snapshot_waits_for_the_outputs_of_earlier_batches() -> None:
    """Its state holds what they were made of: a restart from it would never make them again."""

    async def play() -> None:
        run = AgentRun(Echo())
        await run.fetch(batch([0]))
        await run.fetch(batch([1], number=1))
        await run.report(b"1")
        assert run.producer.sent(STATE) == []
        await run.report(b"0")
        assert run.producer.sent(STATE) == [b"next 1"]
        await run.report(b"next 1")
        assert run.producer.sent(STATE) == [b"next 1", b"next 2"]

    played(play())


def test_input_is_acknowledged_once_outputs_and_snapshot_are() -> None:
    async def play() -> None:
        run = AgentRun(Echo())
        message = await run.fetch(batch([0]))
        assert run.group.acknowledged == []
        await run.report(b"0")
        assert run.group.acknowledged == []
        await run.report(b"next 1")
        assert run.group.acknowledged == [message]

    played(play())


def test_a_snapshot_that_the_broker_refuses_ends_the_work() -> None:
    async def play() -> None:
        run = AgentRun(Echo())
        await run.fetch(batch([0]))
        await run.report(b"0")
        await run.report(b"next 1", error=REFUSED)
        assert len(run.failures) == 1
        assert run.group.acknowledged == []

    played(play())


def test_no_snapshot_is_sent_after_an_output_was_refused() -> None:
    async def play() -> None:
        run = AgentRun(Echo())
        await run.fetch(batch([0]))
        await run.fetch(batch([1], number=1))
        await run.report(b"0", error=REFUSED)
        await run.report(b"1")
        assert run.producer.sent(STATE) == []
        assert run.failures
        assert run.group.acknowledged == []

    played(play())


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.randoms())
def test_in_whatever_order_the_broker_reports_a_snapshot_follows_all_that_is_below_it(
    sizes: Sequence[int], choice: random.Random
) -> None:
    async def play() -> None:
        run, start = AgentRun(Echo()), 0
        acknowledged: set[int] = set()

        def check(record: Outgoing) -> None:
            if record.topic == STATE:
                assert acknowledged >= set(range(int(record.value.split()[1])))

        run.producer.on_send = check
        for number, size in enumerate(sizes):
            await run.fetch(batch(range(start, start + size), number=number))
            start += size
        while run.producer.held:
            value = choice.choice(run.producer.held).record.value
            if value.isdigit():
                acknowledged.add(int(value))
            await run.report(value)
        assert run.failures == []
        assert len(run.producer.sent(STATE)) == len(sizes)
        assert len(run.group.acknowledged) == len(sizes)

    played(play())
