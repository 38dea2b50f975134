"""The folder of compiled code is one that nobody else can write to, whatever lies in the usual place."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.numba_cache import configure_numba_cache

OTHER_USER = 54321


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual folder and the temporary ones lie in the test's own folder."""
    tmp_path.chmod(0o700)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("SEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that what the tests set is undone
    monkeypatch.delenv("NUMBA_CACHE_DIR")


def configured() -> Path:
    os.environ.pop("NUMBA_CACHE_DIR", None)
    configure_numba_cache()
    return Path(os.environ["NUMBA_CACHE_DIR"])


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    """The usual folder, as an earlier run left it."""
    folder = configured()
    assert folder.parent == tmp_path / "cache" / "numba"
    return folder


def test_the_usual_folder_is_made_for_its_owner_alone_and_used_again(
    usual: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stat.S_IMODE(usual.stat().st_mode) == 0o700
    assert configured() == usual
    assert caplog.records == []


def test_a_usual_folder_that_others_may_only_read_is_used(usual: Path) -> None:
    usual.chmod(0o755)
    assert configured() == usual


def test_a_folder_that_is_set_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "chosen")
    configure_numba_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == "chosen"
    assert not (tmp_path / "cache").exists()


def linked(usual: Path) -> None:
    usual.rename(usual.with_name("elsewhere"))
    usual.symlink_to(usual.with_name("elsewhere"))


def linked_to_nothing(usual: Path) -> None:
    usual.rmdir()
    usual.symlink_to(usual.with_name("nowhere"))


def a_file(usual: Path) -> None:
    usual.rmdir()
    usual.touch()


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "group may write": (lambda usual: usual.chmod(0o770), "others may write to"),
    "everyone may write": (lambda usual: usual.chmod(0o777), "others may write to"),
    "everyone may write, sticky": (lambda usual: usual.chmod(0o1777), "others may write to"),
    "everyone may replace it": (lambda usual: usual.parent.chmod(0o777), "everyone may write to"),
    "everyone may replace its parent": (lambda usual: usual.parent.parent.chmod(0o777), "everyone may write to"),
    "a link": (linked, "is a symbolic link"),
    "a dangling link": (linked_to_nothing, "File exists"),
    "a file": (a_file, "File exists"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_others_can_reach_is_replaced_for_this_run_and_this_is_logged_once(
    usual: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    spoil, reason = FAULTS[name]
    spoil(usual)
    folder = configured()
    assert_our_own(folder, tmp_path)
    configure_numba_cache()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()
    assert str(folder) in record.getMessage()


def assert_our_own(folder: Path, tmp_path: Path) -> None:
    found = folder.lstat()
    assert folder.parent == tmp_path / "tmp"
    assert stat.S_ISDIR(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.getuid())


def test_a_folder_of_another_user_is_replaced(
    usual: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    assert_our_own(configured(), tmp_path)
    assert f"{usual} belongs to user {os.getuid()}, not to {OTHER_USER}" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_given_to_another_user_is_replaced_and_so_is_one_in_it(
    usual: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, above: int
) -> None:
    given = [usual, *usual.parents][above]
    os.chown(given, OTHER_USER, OTHER_USER)
    assert_our_own(configured(), tmp_path)
    assert f"{given} belongs to user {OTHER_USER}" in caplog.text


def test_folders_of_two_runs_differ_and_none_is_guessed(usual: Path, tmp_path: Path) -> None:
    """What someone else has made in the folder for temporary files is never used."""
    (tmp_path / "tmp" / f"sep-stream-numba-{os.getuid()}").mkdir()
    usual.chmod(0o777)
    first, second = configured(), configured()
    assert first != second
    assert not {first, second} & {tmp_path / "tmp" / f"sep-stream-numba-{os.getuid()}"}


def test_without_any_folder_the_reason_and_the_remedy_are_raised(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(usual / "none"))
    with pytest.raises(ConfigurationError, match=r"others may write to .* set SEP_CACHE_DIR"):
        configured()


CHILD = """
import os, pathlib, sys
from sep_stream.runtime.numba_cache import configure_numba_cache
configure_numba_cache()
print(os.environ["NUMBA_CACHE_DIR"], flush=True)
if os.fork() == 0:
    sys.exit()
os.wait()
assert pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()
"""


def test_the_folder_of_a_run_outlives_its_children_and_goes_with_it(usual: Path, tmp_path: Path) -> None:
    usual.chmod(0o777)
    run = subprocess.run(
        [sys.executable, "-c", CHILD], check=True, capture_output=True, text=True, timeout=60,
        env={**{k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}, "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    folder = Path(run.stdout.strip())
    assert folder.parent == tmp_path / "tmp"
    assert not folder.exists()
    assert run.stderr.count("compiled code is not kept") == 1
