"""A machine and a plan for its processes, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sep_stream.runtime.binding.cpu_list import format_cpus
from sep_stream.runtime.binding.machine import Machine
from sep_stream.runtime.binding.plan import Plan

_GIB = 1 << 30


def machine_lines(machine: Machine, plan: Plan) -> Iterator[str]:
    """One fact a line, its subject first."""
    facts = [
        ("packages", str(machine.packages)),
        ("cores", f"{len(machine.cores)}, {sum(len(core.cpus) for core in machine.cores)} CPUs"),
        ("memory", f"{sum(node.memory_bytes for node in machine.nodes) / _GIB:.1f} GiB"),
        *((f"{c.name} cache", f"{c.count} of {c.size_bytes >> 10} KiB") for c in machine.caches),
        *((f"node {n.number}", f"CPUs {_cpus(n.cpus)}, {n.memory_bytes / _GIB:.1f} GiB") for n in machine.nodes),
        *((gpu.name, f"node {format_cpus(gpu.nodes)}, {gpu.model}") for gpu in machine.gpus),
        *([] if machine.gpus else [("gpus", "none that CUDA or its driver tells of")]),
        ("allowed", f"CPUs {_cpus(machine.allowed)}"),
        ("quota", "none" if machine.quota_cpus is None else f"{machine.quota_cpus:g} CPUs"),
        *((f"process {k}", f"node {format_cpus(s.nodes)}, CPUs {_cpus(s.cpus)}, threads {s.threads}")
          for k, s in enumerate(plan.shares)),
        *(("warning", warning) for warning in plan.warnings),
    ]  # fmt: skip
    return (f"{subject:12} {fact}" for subject, fact in facts)


def machine_json(machine: Machine, plan: Plan) -> dict[str, Any]:
    """The same for programs; sets of CPUs and nodes as lists of numbers."""
    return {
        "packages": machine.packages,
        "nodes": [{"node": n.number, "memory_bytes": n.memory_bytes, "cpus": sorted(n.cpus)} for n in machine.nodes],
        "cores": [{"node": core.node, "cpus": sorted(core.cpus)} for core in machine.cores],
        "caches": [{"name": c.name, "size_bytes": c.size_bytes, "count": c.count} for c in machine.caches],
        "gpus": [{"name": gpu.name, "model": gpu.model, "nodes": sorted(gpu.nodes)} for gpu in machine.gpus],
        "allowed": sorted(machine.allowed),
        "quota_cpus": machine.quota_cpus,
        "plan": [{"nodes": list(s.nodes), "cpus": sorted(s.cpus), "threads": s.threads} for s in plan.shares],
        "warnings": list(plan.warnings),
    }


def _cpus(cpus: frozenset[int]) -> str:
    return format_cpus(cpus) or "none"
