"""The strings in builds that see a read out of bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW_IN_PLAIN_PYTHON, MANY_IN_PLAIN_PYTHON = 3_000, 100_000
FEW, MANY = 20_000, 1_000_000


def run(module: str, seed: int, count: int, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, str(seed), str(count)]
    return subprocess.run(command, env=os.environ | variables, cwd=ROOT, capture_output=True, text=True)


def run_checked(folder: Path, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    # Checked code can't be cached: it is compiled by each run, without optimisation in less time.
    return run("tests.fuzz.bounds", seed, count, NUMBA_BOUNDSCHECK="1", NUMBA_OPT="0", NUMBA_CACHE_DIR=str(folder))


def run_plain(seed: int, count: int) -> subprocess.CompletedProcess[str]:
    return run("tests.fuzz.plain", seed, count, NUMBA_DISABLE_JIT="1")


@pytest.mark.slow
def test_no_string_makes_compiled_code_leave_its_arrays(tmp_path: Path) -> None:
    done = run_checked(tmp_path, 11, FEW)
    assert done.returncode == 0, done.stderr


def test_no_string_makes_the_decoder_read_bytes_of_another() -> None:
    done = run_plain(12, FEW_IN_PLAIN_PYTHON)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_none_of_a_million_strings_makes_compiled_code_leave_its_arrays(tmp_path: Path) -> None:
    done = run_checked(tmp_path, 13, MANY)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_none_of_many_strings_makes_the_decoder_read_bytes_of_another() -> None:
    done = run_plain(14, MANY_IN_PLAIN_PYTHON)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "told"), [("tests.fuzz.bounds", "the bounds are not checked"), ("tests.fuzz.plain", "is compiled")]
)
def test_the_runs_fail_in_the_usual_build(module: str, told: str) -> None:
    """Each plants a read past the end first, which only its own build sees."""
    done = run(module, 0, 0)
    assert done.returncode == 1
    assert told in done.stderr
