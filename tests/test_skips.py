"""A test that is skipped for a reason that nobody declared fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import DECLARED, is_declared

ROOT = Path(__file__).parent.parent


def run_with(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a test file by itself, with nothing of this project's but the watch over skips."""
    (tmp_path / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-c", os.devnull, "--rootdir", str(tmp_path)]
    return subprocess.run(
        [*command, str(tmp_path / "test_it.py")], cwd=ROOT, env=os.environ | {"CI": "true"}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [
        "import pytest\n\n@pytest.mark.skip(reason='the moon is full')\ndef test_a(): pass\n",
        "import pytest\n\ndef test_a(): pytest.skip('the moon is full')\n",
        "import pytest\n\npytest.skip('the moon is full', allow_module_level=True)\n\ndef test_a(): pass\n",
    ],
    ids=["mark", "call", "module"],
)
def test_an_undeclared_skip_fails_the_run_and_is_named(tmp_path: Path, source: str) -> None:
    done = run_with(tmp_path, source + "\n\ndef test_b(): pass\n")
    assert done.returncode != 0
    assert "the moon is full" in done.stdout.split("which fail the run")[1]


def test_a_declared_skip_is_fine(tmp_path: Path) -> None:
    reason = "real market data is not at /shared/data"
    done = run_with(tmp_path, f"import pytest\n\ndef test_a(): pytest.skip({reason!r})\n\ndef test_b(): pass\n")
    assert done.returncode == 0, done.stdout


def test_what_an_installation_brings_may_be_missing_but_not_in_ci() -> None:
    assert is_declared("there is no redis-server, which TLS takes", in_ci=False)
    assert not is_declared("there is no redis-server, which TLS takes", in_ci=True)
    assert all(skip.why for skip in DECLARED)
