"""A full disk is named as the reason, with the remedy, wherever a server can't work because of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sep_stream.cli._common import explained
from sep_stream.errors import DependencyError
from sep_stream.runtime.embedded import EmbeddedKafka, disk
from sep_stream.runtime.embedded.daemon import Daemon
from sep_stream.runtime.embedded.disk import FULL_BELOW_MIB, disk_fault
from sep_stream.runtime.settings import Settings

FULL = "is full, .*make room there, .*sep-stream up"


def fill(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 0, files: int = 1_000, free_files: int = 500) -> None:
    """Let each file system look as if no more were left."""
    found = SimpleNamespace(f_frsize=1, f_bavail=free_bytes, f_bfree=free_bytes, f_files=files, f_ffree=free_files)
    monkeypatch.setattr(disk.os, "statvfs", lambda _: found)


@pytest.fixture
def server(tmp_path: Path) -> Daemon:
    """A server that has ended, of a folder of its own."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    found = Daemon(folder, "Kafka")
    with subprocess.Popen(["true"]) as process:
        found.launch(["true"], 1, "1")
    assert process.returncode == 0
    found.log.write_text("")
    return found


@pytest.mark.parametrize(
    ("free_bytes", "files", "free_files", "full"),
    [
        (FULL_BELOW_MIB << 20, 10, 1, False),
        ((FULL_BELOW_MIB << 20) - 1, 10, 1, True),
        (1 << 40, 10, 0, True),
        (1 << 40, 0, 0, False),  # a file system that makes files as it needs them
    ],
)
def test_a_disk_is_full_without_room_for_a_record_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, files: int, free_files: int, full: bool
) -> None:
    fill(monkeypatch, free_bytes, files, free_files)
    assert (disk_fault(tmp_path) is not None) == full


def test_what_root_may_use_alone_is_no_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(f_frsize=1, f_bavail=0, f_bfree=1 << 40, f_files=0, f_ffree=0)
    monkeypatch.setattr(disk.os, "statvfs", lambda _: found)
    monkeypatch.setattr(disk.os, "geteuid", lambda: 1000)
    assert disk_fault(tmp_path) is not None
    monkeypatch.setattr(disk.os, "geteuid", lambda: 0)
    assert disk_fault(tmp_path) is None


def test_a_folder_that_is_not_there_has_no_fault(tmp_path: Path) -> None:
    assert disk_fault(tmp_path / "none") is None


def test_a_start_that_fails_on_a_full_disk_shows_no_log(server: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch)
    server.log.write_text("java.io.IOException: out\n\tat java.base/X\n")
    record = server.last()
    assert record is not None
    with pytest.raises(DependencyError, match=f"^Kafka did not come up at 127.0.0.1:1: the disk of .*{FULL}") as raised:
        server.wait_ready(record, lambda _: False)
    assert "java" not in str(raised.value)


def test_a_server_that_logged_a_full_disk_and_ended_is_known(server: Daemon) -> None:
    """A quota is seen in no other way."""
    assert server.fault() is None
    server.log.write_text("ERROR: java.io.IOException: Disk quota exceeded\n")
    assert "was full when the server ended" in str(server.fault())


def test_what_an_earlier_process_logged_is_no_reason(server: Daemon) -> None:
    server.log.write_text("ERROR: java.io.IOException: No space left on device\n")
    server.launch(["true"], 1, "1")
    assert server.fault() is None


def test_a_server_that_was_stopped_in_order_has_no_fault(server: Daemon) -> None:
    server.log.write_text("ERROR: java.io.IOException: No space left on device\n")
    (server.folder / "process.json").unlink()
    assert server.fault() is None


def test_a_folder_that_takes_nothing_more_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Daemon(tmp_path / "kafka", "Kafka")

    def write() -> None:
        with server.locked():
            fill(monkeypatch)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DependencyError, match=f"cannot keep Kafka there: the disk of .*{FULL}"):
        write()


def test_clients_of_the_embedded_broker_hear_of_its_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "process.json").write_text(
        json.dumps({"pid": 1, "created_s": 0.0, "port": 9, "version": "1"})
    )
    fill(monkeypatch)
    with pytest.raises(DependencyError, match=f"no broker: .* does not run; the disk of .*{FULL}"):
        EmbeddedKafka(tmp_path).address()
    silent = DependencyError("no answer for 8 s")
    for brokers in (None, "127.0.0.1:9"):
        told = str(explained(silent, Settings.load(data_dir=tmp_path, brokers=brokers)))
        assert told.startswith(f"the disk of {tmp_path}/kafka is full")
        assert told.endswith("\nno answer for 8 s")
    elsewhere = Settings.load(data_dir=tmp_path, brokers="kafka.example:9092")
    assert explained(silent, elsewhere) is silent


def test_an_error_that_names_the_disk_already_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kafka").mkdir()
    fill(monkeypatch)
    error = DependencyError(f"Kafka did not come up: {disk_fault(tmp_path / 'kafka')}")
    assert explained(error, Settings.load(data_dir=tmp_path)) is error


def test_status_shows_the_fault(server: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch)
    assert server.status("kafka", False, lambda _: True, "1").fault == disk_fault(server.folder)
