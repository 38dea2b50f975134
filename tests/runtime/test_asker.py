"""Requests to the broker are given up when it is silent, not when this process stood still."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from sep_stream.runtime.asker import FIRST_WAIT_S, PROBE_S_MAX, Asker
from sep_stream.runtime.settings import Settings

pytestmark = pytest.mark.integration

TIMEOUT_S = FIRST_WAIT_S + PROBE_S_MAX + 1.5
"""Longer than the first wait and the longest search for a reason: a second wait follows on any machine."""


def test_time_in_which_the_process_stood_still_does_not_count(broker: str) -> None:
    stalls_s = [TIMEOUT_S + 0.3]

    def request(_: float) -> str:
        if stalls_s:
            time.sleep(stalls_s.pop())
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT_QUEUE))
        return "answer"

    assert Asker(Settings.load(brokers=broker), AdminClient).ask(request, TIMEOUT_S, "the test") == "answer"


def test_a_broker_that_stays_silent_is_given_up(broker: str) -> None:
    waited_s: list[float] = []

    def request(wait_s: float) -> None:
        waited_s.append(wait_s)
        time.sleep(wait_s)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    with pytest.raises(KafkaException, match="Timed out"):
        Asker(Settings.load(brokers=broker), AdminClient).ask(request, TIMEOUT_S, "the test")
    assert sum(waited_s) <= TIMEOUT_S
    assert waited_s[0] == FIRST_WAIT_S
    assert len(waited_s) > 1
    assert all(later <= 2 * earlier for earlier, later in pairwise(waited_s))


@pytest.mark.parametrize("code", [KafkaError._DESTROY, KafkaError._DESTROY_BROKER])
def test_a_request_that_is_dropped_with_a_lost_connection_is_made_again(broker: str, code: int) -> None:
    asker = Asker(Settings.load(brokers=broker), AdminClient)
    answers = iter([KafkaException(KafkaError(code)), "found"])

    def request(_: float) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert asker.ask(request, TIMEOUT_S, "the test") == "found"
