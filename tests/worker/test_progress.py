"""What does not go on is told and ends the process; what only waits, or works, is left in peace."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from sep_stream.errors import DependencyError, StateError
from sep_stream.runtime.settings import Settings
from sep_stream.worker import progress
from sep_stream.worker.batches import Place
from sep_stream.worker.progress import (
    CHECK_INTERVAL_S,
    ENDS_AFTER_S,
    TOLD_AFTER_S,
    WORK_S_MAX,
    BrokersWord,
    Fault,
    OwnWord,
    Progress,
    ProgressWatch,
)
from tests.waiting import until
from tests.worker.harness import COLD_S_MAX, SMALL, log_of, worker
from tests.worker.markets import SEED, STEPS, play, steps

A, B = Place("events", 0), Place("events", 1)
LOOK_S = 2.0
LOOKS_UNTIL_TOLD = int(TOLD_AFTER_S / LOOK_S) + 2


@dataclass
class Situation:
    """A member, what the broker says of it, and looks at both."""

    position: dict[Place, int | None] = field(default_factory=lambda: {A: 0})
    committed: dict[Place, int] = field(default_factory=dict)
    end: dict[Place, int] = field(default_factory=lambda: {A: 10, B: 10})
    in_flight: set[Place] = field(default_factory=set)
    alive: int = 0
    given: set[Place] | None = field(default_factory=lambda: {A})
    only_markers: bool = False
    asked: list[tuple[Place, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._progress = Progress(self._ask)

    def _ask(self, place: Place, start: int, end: int) -> bool:
        self.asked.append((place, start, end))
        return self.only_markers

    def look(self, elapsed_s: float = LOOK_S) -> list[Fault]:
        own = OwnWord("g", "me", self.position, frozenset(self.in_flight), self.alive)
        members = {"other": frozenset({B})} | ({} if self.given is None else {"me": frozenset(self.given)})
        return self._progress.look(own, BrokersWord(members, self.committed, self.end), elapsed_s)

    def looks(self, count: int, between: Callable[[], None] = lambda: None) -> list[list[Fault]]:
        found = []
        for _ in range(count):
            between()
            found.append(self.look())
        return found


def test_a_partition_of_which_nothing_is_read_is_told_in_time_and_named() -> None:
    found = Situation(committed={A: 4}).looks(LOOKS_UNTIL_TOLD)
    assert found[0] == []
    [fault] = found[-1]
    assert fault.what == "events/0"
    assert fault.still_s >= TOLD_AFTER_S
    assert "group g has committed offset 4 of 10" in fault.about
    assert LOOKS_UNTIL_TOLD * LOOK_S <= 10


def test_a_partition_that_has_handled_all_may_stand_for_ever() -> None:
    assert not any(Situation(committed={A: 10}).looks(1_000))


def test_an_empty_partition_may_stand_for_ever() -> None:
    assert not any(Situation(end={A: 0}).looks(1_000))


def test_a_partition_whose_rest_is_only_markers_may_stand_for_ever_and_the_log_is_asked_seldom() -> None:
    situation = Situation(position={A: 9}, committed={A: 9}, only_markers=True)
    assert not any(situation.looks(1_000))
    assert set(situation.asked) == {(A, 9, 10)}
    assert len(situation.asked) <= 1_000 * LOOK_S / TOLD_AFTER_S


@pytest.mark.parametrize("moving", ["committed", "position"])
def test_a_slow_partition_that_moves_is_left_in_peace(moving: str) -> None:
    situation = Situation(end={A: 10_000}, committed={A: 0})

    def move() -> None:
        moves = situation.committed if moving == "committed" else situation.position
        moves[A] += 1

    assert not any(situation.looks(100, move))


def test_what_was_read_and_is_never_committed_is_told() -> None:
    """As where the group refuses each commit."""
    situation = Situation(position={A: 10}, committed={A: 4}, only_markers=False)
    assert situation.looks(LOOKS_UNTIL_TOLD)[-1][0].what == "events/0"


def test_work_may_take_its_time_and_longer_while_it_gives_signs_of_life() -> None:
    situation = Situation(position={A: 5}, in_flight={A})
    patient = int(WORK_S_MAX / LOOK_S)
    assert not any(situation.looks(patient))
    assert situation.looks(LOOKS_UNTIL_TOLD)[-1][0].about.endswith("what was read is still worked on")
    situation.alive += 1
    assert not any(situation.looks(patient))


def test_a_partition_that_was_given_and_is_not_read_is_told() -> None:
    situation = Situation(position={}, committed={A: 4})
    assert "does not read it" in situation.looks(LOOKS_UNTIL_TOLD)[-1][0].about


def test_a_member_that_its_group_does_not_know_is_told() -> None:
    """Its partition moves all the same: it reads and commits as nobody's member."""
    situation = Situation(position={A: 0}, committed={A: 10}, given=None)
    [fault] = situation.looks(LOOKS_UNTIL_TOLD)[-1]
    assert fault.what == "group g"
    situation.given = set()
    assert situation.look() == []


def test_a_partition_that_went_to_others_is_forgotten() -> None:
    situation = Situation(committed={A: 4})
    assert situation.looks(LOOKS_UNTIL_TOLD)[-1]
    situation.position, situation.given = {}, set()
    assert situation.look() == []
    situation.position, situation.given = {A: 4}, {A}
    assert situation.look() == []


class Member:
    def own_word(self) -> OwnWord:
        return OwnWord("g", "me", {A: 0}, frozenset(), 0)


@dataclass
class Watching:
    watch: ProgressWatch
    ends: list[StateError]


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watching]:
    monkeypatch.setattr(progress, "CHECK_INTERVAL_S", 0.001)
    ends: list[StateError] = []
    settings = Settings.load(brokers="127.0.0.1:1", data_dir=tmp_path)
    watch = ProgressWatch(settings, [Member()], ends.append)
    monkeypatch.setattr(watch, "_only_markers", lambda *_: False)
    yield Watching(watch, ends)
    watch.stop()


def test_what_stands_still_for_too_long_ends_the_process_with_its_name(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = BrokersWord({"me": frozenset({A})}, {A: 4}, {A: 10})
    monkeypatch.setattr(watching.watch, "_brokers_word", lambda own: brokers)
    monkeypatch.setattr(progress, "ENDS_AFTER_S", 0.01)
    monkeypatch.setattr(progress, "TOLD_AFTER_S", 0.005)
    watching.watch.start()
    until(lambda: watching.ends)
    assert re.match(r"events/0: has stood still .* committed offset 4 of 10.*start the worker", str(watching.ends[0]))
    assert [fault.what for fault in watching.watch.faults] == ["events/0"]


def test_a_broker_that_does_not_answer_is_not_taken_for_standing_still(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(own: OwnWord) -> BrokersWord:
        raise DependencyError("away")

    monkeypatch.setattr(watching.watch, "_brokers_word", away)
    watching.watch.start()
    until(lambda: watching.watch.looks_failed > 3)
    assert watching.ends == []
    assert watching.watch.faults == []


@pytest.mark.integration
def test_a_stage_that_hangs_is_told_and_ends_its_process_with_the_partitions_name(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    """The event loop hangs with it, and all other stages: which partition is named is the look's affair."""
    settings = make_settings(prefix, **SMALL)
    log = steps(settings, SEED, STEPS)
    limits = {"WORK_S_MAX": 1.0, "TOLD_AFTER_S": 1.0, "ENDS_AFTER_S": 2.0}
    with worker(settings, before=partial(shorten, limits), SEP_FAILPOINT="metrics.before_send:1:stall=600") as process:
        play(log[:1])
        assert process.wait(COLD_S_MAX) == 1
    told = log_of(settings)
    assert '"event": "stands still"' in told
    assert re.search(rf"sep-stream: {re.escape(prefix)}\S+/\d: has stood still .*start the worker again", told)


def shorten(limits: dict[str, float]) -> None:
    for name, value in limits.items():
        setattr(progress, name, value)


def test_its_limits_fit_those_of_a_group() -> None:
    assert TOLD_AFTER_S + CHECK_INTERVAL_S < 10
    assert Settings.model_fields["max_poll_interval_s"].default < ENDS_AFTER_S
