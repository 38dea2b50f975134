"""What one thread holds near it of the cache, as long as Redis would tell of a change."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import TimeoutError as RedisTimeout

from sep_stream.stores.cache.values import Value, typed

NAMES_MAX: Final = 65_536
"""So many are held; one more, and all are forgotten."""
SILENCE_S_MAX: Final = 1.0
"""Since the last question that Redis answered: after it nothing is shown that Redis does not confirm."""
_CHANGED: Final = object()

Replies = Mapping[str, tuple[dict[bytes, bytes], float]]
"""By name: fields, and until when they may be shown, on this machine's monotonic clock."""


class Near:
    """Values that were asked for over one connection, on which Redis tells, once, that one has changed.

    Its answers and what it tells come in order on that connection. What is held after all that has arrived was taken in
    is therefore what Redis held at one moment, and never goes back. For one thread.
    """

    def __init__(self, connection: Any, root: str) -> None:
        """connection: redis-py's, RESP3, for nothing else · root: of the keys"""
        self.connection = connection
        self._root = root
        self._held: dict[str, tuple[Value | None, float]] = {}
        self._confirmed_s = -math.inf
        connection.register_connect_callback(self._track)

    def replies(self, names: Sequence[str]) -> Replies:
        """Of those names that are not held, all of the same moment as those that are. Raises redis-py's errors; the
        connection is then to be closed."""
        self._take_in()
        now_s = time.monotonic()
        is_silent = now_s - self._confirmed_s > SILENCE_S_MAX
        missing = [name for name in names if is_silent or not self._shows(name, now_s)]
        if not missing:
            return {}
        replies = self._ask(missing)
        if any(name not in replies and name not in self._held for name in names):
            replies = self._ask(names)  # some that were held have changed meanwhile
        return replies

    def values(self, names: Sequence[str], replies: Replies) -> list[Value | None]:
        """Typed, and held from now on. Raises InputError where something else was written."""
        found: dict[str, Value | None] = {}
        for name, (fields, until_s) in replies.items():
            texts = {field.decode(): text.decode() for field, text in fields.items()}
            found[name] = typed(name, texts) if texts else None
            if name in self._held:
                self._held[name] = found[name], until_s
        return [found[name] if name in found else self._held[name][0] for name in names]

    def _shows(self, name: str, now_s: float) -> bool:
        held = self._held.get(name)
        return held is not None and now_s < held[1]

    def _track(self, connection: Any) -> None:
        """On a connection that has just been made."""
        self._held.clear()
        # No reference to self: a thread's end should close its connection at once.
        connection._parser.set_invalidation_push_handler(partial(_forget, self._held, self._root))
        connection.send_command("CLIENT", "TRACKING", "ON")
        connection.read_response()

    def _take_in(self) -> None:
        """What has arrived, without waiting for more."""
        while self.connection.can_read():
            try:
                self.connection.read_response(push_request=True, timeout=0, disconnect_on_error=False)
            except RedisTimeout:  # part of a message, or one of TLS itself
                return

    def _ask(self, names: Sequence[str]) -> Replies:
        for name in names:
            if len(self._held) >= NAMES_MAX:
                self._held.clear()
            # What is not there any more when the answers are: it changed meanwhile.
            self._held[name] = None, -math.inf
        asked_s = time.monotonic()
        self.connection.send_packed_command([b"".join(map(self._packed, names))], check_health=False)
        replies = {}
        for name in names:
            left_ms = self._reply()  # negative: no value, or one that does not expire
            replies[name] = self._reply(), asked_s + left_ms / 1_000 if left_ms >= 0 else math.inf
        self._confirmed_s = asked_s
        return replies

    def _packed(self, name: str) -> bytes:
        key = (self._root + name).encode()
        argument = b"$%d\r\n%b\r\n" % (len(key), key)
        return b"*2\r\n$4\r\nPTTL\r\n%b*2\r\n$7\r\nHGETALL\r\n%b" % (argument, argument)

    def _reply(self) -> Any:
        """The next one. redis-py by itself would go through what comes before it by recursion, thousands deep."""
        while (reply := self.connection.read_response(push_request=True)) is _CHANGED:
            pass
        return reply


def _forget(held: dict[str, tuple[Value | None, float]], root: str, push: list[Any]) -> object:
    if push[1] is None:  # the server was emptied
        held.clear()
    for key in push[1] or ():
        held.pop(key.decode().removeprefix(root), None)
    return _CHANGED
