"""What the tests cost, as recorded: a limit that grows by a minute with each piece of work, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import durations
from tests.durations import RECORD, SLOW_S, Durations, Recorder, functions_by_file

SECONDS_MAX = 2_220
"""All tests one after the other, as recorded on two cores in four processes, which wait for each other. A piece of work
may add one minute to `.ci/run`, which is 240 s here; what takes more has to be saved elsewhere."""
TEST_S_MAX = 110
"""The longest test: one that takes longer belongs to `-m slow`, with something quicker that proves the same."""

AGAIN = "run `uv run pytest FILE --record-durations` with the files that changed"


def test_every_file_is_recorded_with_the_tests_that_it_has() -> None:
    recorded = {name: file.functions for name, file in Durations.load().files.items()}
    assert recorded == functions_by_file(), AGAIN


def test_all_tests_together_stay_below_the_limit() -> None:
    assert Durations.load().seconds <= SECONDS_MAX, "save elsewhere what the new tests take, or mark some of them slow"


def test_the_slowest_tests_are_listed_and_none_takes_too_long() -> None:
    slowest = Durations.load().slowest
    assert list(slowest.values()) == sorted(slowest.values(), reverse=True)
    assert min(slowest.values()) >= SLOW_S
    assert [test for test, seconds in slowest.items() if seconds > TEST_S_MAX] == []


def test_a_record_replaces_the_files_that_ran_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    record = tmp_path / RECORD.name
    record.write_text(
        '{"measured": "once",'
        ' "slowest": {"tests/test_files.py::test_old": 9.0, "tests/test_threads.py::test_kept": 4.0},'
        ' "files": {"tests/test_files.py": [1, 9.0], "tests/test_threads.py": [2, 4.0],'
        ' "tests/test_gone.py": [1, 1.0]}}'
    )
    monkeypatch.setattr(durations, "RECORD", record)
    recorder = Recorder()
    for seconds in (1.0, 5.0):  # its fixtures, and itself
        report = pytest.TestReport(
            "tests/test_files.py::test_new", ("", 0, ""), {}, "passed", None, "call", [], seconds
        )
        recorder.pytest_runtest_logreport(report)
    monkeypatch.setattr(pytestconfig, "args_source", pytest.Config.ArgsSource.ARGS)
    recorder.save(pytestconfig)
    found = Durations.load()
    assert found.slowest == {"tests/test_files.py::test_new": 6.0, "tests/test_threads.py::test_kept": 4.0}
    assert {name: file.seconds for name, file in found.files.items()} == {
        "tests/test_files.py": 6.0, "tests/test_threads.py": 4.0,
    }  # fmt: skip
    monkeypatch.setattr(pytestconfig, "args_source", pytest.Config.ArgsSource.TESTPATHS)
    monkeypatch.setattr(pytestconfig.option, "keyword", "")
    monkeypatch.setattr(pytestconfig.option, "markexpr", "slow")
    recorder.save(pytestconfig)  # the others were not asked for
    assert Durations.load() == found
    monkeypatch.setattr(pytestconfig.option, "markexpr", "not slow")
    recorder.save(pytestconfig)  # of a run of every file: what did not run is slow, and takes nothing
    assert Durations.load().slowest == {"tests/test_files.py::test_new": 6.0}
    assert Durations.load().seconds == 6.0
