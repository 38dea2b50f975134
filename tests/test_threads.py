from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sep_stream import threads

MEETING_TIMEOUT_S = 120.0


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "given", lambda: 3)


@pytest.mark.usefixtures("three")
def test_as_many_parts_as_threads_are_done_at_once() -> None:
    meeting = threading.Barrier(3, timeout=MEETING_TIMEOUT_S)  # breaks unless all three are in it
    threads.run_parts(lambda part: meeting.wait(), [0, 1, 2])


@pytest.mark.usefixtures("three")
def test_many_callers_together_have_no_more_threads_than_one() -> None:
    lock, at_once, most, did = threading.Lock(), 0, 0, set()
    meeting = threading.Barrier(3, timeout=MEETING_TIMEOUT_S)

    def do(part: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            did.add(part)
            is_early = len(did) <= 3
        if is_early:
            meeting.wait()
        time.sleep(0.002)
        with lock:
            at_once -= 1

    with ThreadPoolExecutor(5) as callers:
        for _ in callers.map(lambda c: threads.run_parts(do, range(10 * c, 10 * c + 10)), range(5)):
            pass
    assert did == set(range(50))
    assert most == 3


@pytest.mark.usefixtures("three")
def test_a_part_alone_stays_on_the_calling_thread() -> None:
    did: list[int] = []
    threads.run_parts(lambda part: did.append(threading.get_ident()), ["alone"])
    assert did == [threading.get_ident()]
    threads.run_parts(did.append, [])
    assert len(did) == 1


@pytest.mark.usefixtures("three")
def test_work_is_cut_for_the_threads_and_not_too_small() -> None:
    assert [threads.part_count(n, 10) for n in (0, 9, 10, 19, 20, 29, 30, 10_000)] == [1, 1, 1, 1, 2, 2, 3, 3]


@pytest.mark.usefixtures("three")
def test_what_a_part_raises_is_raised() -> None:
    def do(part: int) -> None:
        if part == 1:
            raise ZeroDivisionError(part)

    with pytest.raises(ZeroDivisionError):
        threads.run_parts(do, [0, 1, 2])


def ran(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=180
    )
    return done.stdout.strip()


def test_the_environment_and_the_affinity_say_how_many() -> None:
    told = "from sep_stream import threads; print(threads.given())"
    assert ran(told, NUMBA_NUM_THREADS="7") == "7"
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert ran(bound + told) == "1"


def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os
from sep_stream import threads
done = []
threads.run_parts(done.append, [1, 2])
child = os.fork()
if child == 0:
    threads.run_parts(done.append, [3, 4])
    os._exit(len(done))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert ran(code, NUMBA_NUM_THREADS="2") == "4"
