"""The cache of unpacked archives: whole or not there, and nothing is written beside it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sep_stream.errors import DependencyError
from sep_stream.runtime import archives
from sep_stream.runtime.archives import Archive

ARCHIVE = Archive("group", "program", "1", "all", "the program", 1)
FILES = {"run.jar": b"run" * 1000, "lib/a.jar": b"a"}


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class Central:
    """Stands for jgo and the network. attempts: what each request for the archive gives, or raises."""

    def __init__(self, attempts: list[bytes | Exception]) -> None:
        self.attempts = attempts
        self.maven = SimpleNamespace(MavenContext=self._context)

    def _context(self, repo_cache: Path) -> Any:
        self._file = repo_cache / "program-1-all.tar.gz"
        return self

    def project(self, group: str, artifact: str) -> Any:
        assert (group, artifact) == ("group", "program")
        return self

    def at_version(self, version: str) -> Any:
        assert version == "1"
        return self

    def artifact(self, classifier: str, packaging: str) -> Any:
        assert (classifier, packaging) == ("all", "tar.gz")
        return self

    def resolve(self) -> Path:
        if not self._file.exists():
            attempt = self.attempts.pop(0)
            if isinstance(attempt, Exception):
                raise attempt
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_bytes(attempt)
        return self._file


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Asks for the program, with these answers from the network, all of which it needs."""

    def fetch(*attempts: bytes | Exception, told: list[str] | None = None) -> Path:
        central = Central(list(attempts))
        found = archives._unpacked(tmp_path, ARCHIVE, central, (told if told is not None else []).append)
        assert central.attempts == []
        return found

    return fetch


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_time_it_is_fetched_and_told(fetch: Fetch, tmp_path: Path) -> None:
    told: list[str] = []
    folder = fetch(packed(FILES), told=told)
    assert held(folder) == FILES
    assert told == ["fetching the program (1 MB, once)"]
    assert list((tmp_path / "m2").iterdir()) == []  # unpacked, it is not needed


def test_the_next_time_it_is_known(fetch: Fetch) -> None:
    told: list[str] = []
    assert fetch(packed(FILES)) == fetch(told=told)
    assert told == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"r")], ids=["gone", "cut short"])
def test_it_is_fetched_again_where_a_file_is_damaged(fetch: Fetch, damage: Callable[[Path], None]) -> None:
    damage(fetch(packed(FILES)) / "run.jar")
    assert held(fetch(packed(FILES))) == FILES


def test_a_fetch_that_was_interrupted_begins_anew(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "m2").mkdir()
    (tmp_path / "m2" / "program-1-all.tar.gz").write_bytes(packed(FILES)[:-9])
    assert held(fetch(packed(FILES))) == FILES


def test_an_unpacking_that_was_interrupted_leaves_nothing(fetch: Fetch, tmp_path: Path) -> None:
    draft = tmp_path / "archives" / "program-1-all.new"
    draft.mkdir(parents=True)
    (draft / "half.jar").write_text("")
    assert held(fetch(packed(FILES))) == FILES
    assert not draft.exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-the-cache"])
def test_nothing_is_written_outside(fetch: Fetch, tmp_path: Path, name: str) -> None:
    if name.startswith("/"):  # the leading slash is dropped
        assert list(held(fetch(packed({name: b""})))) == [name[1:]]
    else:
        with pytest.raises(DependencyError, match="cannot be unpacked"):
            fetch(packed({name: b""}))
    assert not (tmp_path / "archives" / "outside").exists()
    assert not Path("/tmp/outside-of-the-cache").exists()


def test_what_arrives_damaged_twice_is_told_and_not_kept(fetch: Fetch, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=f"the program: what arrives in {tmp_path}/m2 is damaged"):
        fetch(b"<html>", b"<html>")
    assert not (tmp_path / "archives").exists()


def test_without_network_the_cause_and_remedy_are_told(fetch: Fetch) -> None:
    error = ConnectionError("no route to host")
    with pytest.raises(DependencyError, match=r"the program could not be fetched.*no route to host; check the network"):
        fetch(error, error)


@pytest.mark.parametrize("made", [Archive("g", "program", "2", "all", "", 1), Archive("g", "program", "1", "x", "", 1)])
def test_another_version_or_kind_lies_elsewhere(made: Archive) -> None:
    assert made.name != ARCHIVE.name
