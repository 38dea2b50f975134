"""`ahead`: the next item is made while one is used."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

_END: Final[Any] = object()


def ahead[T](items: Generator[T]) -> Generator[T]:
    """The items of a generator, in its order, and what it raises, where it raises it.

    It runs in a thread of its own, never more than one item ahead. Closed with this iterator.
    """
    with closing(items), ThreadPoolExecutor(1, "ahead") as thread:
        coming: Future[T] = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield item
