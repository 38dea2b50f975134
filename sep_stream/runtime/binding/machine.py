"""A machine, as far as it matters where a process runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.binding.cpu_list import format_cpus


@dataclass(frozen=True, slots=True)
class Core:
    """node: the NUMA node of its memory · cpus: its hardware threads, as the system numbers them"""

    node: int
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node. cpus: none, where it is memory alone"""

    number: int
    memory_bytes: int
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class Cache:
    """name: as hwloc's, such as L2 · count: how many of them the machine has"""

    name: str
    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """nodes: the NUMA nodes that are nearest; all of them, where that is not known"""

    name: str
    model: str
    nodes: frozenset[int]


@dataclass(frozen=True, slots=True)
class Machine:
    """cores: neighbours share caches · gpus: in CUDA's order, which takes the first · allowed: the CPUs that this
    process may use · quota_cpus: how many CPUs' time it gets at most, None for no limit"""

    packages: int
    nodes: tuple[Node, ...]
    cores: tuple[Core, ...]
    caches: tuple[Cache, ...]
    gpus: tuple[Gpu, ...]
    allowed: frozenset[int]
    quota_cpus: float | None

    def usable_cores(self) -> tuple[Core, ...]:
        """The cores of which something is allowed, with what is."""
        cores = (replace(core, cpus=core.cpus & self.allowed) for core in self.cores)
        return tuple(core for core in cores if core.cpus)

    def limited_to(self, cpus: frozenset[int]) -> Machine:
        """The same machine, of which these CPUs alone are allowed. ConfigurationError where one of them is not."""
        if cpus - self.allowed:
            told = f"allowed here: {format_cpus(self.allowed)}; not to be had: {format_cpus(cpus - self.allowed)}"
            raise ConfigurationError(told)
        return replace(self, allowed=cpus)
