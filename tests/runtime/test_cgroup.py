"""The CPU quota of control groups, on trees as Linux shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sep_stream.runtime.binding.cgroup import cpu_quota


def proc(tmp_path: Path, groups: str, *mounts: str) -> Path:
    """A /proc/self with these groups. mounts: "ROOT POINT - KIND SOURCE OPTIONS", POINT below tmp_path"""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(groups)
    lines = [f"31 23 0:{k} {m.replace(' ', f' {tmp_path}/', 1)}" for k, m in enumerate(mounts)]
    lines = [line.replace(" - ", " rw,relatime shared:9 - ") for line in lines]
    (folder / "mountinfo").write_text("23 1 254:0 / / rw - ext4 /dev/root rw\n" + "\n".join(lines) + "\n")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


V2 = "/ v2 - cgroup2 cgroup2 rw"
V1 = "/ v1 - cgroup cgroup rw,cpu,cpuacct"


def test_the_quota_of_version_2_is_read(tmp_path: Path) -> None:
    write(tmp_path / "v2/cpu.max", "250000 100000")
    assert cpu_quota(proc(tmp_path, "0::/\n", V2)) == 2.5


def test_the_least_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    write(tmp_path / "v2/a/cpu.max", "150000 100000")
    write(tmp_path / "v2/a/b/cpu.max", "max 100000")
    write(tmp_path / "v2/a/b/c/cpu.max", "400000 100000")
    write(tmp_path / "v2/other/cpu.max", "10000 100000")
    assert cpu_quota(proc(tmp_path, "0::/a/b/c\n", V2)) == 1.5


def test_no_limit_is_none(tmp_path: Path) -> None:
    write(tmp_path / "v2/a/cpu.max", "max 100000")
    assert cpu_quota(proc(tmp_path, "0::/a\n", V2)) is None


def test_the_quota_of_version_1_is_read(tmp_path: Path) -> None:
    write(tmp_path / "v1/a/cpu.cfs_quota_us", "50000")
    write(tmp_path / "v1/a/cpu.cfs_period_us", "100000")
    write(tmp_path / "v1/cpu.cfs_quota_us", "-1")
    write(tmp_path / "v1/cpu.cfs_period_us", "100000")
    assert cpu_quota(proc(tmp_path, "4:cpu,cpuacct:/a\n3:cpuset:/\n0::/\n", V1, V2)) == 0.5


def test_a_container_that_is_told_a_path_outside_of_it_reads_its_root(tmp_path: Path) -> None:
    write(tmp_path / "v1/cpu.cfs_quota_us", "300000")
    write(tmp_path / "v1/cpu.cfs_period_us", "100000")
    mount = V1.replace("/ v1", "/docker/123 v1")
    assert cpu_quota(proc(tmp_path, "4:cpu,cpuacct:/docker/123\n", mount)) == 3.0


def test_groups_of_other_controllers_say_nothing(tmp_path: Path) -> None:
    write(tmp_path / "v1/a/cpu.cfs_quota_us", "50000")
    write(tmp_path / "v1/a/cpu.cfs_period_us", "100000")
    assert cpu_quota(proc(tmp_path, "4:memory:/a\n5:cpu:/\n", V1)) is None


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group with the CPU controller, where this process may make one."""
    v2 = Path("/sys/fs/cgroup")
    hierarchies = [Path("/sys/fs/cgroup/cpu"), *([v2] if "cpu" in _controllers(v2) else [])]
    for hierarchy in hierarchies:
        folder = hierarchy / f"sep-stream-test-{os.getpid()}"
        with suppress(OSError):
            if (hierarchy / "cgroup.procs").exists():
                folder.mkdir()
                break
    else:
        pytest.skip("no control group can be made here")
    yield folder
    folder.rmdir()


def _controllers(hierarchy: Path) -> list[str]:
    path = hierarchy / "cgroup.subtree_control"
    return path.read_text().split() if path.exists() else []


def test_the_quota_of_a_real_group_is_read(group: Path) -> None:
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text("150000 100000")
    else:
        (group / "cpu.cfs_quota_us").write_text("150000")
    code = (
        f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
        "from sep_stream.runtime.binding.cgroup import cpu_quota; print(cpu_quota())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout == "1.5\n"
