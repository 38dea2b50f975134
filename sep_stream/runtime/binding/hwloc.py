"""Reads this machine through hwloc, and binds this process.

Importing it raises ConfigurationError where the extra `bind` is not installed.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final

import structlog

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.binding.cgroup import cpu_quota
from sep_stream.runtime.binding.cpu_list import format_cpus
from sep_stream.runtime.binding.machine import Cache, Core, Gpu, Machine, Node
from sep_stream.runtime.binding.plan import Share

try:
    from pyhwloc.hwobject import Cache as HwlocCache
    from pyhwloc.hwobject import Object, ObjType, OsDevice
    from pyhwloc.topology import CpuBindFlags, MemBindPolicy, Topology, TopologyFlags, TypeFilter
except (ImportError, OSError) as error:  # OSError: its library does not load here
    raise ConfigurationError(
        f"CPUs are read and bound with the package 'pyhwloc' ({error}): install sep-stream[bind]; its wheels are for "
        "Linux on x86-64 with glibc 2.34 or newer. Elsewhere leave --bind out and start the worker with `taskset`"
    ) from error

_CACHES: Final = (ObjType.L1CACHE, ObjType.L2CACHE, ObjType.L3CACHE, ObjType.L4CACHE, ObjType.L5CACHE)
_GPU_SUBTYPES: Final = ("CUDA", "NVML")
"""hwloc asks both. CUDA knows what this process may use, but only of a driver that is new enough for it."""
_REFUSED: Final = (OSError, ValueError, RuntimeError)
"""What pyhwloc raises for EPERM, EINVAL, ENOSYS and the others."""

log = structlog.get_logger(__name__)


def read_machine(topology: Topology | None = None, with_gpus: bool = True) -> Machine:
    """This machine, or that of HWLOC_XMLFILE or HWLOC_SYNTHETIC; or a topology that is not yet loaded.

    with_gpus: look for them; that wakes their driver.
    """
    topology = topology or Topology.from_this_system()
    topology.set_flags([TopologyFlags.INCLUDE_DISALLOWED, TopologyFlags.DONT_CHANGE_BINDING])
    topology.set_io_types_filter(TypeFilter.KEEP_IMPORTANT if with_gpus else TypeFilter.KEEP_NONE)
    with topology:
        here = topology.is_this_system()
        allowed = frozenset(topology.allowed_cpuset)
        return Machine(
            packages=topology.n_packages(),
            nodes=tuple(Node(n.os_index, n.local_memory, _cpus(n)) for n in topology.iter_numa_nodes()),
            cores=_cores(topology),
            caches=_caches(topology),
            gpus=_gpus(topology),
            allowed=allowed & os.sched_getaffinity(0) if here else allowed,
            quota_cpus=cpu_quota() if here else None,
        )


def bind_process(share: Share) -> None:
    """Bind this process, with the threads that it has and those to come, and the memory that they will touch.

    To be called before numpy, Numba or a client is imported: only new threads inherit the policy for memory, and pools
    get their size when they start. Memory prefers its nodes, and takes from others when they are full. What the system
    refuses is logged, and the process runs on without.
    """
    for name, value in share.environment().items():
        os.environ.setdefault(name, value)
    told = {"cpus": format_cpus(share.cpus), "nodes": format_cpus(share.nodes)}
    with Topology.from_this_system() as topology:
        if not topology.is_this_system():  # hwloc would do nothing, and call it a success
            log.warning("process is not bound: HWLOC_XMLFILE or HWLOC_SYNTHETIC describe another machine", **told)
            return
        try:
            topology.set_cpubind(set(share.cpus), CpuBindFlags.PROCESS)
        except _REFUSED as error:
            log.warning("process is not bound: the system refuses it", **told, reason=str(error))
            return
        try:
            topology.set_membind(set(share.cpus), MemBindPolicy.BIND)
        except _REFUSED as error:
            log.warning("memory is not bound: the system refuses it", **told, reason=str(error))
    log.info("process is bound", **told, threads=os.environ["NUMBA_NUM_THREADS"])


def _cpus(thing: Object) -> frozenset[int]:
    return frozenset(thing.cpuset or ())


def _cores(topology: Topology) -> tuple[Core, ...]:
    """Where the system tells of no cores, each CPU is one."""
    found = list(topology.iter_cores()) or list(topology.iter_cpus())
    return tuple(Core(min(core.nodeset or (), default=0), _cpus(core)) for core in found)


def _caches(topology: Topology) -> tuple[Cache, ...]:
    found = ((kind, cache) for kind in _CACHES for cache in topology.iter_objs_by_type(kind))
    sizes = Counter((kind.name[:2], cache.size) for kind, cache in found if isinstance(cache, HwlocCache))
    return tuple(Cache(name, size, count) for (name, size), count in sorted(sizes.items()))


def _gpus(topology: Topology) -> tuple[Gpu, ...]:
    devices = list(topology.iter_os_devices())
    for subtype in _GPU_SUBTYPES:
        found = [device for device in devices if device.subtype == subtype]
        if found:
            by_number = sorted(found, key=lambda device: (len(device.name or ""), device.name))
            return tuple(Gpu(d.name or "", d.info.get("GPUModel", ""), _nearest(d)) for d in by_number)
    return ()


def _nearest(device: OsDevice) -> frozenset[int]:
    """The nodes of the smallest part of the machine that the device hangs on."""
    part: Object | None = device
    while part is not None and part.nodeset is None:
        part = part.parent
    return frozenset(part.nodeset or ()) if part is not None else frozenset()
