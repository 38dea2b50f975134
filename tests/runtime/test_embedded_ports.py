"""A server comes back at its port, or says who has it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sep_stream.errors import DependencyError
from sep_stream.runtime.embedded import daemon, ports
from sep_stream.runtime.embedded.daemon import Daemon
from sep_stream.runtime.embedded.ports import HOST, free_ports, is_free


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PORT_WAIT_S_MAX", 0.2)


@pytest.fixture
def server(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path, "Kafka", "choose another one with --port")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which this process listens."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def remember(server: Daemon, *chosen: int) -> None:
    (server.folder / "ports.json").write_text(json.dumps(chosen))


def test_the_ports_of_the_last_start_are_taken_again(server: Daemon) -> None:
    first = server.ports(2)
    assert len(set(first)) == 2
    assert server.ports(2) == first


def test_a_taken_port_is_refused_with_who_has_it_and_how_to_choose_another(server: Daemon, taken: int) -> None:
    remember(server, taken, free_ports(1)[0])
    expected = f"port {taken} is taken by process {os.getpid()} \\(.+\\); end that, or choose another one with --port"
    with pytest.raises(DependencyError, match=expected):
        server.ports(2)
    with pytest.raises(DependencyError, match=expected):
        server.ports(2, taken)


def test_a_server_without_a_choice_of_ports_names_the_file_to_delete(tmp_path: Path, taken: int) -> None:
    server = Daemon(tmp_path, "Redis")
    remember(server, taken)
    with pytest.raises(DependencyError, match=f"port {taken} is taken by .* or delete {tmp_path}/ports.json"):
        server.ports(1)
    (tmp_path / "ports.json").unlink()
    assert server.ports(1) != (taken,)


def test_a_holder_that_can_not_be_seen_is_another_process(
    server: Daemon, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: str) -> None:
        raise ports.psutil.AccessDenied

    monkeypatch.setattr(ports.psutil, "net_connections", denied)
    remember(server, taken)
    with pytest.raises(DependencyError, match=f"port {taken} is taken by another process"):
        server.ports(1)


def test_a_port_that_is_free_again_within_the_wait_is_used(
    server: Daemon, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter(["is taken by process 1 (x)", None, None])
    monkeypatch.setattr(daemon, "port_fault", lambda _: next(faults))
    remember(server, taken)
    assert server.ports(1) == (taken,)


def test_a_chosen_port_is_kept_and_the_server_s_own_ports_move_out_of_the_way(server: Daemon, taken: int) -> None:
    chosen, own = free_ports(2)
    remember(server, free_ports(1)[0], own)
    assert server.ports(2, chosen) == (chosen, own)
    assert server.ports(2) == (chosen, own)
    remember(server, chosen, taken)
    first, second = server.ports(2)
    assert first == chosen
    assert second not in (chosen, taken)
    remember(server, chosen, own)
    first, second = server.ports(2, own)
    assert first == own
    assert second != own


@pytest.mark.parametrize("text", ["", "{", '["x", 1]', "[1]", "3"])
def test_a_damaged_file_of_ports_is_no_memory(server: Daemon, text: str) -> None:
    (server.folder / "ports.json").write_text(text)
    assert all(map(is_free, server.ports(2)))


def test_the_port_is_not_shown_as_taken_where_this_account_may_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, _: object) -> None:
            raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(ports.socket, "socket", Refusing)
    assert ports.port_fault(80) == f"can't be used: {os.strerror(13)}"
