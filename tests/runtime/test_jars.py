"""The cache of jars: what is there is used, what is missing or damaged is fetched anew."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sep_stream.errors import DependencyError
from sep_stream.runtime import jars

ENDPOINT = "group:artifact:1"
JARS = jars.Jars(ENDPOINT, "Kafka's jars", 56)


class Artifact:
    def __init__(self, path: Path) -> None:
        self._path = path

    def resolve(self) -> str:
        return str(self._path)


class Resolver:
    """Stands for the network. attempts: what each resolution does: makes these jars, or raises."""

    def __init__(self, *attempts: dict[str, bytes | None] | Exception) -> None:
        self.attempts = list(attempts)

    def resolve(self, endpoint: str) -> list[Artifact]:
        assert endpoint == ENDPOINT
        attempt = self.attempts.pop(0)
        if isinstance(attempt, Exception):
            raise attempt
        folder = Path(os.environ["M2_REPO"])
        folder.mkdir(parents=True, exist_ok=True)
        return [Artifact(jar(folder / name, content)) for name, content in attempt.items()]


def jar(path: Path, content: bytes | None) -> Path:
    """A file with this content; None: a sound jar."""
    if content is None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a", "a" * 100)
    else:
        path.write_bytes(content)
    return path


SOUND: dict[str, bytes | None] = {"a.jar": None, "b.jar": None}

Fetch = Callable[..., list[Path]]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Asks for the jars, with these attempts to fetch them."""
    monkeypatch.setenv("M2_REPO", "unset")

    def fetch(*attempts: dict[str, bytes | None] | Exception, told: list[str] | None = None) -> list[Path]:
        resolver = Resolver(*attempts)
        found = jars._jars(tmp_path, JARS, resolver, (told if told is not None else []).append)
        assert resolver.attempts == []
        return found

    return fetch


def test_the_first_time_jars_are_fetched_and_told(fetch: Fetch, tmp_path: Path) -> None:
    told: list[str] = []
    assert fetch(SOUND, told=told) == [tmp_path / "m2" / "a.jar", tmp_path / "m2" / "b.jar"]
    assert told == ["fetching Kafka's jars (56 MB, once)"]


def test_the_next_time_they_are_known(fetch: Fetch) -> None:
    told: list[str] = []
    assert fetch(SOUND) == fetch(told=told)
    assert told == []


def test_the_manifest_has_their_sizes_and_checksums(fetch: Fetch, tmp_path: Path) -> None:
    [path, _] = fetch(SOUND)
    entry = json.loads(jars._manifest(tmp_path, JARS).read_text())[0]
    assert entry == {"path": str(path), "bytes": path.stat().st_size, "sha256": jars._sha256(path)}


def test_a_jar_cut_short_is_fetched_again(fetch: Fetch) -> None:
    [path, _] = fetch(SOUND)
    path.write_bytes(path.read_bytes()[:-1])
    fetch(SOUND)
    assert zipfile.is_zipfile(path)


def test_a_jar_that_is_gone_is_fetched_again(fetch: Fetch) -> None:
    fetch(SOUND)[1].unlink()
    assert all(path.exists() for path in fetch(SOUND))


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"path": "/nowhere"}]', "3"])
def test_a_damaged_manifest_is_written_anew(fetch: Fetch, tmp_path: Path, text: str) -> None:
    manifest = jars._manifest(tmp_path, JARS)
    manifest.write_text(text)
    assert len(fetch(SOUND)) == 2
    assert jars.known_files(manifest) is not None


def test_jars_that_arrive_damaged_are_fetched_once_more(fetch: Fetch) -> None:
    assert all(zipfile.is_zipfile(path) for path in fetch({"a.jar": b"PK cut"}, SOUND))


def test_jars_that_stay_damaged_are_told_and_not_kept(fetch: Fetch, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=f"what arrives in {tmp_path}/m2 is damaged"):
        fetch({"a.jar": b"PK cut"}, {"a.jar": b"PK cut"})
    assert jars.known_files(jars._manifest(tmp_path, JARS)) is None


def test_jars_that_are_sound_stay_while_others_are_fetched(fetch: Fetch, tmp_path: Path) -> None:
    sound, cut, pom, cut_pom = (tmp_path / "m2" / name for name in ("other.jar", "cut.jar", "a.pom", "cut.pom"))
    sound.parent.mkdir()
    jar(sound, None)
    cut.write_bytes(sound.read_bytes()[:-1])
    pom.write_text("<project></project>\n")
    cut_pom.write_text("<project></pro")
    fetch(RuntimeError("cut.pom: no element found"), SOUND)
    assert [path.exists() for path in (sound, cut, pom, cut_pom)] == [True, False, True, False]


def test_a_fetch_that_fails_is_tried_once_more(fetch: Fetch) -> None:
    assert len(fetch(RuntimeError("checksum"), SOUND)) == 2


def test_without_network_the_cause_and_remedy_are_told(fetch: Fetch) -> None:
    error = ConnectionError("no route to host")
    with pytest.raises(DependencyError, match="Maven Central: ConnectionError: no route to host; check the network"):
        fetch(error, error)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyError, match=f"{tmp_path}/file/cache: cannot keep Kafka's jars there"):
        jars._jars(tmp_path / "file" / "cache", JARS, Resolver(), lambda message: None)


def test_another_version_of_kafka_has_a_manifest_of_its_own(tmp_path: Path) -> None:
    assert jars._manifest(tmp_path, jars.Jars("group:artifact:2", "Kafka's jars", 56)) != jars._manifest(tmp_path, JARS)


def test_the_cache_lies_where_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEP_CACHE_DIR", str(tmp_path))
    assert jars.cache_folder() == tmp_path
