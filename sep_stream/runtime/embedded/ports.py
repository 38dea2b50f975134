"""Ports on loopback: which are free, and who has one that is not."""

from __future__ import annotations

import errno
import socket
from typing import Final

import psutil

HOST: Final = "127.0.0.1"


def is_free(port: int) -> bool:
    """May a server listen there now?"""
    return port_fault(port) is None


def port_fault(port: int) -> str | None:
    """Why no server may listen there: `is taken by process 17 (redis-server)`; None if one may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is taken by {_holder(port)}"
            return f"can't be used: {error.strerror}"
    return None


def _holder(port: int) -> str:
    """Who has the port, as far as this account may see; a server before a client's own end of a connection."""
    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid]
        found.sort(key=lambda connection: connection.status != psutil.CONN_LISTEN)
        return f"process {found[0].pid} ({psutil.Process(found[0].pid).name()})"
    except (psutil.Error, OSError, IndexError):
        return "another process"


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind((HOST, 0))
        return tuple(s.getsockname()[1] for s in sockets)
    finally:
        for s in sockets:
            s.close()
