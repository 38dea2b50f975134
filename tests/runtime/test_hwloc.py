"""Machines that hwloc knows, and this process bound on the real one."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sep_stream
from sep_stream.runtime.binding.cpu_list import format_cpus, parse_cpus
from sep_stream.runtime.binding.machine import Cache, Core, Gpu, Machine, Node
from sep_stream.runtime.binding.plan import plan

pytest.importorskip("pyhwloc", reason="pyhwloc has no wheel for this machine")

from pyhwloc.bitmap import Bitmap
from pyhwloc.topology import Topology

from sep_stream.runtime.binding.hwloc import read_machine

GIB = 1 << 30
TWO_NODES = f"package:2 [numa(memory={GIB})] l3:1(size=33554432) core:2 pu:2(indexes=0,4,1,5,2,6,3,7)"
GPU = """
<object type="Bridge" gp_index="{n}0" bridge_type="0-1" depth="0" bridge_pci="0000:[{n}0-{n}7]">
  <object type="PCIDev" gp_index="{n}1" pci_busid="0000:{n}7:00.0" pci_type="0302 [10de:2330] [10de:16c1] a1 10">
    <object type="OSDev" gp_index="{n}2" name="{name}" subtype="{subtype}" osdev_type="8">
      <info name="GPUModel" value="NVIDIA H100"/>
    </object>
  </object>
</object>
"""


def from_xml(change: Callable[[str], str]) -> Machine:
    with Topology.from_synthetic(TWO_NODES) as topology:
        exported = topology.export_xml_buffer()
    return read_machine(Topology.from_xml_buffer(change(exported)))


def on_package(package: int, *devices: tuple[str, str]) -> Callable[[str], str]:
    """Puts GPUs, by name and subtype, on a package."""
    end = "\n    </object>"

    def change(xml: str) -> str:
        first, second, rest = xml.split(end)
        found = "".join(GPU.format(n=3 + k, name=name, subtype=kind) for k, (name, kind) in enumerate(devices))
        return end.join([first + found, second, rest] if package == 0 else [first, second + found, rest])

    return change


def test_nodes_cores_and_caches_are_read() -> None:
    machine = read_machine(Topology.from_synthetic(TWO_NODES))
    assert machine == Machine(
        packages=2,
        nodes=(Node(0, GIB, frozenset({0, 1, 4, 5})), Node(1, GIB, frozenset({2, 3, 6, 7}))),
        cores=tuple(Core(k // 2, frozenset({k, k + 4})) for k in range(4)),
        caches=(Cache("L3", 32 << 20, 2),),
        gpus=(),
        allowed=frozenset(range(8)),
        quota_cpus=None,
    )


@pytest.mark.parametrize("node", [0, 1])
def test_a_gpu_is_read_with_its_node_and_processes_go_there(node: int) -> None:
    machine = from_xml(on_package(node, ("cuda0", "CUDA")))
    assert machine.gpus == (Gpu("cuda0", "NVIDIA H100", frozenset({node})),)
    assert [share.nodes for share in plan(machine, 2, near_gpu=True).shares] == [(node,), (node,)]


def test_gpus_are_in_the_order_of_their_numbers() -> None:
    machine = from_xml(on_package(1, ("cuda10", "CUDA"), ("cuda2", "CUDA")))
    assert [gpu.name for gpu in machine.gpus] == ["cuda2", "cuda10"]


def test_the_driver_is_asked_for_gpus_that_cuda_does_not_see() -> None:
    assert [gpu.name for gpu in from_xml(on_package(1, ("nvml0", "NVML"))).gpus] == ["nvml0"]
    both = from_xml(on_package(1, ("nvml0", "NVML"), ("cuda0", "CUDA")))
    assert [gpu.name for gpu in both.gpus] == ["cuda0"]


def test_a_display_that_computes_nothing_is_no_gpu() -> None:
    assert from_xml(on_package(1, ("card0", "DRM"))).gpus == ()


def test_a_gpu_on_no_node_in_particular_is_near_to_all() -> None:
    def change(xml: str) -> str:
        device = GPU.format(n=3, name="cuda0", subtype="CUDA")
        return xml.replace("  </object>\n  <support", device + "  </object>\n  <support", 1)

    assert from_xml(change).gpus[0].nodes == {0, 1}


def test_gpus_are_not_looked_for_where_they_do_not_matter() -> None:
    with Topology.from_synthetic(TWO_NODES) as topology:
        xml = on_package(1, ("cuda0", "CUDA"))(topology.export_xml_buffer())
    assert read_machine(Topology.from_xml_buffer(xml), with_gpus=False).gpus == ()


def test_what_control_groups_leave_is_read() -> None:
    machine = from_xml(lambda xml: xml.replace('allowed_cpuset="0x000000ff"', 'allowed_cpuset="0x00000073"'))
    assert machine.allowed == {0, 1, 4, 5, 6}
    assert len(machine.cores) == 4
    assert [format_cpus(share.cpus) for share in plan(machine, 3, near_gpu=True).shares] == ["0,4", "1,5", "6"]


def test_cores_belong_to_the_first_of_several_memories() -> None:
    machine = read_machine(Topology.from_synthetic("[numa] [numa] core:2 pu:1"))
    assert [node.number for node in machine.nodes] == [0, 1]
    assert [core.node for core in machine.cores] == [0, 0]


def test_a_machine_that_tells_of_no_cores_has_one_for_each_cpu() -> None:
    machine = read_machine(Topology.from_synthetic("pu:3"))
    assert [core.cpus for core in machine.cores] == [{0}, {1}, {2}]


def test_this_machine_is_read() -> None:
    machine = read_machine()
    assert machine.allowed == os.sched_getaffinity(0)
    assert machine.allowed <= frozenset().union(*(core.cpus for core in machine.cores))
    assert sum(node.memory_bytes for node in machine.nodes) > GIB


def test_an_affinity_from_outside_is_kept() -> None:
    cpu = max(os.sched_getaffinity(0))
    found = in_process(f"os.sched_setaffinity(0, {{{cpu}}}); told(allowed=sorted(read_machine().allowed))")
    assert found["allowed"] == [cpu]


SCRIPT = """
import json, os, sys, threading
from pathlib import Path
from sep_stream.runtime.binding.hwloc import bind_process, read_machine
from sep_stream.runtime.binding.plan import Share

def told(**fields):
    print(json.dumps(fields))

def affinities():
    status = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    return [s.split("Cpus_allowed_list:")[1].split()[0] for s in status]

def memory_policy():
    return Path("/proc/self/numa_maps").read_text().split()[1]
"""


def in_process(code: str, refused: tuple[int, ...] = (), **environment: str) -> dict[str, Any]:
    """What a process of its own told, and under "log" what it logged. refused: system calls that get EPERM there"""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + code],
        capture_output=True, text=True, timeout=180, check=False, env=os.environ | environment,
        preexec_fn=(lambda: refuse(refused)) if refused else None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *logged, told = done.stdout.splitlines()
    return json.loads(told) | {"log": re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(logged))}


def refuse(system_calls: tuple[int, ...]) -> None:
    """Have the kernel refuse system calls of this process with EPERM, as container engines do: by a seccomp filter."""
    import ctypes
    import errno
    import struct

    load_number, return_ = struct.pack("HBBI", 0x20, 0, 0, 0), 0x06
    refusal = struct.pack("HBBI", return_, 0, 0, 0x0005_0000 | errno.EPERM)
    filters = [load_number]
    for number in system_calls:
        filters += [struct.pack("HBBI", 0x15, 0, 1, number), refusal]
    filters += [struct.pack("HBBI", return_, 0, 0, 0x7FFF_0000)]
    code = ctypes.create_string_buffer(b"".join(filters))
    program = ctypes.create_string_buffer(struct.pack("HP", len(filters), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, mode_filter, program) == 0, os.strerror(ctypes.get_errno())


needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's")
SET_AFFINITY, SET_MEMORY_POLICY = 203, 238
CPU = min(os.sched_getaffinity(0))
BIND = f"bind_process(Share((0,), frozenset({{{CPU}}}), 1)); told(affinities=affinities(), memory=memory_policy())"


def test_a_process_and_all_its_threads_are_bound_with_their_memory() -> None:
    """Those that it has already, and those that libraries start."""
    found = in_process(
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"bind_process(Share((0,), frozenset({{{CPU}}}), 1))\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "import numba, numpy\n"
        "told(affinities=affinities(), memory=memory_policy(), threads=numba.config.NUMBA_NUM_THREADS)"
    )
    assert len(found["affinities"]) >= 3
    assert set(found["affinities"]) == {str(CPU)}
    assert found["memory"] in ("bind:0", "prefer:0", "prefer")  # the last of "prefer (many):0"
    assert found["threads"] == 1
    assert "process is bound" in found["log"]
    assert "not bound" not in found["log"]


def test_a_number_of_threads_that_is_set_is_kept() -> None:
    share = f"Share((0,), frozenset({{{CPU}}}), 1)"
    found = in_process(
        f"bind_process({share}); told(numba=os.environ['NUMBA_NUM_THREADS'], omp=os.environ['OMP_NUM_THREADS'])",
        NUMBA_NUM_THREADS="3",
    )
    assert (found["numba"], found["omp"]) == ("3", "1")


@needs_x86
def test_a_process_that_may_not_be_bound_says_so_and_runs_on() -> None:
    found = in_process(BIND, refused=(SET_AFFINITY,))
    assert parse_cpus(found["affinities"][0]) == os.sched_getaffinity(0)
    assert found["memory"] == "default"
    assert "process is not bound: the system refuses it" in found["log"]
    assert "Operation not permitted" in found["log"]


@needs_x86
def test_memory_that_may_not_be_bound_is_told_and_the_process_is_bound_all_the_same() -> None:
    found = in_process(BIND, refused=(SET_MEMORY_POLICY,))
    assert set(found["affinities"]) == {str(CPU)}
    assert found["memory"] == "default"
    assert "memory is not bound: the system refuses it" in found["log"]
    assert "Operation not permitted" in found["log"]


def test_a_cpu_that_is_gone_meanwhile_is_told() -> None:
    found = in_process("bind_process(Share((0,), frozenset({4096}), 1)); told(affinities=affinities())")
    assert parse_cpus(found["affinities"][0]) == os.sched_getaffinity(0)
    assert "process is not bound: the system refuses it" in found["log"]


def test_a_description_of_another_machine_binds_nothing_and_says_so() -> None:
    found = in_process(BIND, HWLOC_SYNTHETIC=TWO_NODES)
    assert parse_cpus(found["affinities"][0]) == os.sched_getaffinity(0)
    assert "process is not bound: HWLOC_XMLFILE or HWLOC_SYNTHETIC describe another machine" in found["log"]


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_hwlocs_own_masks_are_read(cpus: frozenset[int]) -> None:
    assert parse_cpus(Bitmap.from_pyseq(cpus).to_string()) == cpus


def test_hwloc_is_loaded_only_by_what_binds_or_shows() -> None:
    """A worker without --bind starts without it."""
    sources = {path.name: path.read_text() for path in Path(sep_stream.__file__).parent.rglob("*.py")}
    users = {name for name, text in sources.items() if re.search(r"^ *(from|import) pyhwloc", text, re.MULTILINE)}
    assert users == {"hwloc.py"}
    eager = r"^(from sep_stream\.runtime\.binding\.hwloc|from sep_stream\.runtime\.binding import .*hwloc)"
    assert [name for name, text in sources.items() if re.search(eager, text, re.MULTILINE)] == []
