"""What the system tells of the processor."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    return _told("model name") or platform.processor()


def cpu_flags() -> str:
    """The instructions that it has; the name of the architecture where the system doesn't tell them."""
    return _told("flags") or platform.machine()


def _told(name: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if line.startswith(name)), None)
