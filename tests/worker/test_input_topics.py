"""When a worker takes an input topic for deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.errors import StateError
from sep_stream.runtime.settings import Settings
from sep_stream.worker.input_topics import MISSES_MAX, InputTopics

HERE = {"a": "id-1", "b": "id-2"}


@pytest.fixture
def topics(tmp_path: Path) -> InputTopics:
    return InputTopics(Settings.load(brokers="127.0.0.1:1", data_dir=tmp_path), {"a": "mend a", "b": "mend b"})


def test_topics_that_stay_are_no_news(topics: InputTopics) -> None:
    for _ in range(3 * MISSES_MAX):
        topics.check(HERE)


def test_a_topic_that_is_missing_again_and_again_is_named_with_its_remedy(topics: InputTopics) -> None:
    topics.check(HERE)
    for _ in range(MISSES_MAX - 1):
        topics.check({"a": "id-1"})
    with pytest.raises(StateError, match="topic 'b' was deleted while the worker ran; mend b"):
        topics.check({"a": "id-1"})


def test_a_broker_that_does_not_know_its_topics_for_a_moment_ends_nothing(topics: InputTopics) -> None:
    for _ in range(3):
        for _ in range(MISSES_MAX - 1):
            topics.check({})
        topics.check(HERE)


def test_a_topic_that_was_made_anew_is_named(topics: InputTopics) -> None:
    topics.check(HERE)
    with pytest.raises(StateError, match="topic 'a' was deleted and made anew"):
        topics.check(HERE | {"a": "id-3"})
