"""What workers made of a log is what a backtest makes of it, whatever happened to them; what is not is found."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from itertools import starmap
from typing import Any

import pytest
from confluent_kafka import Producer

from sep_stream.backtest.verify import compare
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.settings import Settings
from tests.cli.commands import run
from tests.worker.harness import (
    COLD_S_MAX,
    RECOVERED,
    SCHEMAS,
    SMALL,
    await_handled,
    await_log,
    decoded,
    raw,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, play, steps
from tests.worker.test_groups import await_members

Made = tuple[Settings, str]


@pytest.fixture(scope="module")
def worked(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A log with two models, handled by workers of which one is killed, and two share the partitions for a while."""
    from sep_stream.runtime import topics
    from tests.worker.harness import TOPOLOGY

    folder = tmp_path_factory.mktemp("verified")
    settings = Settings.load(brokers=broker, prefix="verified.", data_dir=folder / "data", trade="all", **SMALL)
    topics.create(settings, TOPOLOGY)
    second = settings.model_copy(update={"data_dir": folder / "second", "models_url": settings.models_root()})
    log = steps(settings, SEED, STEPS)
    play(log[:2])
    with worker(settings, SEP_FAILPOINT="score.after_send:2") as process:
        await_log(settings, process, RECOVERED)
        for act in log[2]:
            act()
            await_handled(settings, process)  # each piece is a batch of its own
        assert process.wait(COLD_S_MAX) == -signal.SIGKILL
    with worker(settings):
        play(log[3:4])
        with worker(second) as joined:
            await_members(settings, 2)
            play(log[4:5])
            await_log(second, joined, RECOVERED)
            play(log[5:])
    run_until_caught_up(settings)
    return settings


def verify(settings: Settings, *flags: str) -> tuple[int, dict[str, Any], str]:
    environment = {name: value for name, value in settings.environment().items() if name != "SEP_PREFIX"}
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    code, out, err = run(
        "backtest", "--verify-against", settings.prefix, "--json", *flags, cwd=settings.data_dir, **environment
    )
    return code, json.loads(out) if out else {}, err


@pytest.mark.integration
def test_a_killed_and_shared_live_run_agrees_with_the_backtest(worked: Settings) -> None:
    code, found, told = verify(worked)
    assert code == 0, told
    for topic in ("signals", "trading.results"):
        assert {name: found[topic][name] for name in ("different", "missing", "unexpected")} == dict.fromkeys(
            ("different", "missing", "unexpected"), 0
        )
        assert found[topic]["equal"] == len({value for _, _, _, value, _ in raw(worked, topic)}) > 0
    assert found["signals"]["repeated"] > 0
    assert len({signal["model_id"] for signal in decoded(worked, "signals")}) == 2


@pytest.mark.integration
def test_other_costs_than_the_workers_are_found_as_differences(worked: Settings) -> None:
    code, found, told = verify(worked, "--slippage", "1")
    assert code == 1
    assert found["signals"]["different"] == 0
    assert found["trading.results"]["different"] > 0
    assert "entry_price is" in told


@pytest.mark.integration
def test_a_record_that_nothing_gives_is_found(
    worked: Settings, make_settings: Callable[..., Settings], prefix: str
) -> None:
    """A signal in a prefix without events."""
    settings = make_settings(prefix, **SMALL)
    signal = next(iter(decoded(worked, "signals")))
    key = signal["instrument"].encode()
    producer = Producer({"bootstrap.servers": settings.brokers})
    producer.produce(
        settings.topic("signals"), SCHEMAS.encode("signal", signal), key, partition_for(key, settings.partitions)
    )
    producer.flush(60)
    code, found, told = verify(settings)
    assert code == 1
    assert {topic: found[topic]["unexpected"] for topic in found} == {"signals": 1, "trading.results": 0}
    assert "is not what the log gives" in told


def test_each_kind_of_difference_is_counted_and_told() -> None:
    def pattern(name: str, confidence: float) -> bytes:
        return SCHEMAS.encode(
            "pattern", {"pattern_id": name, "instrument": "EUR/USD", "path": b"", "confidence": confidence}
        )

    expected = {name.encode(): pattern(name, 0.5) for name in "abc"}
    lying = [pattern("a", 0.5), pattern("a", 0.5), pattern("b", 0.6), pattern("x", 0.5), b"\x00garbage"]
    found = compare(
        "patterns", expected, starmap(lambda k, v: (f"p/0, offset {k}", v), enumerate(lying)), SCHEMAS, "pattern",
        "pattern_id",
    )  # fmt: skip
    assert (found.equal, found.different, found.missing, found.unexpected, found.repeated) == (1, 1, 1, 2, 1)
    assert not found.agrees
    assert found.first[0] == "p/0, offset 2: pattern_id b: confidence is 0.6, computed 0.5"
    assert any("pattern_id c is missing" in line for line in found.first)
    assert any("the value is no pattern" in line for line in found.first)
