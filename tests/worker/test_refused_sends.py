"""Outputs that the broker never takes end the worker in time, with nothing committed past them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from sep_stream.runtime import topics
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from tests.waiting import until
from tests.worker.harness import (
    COLD_S_MAX,
    SCHEMAS,
    SMALL,
    TOPOLOGY,
    Records,
    await_log,
    log_of,
    raw,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, play_all
from tests.worker.test_groups import assert_same

pytestmark = pytest.mark.integration


def alter(settings: Settings, topic: str, **config: str) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, settings.topic(topic), incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(60)

    def is_in_force() -> bool:
        [described] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, resource.name)]).values()
        now = described.result(60)
        return all(now[entry.name].value == entry.value for entry in entries)

    until(is_in_force)


def committed(settings: Settings, stage: str, topic: str) -> dict[int, int]:
    return LogReader(settings).committed(settings.prefix + stage, settings.topic(topic), range(settings.partitions))


@pytest.mark.parametrize(
    ("refusing", "stage", "source"),
    [("bars", "convert", "market.events"), pytest.param("patterns", "score", "metrics", marks=pytest.mark.slow)],
)
def test_records_that_the_broker_refuses_end_the_worker_until_it_takes_them(
    make_settings: Callable[..., Settings],
    prefix: str,
    undisturbed: Records,
    refusing: str,
    stage: str,
    source: str,
) -> None:
    settings = make_settings(prefix, **SMALL)
    alter(settings, refusing, max_message_bytes="20")
    play_all(settings, SEED, STEPS)
    with worker(settings, "--until-caught-up") as process:
        assert process.wait(COLD_S_MAX) == 1
    assert re.search(
        rf"sep-stream: {prefix}{refusing}/\d: the broker did not take a record: .*[Mm]essage size too large",
        log_of(settings),
    )
    assert "Traceback" not in log_of(settings)
    handled = committed(settings, stage, source)
    if stage == "score":  # what has no model makes no pattern
        with_model = [r for r in raw(settings, source) if SCHEMAS.decode(r[3])[1]["model_id"]]
        assert all(at <= min(r[1] for r in with_model if r[0] == partition) for partition, at in handled.items())
    else:
        assert handled == {}
    alter(settings, refusing, max_message_bytes="1048588")
    run_until_caught_up(settings)
    assert_same(settings, undisturbed)


@pytest.mark.slow
def test_an_output_topic_that_is_deleted_ends_the_worker_until_it_is_made_again(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, **SMALL)
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    with worker(settings) as process:
        await_log(settings, process, "worker starts")
        for done in admin.delete_topics([settings.topic("bars")]).values():
            done.result(60)
        play_all(settings, SEED, STEPS)
        assert process.wait(COLD_S_MAX) == 1
    assert re.search(rf"sep-stream: {prefix}bars(/-?\d+)?: .*[Uu]nknown", log_of(settings))
    assert "Traceback" not in log_of(settings)
    topics.create(settings, TOPOLOGY)
    run_until_caught_up(settings)
    assert_same(settings, undisturbed)
