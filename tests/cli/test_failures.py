"""How the command ends when something is wrong: its exit code, one message with the remedy, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sep_stream.runtime import log_reader, topics
from sep_stream.sources import publisher
from tests.cli.commands import NOWHERE, begin, children_cpu_s, finish, run, start, variables
from tests.waiting import PATIENCE_S, slow_bound_s, until

T0 = 1_707_091_200  # 2024-02-05T00:00:00Z
NEEDING_A_BROKER = (
    "worker",
    "topics list",
    "topics create",
    "tail bars",
    "doctor",
    "status",
    "ingest synthetic --days 1",
    "replay --to-prefix other.",
)
SECONDS_MAX = 10
"""Promised limit of a command's wait for a broker that is gone."""
LIMITS_S = (topics.REQUEST_TIMEOUT_S, log_reader.REQUEST_TIMEOUT_S, log_reader.SILENCE_S_MAX, publisher.SILENCE_S_MAX)
"""Those of the parts that wait."""


def candles(path: Path, count: int, *extra: str) -> Path:
    rows = [f"{T0 + 60 * k},1.1,1.1,1.1,1.1,2" for k in range(count)]
    path.write_text("\n".join(["time,open,high,low,close,volume", *rows, *extra]) + "\n")
    return path


def test_a_broker_that_is_gone_is_told_in_time_with_address_and_remedy(tmp_path: Path) -> None:
    """All at once: each waits for an answer that does not come. Their own work is allowed for: they share few cores."""
    assert max(LIMITS_S) < SECONDS_MAX
    begun_s, used_s = time.monotonic(), children_cpu_s()
    running = {name: begin(*name.split(), "--brokers", NOWHERE, cwd=tmp_path) for name in NEEDING_A_BROKER}
    for name, end in running.items():
        code, stdout, stderr = end()
        assert code == 1, name
        assert NOWHERE in stdout + stderr, name
        assert "sep-stream up" in stdout + stderr, name
        assert "Traceback" not in stderr, name
        assert len(stderr.splitlines()) <= 1, name
    assert time.monotonic() - begun_s < slow_bound_s(SECONDS_MAX, children_cpu_s() - used_s)


@pytest.mark.parametrize("name", ["worker", "topics list", "tail bars"])
def test_without_an_embedded_broker_its_folder_and_the_remedy_are_told(tmp_path: Path, name: str) -> None:
    code, stdout, stderr = run(*name.split(), cwd=tmp_path)
    assert (code, stdout) == (1, "")
    assert stderr == (
        f"sep-stream: no broker: the embedded one of {tmp_path / 'data'} does not run; "
        "start it with `sep-stream up`, or name yours with --brokers\n"
    )


def test_a_wrong_row_is_told_with_file_line_and_field(tmp_path: Path) -> None:
    path = candles(tmp_path / "c.csv", 3, f"{T0 + 180},1,x,1,1,1")
    code, _, stderr = run("bars", path, "--instrument", "EUR/USD", cwd=tmp_path)
    assert code == 1
    assert stderr == f"sep-stream: {path}: line 5: field 'high': expected a decimal number, got 'x'\n"


def test_a_wrong_setting_is_told_by_its_name(tmp_path: Path) -> None:
    code, _, stderr = run("topics", "list", cwd=tmp_path, SEP_PARTITIONS="many")
    assert code == 1
    assert stderr.startswith("sep-stream: settings: partitions: ")
    assert "got 'many'" in stderr


def test_a_secret_is_not_told(tmp_path: Path) -> None:
    code, stdout, stderr = run("doctor", cwd=tmp_path, SEP_SASL_PASSWORD="hunter2-9", SEP_PARTITIONS="0")
    assert code == 1
    assert "hunter2-9" not in stdout + stderr


def test_wrong_usage_exits_2(tmp_path: Path) -> None:
    code, stdout, stderr = run("tail", cwd=tmp_path)
    assert (code, stdout) == (2, "")
    assert "Missing argument 'TOPIC'" in stderr


def test_sep_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    code, _, stderr = run("topics", "list", cwd=tmp_path, SEP_DEBUG="1")
    assert code == 1
    assert "Traceback" in stderr


def test_an_output_in_a_folder_that_is_read_only_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    path = candles(tmp_path / "c.csv", 3)
    command = [
        sys.executable,
        "-m",
        "sep_stream",
        "bars",
        path,
        "--instrument",
        "EUR/USD",
        "--out",
        folder / "x.ndjson",
    ]
    if os.geteuid() == 0:  # without the right to write anywhere
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", "--", *command]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=variables(tmp_path)
    )
    code, _, stderr = finish(process)
    assert code == 1
    assert "Permission denied" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_an_output_that_cannot_be_written_is_told(tmp_path: Path, suffix: str) -> None:
    """/proc refuses files even to root."""
    path = candles(tmp_path / "c.csv", 3)
    code, stdout, stderr = run("bars", path, "--instrument", "EUR/USD", "--out", f"/proc/x.{suffix}", cwd=tmp_path)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("sep-stream: /proc/")
    assert len(stderr.splitlines()) == 1


def test_a_reader_that_goes_away_ends_the_output_in_silence(tmp_path: Path) -> None:
    process = start("bars", candles(tmp_path / "c.csv", 20_000), "--instrument", "EUR/USD", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(PATIENCE_S) == 1
    process.stderr.close()


FAILING_WORKER = """
import threading, time
from sep_stream.cli.worker import _run
from sep_stream.errors import StateError
from sep_stream.runtime.settings import Settings

class Worker:
    def run(self):
        threading.Thread(target=time.sleep, args=(600,)).start()  # as Faust's threads, it does not end by itself
        raise StateError("gone")

_run(Worker(), Settings.load())
"""


def test_a_worker_that_fails_ends_even_if_nobody_hears_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", FAILING_WORKER], stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    try:
        assert process.wait(PATIENCE_S) == 1
    finally:
        process.kill()


def test_an_interrupted_command_exits_130(tmp_path: Path) -> None:
    """It reads a pipe into which nothing is written."""
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN, "what is started here would ignore it, too"
    os.mkfifo(tmp_path / "c.csv")
    process = start("bars", "c.csv", "--instrument", "EUR/USD", cwd=tmp_path)
    with (tmp_path / "c.csv").open("w"):  # opened by both: the command is at work
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING)  # it waits for the pipe
        process.send_signal(signal.SIGINT)
        code, _, stderr = finish(process)
    assert (code, stderr.strip()) == (130, "interrupted")


def test_the_installed_command_is_the_module(tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("sep-stream")
    done = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=180, check=True)
    assert (0, done.stdout, "") == finish(start("--version", cwd=tmp_path))
