"""Programs that come as archives from Maven Central, fetched once and unpacked into our cache."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sep_stream.errors import DependencyError
from sep_stream.runtime.jars import Progress, cache_folder, embedded_extra, fetch_sound, kept_files


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar.gz at Maven Central. title: in sentences · megabytes: of the archive"""

    group: str
    artifact: str
    version: str
    classifier: str
    title: str
    megabytes: int

    @property
    def name(self) -> str:
        """Of its folder and manifest in the cache."""
        return f"{self.artifact}-{self.version}-{self.classifier}"


def unpacked(archive: Archive, progress: Progress) -> Path:
    """The folder of what the archive holds, from the cache or from Maven Central.

    Raises ConfigurationError without the `embedded` extra and DependencyError when it can't be had.
    """
    _, jgo = embedded_extra()
    return _unpacked(cache_folder(), archive, jgo, progress)


def _unpacked(cache: Path, archive: Archive, jgo: Any, progress: Progress) -> Path:
    folder = cache / "archives" / archive.name

    def fetch() -> list[Path]:
        progress(f"fetching {archive.title} ({archive.megabytes} MB, once)")
        [file] = fetch_sound(cache / "m2", archive.title, lambda: [_resolved(jgo, cache / "m2", archive)])
        _unpack(file, folder)
        file.unlink()
        return sorted(path for path in folder.rglob("*") if path.is_file())

    kept_files(cache, cache / f"archive-{archive.name}.json", archive.title, fetch)
    return folder


def _resolved(jgo: Any, repository: Path, archive: Archive) -> Path:
    """The archive alone: what it was built from is inside it."""
    component = jgo.maven.MavenContext(repo_cache=repository).project(archive.group, archive.artifact)
    artifact = component.at_version(archive.version).artifact(classifier=archive.classifier, packaging="tar.gz")
    return Path(artifact.resolve())


def _unpack(file: Path, folder: Path) -> None:
    """Put the whole in place at once. Nothing is written outside, whatever the archive says."""
    draft = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with tarfile.open(file) as archive:
            archive.extractall(draft, filter="data")
    except tarfile.TarError as error:
        file.unlink()
        raise DependencyError(f"{file}: cannot be unpacked: {error}; try again") from error
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)
