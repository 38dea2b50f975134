"""Real workers on the CPUs that they were told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sep_stream.runtime.binding.cpu_list import format_cpus
from sep_stream.runtime.binding.plan import Share
from sep_stream.runtime.settings import Settings
from sep_stream.worker.supervisor import bind_flags
from tests.worker.harness import SMALL, await_log, log_of, worker

GONE = 4096
"""A CPU that no machine here has."""


@pytest.mark.integration
def test_each_process_runs_on_its_own_cpus_with_all_its_threads(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    pytest.importorskip("pyhwloc", reason="pyhwloc has no wheel for this machine")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("two processes need two CPUs of their own")
    settings = make_settings(prefix, **SMALL)
    with worker(settings, "--stages", "metrics", "--processes", "2", "--bind", format_cpus(allowed)) as process:
        await_log(settings, process, '"worker starts"', beyond=1)
        assert process.poll() is None
        children = [int(c) for c in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        found = [affinities(child) for child in children]
        threads = [thread_names(child) for child in children]
        environments = [Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children]
    shares = [share for [share] in map(set, found)]  # one and the same for all threads of a process
    assert sorted(cpu for share in shares for cpu in share) == allowed
    assert all("rdk:main" in names for names in threads), threads  # what librdkafka started counts, too
    assert all(any(line.startswith(b"NUMBA_NUM_THREADS=") for line in environment) for environment in environments)
    assert log_of(settings).count('"process is bound"') == 2
    assert "not bound" not in log_of(settings)


def affinities(pid: int) -> list[frozenset[int]]:
    return [frozenset(os.sched_getaffinity(int(thread.name))) for thread in Path(f"/proc/{pid}/task").iterdir()]


def thread_names(pid: int) -> set[str]:
    return {path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")}


def test_a_child_is_bound_to_what_is_left_of_its_share() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert bind_flags(Share((0,), frozenset({cpu, GONE}), 1)) == ("--bind", str(cpu))


def test_a_child_of_whose_share_nothing_is_left_is_not_bound_and_that_is_told() -> None:
    with capture_logs() as lines:
        assert bind_flags(Share((0,), frozenset({GONE}), 1)) == ()
    [line] = lines
    assert "none of its CPUs is allowed any more" in line["event"]
    assert line["cpus"] == str(GONE)
