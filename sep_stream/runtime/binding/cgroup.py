"""How much CPU time the control groups of a process give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = PurePosixPath("/")


def cpu_quota(proc: Path = Path("/proc/self")) -> float | None:
    """The least quota on the way from the process's group to the root, in CPUs; None where there is no limit, or no
    control groups.

    Both versions are read, as a system may have mounted both. What lies above a container's own root can't be seen.
    """
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return None
    quotas = [quota for folder in _folders(groups, mounts) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(groups: list[str], mounts: list[str]) -> Iterator[Path]:
    """The folders of the process's groups of the CPU controller, their parents included."""
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        for group in groups:
            _, controllers, path = group.split(":", 2)
            in_v2 = kind == "cgroup2" and controllers == ""
            in_v1 = kind == "cgroup" and "cpu" in options.split(",") and "cpu" in controllers.split(",")
            if in_v1 or in_v2:
                inside = _inside(PurePosixPath(path), PurePosixPath(root))
                yield from (Path(mount_point) / folder for folder in (inside, *inside.parents))


def _inside(path: PurePosixPath, root: PurePosixPath) -> PurePosixPath:
    """The group's folder below the mount point; a container may be told a path that lies outside what it sees."""
    return path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()


def _quota(folder: Path) -> float | None:
    """Version 2 writes "max 100000" or "250000 100000" into one file, version 1 -1 or 250000 into the first of two."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:  # the root of a hierarchy has no such file, and a group may be gone
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
