"""What may be committed: the offset below which all that was fetched in the present epoch is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import StateError
from sep_stream.worker.batches import Place
from sep_stream.worker.ledger import Ledgers
from tests.worker.memory_log import INPUT, Group, batch

PLACE = Place(INPUT, 0)


def test_nothing_is_committed_before_it_is_acknowledged() -> None:
    group = Group()
    message = group.hand_over([batch([0, 1, 2])])
    group.commit()
    assert group.committed == {}
    group.acknowledge(message)
    group.commit()
    assert group.committed == {0: 3}


def test_a_fetch_that_is_not_acknowledged_holds_back_those_behind_it() -> None:
    group = Group()
    first, second, third = (group.hand_over([batch([k], number=k)]) for k in range(3))
    group.acknowledge(third)
    group.acknowledge(second)
    group.commit()
    assert group.committed == {}
    group.acknowledge(first)
    group.commit()
    assert group.committed == {0: 3}


@given(st.permutations(range(6)))
def test_in_any_order_of_acknowledgements_the_commit_is_the_first_gap(order: Sequence[int]) -> None:
    group = Group()
    messages = [group.hand_over([batch([2 * k, 2 * k + 1], number=k)]) for k in range(6)]
    done: set[int] = set()
    for k in order:
        group.acknowledge(messages[k])
        done.add(k)
        group.commit()
        gap = next(k for k in range(7) if k not in done)
        assert group.committed.get(0, 0) == 2 * gap


def test_a_message_of_several_partitions_lets_each_go_on() -> None:
    group = Group()
    both = group.hand_over([batch([4], partition=0), batch([7], partition=1)])
    later = group.hand_over([batch([8], partition=1, number=1)])
    group.acknowledge(later)
    group.commit()
    assert group.committed == {}
    group.acknowledge(both)
    group.commit()
    assert group.committed == {0: 5, 1: 9}


def test_offsets_without_a_record_are_committed_with_the_fetch_that_passed_them() -> None:
    group = Group()
    group.acknowledge(group.hand_over([batch([3], beyond=5)]))
    group.commit()
    assert group.committed == {0: 8}


def test_what_is_acknowledged_after_a_new_epoch_began_is_not_committed() -> None:
    """A seek or a new assignment: another worker may have handled it, or it will be read again."""
    group = Group()
    message = group.hand_over([batch([0], epoch=1)])
    group.epochs[0] = 2
    group.acknowledge(message)
    group.commit()
    assert group.committed == {}
    group.hand_over([batch([0], epoch=2)])
    group.commit()
    assert group.committed == {}


def test_what_is_acknowledged_after_its_partition_went_is_not_committed() -> None:
    group = Group()
    messages = [group.hand_over([batch([k], partition=k)]) for k in range(2)]
    group.ledgers.drop([PLACE])
    for message in messages:
        group.acknowledge(message)
    group.commit()
    assert group.committed == {1: 2}


@pytest.mark.parametrize("number", [0, 2])
def test_a_fetch_that_was_skipped_or_repeated_is_an_error(number: int) -> None:
    group = Group()
    group.acknowledge(group.hand_over([batch([0])]))
    with pytest.raises(StateError, match=rf"events/0: fetch {number} of epoch 1 arrived where 1 was due"):
        group.hand_over([batch([5], number=number)])


def test_an_offset_is_committed_once_and_again_where_the_commit_failed() -> None:
    ledgers, group = Ledgers(), Group()
    group.ledgers = ledgers
    group.acknowledge(group.hand_over([batch([0])]))
    assert ledgers.to_commit(PLACE, 1) == 1
    assert ledgers.to_commit(PLACE, 1) == 1
    ledgers.of([PLACE])[PLACE].committed = 1
    assert ledgers.to_commit(PLACE, 1) is None


def test_a_commit_that_ends_in_a_new_epoch_is_not_noted_there() -> None:
    group = Group()
    group.acknowledge(group.hand_over([batch([0], epoch=1)]))
    committing = group.ledgers.of([PLACE, Place(INPUT, 9)])
    group.epochs[0] = 2
    group.acknowledge(group.hand_over([batch([0], epoch=2)]))
    committing[PLACE].committed = 1
    assert list(committing) == [PLACE]
    assert group.ledgers.to_commit(PLACE, 2) == 1
