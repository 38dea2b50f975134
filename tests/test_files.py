"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sep_stream import files
from sep_stream.errors import DependencyError
from sep_stream.files import drafts, write_whole


def test_a_file_is_written_with_its_mode_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_whole(path, b"one", 0o600)
    write_whole(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]


def test_writers_at_once_leave_one_of_their_contents(tmp_path: Path) -> None:
    path, contents = tmp_path / "kept", [bytes([k]) * 100_000 for k in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: write_whole(path, content), contents))
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["kept"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f".kept.{os.uname().nodename}.{os.getpid()}.0").write_bytes(b"half of")
    monkeypatch.setattr(files, "_attempt", iter([0]))
    write_whole(tmp_path / "kept", b"all of it")
    assert (tmp_path / "kept").read_bytes() == b"all of it"
    assert os.listdir(tmp_path) == ["kept"]


def test_a_full_disk_leaves_the_old_content_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def full(draft: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(draft))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept"]


def test_drafts_get_their_names_together(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with drafts(*paths) as unfinished:
        for draft in unfinished:
            draft.write_text("whole")
            assert not any(path.exists() for path in paths)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def fail_midway(draft: Path, error: Exception) -> None:
    draft.write_text("half")
    raise error


@pytest.mark.parametrize(("names", "about"), [(("a",), "a"), (("a", "b"), "")])
def test_a_failure_in_the_middle_leaves_no_file_and_is_told(tmp_path: Path, names: tuple[str, ...], about: str) -> None:
    paths = [tmp_path / name for name in names]
    message = f"^{tmp_path / about}: No space left on device$"
    with pytest.raises(DependencyError, match=message), drafts(*paths) as [first, *_]:
        fail_midway(first, OSError(28, "No space left on device"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    paths = [tmp_path / "file" / "out" / name for name in ("a", "b")]
    with pytest.raises(DependencyError, match=f"^{tmp_path / 'file'}.*: Not a directory$"), drafts(*paths):
        paths[0].parent.mkdir(parents=True, exist_ok=True)


def test_another_exception_leaves_no_file_either(tmp_path: Path) -> None:
    with pytest.raises(KeyError), drafts(tmp_path / "a") as [draft]:
        fail_midway(draft, KeyError())
    assert os.listdir(tmp_path) == []
