"""Where compiled code is kept between runs."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import shutil
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

import platformdirs

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.cpu_info import cpu_flags
from sep_stream.runtime.private_files import FOLDER_MODE

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_ROOT_USER: Final = 0


def configure_numba_cache() -> None:
    """Point Numba at a cache folder of its own for this source, Numba and CPU; call it before Numba is imported.

    Numba's own check misses changes in functions that a cached one calls from another file. NUMBA_CACHE_DIR, where
    set, is left alone.

    Numba runs what it finds in the folder, so it must be one that only this user can write to. Where the usual one is
    not, a warning is logged, and a new folder serves this process and its children until this process ends. Raises
    ConfigurationError where none can be made.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    root = Path(os.environ.get("SEP_CACHE_DIR") or platformdirs.user_cache_dir("sep-stream"))
    folder = root / "numba" / _key()
    fault = _fault_of(folder, root)
    if fault is not None:
        replacement = _folder_of_this_run(fault)
        # Not structlog: logs aren't configured yet, and its default is stdout, where a command's output goes.
        logging.getLogger(__name__).warning(
            "compiled code is not kept for the next run: %s; remedy: remove it, or set SEP_CACHE_DIR to a folder of "
            "your own. This run uses %s",
            fault,
            replacement,
        )
        folder = replacement
    # Children inherit it: they use the same folder, and the fault is logged once.
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _key() -> str:
    key = hashlib.sha256(f"{version('numba')} {platform.processor()} {cpu_flags()}".encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        key.update(path.relative_to(_PACKAGE).as_posix().encode())
        key.update(path.read_bytes())
    return key.hexdigest()[:16]


def _fault_of(folder: Path, root: Path) -> str | None:
    """Make the folder if need be; return why compiled code can't be kept there, or None where it can."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISLNK(found.st_mode):
            return f"{folder} is a symbolic link"
        if found.st_uid != os.geteuid():
            return f"{folder} belongs to user {found.st_uid}, not to {os.geteuid()}"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"others may write to {folder} (mode {stat.S_IMODE(found.st_mode):03o})"
        for above in (folder.parent, root):
            if fault := _fault_above(above):
                return fault
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} can't be written to"


def _fault_above(folder: Path) -> str | None:
    """Return how others could put a folder of theirs in the place of one in this folder, or None."""
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), _ROOT_USER):
        return f"{folder} belongs to user {found.st_uid}, not to {os.geteuid()}"
    # In a sticky folder such as /tmp only the owner of an entry can replace it. A group is let be: many systems give
    # each user a group of one's own.
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return f"everyone may write to {folder} (mode {stat.S_IMODE(found.st_mode):03o})"
    return None


def _folder_of_this_run(fault: str) -> Path:
    """Make a folder that nobody could guess or make before, open to this user alone; it goes when the process ends."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="sep-stream-numba-"))
    except OSError as error:
        raise ConfigurationError(
            f"no folder for compiled code: {fault}; nor can one be made under {tempfile.gettempdir()} "
            f"({error.strerror or error}); set SEP_CACHE_DIR to a folder of your own"
        ) from error
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner_pid: int) -> None:
    """Remove the folder in the process that made it: a forked child's end must not take it from the parent."""
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
