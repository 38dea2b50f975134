"""No product is fused with a sum: one rounding less would change the last bit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite.binding import get_host_cpu_features

pytestmark = pytest.mark.slow
"""It compiles all that it looks at. Where a sum were fused, `test_metric_engines` and the tests against the reference
would see other bits on any CPU that can fuse."""

HAS_FMA = platform.machine() == "aarch64" or get_host_cpu_features().get("fma", False)
FUSED = re.compile(r"\bv?fn?m(?:add|sub|la|ls)\w*\b")

# Functions that come from Numba's cache have no assembly to show, so a process of its own compiles them.
PRINT_ASSEMBLY = """
import numba as nb
import numpy as np
from sep_stream.metrics import WindowParams, compute_metrics, cpu_lanes, cpu_scalar
from sep_stream.scoring import PathLibrary, exact_sums, score
from sep_stream.scoring.score import _count_votes

bits = np.arange(400, dtype=np.uint8) % 2
points = np.arange(400, dtype=np.int32)
compute_metrics(bits, points, np.arange(63, 330), WindowParams(), "cpu")
compute_metrics(bits, points, [63, 100], WindowParams(), "cpu")
path, time_s = np.ones((1, 3), np.float32), np.zeros(1, np.int64)
score(PathLibrary.build("EUR/USD", "M1", path, time_s, time_s + 1, time_s + 2, np.zeros(1, np.int32)), 1, path, time_s)
squares = exact_sums._add_square_deviations
for function in (cpu_lanes._segment, cpu_lanes._fill_hc, cpu_scalar._windows, _count_votes, squares):
    assert function.signatures
    for assembly in function.inspect_asm().values():
        print(assembly)

@nb.njit(fastmath={"contract"})
def fused(x, y, z):
    return x * y + z

fused(1.0, 2.0, 3.0)
print("CONTROL")
print(*fused.inspect_asm().values())
"""


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("numba"))}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PRINT_ASSEMBLY], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    engine, control = done.stdout.split("CONTROL")
    return engine, control


def test_engine_votes_and_moments_have_no_fused_multiply_add(assembly: tuple[str, str]) -> None:
    engine, _ = assembly
    assert re.search(r"\bv?mul[ps]d\b|\bfmul\b", engine), "the hot loops' products are not in the assembly looked at"
    assert FUSED.findall(engine) == []


@pytest.mark.skipif(not HAS_FMA, reason="this CPU has no fused multiply-add")
def test_the_search_finds_one_where_contraction_is_allowed(assembly: tuple[str, str]) -> None:
    _, control = assembly
    assert FUSED.search(control)
