"""These tests wait for servers as long as a slow machine needs."""

from tests.waiting import slow_machine

__all__ = ["slow_machine"]
