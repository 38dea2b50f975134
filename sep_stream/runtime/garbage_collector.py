"""Python's garbage collector, set for bulk work."""

from __future__ import annotations

import gc


def settle() -> None:
    """Collect seldom, and never what is there now: batches make many objects that die young, without cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
