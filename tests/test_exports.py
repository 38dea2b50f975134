"""The public API: what `import sep_stream` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sep_stream

PUBLIC = [
    "Backtest", "Cache", "DeliveryError", "EventBatch", "EventLog", "Kind", "MarketDataConverter", "Model",
    "PathLibrary", "Settings", "Span", "TickProducer", "Topology", "compute_metrics", "score",
]  # fmt: skip


def test_the_exported_names_are_these() -> None:
    assert sep_stream.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(sep_stream))


@pytest.mark.parametrize("name", PUBLIC)
def test_an_exported_name_is_the_one_of_its_package(name: str) -> None:
    found = getattr(sep_stream, name)
    assert found.__name__ == name
    assert found.__module__.startswith("sep_stream.")
    assert getattr(sys.modules[found.__module__], name) is found


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        sep_stream.Nothing  # noqa: B018


def test_importing_the_package_loads_none_of_it() -> None:
    code = "import sys, sep_stream; print([m for m in ('numpy', 'numba', 'confluent_kafka') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_numbas_cache_is_set_before_an_exported_name_imports_it() -> None:
    code = "import os; os.environ.pop('NUMBA_CACHE_DIR', 0); import sep_stream; sep_stream.TickProducer; import numba; "
    code += "print('sep-stream' in numba.config.CACHE_DIR or 'numba' in numba.config.CACHE_DIR)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"
