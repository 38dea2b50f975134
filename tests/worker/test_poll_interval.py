"""A worker stays in its groups for longer than their poll interval, whether records come or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from sep_stream.runtime.settings import Settings
from tests.worker.harness import (
    SMALL,
    Records,
    await_handled,
    log_of,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, play, steps
from tests.worker.test_groups import assert_same, await_members

pytestmark = pytest.mark.integration

INTERVAL_S = 10
"""The shortest that the session timeout allows."""
QUIET_S = 2.5 * INTERVAL_S


def copies(settings: Settings, count: int, folder: Path) -> list[Settings]:
    """The settings of so many workers, each with a log of its own."""
    models = settings.models_root()
    return [settings.model_copy(update={"data_dir": folder / str(k), "models_url": models}) for k in range(count)]


def stay_quiet(settings: Settings, workers: int, quiet_s: float, folder: Path) -> None:
    """Run so many workers through a while in which nothing comes. Every partition in use has a committed offset when
    they start, and has one again when nothing comes."""
    log = steps(settings, SEED, STEPS)
    play(log[:2])
    run_until_caught_up(settings)
    with ExitStack() as stack:
        each = copies(settings, workers, folder)
        processes = [stack.enter_context(worker(one)) for one in each]
        await_members(settings, workers)
        play(log[2:3])
        await_handled(settings, processes[0])
        time.sleep(quiet_s)  # nothing ends this wait but time: that is what is tested
        await_members(settings, workers)
        play(log[3:])
        await_handled(settings, processes[0])
        assert [process.poll() for process in processes] == [None] * workers, log_of(each[0])[-3000:]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_to_which_nothing_comes_for_longer_than_the_interval_go_on(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, tmp_path: Path, workers: int
) -> None:
    settings = make_settings(prefix, max_poll_interval_s=INTERVAL_S, **SMALL)
    stay_quiet(settings, workers, QUIET_S, tmp_path)
    assert_same(settings, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_busy_for_longer_than_the_interval_stays(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    """A batch that takes longer than the interval, too: the reader goes on asking."""
    settings = make_settings(prefix, max_poll_interval_s=INTERVAL_S, fetch_records=31, **SMALL)
    log = steps(settings, SEED, STEPS)
    with worker(settings, SEP_FAILPOINT=f"metrics.before_send:2:stall={QUIET_S}") as process:
        play(log)
        await_handled(settings, process)
        assert process.poll() is None, log_of(settings)[-3000:]
        await_members(settings, 1)
        assert "max_poll_exceeded" not in log_of(settings)
        assert "partitions lost" not in log_of(settings)
    assert_same(settings, undisturbed)
