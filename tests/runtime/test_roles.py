"""The declared roles: each may do what its work needs, and what is wrong with a declaration is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.roles import Grant, load_roles
from sep_stream.runtime.topology import Topology
from sep_stream.worker.caught_up import STAGE_INPUT
from sep_stream.worker.runner import STAGES

TOPOLOGY = Topology.load()


def may(role: str, operation: str) -> set[str]:
    return {name for name, operations in TOPOLOGY.role(role).topics().items() if operation in operations}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_its_input_in_its_group(stage: str) -> None:
    assert STAGE_INPUT[stage] in may(stage, "read")
    assert TOPOLOGY.role(stage).groups() == {stage: {"read"}, "reader": {"describe"}}


def test_no_stage_may_write_what_it_reads_but_its_own_state() -> None:
    assert {topic for stage in STAGES for topic in may(stage, "read") & may(stage, "write")} == {
        "convert.state",
        "settle.state",
    }


def test_each_topic_of_the_pipeline_has_one_stage_that_writes_it() -> None:
    shared = {"dead.letters"}
    written = [topic for stage in STAGES for topic in may(stage, "write") - shared]
    assert len(written) == len(set(written))


def test_a_worker_may_do_what_its_stages_may_and_no_more() -> None:
    grants = {grant for stage in STAGES for grant in TOPOLOGY.role(stage).grants}
    assert set(TOPOLOGY.role("worker").grants) == grants


def test_only_publishing_requeueing_replaying_and_activating_write_events() -> None:
    assert {role.name for role in TOPOLOGY.roles if "market.events" in may(role.name, "write")} == {
        "ingest",
        "model",
        "requeue",
        "replay",
    }


def test_a_reader_reads_all_and_writes_nothing() -> None:
    assert may("read", "read") == {topic.name for topic in TOPOLOGY.topics}
    assert {grant.operation for grant in TOPOLOGY.role("read").grants} == {"read", "describe"}


def test_only_the_admin_may_make_topics_or_change_who_may_what() -> None:
    changing = {"create", "alter", "delete", "alter_configs"}
    changers = {r.name: {g.name for g in r.grants if g.operation in changing} for r in TOPOLOGY.roles}
    of_connect = changers.pop("connect")
    assert {name for name, changed in changers.items() if changed} == {"admin"}
    assert all(name.removeprefix("=").startswith("connect.") for name in of_connect)  # its own topics and groups


def test_no_role_may_delete_but_connect_how_far_its_sinks_have_read() -> None:
    deleting = {(r.name, g.resource, g.name.split(".")[0]) for r in TOPOLOGY.roles for g in r.grants
                if g.operation == "delete"}  # fmt: skip
    assert deleting == {("connect", "group", "connect")}


def test_a_role_that_is_not_declared_is_told_with_those_known() -> None:
    with pytest.raises(ConfigurationError, match="role 'root' is not declared; known are ingest, convert"):
        TOPOLOGY.role("root")


GOOD = '[[role]]\nname = "a"\ndoc = "d"\n'


def test_included_roles_and_every_topic_are_spelt_out(tmp_path: Path) -> None:
    file = tmp_path / "roles.toml"
    file.write_text(
        GOOD + 'topics.read = ["*"]\ngroups.read = ["g"]\n' + GOOD.replace('"a"', '"b"') + 'includes = ["a"]\n'
    )
    expected = (Grant("group", "g", "read"), Grant("topic", "x", "read"), Grant("topic", "y", "read"))
    assert [role.grants for role in load_roles(file, ["x", "y"])] == [expected, expected]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[role]", ""),
        ("role = 3", r"expected tables \[\[role\]\]"),
        ('[[role]]\nname = "a"\n', "role 'a': 'doc' is missing"),
        (GOOD + 'topic.read = ["x"]', "role 'a': 'topic' is not known; known are cluster, doc"),
        (GOOD + 'topics.read = ["z"]', "role 'a': topic 'z' is not declared; known are x, y"),
        (GOOD + 'topics.raed = ["x"]', "role 'a': topic: 'raed' is no operation; known are read"),
        (GOOD + 'groups.write = ["x"]', "role 'a': group: 'write' is no operation"),
        (
            GOOD + 'transactional_ids.read = ["x"]',
            "role 'a': transactional_id: 'read' is no operation; known are write",
        ),
        (GOOD + 'cluster = ["read"]', "role 'a': cluster: 'read' is no operation"),
        (GOOD + 'includes = ["b"]', "role 'a': includes 'b', which is not declared before it"),
        (GOOD + GOOD, "role 'a' is declared twice"),
    ],
)
def test_a_wrong_declaration_is_told_with_file_and_role(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "roles.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"{file}: .*{told}"):
        load_roles(file, ["x", "y"])
