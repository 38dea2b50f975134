"""One item ahead, and nothing else different."""

from __future__ import annotations

import threading
from collections.abc import Generator
from itertools import islice

import pytest

from sep_stream.runtime.ahead import ahead


class Source:
    """Counts to `stop`, then raises. made: how far it came · closed: was it closed?"""

    def __init__(self, stop: int) -> None:
        self.stop, self.made, self.closed, self.threads = stop, 0, False, set[int]()
        self.next_made = threading.Semaphore(0)

    def items(self) -> Generator[int]:
        try:
            for k in range(self.stop):
                self.threads.add(threading.get_ident())
                self.made = k + 1
                self.next_made.release()
                yield k
            raise ValueError("at the end")
        finally:
            self.closed = True


def test_items_come_in_their_order_and_an_error_in_its_place() -> None:
    items = ahead(Source(100).items())
    assert list(islice(items, 100)) == list(range(100))
    with pytest.raises(ValueError, match="at the end"):
        next(items)
    assert list(ahead(x for x in ())) == []


def test_the_next_item_is_made_in_one_other_thread_and_no_more() -> None:
    source = Source(10)
    items = ahead(source.items())
    assert next(items) == 0
    assert source.next_made.acquire(timeout=60)
    assert source.next_made.acquire(timeout=60)  # item 1, not asked for yet
    assert not source.next_made.acquire(timeout=0.05)
    assert source.made == 2
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads
    items.close()


def test_closing_it_closes_the_source() -> None:
    source = Source(10)
    items = ahead(source.items())
    next(items)
    items.close()
    assert source.closed
    assert source.made <= 3
