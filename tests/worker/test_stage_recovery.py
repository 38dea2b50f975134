"""A stage that recovers goes on as if it had never stopped: no output is missing, changed, or made by the re-read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events
from sep_stream.market.partitioner import partition_for
from sep_stream.settling import SettleParameters, Stake
from sep_stream.worker.batches import Batch
from sep_stream.worker.convert_stage import ConvertStage, ConvertTopics
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.settle_stage import SettleStage, SettleTopics
from sep_stream.worker.stage import Counters, Stage
from tests.stores.cache.described import signal_record
from tests.worker.harness import SCHEMAS, TOPOLOGY
from tests.worker.markets import CONVERT, SEED, SYMBOLS, quotes
from tests.worker.memory_log import MemoryLog, in_one_thread, played, records

PARTITIONS = 2
EVENTS = 400
"""Of three instruments, three a minute: about twice as long as a window."""
SIGNALS = 90
CONVERT_TOPICS = ConvertTopics("events", "bars", "windows", "prices", "late", "dead", "state")
SETTLE_TOPICS = SettleTopics("signals", "results", "dead", "state")
Inputs = dict[int, list[tuple[bytes, bytes]]]
"""Keys and values by partition."""


@pytest.fixture(autouse=True, scope="module")
def a_snapshot_after_each_batch() -> Iterator[None]:
    with in_one_thread(0.0):
        yield


def convert(log: MemoryLog) -> Stage:
    return ConvertStage(
        CONVERT_TOPICS, SCHEMAS, TOPOLOGY.instruments, CONVERT, PARTITIONS, log, lambda batch: True, Counters()
    )


def settle(log: MemoryLog) -> Stage:
    parameters = SettleParameters(trade="all", max_open=5)
    return SettleStage(
        SETTLE_TOPICS, SCHEMAS, TOPOLOGY.instruments, parameters, Stake(), log, lambda batch: True, Counters()
    )


@cache
def events() -> Inputs:
    found: Inputs = {partition: [] for partition in range(PARTITIONS)}
    batch = quotes(SEED).take(slice(0, EVENTS))
    values = encode_events(BulkCodec(*SCHEMAS.of("market_event")), TOPOLOGY.instruments, batch).values()
    for instrument, value in zip(batch.instrument.tolist(), values, strict=True):
        key = TOPOLOGY.instruments[instrument].symbol.encode()
        found[partition_for(key, PARTITIONS)].append((key, value))
    found[0].insert(50, (b"EUR/USD", b"garbage"))
    return found


@cache
def signals() -> Inputs:
    found: Inputs = {partition: [] for partition in range(PARTITIONS)}
    for k in range(SIGNALS):
        for symbol in SYMBOLS:
            record = signal_record(symbol, "M1", 1_700_000_040 + 60 * k) | {"bar_index": k, "bar_spread": None}
            record["bar_open_time"] = record["available_at"] - timedelta(minutes=1)
            key = symbol.encode()
            found[partition_for(key, PARTITIONS)].append((key, SCHEMAS.encode("signal", record)))
    for rows in found.values():  # a settler passes over signals that it has seen, but not over these
        rows[5::10] = [(b"EUR/USD", b"garbage")] * len(rows[5::10])
    return found


STAGES = {"convert": (convert, events), "settle": (settle, signals)}


def fetch(stage: str, partition: int, start: int, stop: int, number: int) -> Batch:
    _, inputs = STAGES[stage]
    rows = inputs()[partition][start:stop]
    fetched = records(partition, range(start, stop), values=[value for _, value in rows], keys=[key for key, _ in rows])
    return Batch("events" if stage == "convert" else "signals", partition, fetched, stop, 1, number)


def run(stage: str, log: MemoryLog, spans: Sequence[tuple[int, int, int]]) -> list[Outgoing]:
    """Outputs of a new worker that fetches these spans; its snapshots go to the log."""
    work = STAGES[stage][0](log)
    outputs: list[Outgoing] = []
    for number, span in enumerate(spans):
        processed = played(work.process([fetch(stage, *span, number)]))
        outputs += processed.outputs
        for snapshot in processed.snapshots:
            log.saved[snapshot.partition].append(snapshot.value)
    return outputs


class StageLog(MemoryLog):
    """The log of a stage's inputs."""

    def __init__(self, stage: str) -> None:
        inputs = STAGES[stage][1]()
        super().__init__(
            {partition: list(range(len(rows))) for partition, rows in inputs.items()},
            high={partition: len(rows) for partition, rows in inputs.items()},
            values={(p, k): value for p, rows in inputs.items() for k, (_, value) in enumerate(rows)},
            keys={(p, k): key for p, rows in inputs.items() for k, (key, _) in enumerate(rows)},
        )


def comparable(outputs: Sequence[Outgoing]) -> Counter[str]:
    """How often each output is there; latest prices apart, of which each batch gives one."""
    return Counter(repr(output) for output in outputs if output.topic != CONVERT_TOPICS.prices)


@cache
def undisturbed(stage: str, partition: int) -> list[Outgoing]:
    log = StageLog(stage)
    return run(stage, log, [(partition, 0, log.high[partition])])


@pytest.mark.parametrize("stage", STAGES)
@settings(max_examples=12, phases=[Phase.reuse, Phase.generate])  # an example is small; to shrink it takes minutes
@given(data=st.data())
def test_outputs_of_two_workers_in_turn_are_those_of_one(stage: str, data: st.DataObject) -> None:
    """Wherever the first one was cut off, whichever of its snapshots were written, and whatever it committed."""
    partition = data.draw(st.sampled_from(range(PARTITIONS)), "partition")
    log = StageLog(stage)
    end = log.high[partition]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, end - 1), min_size=1, max_size=4), "cuts"))]
    first = run(stage, log, [(partition, start, stop) for start, stop in pairwise(cuts)])
    written = data.draw(st.integers(0, len(cuts) - 1), "snapshots that were written")
    del log.saved[partition][written:]
    log.offset_committed[partition] = committed = data.draw(st.sampled_from(cuts), "committed")

    second = run(stage, log, [(partition, committed, end)])
    expected = comparable(undisturbed(stage, partition))
    resume = max(committed, cuts[written])
    before = comparable(run(stage, StageLog(stage), [(partition, 0, resume)])) if resume else Counter[str]()
    assert comparable(second) == expected - before
    assert set(comparable(first + second)) == set(expected)


@pytest.mark.parametrize("stage", STAGES)
def test_the_inputs_try_what_they_are_meant_to(stage: str) -> None:
    topics = {output.topic for partition in range(PARTITIONS) for output in undisturbed(stage, partition)}
    assert topics == ({"bars", "windows", "prices", "late", "dead"} if stage == "convert" else {"results", "dead"})
