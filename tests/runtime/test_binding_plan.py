"""How a machine is shared out. The machines are made up here; `test_hwloc` reads such from hwloc."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.binding.cpu_list import format_cpus, parse_cpus
from sep_stream.runtime.binding.machine import Core, Gpu, Machine
from sep_stream.runtime.binding.plan import Share, plan, plan_for_all


def machine(*nodes: int, smt: int = 1, gpu: int | None = None, quota_cpus: float | None = None) -> Machine:
    """nodes: the cores of each · smt: hardware threads of a core, numbered as Linux does: first one of each core"""
    owners = [node for node, cores in enumerate(nodes) for _ in range(cores)]
    cores = tuple(Core(node, frozenset(range(k, smt * len(owners), len(owners)))) for k, node in enumerate(owners))
    gpus = () if gpu is None else (Gpu("cuda0", "", frozenset({gpu})),)
    return Machine(1, (), cores, (), gpus, frozenset(range(smt * len(owners))), quota_cpus)


def shares(of: Machine, processes: int, near_gpu: bool = True) -> list[tuple[tuple[int, ...], str]]:
    return [(share.nodes, format_cpus(share.cpus)) for share in plan(of, processes, near_gpu).shares]


TWO_NODES = machine(4, 4, smt=2)


def test_one_process_gets_one_node() -> None:
    assert shares(TWO_NODES, 1) == [((0,), "0-3,8-11")]


def test_one_process_gets_the_largest_node() -> None:
    assert shares(machine(2, 4), 1) == [((1,), "2-5")]


def test_processes_are_spread_over_the_nodes() -> None:
    assert shares(TWO_NODES, 2) == [((0,), "0-3,8-11"), ((1,), "4-7,12-15")]
    assert shares(TWO_NODES, 3) == [((0,), "0-1,8-9"), ((0,), "2-3,10-11"), ((1,), "4-7,12-15")]


def test_a_larger_node_gets_more_processes() -> None:
    assert Counter(nodes for nodes, _ in shares(machine(2, 6), 4)) == {(0,): 1, (1,): 3}


def test_processes_go_to_the_node_of_the_gpu() -> None:
    near = machine(4, 4, smt=2, gpu=1)
    assert shares(near, 1) == [((1,), "4-7,12-15")]
    assert shares(near, 2) == [((1,), "4-5,12-13"), ((1,), "6-7,14-15")]


def test_what_the_node_of_the_gpu_has_no_core_for_goes_to_the_others() -> None:
    found = plan(machine(4, 4, gpu=1), 6, near_gpu=True)
    assert Counter(share.nodes for share in found.shares) == {(0,): 2, (1,): 4}
    assert found.warnings == ()


def test_without_use_for_the_gpu_its_node_is_as_any_other() -> None:
    assert shares(machine(4, 4, gpu=1), 2, near_gpu=False) == [((0,), "0-3"), ((1,), "4-7")]


def test_the_first_gpu_counts() -> None:
    first = machine(4, 4, gpu=1)
    both = replace(first, gpus=(*first.gpus, Gpu("cuda1", "", frozenset({0}))))
    assert shares(both, 1) == [((1,), "4-7")]


def test_a_gpu_whose_node_is_not_allowed_or_not_known_changes_nothing() -> None:
    elsewhere = machine(4, 4, gpu=1).limited_to(frozenset(range(4)))
    assert shares(elsewhere, 2) == [((0,), "0-1"), ((0,), "2-3")]
    unknown = replace(TWO_NODES, gpus=(Gpu("cuda0", "", frozenset({0, 1})),))
    assert shares(unknown, 2) == shares(TWO_NODES, 2)


def test_more_processes_than_cores_share_them_evenly_and_are_told() -> None:
    found = plan(machine(2, 2), 7, near_gpu=False)
    assert sorted(Counter(share.cpus for share in found.shares).values()) == [1, 2, 2, 2]
    assert found.warnings == ("more processes (7) than cores (4): some share one",)


def test_one_core_serves_all() -> None:
    assert shares(machine(1, smt=2), 3) == [((0,), "0-1")] * 3


def test_a_part_of_a_core_is_a_core() -> None:
    assert shares(TWO_NODES.limited_to(parse_cpus("1,9-10,4")), 3) == [((0,), "1,9"), ((0,), "10"), ((1,), "4")]


def test_the_quota_bounds_threads_and_not_cores() -> None:
    found = plan(machine(8, 8, quota_cpus=5.5), 2, near_gpu=False)
    assert [(len(share.cpus), share.threads) for share in found.shares] == [(8, 3), (8, 2)]
    assert found.warnings == ()
    assert [share.threads for share in plan(machine(8), 2, near_gpu=False).shares] == [4, 4]


@pytest.mark.parametrize("quota_cpus", [0.5, 1.0, 1.5])
def test_a_quota_below_the_number_of_processes_leaves_each_a_thread_and_is_told(quota_cpus: float) -> None:
    found = plan(machine(8, quota_cpus=quota_cpus), 2, near_gpu=False)
    assert [share.threads for share in found.shares] == [1, 1]
    assert found.warnings == (f"the control group's quota ({quota_cpus:g} CPUs) is less than one for each process (2)",)


def test_a_thread_is_planned_for_a_core_and_told_to_the_libraries() -> None:
    [share] = plan(machine(4, smt=2), 1, near_gpu=False).shares
    assert share.threads == 4
    assert share.environment() == {"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}


def test_all_that_is_allowed_can_go_to_one_process() -> None:
    cpus = parse_cpus("1,3-4,9")
    assert plan_for_all(TWO_NODES.limited_to(cpus)).shares == (Share((0, 1), cpus, 3),)
    assert plan_for_all(machine(4, quota_cpus=2)).shares[0].threads == 2


def test_cpus_that_are_not_to_be_had_are_told_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"^allowed here: 0-2; not to be had: 3,99$"):
        machine(4).limited_to(frozenset({0, 1, 2})).limited_to(frozenset({1, 3, 99}))


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """One to four nodes, with cores of one or two hardware threads, numbered anyhow, not all of them allowed."""
    sizes = draw(st.lists(st.lists(st.integers(1, 2), max_size=6), min_size=1, max_size=4).filter(any))
    numbers = draw(st.permutations(range(sum(sum(node) for node in sizes))))
    cores, used = [], 0
    for node, smt in enumerate(sizes):
        for count in smt:
            cores.append(Core(node, frozenset(numbers[used : used + count])))
            used += count
    gpus = draw(st.lists(st.frozensets(st.integers(0, 3), min_size=1), max_size=2))
    return Machine(
        packages=1,
        nodes=(),
        cores=tuple(cores),
        caches=(),
        gpus=tuple(Gpu(f"cuda{k}", "", nodes) for k, nodes in enumerate(gpus)),
        allowed=draw(st.frozensets(st.sampled_from(numbers), min_size=1)),
        quota_cpus=draw(st.none() | st.floats(0.1, 30)),
    )


@given(machines(), st.integers(1, 20), st.booleans())
def test_every_plan_keeps_the_rules(of: Machine, processes: int, near_gpu: bool) -> None:
    found = plan(of, processes, near_gpu)
    usable = of.usable_cores()
    assert len(found.shares) == processes
    taken = [cpu for share in found.shares for cpu in share.cpus]
    assert set(taken) <= of.allowed
    if processes <= len(usable):
        assert len(set(taken)) == len(taken), "two processes on a core, and one is free"
    for share in found.shares:
        cores = [core for core in usable if core.cpus & share.cpus]
        assert cores
        assert frozenset().union(*(core.cpus for core in cores)) == share.cpus, "siblings are torn apart"
        assert {core.node for core in cores} == set(share.nodes)
        assert len(share.nodes) == 1
        assert 1 <= share.threads <= len(cores)
    if of.quota_cpus is not None:
        assert sum(share.threads for share in found.shares) <= max(processes, int(of.quota_cpus))
    used_nodes = {share.nodes[0] for share in found.shares}
    assert set(taken) == {cpu for core in usable if core.node in used_nodes for cpu in core.cpus}, "cores lie idle"
    if near_gpu and of.gpus:
        near = [core for core in usable if core.node in of.gpus[0].nodes]
        if processes <= len(near):
            assert used_nodes <= of.gpus[0].nodes
        else:
            assert {core.node for core in near} <= used_nodes


@given(machines(), st.integers(1, 20), st.booleans())
def test_the_same_machine_gives_the_same_plan(of: Machine, processes: int, near_gpu: bool) -> None:
    again = pickle.loads(pickle.dumps(of))
    assert plan(again, processes, near_gpu) == plan(of, processes, near_gpu)
