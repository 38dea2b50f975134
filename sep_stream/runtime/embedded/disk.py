"""Whether the disk of a server's folder is full. A server that can't write ends, and can't even log why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FULL_BELOW_MIB: Final = 4
"""The largest record of our topics takes so much (`max.message.bytes` in topology/topics.toml)."""
LOGGED_SIGNS: Final = ("No space left on device", "Disk quota exceeded")
"""What servers log of it. A quota shows nowhere else."""
REMEDY: Final = "make room there, then start it again with `sep-stream up`"


def disk_fault(folder: Path) -> str | None:
    """What is wrong with the folder's disk, with the remedy; None where it has room, or can't be asked."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    lacks_files = disk.f_files > 0 and disk.f_ffree == 0
    if blocks * disk.f_frsize >= FULL_BELOW_MIB << 20 and not lacks_files:
        return None
    left = "it takes no more files" if lacks_files else f"less than {FULL_BELOW_MIB} MiB are free"
    return f"the disk of {folder} is full, {left}; {REMEDY}"


def logged_disk_fault(folder: Path, text: str) -> str | None:
    """The same of a server that has ended, from what it logged since its start."""
    if not any(sign in text for sign in LOGGED_SIGNS):
        return None
    return f"the disk of {folder} was full when the server ended, its log says; {REMEDY}"
