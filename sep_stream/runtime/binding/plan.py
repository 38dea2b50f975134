"""Shares a machine out among worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sep_stream.runtime.binding.machine import Core, Machine


def thread_environment(threads: int) -> dict[str, str]:
    """What tells the libraries their number of threads; they read it when they are imported."""
    return dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))


@dataclass(frozen=True, slots=True)
class Share:
    """What one process gets. nodes: the NUMA nodes of its cores · threads: how many a pool of its threads may have"""

    nodes: tuple[int, ...]
    cpus: frozenset[int]
    threads: int

    def environment(self) -> dict[str, str]:
        return thread_environment(self.threads)


@dataclass(frozen=True, slots=True)
class Plan:
    """warnings: what will make the processes wait for each other"""

    shares: tuple[Share, ...]
    warnings: tuple[str, ...]


def plan(machine: Machine, processes: int, near_gpu: bool) -> Plan:
    """A share of whole cores of one NUMA node for each process; the same machine always gives the same plan.

    near_gpu: fill the nodes nearest to the first GPU before the others. Else, and beyond them, the processes go where
    each finds the most cores. No core is shared while there are enough. The quota bounds the threads and not the cores:
    which ones its time is spent on is not for it to say, and others may be busy with the first.
    """
    by_node: dict[int, list[Core]] = {}
    for core in machine.usable_cores():
        by_node.setdefault(core.node, []).append(core)
    near = machine.gpus[0].nodes if near_gpu and machine.gpus else frozenset(by_node)
    counts = _processes_by_node({node: len(cores) for node, cores in by_node.items()}, processes, near)
    pieces = [piece for node in sorted(counts) for piece in _cut(by_node[node], counts[node])]
    threads = _threads([len(piece) for piece in pieces], machine.quota_cpus)
    shares = tuple(_share(piece, n) for piece, n in zip(pieces, threads, strict=True))
    return Plan(shares, tuple(_warnings(machine, processes)))


def plan_for_all(machine: Machine) -> Plan:
    """The one process that gets all that is allowed, on whatever nodes."""
    cores = machine.usable_cores()
    [threads] = _threads([len(cores)], machine.quota_cpus)
    return Plan((_share(cores, threads),), tuple(_warnings(machine, 1)))


def _processes_by_node(cores: Mapping[int, int], processes: int, near: frozenset[int]) -> Mapping[int, int]:
    """How many processes each node gets, of those that get any."""
    counts = dict.fromkeys(cores, 0)
    for _ in range(processes):

        def rank(node: int) -> tuple[bool, bool, float, int]:
            full = counts[node] >= cores[node]
            return full, not full and node not in near, -cores[node] / (counts[node] + 1), node

        counts[min(cores, key=rank)] += 1
    return {node: count for node, count in counts.items() if count}


def _cut(cores: Sequence[Core], pieces: int) -> Iterator[Sequence[Core]]:
    """Neighbouring cores for each piece, in sizes that differ by one at most; one at least, shared if it must be."""
    for k in range(pieces):
        first = k * len(cores) // pieces
        yield cores[first : max(first + 1, (k + 1) * len(cores) // pieces)]


def _threads(cores: Sequence[int], quota_cpus: float | None) -> list[int]:
    """A thread for each core, as far as the quota goes, and one at least."""
    if quota_cpus is None:
        return list(cores)
    each, left = divmod(int(quota_cpus), len(cores))
    return [max(1, min(n, each + (k < left))) for k, n in enumerate(cores)]


def _share(cores: Sequence[Core], threads: int) -> Share:
    cpus: frozenset[int] = frozenset().union(*(core.cpus for core in cores))
    return Share(tuple(sorted({core.node for core in cores})), cpus, threads)


def _warnings(machine: Machine, processes: int) -> Iterator[str]:
    cores, quota = len(machine.usable_cores()), machine.quota_cpus
    if processes > cores:
        yield f"more processes ({processes}) than cores ({cores}): some share one"
    if quota is not None and processes > quota:
        yield f"the control group's quota ({quota:g} CPUs) is less than one for each process ({processes})"
