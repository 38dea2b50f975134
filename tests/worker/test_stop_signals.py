"""A signal to stop ends a process within its bound, whatever its main thread is at."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from sep_stream.worker.stop_signals import SIGNALS, stop_on_signals
from tests.waiting import PATIENCE_S

PROCESS = """
import asyncio, itertools, sys, time
{before}
async def work(stopped):
    print("at work", flush=True)
    {work}

async def main():
    from sep_stream.worker.stop_signals import stop_on_signals
    with stop_on_signals(0.5) as stopped:
        await work(stopped)

asyncio.run(main())
print("ended in order", flush=True)
"""


def ends(work: str, number: signal.Signals, before: str = "") -> tuple[int, str]:
    """Exit code and output of a process that gets a signal once it is at work."""
    code = PROCESS.format(before=before, work=work)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "at work\n"
            process.send_signal(number)
            return process.wait(PATIENCE_S), process.stdout.read()
        finally:
            process.kill()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    assert ends("await stopped.wait()", number) == (0, "ended in order\n")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "work",
    ["await asyncio.sleep(600)", "time.sleep(600)", "await asyncio.to_thread(time.sleep, 600)"],
    ids=["loop", "main-thread", "thread"],
)
def test_work_that_does_not_stop_is_ended(work: str, number: signal.Signals) -> None:
    code, output = ends(work, number)
    assert code == 1
    assert "worker did not stop in time" in output or output == ""


def test_a_log_that_nobody_reads_does_not_keep_the_process() -> None:
    before = "import sep_stream.worker.stop_signals as s; s.log.warning = lambda text: time.sleep(600)"
    assert ends("time.sleep(600)", signal.SIGTERM, before)[0] == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_afterwards_signals_are_handled_as_before(number: signal.Signals) -> None:
    heard: list[int] = []
    before: Callable[..., None] = lambda number, frame: heard.append(number)  # noqa: E731
    former = signal.signal(number, before)

    async def work() -> None:
        with stop_on_signals(60) as stopped:
            signal.raise_signal(number)
            await asyncio.wait_for(stopped.wait(), PATIENCE_S)

    try:
        asyncio.run(work())
        assert heard == []
        assert signal.getsignal(number) is before
        signal.raise_signal(number)
        assert heard == [number]
    finally:
        signal.signal(number, former)


STARTING = """
import itertools
from sep_stream.cli.worker import _end_at_once_on_interrupt
_end_at_once_on_interrupt()
print("at work", flush=True)
all(itertools.repeat(True))  # as a compiler does, it looks at no signal
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_start_that_looks_at_no_signal_ends_at_once(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == -number
        finally:
            process.kill()
