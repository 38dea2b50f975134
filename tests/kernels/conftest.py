"""The kernels on the host: as they are meant to be, and under the sanitizers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels.host.build import EXACT, SANITIZED, library
from tests.kernels.host.launch import Launcher
from tests.kernels.host.sanitized import sanitized_launcher
from tests.kernels.launches import Launch


@pytest.fixture(scope="session", params=["exact", "sanitized"])
def launch(request: pytest.FixtureRequest) -> Iterator[Launch]:
    """Launches a kernel of the host build."""
    if request.param == "exact":
        yield Launcher(library(EXACT))
    else:
        with sanitized_launcher(library(SANITIZED)) as launcher:
            yield launcher
