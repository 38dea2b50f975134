"""The tests that may be skipped, and why: a skip for any other reason fails the run.

With CI set, only what no installation could bring may be missing: `.ci/run` brings the rest.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

import pytest


@dataclass(frozen=True, slots=True)
class Skip:
    """A reason for which tests may be skipped. reason: a pattern · in_ci: also where CI is set"""

    reason: str
    in_ci: bool
    why: str


DECLARED: Final = (
    Skip("real market data is not at ", True, "the data can't be published; other tests run the same code without it"),
    Skip("no GPU", True, "a machine has one or not"),
    Skip("a GPU is there", True, "what is shown without a GPU can't be shown beside one"),
    Skip("this CPU has no fused multiply-add", True, "a machine has it or not"),
    Skip("the numbers of system calls are x86-64's", True, "a machine is of that kind or not"),
    Skip("two processes need two CPUs of their own", True, "a machine has them or not"),
    Skip("no control group can be made here", True, "the system lets root make one or not"),
    Skip("a small file system cannot be mounted", True, "the system lets root mount one or not"),
    Skip("only Linux tells a process that its parent has ended", True, "a system has such a request or not"),
    Skip("only root's server is another user's", True, "shown where root runs the tests"),
    Skip("(there is no redis-server|TLS needs a redis-server|.*this needs a redis-server)", False, "Debian has it"),
    Skip(
        "(the gpu extra is not installed|the cuda engine needs CuPy)",
        False,
        "`uv sync --extra gpu` brings it; it is large",
    ),
    Skip(r"no g\+\+ on this machine", False, "every distribution has it"),
    Skip("(node|npm|javac|java) is not on this machine", False, "every distribution has it"),
    Skip("(TimescaleDB|kafkajs|Java's compiler and Avro) can't be had", False, "package registries have them"),
)

_undeclared: list[str] = []


def is_declared(reason: str, in_ci: bool) -> bool:
    """Return whether tests may be skipped for this reason."""
    return any(re.match(skip.reason, reason) for skip in DECLARED if skip.in_ci or not in_ci)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _look_at(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _look_at(report)


def _look_at(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not is_declared(reason, bool(os.environ.get("CI"))):
            _undeclared.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _undeclared and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _undeclared:
        terminalreporter.section("skips that tests/skips.py does not declare, which fail the run", red=True)
        for line in _undeclared:
            terminalreporter.line(line)
