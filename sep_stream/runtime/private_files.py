"""Files that hold secrets: written for their owner alone, refused where everybody can read them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from sep_stream.errors import ConfigurationError
from sep_stream.files import write_whole

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


def private_folder(folder: Path) -> Path:
    """The folder, made if need be, open to its owner alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    folder.chmod(FOLDER_MODE)
    return folder


def write_private(path: Path, text: str) -> None:
    """The file appears whole, and never with another mode."""
    write_whole(path, text.encode(), FILE_MODE)


def refuse_if_public(path: Path) -> None:
    """Raises ConfigurationError for a secret that is not there or that every user of the machine can read.

    A group may read it: so are secrets mounted into containers.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"{path}: holds a secret and is open to every user (mode {mode:03o}); `chmod 600` it, and change the "
            "secret if others may have seen it"
        )


def read_secret(path: Path) -> str:
    """The secret in a file, without the line's end. Raises ConfigurationError that names the file."""
    refuse_if_public(path)
    try:
        secret = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not secret or "\n" in secret:
        raise ConfigurationError(f"{path}: expected one line with the secret in it")
    return secret
