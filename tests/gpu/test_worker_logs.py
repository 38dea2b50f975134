"""What a worker writes by the engine `cuda` is what it writes by `cpu`, byte for byte; one whose device fails ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.gpu import cupy_device
from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from tests.streams import Event, random_events
from tests.trained import PARAMS, models
from tests.worker.harness import TOPOLOGY, put_in_force, raw, run_until_caught_up
from tests.worker.test_against_reference import publish_plainly

pytestmark = pytest.mark.integration

COUNT, SEED = 1_500, 6
TOPICS = ("metrics", "signals", "patterns", "trading.results")


def command() -> list[str]:
    """`sep-stream` on this machine's GPU, or on the host build of the kernels where there is none."""
    try:
        cupy_device.gpu_facts()
    except ConfigurationError:
        return [sys.executable, "-m", "tests.gpu.worker"]
    return [sys.executable, "-m", "sep_stream"]


def stream() -> list[Event]:
    return random_events(SEED, COUNT, models=[theirs.model_id for theirs, _ in models(0)])


def work(settings: Settings, engine: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(), "worker", "--engine", engine, "--until-caught-up"],
        env={**os.environ, **settings.environment(), "SEP_LOG_FORMAT": "json", **environment},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def prepared(broker: str, folder: Path, prefix: str) -> Settings:
    """Topics with models and events in them."""
    settings = Settings.load(
        brokers=broker, prefix=prefix, data_dir=folder, fetch_records=257, trade="all", partitions=2, **PARAMS
    )
    topics.create(settings, TOPOLOGY)
    for _, ours in models(0):
        put_in_force(settings, ours, symbols=(), from_s=0)
    publish_plainly(settings, stream())
    return settings


def values(settings: Settings, topic: str) -> list[tuple[int, bytes, bytes]]:
    return [(partition, key, value) for partition, _, key, value, _ in raw(settings, topic)]


def makers(settings: Settings) -> set[bytes]:
    return {headers["made-by"].split(b"@")[0] for *_, headers in raw(settings, "metrics")}


@pytest.mark.slow
def test_a_log_made_on_the_gpu_is_that_of_the_cpu_also_after_its_device_failed(
    broker: str, tmp_path: Path, prefix: str
) -> None:
    by_cpu, by_gpu = (prepared(broker, tmp_path / engine, f"{prefix}{engine}.") for engine in ("cpu", "cuda"))
    run_until_caught_up(by_cpu, "--engine", "cpu")
    if "tests.gpu.worker" in command():  # a real GPU does not fail on demand
        done = work(by_gpu, "cuda", LOST_AT="9")
        assert done.returncode == 1
        assert "the GPU host build failed: cudaErrorIllegalAddress" in done.stderr
        assert len(values(by_gpu, "metrics")) < len(values(by_cpu, "metrics"))
    done = work(by_gpu, "cuda")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (makers(by_cpu), makers(by_gpu)) == ({b"cpu"}, {b"cuda"})
    for topic in TOPICS:
        expected = values(by_cpu, topic)
        assert expected, topic
        assert list(dict.fromkeys(values(by_gpu, topic))) == expected, f"{topic}: what was done twice apart"
