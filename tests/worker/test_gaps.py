"""Offsets without a record, of transactions and compaction, change nothing and are waited for by nobody."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events
from sep_stream.market.events import EventBatch
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.settings import Settings
from tests.worker.harness import (
    COLD_S_MAX,
    RECOVERED,
    SCHEMAS,
    SMALL,
    TOPOLOGY,
    Records,
    await_handled,
    await_log,
    log_of,
    pieces,
    put_in_force,
    raw,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, SYMBOLS, assert_same_events_gave_the_same, model_of, quotes

pytestmark = pytest.mark.integration

PIECES = 5
PAUSE_S = 0.5
CODEC = BulkCodec(*SCHEMAS.of("market_event"))


class Transactions:
    """Publishes events in transactions, with aborted ones around them and empty offsets of the markers between."""

    def __init__(self, settings: Settings) -> None:
        self._topic, self._partitions = settings.topic("market.events"), settings.partitions
        self._producer = Producer({"bootstrap.servers": settings.brokers, "transactional.id": self._topic})
        self._producer.init_transactions()

    def publish(self, events: EventBatch) -> None:
        self.abort(events)
        self._producer.begin_transaction()
        self._send(events)
        self._producer.commit_transaction()

    def abort(self, events: EventBatch) -> None:
        """The first of the events once more, and garbage in every partition, for nobody to see."""
        self._producer.begin_transaction()
        self._send(events.take(slice(0, 20)))
        for partition in range(self._partitions):
            for _ in range(7):
                self._producer.produce(self._topic, b"aborted", b"k", partition)
        self._producer.flush(60)
        self._producer.abort_transaction()

    def _send(self, events: EventBatch) -> None:
        values = encode_events(CODEC, TOPOLOGY.instruments, events).values()
        for value, position, time_us in zip(
            values, events.instrument.tolist(), events.event_time.tolist(), strict=True
        ):
            key = TOPOLOGY.instruments[position].symbol.encode()
            self._producer.produce(
                self._topic, value, key, partition_for(key, self._partitions), timestamp=time_us // 1000
            )
            self._producer.poll(0)


def test_transactions_and_what_they_aborted_change_nothing(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    """With a worker killed on the way, which comes back across the gaps."""
    settings = make_settings(prefix, group_instance="one", fetch_records=257, **SMALL)
    log = Transactions(settings)
    parts = pieces(quotes(SEED), STEPS)

    def play(step: int, pause: Callable[[], object] = lambda: None) -> None:
        for number, piece in enumerate(pieces(parts[step], PIECES)):
            if number == PIECES // 2 and step in (1, STEPS // 2):
                at_s = int(parts[step].event_time[0]) // 1_000_000
                put_in_force(settings, model_of(quotes(SEED), at_s, 32 if step == 1 else 16), SYMBOLS, at_s)
            log.publish(piece)
            pause()

    play(0)
    with worker(settings, SEP_FAILPOINT="convert.after_snapshot:1") as process:
        await_log(settings, process, RECOVERED)

        def wait_for_its_end() -> None:
            """Each piece is a batch of its own: one of them comes when a snapshot is due."""
            await_handled(settings, process, ["convert"])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PAUSE_S)

        play(1, wait_for_its_end)
        play(2, wait_for_its_end)
        assert process.wait(COLD_S_MAX) == -signal.SIGKILL
    for step in range(3, STEPS):
        play(step)
    log.abort(parts[0])
    run_until_caught_up(settings)
    assert_same_events_gave_the_same(settings, undisturbed, repeats=True)
    recoveries = [json.loads(line) for line in log_of(settings).splitlines() if RECOVERED in line]
    assert any(r["snapshot"] > 0 for r in recoveries)
    assert raw(settings, "dead.letters") == []
