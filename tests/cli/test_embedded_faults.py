"""What commands say when the embedded broker's disk is full, or its port is taken."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest

from sep_stream.runtime.embedded.ports import HOST, free_ports
from tests.cli.commands import begin, run
from tests.disks import fill

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_a_full_disk_is_named_by_each_command_with_the_remedy(small_disk: Path, tmp_path: Path) -> None:
    variables = {"SEP_DATA_DIR": str(small_disk)}
    code, _, stderr = run("up", cwd=tmp_path, **variables)
    assert code == 0, stderr
    ballast = small_disk / "ballast"
    try:
        fill(ballast)
        worker = begin("worker", "--stages", "convert", cwd=tmp_path, **variables)
        ended = {"ingest": run("ingest", "synthetic", "--days", "1", cwd=tmp_path, **variables), "worker": worker()}
        for command in ("up", "worker", "ingest synthetic", "status"):
            ended[f"{command}, without a broker"] = run(*command.split(), cwd=tmp_path, **variables)
        for command, (code, stdout, stderr) in ended.items():
            told = f"{command}: {stdout}{stderr}"
            assert code == (0 if command.startswith("status") else 1), told
            assert re.search(f"the disk of {small_disk}/kafka is full, .*make room there, .*sep-stream up", told), told
            assert "Traceback" not in told
            assert "java" not in told
        ballast.unlink()
        code, _, stderr = run("up", cwd=tmp_path, **variables)
        assert code == 0, stderr
        code, stdout, _ = run("status", "--json", cwd=tmp_path, **variables)
        assert json.loads(stdout)["kafka"]["fault"] is None
    finally:
        run("down", cwd=tmp_path, **variables)


def address(cwd: Path) -> str:
    code, stdout, stderr = run("status", "--json", cwd=cwd)
    assert code == 0, stderr
    return str(json.loads(stdout)["kafka"]["address"])


@pytest.mark.slow
def test_a_taken_port_is_refused_until_another_one_is_chosen(tmp_path: Path) -> None:
    first, second = free_ports(2)
    try:
        assert run("up", "--port", first, cwd=tmp_path)[0] == 0
        assert address(tmp_path) == f"{HOST}:{first}"
        code, _, stderr = run("up", "--port", second, cwd=tmp_path)
        assert code == 1
        assert f"runs at {HOST}:{first}; `sep-stream down` stops it" in stderr
        run("down", cwd=tmp_path)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind((HOST, first))
            other.listen()
            for flags in ((), ("--port", first)):
                code, _, stderr = run("up", *flags, cwd=tmp_path)
                assert code == 1
                assert f"port {first} is taken by process {os.getpid()} (" in stderr
                assert "sep-stream up --port" in stderr
            assert run("up", "--port", second, cwd=tmp_path)[0] == 0
            assert address(tmp_path) == f"{HOST}:{second}"
    finally:
        run("down", cwd=tmp_path)
