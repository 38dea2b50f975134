"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from sep_stream.errors import DependencyError

_attempt: Final = count()


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file; who reads it meanwhile, or writes it too, finds one content or the other.

    mode: before the umask, from the first byte on. Raises OSError, and leaves what was there.
    """
    draft = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.{next(_attempt)}")
    draft.unlink(missing_ok=True)  # of a process that ended in the middle and had the same number
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def drafts(*paths: Path) -> Iterator[list[Path]]:
    """Paths to write files to, which get their names once all are written; else none does.

    Raises DependencyError for an OSError meanwhile.
    """
    unfinished = [path.with_name(f".{path.name}.draft") for path in paths]
    try:
        yield unfinished
        for draft, path in zip(unfinished, paths, strict=True):
            draft.replace(path)
    except OSError as error:
        raise DependencyError(f"{error.filename or os.path.commonpath(paths)}: {error.strerror or error}") from error
    finally:
        for draft in unfinished:
            with suppress(OSError):  # a folder that can't be used has been told
                draft.unlink()
