"""Workers as they are set by default go on after half an hour in which nothing comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sep_stream.runtime.settings import Settings
from tests.worker.harness import SMALL, Records
from tests.worker.test_groups import assert_same
from tests.worker.test_poll_interval import stay_quiet

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_two_workers_go_on_after_half_an_hour(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records, tmp_path: Path
) -> None:
    settings = make_settings(prefix, **SMALL)
    stay_quiet(settings, 2, 1_800, tmp_path)
    assert_same(settings, undisturbed)
