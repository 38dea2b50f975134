"""What the command line says of CPUs: the machine, the plan, and CPUs that can't be had."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from sep_stream.cli import cli
from sep_stream.runtime.binding.cpu_list import format_cpus
from tests.cli.commands import NOWHERE, run

pytest.importorskip("pyhwloc", reason="pyhwloc has no wheel for this machine")

PLAN = """\
packages     2
cores        8, 16 CPUs
memory       4.0 GiB
node 0       CPUs 0-7, 2.0 GiB
node 1       CPUs 8-15, 2.0 GiB
gpus         none that CUDA or its driver tells of
allowed      CPUs 0-15
quota        none
process 0    node 0, CPUs 0-3, threads 2
process 1    node 0, CPUs 4-7, threads 2
process 2    node 1, CPUs 8-15, threads 4
"""
TWO_NODES = "package:2 [numa(memory=2147483648)] core:4 pu:2"


def test_doctor_shows_a_machine_and_the_plan_for_it(tmp_path: Path) -> None:
    code, stdout, stderr = run("doctor", "--topology", "--processes", 3, cwd=tmp_path, HWLOC_SYNTHETIC=TWO_NODES)
    assert (code, stdout, stderr) == (0, PLAN, "")


def test_doctor_shows_the_same_to_programs() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--topology", "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["allowed"] == sorted(os.sched_getaffinity(0))
    assert sum(len(core["cpus"]) for core in shown["cores"]) >= len(shown["allowed"])
    [share] = shown["plan"]
    assert set(share["cpus"]) <= set(shown["allowed"])
    assert share["threads"] >= 1


def test_processes_are_planned_only_for_the_topology() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--processes", "2"])
    assert result.exit_code == 2
    assert "--processes: is for --topology" in result.output


@pytest.mark.parametrize("bind", ["all", "0-", "f0", ""])
def test_what_is_no_set_of_cpus_is_wrong_usage(bind: str) -> None:
    result = CliRunner().invoke(cli, ["worker", "--bind", bind])
    assert result.exit_code == 2
    told = f"expected a list of CPUs such as 0-3,8 or a mask such as 0xff, got {bind!r}; or auto, or none"
    assert f"'--bind': {told}" in result.output


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_cpus_that_are_not_to_be_had_are_wrong_usage(processes: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["worker", "--bind", "0,4096", "--brokers", NOWHERE, *processes])
    assert result.exit_code == 2
    told = f"allowed here: {format_cpus(os.sched_getaffinity(0))}; not to be had: 4096"
    assert f"--bind: 0,4096: {told}" in " ".join(result.output.split())
