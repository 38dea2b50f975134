"""Where compiled code is kept between runs."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from typing import Final

import platformdirs

from sep_stream.runtime.cpu_info import cpu_flags

_PACKAGE: Final = Path(__file__).resolve().parent.parent


def configure_numba_cache() -> None:
    """Point Numba at a cache folder of its own for this source, Numba and CPU; call it before Numba is imported.

    Numba's own check misses changes in functions that a cached one calls from another file. NUMBA_CACHE_DIR, where
    set, is left alone.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    key = hashlib.sha256(f"{version('numba')} {platform.processor()} {cpu_flags()}".encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        key.update(path.relative_to(_PACKAGE).as_posix().encode())
        key.update(path.read_bytes())
    root = Path(os.environ.get("SEP_CACHE_DIR") or platformdirs.user_cache_dir("sep-stream"))
    folder = root / "numba" / key.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    os.environ["NUMBA_CACHE_DIR"] = str(folder if writable else Path(gettempdir()) / f"sep-stream-numba-{os.getuid()}")
