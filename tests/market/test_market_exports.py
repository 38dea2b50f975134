"""What `sep_stream.market` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import sep_stream.market

PUBLIC = ["NULL", "TIMEFRAMES", "EventBatch", "Instrument", "Instruments", "Kind", "Reason", "partition_for"]


def test_the_exported_names_are_these() -> None:
    assert sep_stream.market.__all__ == PUBLIC
    assert all(hasattr(sep_stream.market, name) for name in PUBLIC)


def test_importing_the_package_loads_neither_numba_nor_fastavro() -> None:
    """Numba's cache folder has to be chosen before Numba is imported."""
    code = "import sys, sep_stream.market; print([m for m in ('numba', 'fastavro') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
